//! The fan-out between one store and many nodes (the role of Calico's Typha).
//!
//! A server follows the store once per view and sends every update, encoded once, to all its clients. A client
//! delivers the same events as a [`crate::Syncer`], so a program does not care which of both it has.

mod client;
pub mod frame;
mod pipe;
mod server;
mod snapshot;
mod tls;

pub use client::{ClientOptions, FanoutClient};
pub use server::{FanoutServer, ServerOptions, ServerStats, View};
pub use tls::TlsSettings;
