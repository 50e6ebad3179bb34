//! etcd v3: byte-compatible with what Calico writes there.
//!
//! A thin client of our own over tonic: the messages in `proto.rs` carry their field numbers, so that no build
//! needs a protobuf compiler.

mod connection;
mod proto;
mod store;
mod watch;

pub use store::EtcdStore;
