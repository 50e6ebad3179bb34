//! Calico's block-affinity IP address management as pure, resumable state machines.
//!
//! Addresses live in blocks; a block is the unit of compare-and-swap and belongs to a host.
//! Every operation is a machine ([`Operation`]): it says which objects it needs or which
//! conditional writes to make, the caller carries that out on whatever datastore it has, and
//! hands the answer back. Machines have no clock, no randomness and no connection, so the same
//! code runs in a CNI plugin, in an agent and in a simulation that interleaves and crashes it
//! at every step.
//!
//! ```
//! use calico_ipam::memory::{MemoryStore, run};
//! use calico_ipam::{AutoAssign, AutoAssignArgs, Pool};
//!
//! let mut store = MemoryStore::default();
//! store.add_pool(Pool::new("default", "10.0.0.0/16".parse().unwrap()));
//! store.add_node("node1", &[]);
//!
//! let args = AutoAssignArgs::workload("node1", "k8s-pod-network.0123", 1, 0);
//! let assigned = run(&mut store, AutoAssign::new(args, 1_700_000_000_000_000_000))?;
//! assert_eq!(assigned.addresses().count(), 1);
//! # Ok::<(), calico_ipam::IpamError>(())
//! ```

#![forbid(unsafe_code)]

mod affinity;
mod assign;
mod assign_ip;
mod attribute;
mod backoff;
mod bitmap;
mod block;
mod check;
mod claim;
mod commit;
mod convert;
mod environment;
mod error;
mod explain;
mod gc;
mod give_up;
mod handle;
mod housekeeping;
mod io;
mod load_balancer;
mod lookup;
pub mod memory;
mod metrics;
mod order;
mod pools;
mod range;
mod release;
mod release_handle;
mod repair;
mod reserve;
mod search;
mod set_config;
mod set_owner;
pub mod sim;
mod split;
mod store;
mod tunnel;
mod utilization;

pub use affinity::{Affinity, State};
pub use assign::{
    Assignment, AutoAssign, AutoAssignArgs, AutoAssigned, FamilyRequest, FamilyResult, LimitSource, Note,
};
pub use assign_ip::{AssignIp, AssignIpArgs, AssignedIp, Exception};
pub use attribute::{Attribute, Owner, RESERVED_HANDLE, clean_handle};
pub use backoff::backoff;
pub use bitmap::Bitmap;
pub use block::{Block, BlockParts, BlockRelease, HostReservation, MAX_BLOCK_BITS, ReleaseOptions};
pub use check::{CheckReport, Finding, check, users_of_node};
pub use claim::{ClaimAffinity, Claimed};
pub use environment::Environment;
pub use error::{BlockError, IpamError, StoredError};
pub use explain::{Explanation, OwnBlock, explain};
pub use gc::{
    Allocation, Collector, GcConfig, GcPlan, LONGEST_OPERATION_SECONDS, NodeState, Owners, Purpose, Stock,
    Verdict,
};
pub use give_up::{Claims, Conditions, GiveUp, GivenUp};
pub use handle::Handle;
pub use load_balancer::{
    AssignServices, LOAD_BALANCER_HOST, ServiceAction, Wish, WishError, is_managed, service_addresses,
    service_handle, wish,
};
pub use lookup::LookupAddress;
pub use metrics::{NO_AFFINITY, NO_POOL, NodeGauges, PoolGauges, UNKNOWN_NODE, gauges};
pub use order::{BlockSpace, fnv1_32, search_seed};
pub use pools::{
    Criteria, Encapsulation, Filter, IntendedUse, Labels, Pool, Rejection, first_overlap, pool_of,
};
pub use range::{Family, Ranges};
pub use release::{ReleaseIps, Released};
pub use release_handle::{IpsByHandle, ReleaseByHandle};
pub use repair::{Repair, Task};
pub use reserve::Reservations;
pub use search::DEFAULT_MAX_BLOCKS;
pub use set_config::SetConfig;
pub use set_owner::{OwnerCondition, OwnerSwap, SetOwner};
pub use split::{SplitError, split};
pub use store::{
    Answer, Batch, CollapsedWrite, Config, Expect, Failure, Found, Item, Key, Operation, Outcome, Query,
    Read, Request, Revision, Scope, Step, Stored, Write,
};
pub use tunnel::{Holder, Tunnel, TunnelAction, TunnelState, tunnel_address};
pub use utilization::{BlockUtilization, Counts, Fullness, PoolUtilization, exhausted, utilization};
