//! The node agent `calico-node`, and how other programs of the node talk to it.

pub mod autodetect;
pub mod bgp;
pub mod endpoints;
pub mod protocol;
pub mod socket;
pub mod store;
