//! The specs of all kinds, one module per family.

pub mod bgp;
pub mod cluster;
pub mod controllers;
pub mod endpoint;
pub mod felix;
pub mod ip_pool;
pub mod ipam;
pub mod live_migration;
pub mod network_set;
pub mod node;
pub mod node_status;
pub mod policy;
pub mod tier;
