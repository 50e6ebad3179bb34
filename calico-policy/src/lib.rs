//! Calico's policy compiler: an incremental calculation graph, a dataplane-neutral rule IR and an
//! evaluator.
//!
//! Datastore updates go in, [`Changes`] come out; nothing here touches a socket, a file or a clock.

#![forbid(unsafe_code)]

mod active;
pub mod changes;
mod endpoints;
pub mod failsafe;
mod graph;
pub mod interfaces;
pub mod ir;
pub mod members;
pub mod mirror;
mod nodes;
pub mod normal;
pub mod oracle;
pub mod order;
mod outbox;
pub mod packet;
mod policies;
mod pools;
mod problems;
mod resolver;
mod routes;
pub mod rules;
pub mod scenario;
mod services;
mod sets;
mod settings;
pub mod verdict;

pub use changes::Changes;
pub use endpoints::workload_id;
pub use graph::{Graph, GraphConfig, policy_kind};
pub use mirror::Mirror;
pub use nodes::derived_mac;
pub use policies::DEFAULT_TIER;
