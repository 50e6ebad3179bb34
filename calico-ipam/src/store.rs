//! What a machine asks of a datastore, and what it is told.
//!
//! A driver loops: it hands the last [`Answer`] to [`Operation::step`], carries out the
//! [`Request`] it gets, and stops at [`Step::Done`]. It decides nothing. The same machine runs
//! under a blocking driver, an asynchronous one and the simulation in `sim`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::affinity::Affinity;
use crate::attribute::Owner;
use crate::block::Block;
use crate::error::{IpamError, StoredError};
use crate::handle::Handle;
use crate::pools::Pool;
use crate::range::Family;

/// An object a machine reads or writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The IPAM configuration.
    Config,
    /// A pool, by name.
    Pool(Arc<str>),
    /// An IPReservation, by name.
    Reservation(Arc<str>),
    /// A Calico node, by name.
    Node(Arc<str>),
    /// A Kubernetes namespace (or its `kns.` profile), by name.
    Namespace(Arc<str>),
    /// The claim of an owner to a block.
    Affinity(Owner, IpNet),
    /// A block.
    Block(IpNet),
    /// A handle.
    Handle(Arc<str>),
    /// The IPAM host object of a node.
    Host(Arc<str>),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("IPAM config"),
            Self::Pool(name) => write!(f, "IPPool({name})"),
            Self::Reservation(name) => write!(f, "IPReservation({name})"),
            Self::Node(name) => write!(f, "Node({name})"),
            Self::Namespace(name) => write!(f, "Namespace({name})"),
            Self::Affinity(owner, cidr) => write!(f, "BlockAffinity({owner}, {cidr})"),
            Self::Block(cidr) => write!(f, "IPAMBlock({cidr})"),
            Self::Handle(id) => write!(f, "IPAMHandle({id})"),
            Self::Host(name) => write!(f, "IPAMHost({name})"),
        }
    }
}

/// A store's opaque version of an object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(Repr);

/// Most stores number their revisions; keeping a number avoids an allocation per object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Number(u64),
    Text(Arc<str>),
}

impl Revision {
    /// A numbered revision.
    #[must_use]
    pub fn number(number: u64) -> Self {
        Self(Repr::Number(number))
    }
}

impl From<&str> for Revision {
    fn from(text: &str) -> Self {
        match text.parse::<u64>() {
            // Only text that prints back unchanged becomes a number.
            Ok(number) if text == "0" || !(text.starts_with('0') || text.starts_with('+')) => {
                Self(Repr::Number(number))
            }
            _ => Self(Repr::Text(text.into())),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Number(number) => write!(f, "{number}"),
            Repr::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{self}")
    }
}

/// The content of an object, in the form the machines work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// The IPAM configuration.
    Config(Config),
    /// A pool.
    Pool(Arc<Pool>),
    /// The texts of `spec.reservedCIDRs`.
    Reservation(Arc<Vec<String>>),
    /// The labels of a node or namespace.
    Labels(Arc<BTreeMap<String, String>>),
    /// The claim of an owner to a block.
    Affinity(Affinity),
    /// A block.
    Block(Arc<Block>),
    /// A handle.
    Handle(Handle),
    /// The (empty) IPAM host object.
    Host,
    /// The object exists but must not be used.
    Damaged(Arc<StoredError>),
}

/// The cluster-wide IPAM configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Only the owner of a block assigns from it: no borrowing.
    pub strict_affinity: bool,
    /// Hosts may claim new blocks.
    pub auto_allocate_blocks: bool,
    /// Blocks a host may own per family; 0 means the built-in limit.
    pub max_blocks_per_host: u32,
    /// Keep the address of a KubeVirt machine over restarts and migrations.
    pub vm_address_persistence: bool,
    /// Seconds a released address stays unused.
    pub cooldown_seconds: u32,
}

impl Default for Config {
    /// What holds while no configuration is stored.
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            vm_address_persistence: true,
            cooldown_seconds: 0,
        }
    }
}

/// An object with its key and revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which object.
    pub key: Key,
    /// Its content.
    pub value: Stored,
    /// The revision that a conditional write of it must name.
    pub revision: Revision,
}

/// A set of objects to list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// All pools.
    Pools,
    /// All IPReservations.
    Reservations,
    /// All Calico nodes.
    Nodes,
    /// The claims of one owner to blocks of one family.
    OwnerAffinities(Owner, Family),
    /// All claims, of hosts and of virtual owners, both families.
    Affinities,
    /// All blocks of one family.
    Blocks(Family),
    /// All handles.
    Handles,
}

impl Scope {
    /// Whether an object belongs to the set; lets a store filter a wider list.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        match (self, key) {
            (Self::Pools, Key::Pool(_))
            | (Self::Reservations, Key::Reservation(_))
            | (Self::Nodes, Key::Node(_))
            | (Self::Affinities, Key::Affinity(..))
            | (Self::Handles, Key::Handle(_)) => true,
            (Self::OwnerAffinities(owner, family), Key::Affinity(of, cidr)) => {
                owner == of && Family::of_net(cidr) == *family
            }
            (Self::Blocks(family), Key::Block(cidr)) => Family::of_net(cidr) == *family,
            _ => false,
        }
    }
}

