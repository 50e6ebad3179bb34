//! Calico's policy compiler: an incremental calculation graph, a dataplane-neutral rule IR and an
//! evaluator.
//!
//! Datastore updates go in, [`Changes`] come out; nothing here touches a socket, a file or a clock.

#![forbid(unsafe_code)]

pub mod changes;
pub mod ir;
pub mod members;
pub mod mirror;
pub mod normal;
pub mod order;
pub mod outbox;
pub mod packet;
pub mod verdict;

pub use changes::Changes;
