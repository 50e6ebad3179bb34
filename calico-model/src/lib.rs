//! Calico's resource model: kinds, defaults, validation, datastore keys and Kubernetes conversions.

#![forbid(unsafe_code)]
