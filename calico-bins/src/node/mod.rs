//! The node agent `calico-node`, and how other programs of the node talk to it.

pub mod agent;
pub mod autodetect;
pub mod bgp;
pub mod configuration;
pub mod endpoints;
pub mod engine;
pub mod health;
pub mod metrics;
pub mod protocol;
pub mod settings;
pub mod socket;
pub mod startup;
pub mod store;
pub mod tunnel_addresses;
pub mod upstream;