/// One question of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// One object.
    Get(Key),
    /// A set of objects, answered in key order.
    List(Scope),
}

/// Several questions, answered together. They need not come from one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The questions, answered in this order.
    pub queries: Vec<Query>,
    /// Whether a cache may answer. After a conflict it may not: the answer must be at least as
    /// new as the last answer to a write.
    pub fresh: bool,
    /// 0 at first; afterwards how often the machine was sent back by a conflict. A driver waits
    /// [`backoff`](crate::backoff) before it carries out a read with an attempt above 0.
    pub attempt: u32,
}

/// The condition of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The object must not exist: a create.
    Absent,
    /// The object must have this revision.
    Revision(Revision),
    /// The object must be as the write with this index in the same batch left it.
    Earlier(usize),
}

/// A conditional write of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which object.
    pub key: Key,
    /// The new content; `None` deletes.
    pub value: Option<Stored>,
    /// The condition.
    pub expect: Expect,
}

/// Conditional writes, to be carried out in order until one fails.
///
/// The order leaves only recoverable over-claims when it is cut short. A store with
/// multi-object transactions carries out [`Batch::collapsed`] as one transaction instead; then
/// not even those can be seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The writes.
    pub writes: Vec<Write>,
}

/// A write of a transaction, with the index of the batch write it stands for last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollapsedWrite {
    /// Which object.
    pub key: Key,
    /// The final content; `None` deletes (or leaves absent).
    pub value: Option<Stored>,
    /// The revision before the transaction; `None` means absent.
    pub expect: Option<Revision>,
    /// The index of the first write of this object in the batch: name it when the condition fails.
    pub index: usize,
}

impl Batch {
    /// The batch as a transaction: one write per object, the first condition with the last
    /// value. etcd, for one, refuses a key twice in a transaction.
    #[must_use]
    pub fn collapsed(&self) -> Vec<CollapsedWrite> {
        let mut merged: Vec<CollapsedWrite> = Vec::with_capacity(self.writes.len());
        for (index, write) in self.writes.iter().enumerate() {
            if let Some(known) = merged.iter_mut().find(|known| known.key == write.key) {
                known.value.clone_from(&write.value);
                continue;
            }
            let expect = match &write.expect {
                Expect::Revision(revision) => Some(revision.clone()),
                Expect::Absent | Expect::Earlier(_) => None,
            };
            merged.push(CollapsedWrite { key: write.key.clone(), value: write.value.clone(), expect, index });
        }
        merged
    }
}

/// What a machine needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Objects.
    Read(Read),
    /// A batch of conditional writes.
    Write(Arc<Batch>),
}

/// The answer to one [`Query`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// To a get; `None` when there is no such object.
    One(Option<Item>),
    /// To a list.
    Many(Arc<[Item]>),
}

/// Why a batch stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The condition of this write did not hold; it and all later ones were not carried out.
    Conflict {
        /// Index of the write in the batch.
        index: usize,
    },
    /// The store did not answer. This write and later ones may or may not have taken effect.
    Unknown {
        /// Index of the first write whose fate is not known.
        index: usize,
    },
}

/// The answer to a [`Request::Write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The new revisions of the writes that took effect, from the first on. A transaction
    /// answers either all (a collapsed key repeats its revision) or none. The revision of a
    /// deletion means nothing.
    pub applied: Vec<Revision>,
    /// Set when not all took effect.
    pub failure: Option<Failure>,
}

/// What a driver tells a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The first call.
    Begin,
    /// To [`Request::Read`]: one answer per query, in order.
    Read(Vec<Found>),
    /// To [`Request::Write`].
    Written(Outcome),
}

/// What a machine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// Carry this out and call again with the answer.
    Need(Request),
    /// Finished.
    Done(T),
}

/// A resumable operation on a datastore.
pub trait Operation {
    /// What it yields in the end.
    type Output;

    /// Takes the answer to the last request ([`Answer::Begin`] first) and says what is next.
    ///
    /// Dropping a machine at any point leaves the datastore in a state that later operations
    /// and garbage collection repair.
    ///
    /// # Errors
    /// When the operation cannot succeed; the machine is then spent.
    fn step(&mut self, answer: Answer) -> Result<Step<Self::Output>, IpamError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_print_exactly_what_the_store_said() {
        for text in ["0", "17", "007", "+5", "abc", "18446744073709551616", ""] {
            assert_eq!(Revision::from(text).to_string(), text);
        }
        assert_eq!(Revision::from("17"), Revision::number(17));
    }

    #[test]
    fn a_collapsed_batch_names_each_object_once_with_its_first_condition() {
        let key = Key::Handle("h".into());
        let write = |value, expect| Write { key: key.clone(), value, expect };
        let batch = Batch {
            writes: vec![
                write(Some(Stored::Host), Expect::Revision(Revision::number(3))),
                Write { key: Key::Config, value: None, expect: Expect::Absent },
                write(None, Expect::Earlier(0)),
            ],
        };
        let collapsed = batch.collapsed();
        assert_eq!(collapsed.len(), 2);
        let first = collapsed.first().unwrap();
        assert_eq!(
            (first.value.clone(), first.expect.clone(), first.index),
            (None, Some(Revision::number(3)), 0)
        );
    }
}
