//! The byte layer: what every key-value backend (memory, SQLite, etcd) offers.
//!
//! Keys are the paths of Calico's etcd schema, values are the JSON that Calico stores under them, revisions
//! are one counter per store. The typed view over this is [`crate::Store`].

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::error::StoreError;

/// Stored bytes, shared between all readers.
pub type Bytes = Arc<[u8]>;

/// Largest value that any backend accepts, in bytes. The limit is etcd's default for one request, so that
/// an object that fits into one backend fits into all.
pub const MAX_VALUE: usize = 1_572_864 - 4_096;

/// Longest key that any backend accepts, in bytes.
pub const MAX_KEY: usize = 4_096;

/// Largest number of writes in one transaction (etcd's default limit).
pub const MAX_TXN: usize = 128;

/// One stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEntry {
    /// Path.
    pub key: String,
    /// JSON bytes (raw text for a few configuration keys).
    pub value: Bytes,
    /// Revision of the last write of this key.
    pub revision: u64,
}

/// Which keys a list or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    Exact(String),
    /// Every key that starts with this text.
    Prefix(String),
}

impl KeyRange {
    /// Whether the key is inside the range.
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::Exact(exact) => key == exact,
            Self::Prefix(prefix) => key.starts_with(prefix.as_str()),
        }
    }

    /// Smallest key inside the range.
    pub fn start(&self) -> &str {
        match self {
            Self::Exact(key) | Self::Prefix(key) => key,
        }
    }

    /// First key after the range in byte order; `None` when the range has no upper end.
    pub fn end(&self) -> Option<Vec<u8>> {
        match self {
            Self::Exact(key) => {
                let mut end = key.clone().into_bytes();
                end.push(0);
                Some(end)
            }
            Self::Prefix(prefix) => {
                let mut end = prefix.clone().into_bytes();
                while let Some(last) = end.pop() {
                    if last < u8::MAX {
                        end.push(last + 1);
                        return Some(end);
                    }
                }
                None
            }
        }
    }
}

/// A set of key ranges, sorted and without one range inside another.
///
/// ```
/// use calico_datastore::{KeyRange, KeyRanges};
/// let ranges = KeyRanges::new([
///     KeyRange::Prefix("/calico/ipam/".into()),
///     KeyRange::Prefix("/calico/ipam/v2/handle/".into()),
///     KeyRange::Exact("/calico/v1/Ready".into()),
/// ]);
/// assert_eq!(ranges.as_slice().len(), 2);
/// assert!(ranges.contains("/calico/ipam/v2/handle/h1"));
/// assert!(!ranges.contains("/calico/v1/Ready/not"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct KeyRanges(Vec<KeyRange>);

impl KeyRanges {
    /// Sorts the ranges and drops those that another one covers.
    pub fn new(ranges: impl IntoIterator<Item = KeyRange>) -> Self {
        let mut all: Vec<KeyRange> = ranges.into_iter().collect();
        all.sort_by(|a, b| a.start().cmp(b.start()).then_with(|| b.cmp(a)));
        let mut kept: Vec<KeyRange> = Vec::with_capacity(all.len());
        for range in all {
            // A cover starts with a prefix of this range's start, and such a text sorts before it; every
            // range between the two is covered as well, so only the last kept one can be the cover.
            let covered = kept.last().is_some_and(|last| match last {
                KeyRange::Prefix(prefix) => range.start().starts_with(prefix.as_str()),
                KeyRange::Exact(_) => *last == range,
            });
            if !covered {
                kept.push(range);
            }
        }
        Self(kept)
    }

    /// All keys below one prefix.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self(vec![KeyRange::Prefix(prefix.into())])
    }

    /// One key.
    pub fn exact(key: impl Into<String>) -> Self {
        Self(vec![KeyRange::Exact(key.into())])
    }

    /// The ranges in order.
    pub fn as_slice(&self) -> &[KeyRange] {
        &self.0
    }

    /// Whether any range holds the key.
    pub fn contains(&self, key: &str) -> bool {
        // Ranges are disjoint and sorted by start: only the last one that starts at or before the key can hold it.
        let after = self.0.partition_point(|range| range.start() <= key);
        after.checked_sub(1).and_then(|index| self.0.get(index)).is_some_and(|range| range.contains(key))
    }

    /// True when there is no range.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Condition on the present state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// None.
    Any,
    /// The key is not there, else [`StoreError::Exists`].
    Absent,
    /// The key is there, else [`StoreError::Missing`].
    Present,
    /// The key is there with exactly this revision, else [`StoreError::Missing`] or [`StoreError::Conflict`].
    Revision(u64),
}

/// What a write does with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Store the value. With a time to live the key is deleted after that time.
    Put {
        /// New bytes.
        value: Bytes,
        /// Time to live.
        ttl: Option<Duration>,
    },
    /// Remove the key; removing a missing key is [`StoreError::Missing`].
    Delete,
    /// Only check the condition.
    Check,
}

