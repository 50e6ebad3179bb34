//! The nf_tables dataplane: policy IR to kernel objects, over netlink, without the `nft` program.

pub mod batch;
mod build;
mod codes;
pub mod compile;
pub mod config;
mod dataplane;
pub mod decode;
mod decode_expr;
pub mod eval;
pub mod expr;
pub mod kernel;
pub mod lower;
mod names;
pub mod object;
pub mod table;
pub mod text;
mod text_rule;
mod wire;

#[cfg(test)]
mod dataplane_tests;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod text_tests;

pub use dataplane::{Dataplane, Stats};
pub use wire::WireError;
