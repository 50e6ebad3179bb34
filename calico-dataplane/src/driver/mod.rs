//! The driver: takes what the policy graph, the BGP speaker and the kernel report, and keeps the kernel's state
//! equal to what they ask for.

mod policy;

pub use policy::{ApplyReport, InterfaceInfo, InterfaceState, PolicyDataplane};
