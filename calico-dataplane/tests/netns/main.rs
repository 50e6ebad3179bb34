//! Against the real kernel: every test in network namespaces of its own.
//!
//! Without privilege a test runs itself again inside a user namespace; where that is forbidden it says that it was
//! skipped and why. With `CALICO_NO_SKIP=1`, as in CI, a skip is a failure.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod conntrack;
mod driver;
mod isolation;
mod links;
mod monitor;
mod pods;
mod routes;
mod tunnels;
