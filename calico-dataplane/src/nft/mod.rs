//! The nf_tables dataplane: policy IR to kernel objects, over netlink, without the `nft` program.

pub mod batch;
mod codes;
pub mod decode;
mod decode_expr;
pub mod expr;
pub mod kernel;
pub mod object;
mod wire;

#[cfg(test)]
mod tests;

pub use wire::WireError;
