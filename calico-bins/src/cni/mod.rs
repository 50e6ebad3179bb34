//! The CNI plugins `calico` and `calico-ipam`.
//!
//! [`mod@env`], [`conf`], [`result`] and [`error`] are the wire side of the CNI specification, versions 0.1.0 to
//! 1.1.0; [`attach`], [`detach`] and [`ipam`] hold what the two plugins do; [`delegate`] runs another plugin;
//! [`journal`] keeps what a DEL could not do yet.

pub mod annotations;
pub mod attach;
pub mod conf;
pub mod delegate;
pub mod detach;
pub mod endpoint;
pub mod env;
pub mod error;
pub mod host_local;
pub mod identity;
pub mod install;
pub mod ipam;
pub mod journal;
mod log;
pub mod plugin;
pub mod profile;
pub mod readiness;
pub mod result;
pub mod status;
pub mod store;

/// CNI versions both plugins speak, oldest first.
pub const SUPPORTED_VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
