//! The programs of Calico in Rust: agent, CNI plugins, command line and lab.
//!
//! Each file in `src/bin` is a few lines over a module of this library. The programs wire: what decides
//! lives in the pure crates.

pub mod cni;
pub mod confd;
pub mod ctl;
pub mod http;
pub mod ipam_driver;
pub mod lab;
mod logging;
pub mod node;
#[cfg(feature = "fanout")]
pub mod typha;
