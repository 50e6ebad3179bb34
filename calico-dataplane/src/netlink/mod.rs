//! Netlink, spoken directly.

pub mod error;
pub mod socket;
pub mod wire;

pub use error::{DecodeError, NetlinkError, Refusal};
pub use socket::{Protocol, Request, Socket};
