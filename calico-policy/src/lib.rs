//! Calico's policy compiler: an incremental calculation graph, a dataplane-neutral rule IR and an
//! evaluator.
//!
//! Datastore updates go in, [`Changes`] come out; nothing here touches a socket, a file or a clock.
//!
//! | to | use |
//! |---|---|
//! | drive a dataplane | [`Graph`]: `apply`, `in_sync`, `flush` |
//! | render or interpret rules | [`ir`], [`changes`], [`Mirror`] |
//! | ask what resources mean, without a dataplane | [`oracle::World`]: `evaluate`, `trace`, `why_denied` |
//! | see who reaches whom, try a change, review policies | [`oracle::World`]: `matrix`, `simulate`, `lint` |
//! | police host interfaces | [`interfaces`], [`failsafe`] |
//! | test another dataplane against this one | [`scenario`] with [`oracle`] or [`Mirror`] |
//!
//! What cannot be enforced as written is enforced in a form that permits no more than it could have meant, and is
//! listed in [`Changes::problems`].

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
