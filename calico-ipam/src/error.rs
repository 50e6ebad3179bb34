//! What can go wrong, as data.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use crate::attribute::Owner;
use crate::range::Family;
use crate::store::Key;

/// A stored block, affinity or handle that must not be used. It is never repaired silently.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoredError {
    /// A block of more than 2^12 addresses.
    #[error("block {cidr}: more than 4096 addresses; a block is a /20 to /32 or a /116 to /128")]
    BlockTooLarge {
        /// The block.
        cidr: IpNet,
    },
    /// The prefix has bits set behind its length.
    #[error("block {cidr}: address bits behind the prefix length; the block is {}", cidr.trunc())]
    HostBits {
        /// The prefix as stored.
        cidr: IpNet,
    },
    /// `allocations` does not have one entry per address.
    #[error("block {cidr}: allocations has {found} entries, the block has {expected} addresses")]
    AllocationCount {
        /// The block.
        cidr: IpNet,
        /// Addresses of the block.
        expected: usize,
        /// Entries found.
        found: usize,
    },
    /// More attributes than addresses.
    #[error("block {cidr}: {found} attributes for {limit} addresses")]
    TooManyAttributes {
        /// The block.
        cidr: IpNet,
        /// Addresses of the block.
        limit: usize,
        /// Entries found.
        found: usize,
    },
    /// An allocation points behind the attribute table (I5).
    #[error("block {cidr}: allocations[{ordinal}] points at attribute {index} of {attributes}")]
    AttributeIndex {
        /// The block.
        cidr: IpNet,
        /// The ordinal.
        ordinal: usize,
        /// Where it points.
        index: usize,
        /// Size of the attribute table.
        attributes: usize,
    },
    /// Nothing points at an attribute (I5).
    #[error("block {cidr}: attributes[{index}] is used by no address")]
    UnusedAttribute {
        /// The block.
        cidr: IpNet,
        /// The attribute.
        index: usize,
    },
    /// An ordinal past the end of the block.
    #[error("block {cidr}: ordinal {ordinal} is outside the block of {size} addresses")]
    OrdinalRange {
        /// The block.
        cidr: IpNet,
        /// The ordinal.
        ordinal: usize,
        /// Addresses of the block.
        size: usize,
    },
    /// `unallocated` names an ordinal twice (I4).
    #[error("block {cidr}: unallocated names ordinal {ordinal} twice")]
    OrdinalTwice {
        /// The block.
        cidr: IpNet,
        /// The ordinal.
        ordinal: usize,
    },
    /// `unallocated` names an ordinal that is allocated (I4).
    #[error("block {cidr}: ordinal {ordinal} is both allocated and in unallocated")]
    OrdinalNotFree {
        /// The block.
        cidr: IpNet,
        /// The ordinal.
        ordinal: usize,
    },
    /// An ordinal is neither allocated nor free (I4).
    #[error("block {cidr}: ordinal {ordinal} is neither allocated nor in unallocated")]
    OrdinalLost {
        /// The block.
        cidr: IpNet,
        /// The ordinal.
        ordinal: usize,
    },
    /// The stored bytes are not such an object at all.
    #[error("{key}: {reason}")]
    Unreadable {
        /// Path of the object.
        key: String,
        /// Where and why reading stopped.
        reason: String,
    },
    /// A field of a stored object cannot be read.
    #[error("{key}: field {field}: {found:?} is not {expected}")]
    Field {
        /// Key or name of the object.
        key: String,
        /// Path of the field.
        field: &'static str,
        /// What was found.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// Why an operation on one block was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The address does not belong to the block.
    #[error("{address} is not in block {block}")]
    OutsideBlock {
        /// The address.
        address: IpAddr,
        /// The block.
        block: IpNet,
    },
    /// The address is taken, or released and still cooling down.
    #[error("Address already assigned in block: {address}{}", if *.cooling { " is in cooldown" } else { "" })]
    AlreadyAssigned {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        handle: Option<Arc<str>>,
        /// Whether it only waits for its cooldown to pass.
        cooling: bool,
    },
    /// Strict affinity: only the owner assigns from a block.
    #[error("block {block} belongs to {}, not to {caller}, and strict affinity is on", owner.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string))]
    NotOwner {
        /// The block.
        block: IpNet,
        /// Its owner.
        owner: Option<Owner>,
        /// Who asked.
        caller: Owner,
    },
    /// The address was released and assigned again since the caller looked.
    #[error("{address}: sequence number is {found}, expected {expected}: the address was re-used since")]
    SequenceMismatch {
        /// The address.
        address: IpAddr,
        /// The caller's number.
        expected: u64,
        /// The stored number.
        found: u64,
    },
    /// The address belongs to another handle.
    #[error("{address} belongs to handle {}, not to {expected}", found.as_deref().unwrap_or("(none)"))]
    HandleMismatch {
        /// The address.
        address: IpAddr,
        /// The caller's handle.
        expected: Arc<str>,
        /// The stored handle.
        found: Option<Arc<str>>,
    },
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IpamError {
    /// Too many compare-and-swap conflicts.
    #[error("Max retries hit - excessive concurrent IPAM requests ({attempts} attempts on {key})")]
    Contention {
        /// The object that kept changing.
        key: Key,
        /// How often it was tried.
        attempts: u32,
    },
    /// The driver answered something that was not asked.
    #[error("driver error: answer does not fit the request ({expected} expected)")]
    UnexpectedAnswer {
        /// What was asked for.
        expected: &'static str,
    },
    /// No intended use was given.
    #[error("must specify the intended use when assigning an IP")]
    NoIntendedUse,
    /// No host was given.
    #[error("no hostname was given; pass the node's name, trimmed and in lower case")]
    NoHost,
    /// The node object does not exist.
    #[error("node {host} does not exist in the datastore; the node agent creates it at start")]
    NodeMissing {
        /// The node.
        host: Arc<str>,
    },
    /// Windows with host reservations but without strict affinity.
    #[error("global strict affinity should not be false for Windows node")]
    WindowsNeedsStrictAffinity,
    /// No pool can serve the request at all.
    #[error("cannot find a qualified ippool{}", used.as_ref().map_or_else(String::new, |used| format!(", no pools match the required use ({used})")))]
    NoQualifiedPool {
        /// The use no pool allows, if that was the reason.
        used: Option<String>,
        /// Family asked for.
        family: Family,
    },
    /// A pool asked for by prefix does not exist or is not enabled.
    #[error("the given pool ({cidr}) does not exist, or is not enabled")]
    PoolMissing {
        /// The prefix asked for.
        cidr: IpNet,
    },
    /// A pool of the wrong family was asked for.
    #[error("pool {cidr} is not an IPv{} pool", family.number())]
    PoolFamily {
        /// The prefix asked for.
        cidr: IpNet,
        /// The family of the list it was in.
        family: Family,
    },
    /// No pool selects the node and namespace.
    #[error("no configured Calico pools for node {host}")]
    NoPoolsForNode {
        /// The node.
        host: Arc<str>,
        /// Family asked for.
        family: Family,
    },
    /// The address lies in no enabled pool.
    #[error("The provided IP address is not in a configured pool ({address})")]
    NotInPool {
        /// The address.
        address: IpAddr,
    },
    /// The prefix lies in no enabled pool or is smaller than a block.
    #[error("{cidr} is not in an enabled pool, or is smaller than a block of it")]
    CidrNotInPool {
        /// The prefix.
        cidr: IpNet,
    },
    /// The pool of the address does not allow the use.
    #[error("IP pool {pool} does not allow use {intended}; allowed uses are [{}]", allowed.join(", "))]
    UseNotAllowed {
        /// Name of the pool.
        pool: String,
        /// The use asked for.
        intended: String,
        /// What the pool allows.
        allowed: Vec<String>,
    },
    /// One block refused.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A stored object cannot be used.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The block belongs to somebody else.
    #[error("block {block} is claimed by {}", owner.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string))]
    ClaimConflict {
        /// The block.
        block: IpNet,
        /// Its owner.
        owner: Option<Owner>,
    },
    /// The block is in use and was to be released only when empty.
    #[error("block {block} is not empty")]
    BlockNotEmpty {
        /// The block.
        block: IpNet,
    },
    /// The object does not exist.
    #[error("{key} does not exist")]
    NotFound {
        /// The object.
        key: Key,
    },
    /// The address is released and waits for its cooldown.
    #[error("address {address} is in cooldown")]
    InCooldown {
        /// The address.
        address: IpAddr,
    },
    /// The owner of an address is not the one that the caller expects.
    #[error("{address}: the {which} owner is {found}, expected {expected}")]
    OwnerMismatch {
        /// The address.
        address: IpAddr,
        /// `active` or `alternate`.
        which: &'static str,
        /// What is stored.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The address is not allocated.
    #[error("address {address} is not assigned")]
    NotAssigned {
        /// The address.
        address: IpAddr,
    },
    /// A write was sent, its answer was lost, and without a handle nobody can tell whether it
    /// took effect.
    #[error("the write of {key} was not answered and the request has no handle to recognise it by")]
    OutcomeUnknown {
        /// The object.
        key: Key,
    },
    /// IPv4 addresses were assigned, then IPv6 failed. The caller releases what it got.
    #[error("assigned {} addresses, then: {cause}", assigned.len())]
    SecondFamily {
        /// What was assigned before.
        assigned: Vec<crate::assign::Assignment>,
        /// Why the second family failed.
        cause: Box<IpamError>,
    },
    /// The caller wants no address that automatic assignment would not give.
    #[error("{address} is refused: {exception}")]
    Refused {
        /// The address.
        address: IpAddr,
        /// The rule it does not follow.
        exception: crate::assign_ip::Exception,
    },
    /// The handle holds as many addresses as it may.
    #[error("handle {handle} already holds {cap} addresses of this family, its limit")]
    HandleFull {
        /// The handle.
        handle: Arc<str>,
        /// The limit.
        cap: u32,
    },
    /// A configuration that contradicts itself.
    #[error("IPAM configuration: {rule}")]
    Config {
        /// The rule that is broken.
        rule: &'static str,
    },
}
