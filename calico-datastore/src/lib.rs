//! Datastores for Calico objects: embedded SQLite, etcd, and the fan-out between a store and many nodes.
