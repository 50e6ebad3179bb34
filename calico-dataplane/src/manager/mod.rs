//! Managers: each owns one family of kernel objects and decides what it should look like.
//!
//! Managers are pure. They are told what is wanted and what the kernel has, and give out differences; the driver
//! carries these out.

pub mod devices;
pub mod endpoints;
pub mod interfaces;
pub mod mtu;
pub mod nexthops;
pub mod routes;
pub mod tunnels;
pub mod wireguard;

pub use endpoints::{EndpointManager, EndpointStatus};
pub use interfaces::Interfaces;
pub use routes::{Candidate, Hop, RouteClass, RouteManager, Target};
pub use tunnels::{TunnelConfig, TunnelManager};
pub use wireguard::{WireguardConfig, WireguardManager};
