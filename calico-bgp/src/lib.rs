//! A sans-IO BGP speaker with Calico's peering, export and import semantics.

#![forbid(unsafe_code)]

pub mod config;
pub mod fsm;
pub mod peer;
pub mod policy;
pub mod route;
pub mod wire;