/// One conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawWrite {
    /// Path.
    pub key: String,
    /// Condition.
    pub expect: Expect,
    /// Effect.
    pub change: Change,
}

impl RawWrite {
    /// Store a value under a condition.
    pub fn put(key: impl Into<String>, expect: Expect, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), expect, change: Change::Put { value: value.into(), ttl: None } }
    }

    /// Remove a key under a condition.
    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Self { key: key.into(), expect, change: Change::Delete }
    }

    /// Let the value expire.
    #[must_use]
    pub fn with_ttl(mut self, time_to_live: Duration) -> Self {
        if let Change::Put { ttl, .. } = &mut self.change {
            *ttl = Some(time_to_live);
        }
        self
    }

    /// Rules that hold for every backend: key and value sizes, no key twice.
    pub fn check_all(writes: &[Self]) -> Result<(), StoreError> {
        if writes.len() > MAX_TXN {
            return Err(StoreError::invalid(
                "transaction",
                "writes",
                format!("{} writes, at most {MAX_TXN} fit into one transaction", writes.len()),
            ));
        }
        let mut keys: Vec<&str> = Vec::with_capacity(writes.len());
        for write in writes {
            if !write.key.starts_with('/') || write.key.len() > MAX_KEY || write.key.contains('\0') {
                return Err(StoreError::invalid(
                    write.key.chars().take(200).collect::<String>(),
                    "key",
                    format!("a key starts with '/', has no NUL and at most {MAX_KEY} bytes"),
                ));
            }
            if let Change::Put { value, .. } = &write.change
                && value.len() > MAX_VALUE
            {
                return Err(StoreError::invalid(
                    &write.key,
                    "value",
                    format!("{} bytes, at most {MAX_VALUE} can be stored", value.len()),
                ));
            }
            keys.push(&write.key);
        }
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair.first() == pair.last()) {
            let key = pair.first().copied().unwrap_or_default();
            return Err(StoreError::invalid(key, "key", "written twice in one transaction"));
        }
        Ok(())
    }
}

/// Result of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Revision of all writes of the transaction.
    pub revision: u64,
    /// What each write replaced or removed, in the order of the request.
    pub previous: Vec<Option<RawEntry>>,
}

/// Result of a list: all keys of the ranges as they were at one revision, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawList {
    /// Objects in byte order of their keys.
    pub entries: Vec<RawEntry>,
    /// Revision of the store when it was read; watch from here.
    pub revision: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEvent {
    /// Path.
    pub key: String,
    /// New bytes, `None` after a deletion.
    pub value: Option<Bytes>,
    /// Revision of this change. For a deletion it is the revision of the deletion, never an older one.
    pub revision: u64,
}

/// Changes in revision order. All changes of one revision arrive in the same batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawBatch {
    /// Changes; may be empty, then the batch only moves `revision`.
    pub events: Vec<RawEvent>,
    /// Every change up to here has been delivered; resume from here.
    pub revision: u64,
}

/// Stream of a watch. It ends after its first error.
pub type RawWatch = BoxStream<'static, Result<RawBatch, StoreError>>;

/// Facts about a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// `sqlite`, `etcdv3`, `memory` ...
    pub kind: &'static str,
    /// File or endpoints, for messages.
    pub place: String,
    /// Identity of the data: changes when the store is created anew.
    pub identity: String,
    /// Newest revision.
    pub revision: u64,
}

/// A key-value store with revisions, compare-and-swap, transactions and watches.
///
/// Object-safe: programs hold an `Arc<dyn Backend>`. All methods may be called at the same time from many tasks.
pub trait Backend: Send + Sync + 'static {
    /// One object, `None` when it is not there.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<RawEntry>, StoreError>>;

    /// All objects of the ranges at one revision.
    fn list<'a>(&'a self, ranges: &'a KeyRanges) -> BoxFuture<'a, Result<RawList, StoreError>>;

    /// All writes or none. Conditions are checked in order; the first that fails is reported.
    fn txn(&self, writes: Vec<RawWrite>) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Changes after revision `from` (exclusive). `from` is the revision of a list or of a batch.
    fn watch<'a>(&'a self, ranges: &'a KeyRanges, from: u64) -> BoxFuture<'a, Result<RawWatch, StoreError>>;

    /// Identity, place and newest revision. Fails when the store cannot be reached.
    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>>;
}

impl<T: Backend + ?Sized> Backend for Arc<T> {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<RawEntry>, StoreError>> {
        (**self).get(key)
    }

    fn list<'a>(&'a self, ranges: &'a KeyRanges) -> BoxFuture<'a, Result<RawList, StoreError>> {
        (**self).list(ranges)
    }

    fn txn(&self, writes: Vec<RawWrite>) -> BoxFuture<'_, Result<Committed, StoreError>> {
        (**self).txn(writes)
    }

    fn watch<'a>(&'a self, ranges: &'a KeyRanges, from: u64) -> BoxFuture<'a, Result<RawWatch, StoreError>> {
        (**self).watch(ranges, from)
    }

    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>> {
        (**self).info()
    }
}
