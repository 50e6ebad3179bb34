//! The nf_tables dataplane: policy IR to kernel objects, over netlink, without the `nft` program.
//!
//! ```text
//! Changes ─► compile::Compiler ─► table::Table (desired, and what the kernel lacks) ─► batch::Batch ─► kernel
//!                                    ▲                                                                  │
//!                                    └───────────── adopt ◄── decode (dumps, announcements) ◄───────────┘
//! ```
//!
//! | question | answer in |
//! |---|---|
//! | What does a pod cost? | [`compile`]: four elements, no chain and no rule when its policy is in use already |
//! | How is a policy written as rules? | [`lower`] |
//! | Who decides, in which order? | the base chains, named `hook-NN-stage`, and what `cali-…` chains they lead to |
//! | What happens when the kernel refuses a rule? | [`Dataplane`]: its endpoints fail closed, the rest goes on |
//! | What does the table look like? | [`text::render`], or `nft list table inet calico` |
//! | How often did a rule match? | [`counters`], where the configuration asks for them |
//! | What would a node program? | [`preview`] |
//! | How is that tested without a kernel? | [`eval`] runs packets through the expressions, [`fake`] checks batches |
//!
//! The table has no owner flag. A table with `NFT_TABLE_F_OWNER` vanishes with the socket of its owner, so an agent that
//! is killed would leave its pods open; the flag that keeps it (`NFT_TABLE_F_PERSIST`) is too young for most kernels,
//! and nobody but the agent, a repairing operator included, could change the table. So it is watched instead: a commit
//! of somebody else that touches it is repaired as soon as it is announced.

pub mod batch;
mod build;
mod codes;
pub mod compile;
pub mod config;
pub mod connections;
pub mod counters;
mod dataplane;
pub mod decode;
mod decode_expr;
pub mod eval;
pub mod expr;
pub mod fake;
pub mod kernel;
pub mod lower;
mod names;
pub mod object;
pub mod preview;
pub mod table;
pub mod text;
mod text_rule;
mod wire;

#[cfg(test)]
mod dataplane_tests;
#[cfg(test)]
mod extreme_tests;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod text_tests;

pub use dataplane::{Dataplane, Stats};
pub use wire::WireError;
