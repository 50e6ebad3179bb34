//! Criterion benches of Calico in Rust, each beside a named peer or limit; here the clusters they run on.

#![forbid(unsafe_code)]

pub mod bgp;
pub mod policy;
