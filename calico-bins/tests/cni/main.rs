//! The CNI plugins as a container runtime runs them: real programs, real namespaces, a real datastore.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod attach;
mod away;
mod chain;
mod fault;
mod peers;
mod world;
