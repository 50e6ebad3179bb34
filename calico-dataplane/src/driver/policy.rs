//! The seam between the driver and whatever enforces policy (nf_tables today, eBPF later).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use calico_policy::changes::{Changes, WorkloadEndpointId};

/// What policy programming must know about one interface of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Kernel index.
    pub index: u32,
    /// Oper-up: the kernel would send packets through it.
    pub up: bool,
    /// Its addresses, sorted. Empty for workload interfaces.
    pub addresses: Vec<IpAddr>,
}

/// The interfaces of this node as they are now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceState {
    /// By interface name.
    pub interfaces: BTreeMap<Arc<str>, InterfaceInfo>,
}

/// What an apply did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Messages sent to the kernel; 0 when it was already as wanted.
    pub messages: usize,
    /// All endpoints whose own rules are refused at present, with the kernel's words, whether or not this apply
    /// was about them. They fail closed; everything else is in force.
    pub failed_endpoints: BTreeMap<WorkloadEndpointId, String>,
    /// Host endpoints likewise, by name.
    pub failed_host_endpoints: BTreeMap<Arc<str>, String>,
}

/// Enforces policy on this node.
///
/// The driver calls [`Self::apply`] with every [`Changes`] after the datastore is in sync, in order, and again with
/// empty changes when only interfaces changed or after an error. An implementation keeps what it was told: nothing
/// is sent twice.
pub trait PolicyDataplane: Send {
    /// Why an apply failed as a whole.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Absorbs `changes` and brings the kernel to the new state in one transaction. On an error nothing of the
    /// transaction is in force, but the changes are remembered; the driver calls [`Self::resync`] later.
    ///
    /// # Errors
    /// When the transaction failed as a whole.
    fn apply(&mut self, changes: &Changes, interfaces: &InterfaceState) -> Result<ApplyReport, Self::Error>;

    /// Reads the kernel's state again and repairs every difference.
    ///
    /// # Errors
    /// When the state cannot be read or the repair failed as a whole.
    fn resync(&mut self) -> Result<ApplyReport, Self::Error>;

    /// Readable when somebody else may have changed what this enforces; `None` when it cannot tell.
    fn watch(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Repairs what somebody else changed; cheap when nobody did. The driver calls it whenever it wakes, once policy
    /// is in force. `None` when there was nothing to repair.
    ///
    /// # Errors
    /// When the state cannot be read or the repair failed as a whole.
    fn repair(&mut self) -> Result<Option<ApplyReport>, Self::Error> {
        Ok(None)
    }
}

/// Enforces nothing: for a node whose policy something else enforces, and for tests of everything else.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPolicy;

impl PolicyDataplane for NoPolicy {
    type Error = std::convert::Infallible;

    fn apply(&mut self, _: &Changes, _: &InterfaceState) -> Result<ApplyReport, Self::Error> {
        Ok(ApplyReport::default())
    }

    fn resync(&mut self) -> Result<ApplyReport, Self::Error> {
        Ok(ApplyReport::default())
    }
}
