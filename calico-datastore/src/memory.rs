//! A store in memory for tests and tools, with faults that can be injected.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use tokio::sync::watch;

use crate::backend::{
    Backend, Bytes, Change, Committed, Expect, KeyRange, KeyRanges, RawBatch, RawEntry, RawEvent, RawList,
    RawWatch, RawWrite, StoreInfo,
};
use crate::error::StoreError;

/// How often a waiting watch looks for expired values.
const SWEEP: Duration = Duration::from_millis(250);

/// Which calls an injected fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`Backend::get`].
    Get,
    /// [`Backend::list`].
    List,
    /// [`Backend::txn`]; the write does not happen.
    Txn,
    /// [`Backend::txn`]; the write happens and the answer is lost.
    TxnAfterCommit,
    /// [`Backend::watch`], when it is opened.
    Watch,
    /// The next batch of every open watch is replaced by the error.
    WatchStream,
}

/// An in-memory [`Backend`]. Clones share the data.
///
/// ```
/// use calico_datastore::{Backend, Expect, KeyRanges, MemoryStore, RawWrite};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// store.txn(vec![RawWrite::put("/calico/v1/Ready", Expect::Absent, *b"true")]).await?;
/// assert_eq!(store.list(&KeyRanges::prefix("/calico/")).await?.entries.len(), 1);
/// # Ok::<(), calico_datastore::StoreError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Stored>,
    log: VecDeque<RawEvent>,
    revision: u64,
    compacted: u64,
    identity: u64,
    faults: Vec<(Operation, StoreError)>,
    /// Counts injected watch faults, so that each open watch sees each of them once.
    watch_faults: Vec<StoreError>,
}

#[derive(Debug, Clone)]
struct Stored {
    value: Bytes,
    revision: u64,
    expires: Option<Instant>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store at revision 1.
    pub fn new() -> Self {
        let state = State { revision: 1, ..State::default() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), newest: watch::channel(1).0 }) }
    }

    /// Makes the next call of this kind fail with this error. Several injected faults are used in order.
    pub fn fail_next(&self, operation: Operation, error: StoreError) {
        let mut state = self.shared.lock();
        if operation == Operation::WatchStream {
            state.watch_faults.push(error);
        } else {
            state.faults.push((operation, error));
        }
        drop(state);
        self.shared.newest.send_modify(|_| ());
    }

    /// Drops all history: watches that lag, and new ones from an older revision, get [`StoreError::Expired`].
    pub fn compact(&self) {
        let mut state = self.shared.lock();
        state.log.clear();
        state.compacted = state.revision;
    }

    /// Forgets everything, as when somebody re-creates the store: revisions start again.
    pub fn recreate(&self) {
        let mut state = self.shared.lock();
        state.entries.clear();
        state.log.clear();
        state.revision = 1;
        state.compacted = 1;
        state.identity += 1;
        drop(state);
        self.shared.newest.send_replace(1);
    }

    /// Deletes what has outlived its time.
    fn sweep(&self) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let dead: Vec<RawWrite> = state
            .entries
            .iter()
            .filter(|(_, stored)| stored.expires.is_some_and(|expires| expires <= now))
            .map(|(key, _)| RawWrite::delete(key.clone(), Expect::Any))
            .collect();
        if !dead.is_empty() {
            let revision = state.commit(&dead).map(|done| done.revision);
            drop(state);
            if let Ok(revision) = revision {
                self.shared.newest.send_replace(revision);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fault(&mut self, operation: Operation) -> Result<(), StoreError> {
        match self.faults.iter().position(|(hit, _)| *hit == operation) {
            Some(index) => Err(self.faults.remove(index).1),
            None => Ok(()),
        }
    }

    fn entry(&self, key: &str) -> Option<RawEntry> {
        self.entries.get(key).map(|stored| RawEntry {
            key: key.to_owned(),
            value: stored.value.clone(),
            revision: stored.revision,
        })
    }

    fn range(&self, range: &KeyRange) -> Vec<RawEntry> {
        self.entries
            .range::<str, _>((Bound::Included(range.start()), Bound::Unbounded))
            .take_while(|(key, _)| range.contains(key))
            .map(|(key, stored)| RawEntry {
                key: key.clone(),
                value: stored.value.clone(),
                revision: stored.revision,
            })
            .collect()
    }

    fn commit(&mut self, writes: &[RawWrite]) -> Result<Committed, StoreError> {
        RawWrite::check_all(writes)?;
        let mut previous = Vec::with_capacity(writes.len());
        for write in writes {
            let current = self.entry(&write.key);
            check(write, current.as_ref())?;
            previous.push(current);
        }
        let changes = writes.iter().any(|write| write.change != Change::Check);
        if !changes {
            return Ok(Committed { revision: self.revision, previous });
        }
        self.revision += 1;
        for write in writes {
            let value = match &write.change {
                Change::Put { value, ttl } => {
                    let expires = ttl.map(|ttl| Instant::now() + ttl);
                    let stored = Stored { value: value.clone(), revision: self.revision, expires };
                    self.entries.insert(write.key.clone(), stored);
                    Some(value.clone())
                }
                Change::Delete => {
                    self.entries.remove(&write.key);
                    None
                }
                Change::Check => continue,
            };
            self.log.push_back(RawEvent { key: write.key.clone(), value, revision: self.revision });
        }
        Ok(Committed { revision: self.revision, previous })
    }
}

/// Whether one write may happen, given what is stored. Shared by the backends that compare in this process.
pub(crate) fn check(write: &RawWrite, current: Option<&RawEntry>) -> Result<(), StoreError> {
    let key = || write.key.clone();
    match (write.expect, current) {
        (Expect::Absent, Some(entry)) => {
            Err(StoreError::Exists { key: key(), current: Some(Box::new(entry.clone())) })
        }
        (Expect::Present | Expect::Revision(_), None) => Err(StoreError::Missing { key: key() }),
        (Expect::Revision(expected), Some(entry)) if entry.revision != expected => {
            Err(StoreError::Conflict { key: key(), expected, current: Some(Box::new(entry.clone())) })
        }
        (_, None) if write.change == Change::Delete => Err(StoreError::Missing { key: key() }),
        _ => Ok(()),
    }
}

impl Backend for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<RawEntry>, StoreError>> {
        Box::pin(async move {
            self.sweep();
            let mut state = self.shared.lock();
            state.fault(Operation::Get)?;
            Ok(state.entry(key))
        })
    }

    fn list<'a>(&'a self, ranges: &'a KeyRanges) -> BoxFuture<'a, Result<RawList, StoreError>> {
        Box::pin(async move {
            self.sweep();
            let mut state = self.shared.lock();
            state.fault(Operation::List)?;
            let entries = ranges.as_slice().iter().flat_map(|range| state.range(range)).collect();
            Ok(RawList { entries, revision: state.revision })
        })
    }

    fn txn(&self, writes: Vec<RawWrite>) -> BoxFuture<'_, Result<Committed, StoreError>> {
        Box::pin(async move {
            self.sweep();
            let mut state = self.shared.lock();
            state.fault(Operation::Txn)?;
            let done = state.commit(&writes)?;
            let lost = state.fault(Operation::TxnAfterCommit);
            drop(state);
            self.shared.newest.send_replace(done.revision);
            lost.map(|()| done)
        })
    }

    fn watch<'a>(&'a self, ranges: &'a KeyRanges, from: u64) -> BoxFuture<'a, Result<RawWatch, StoreError>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            state.fault(Operation::Watch)?;
            if from < state.compacted || from > state.revision {
                return Err(StoreError::Expired { requested: from, oldest: state.compacted });
            }
            let follower = Follower {
                store: self.clone(),
                changed: self.shared.newest.subscribe(),
                ranges: ranges.clone(),
                last: from,
                identity: state.identity,
                faults_seen: state.watch_faults.len(),
                ended: false,
            };
            Ok(stream::unfold(follower, Follower::step).boxed())
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>> {
        Box::pin(async move {
            let state = self.shared.lock();
            Ok(StoreInfo {
                kind: "memory",
                place: "memory".to_owned(),
                identity: state.identity.to_string(),
                revision: state.revision,
            })
        })
    }
}

/// One open watch: pulls from the log at its own pace.
struct Follower {
    store: MemoryStore,
    changed: watch::Receiver<u64>,
    ranges: KeyRanges,
    last: u64,
    identity: u64,
    faults_seen: usize,
    ended: bool,
}

impl Follower {
    async fn step(mut self) -> Option<(Result<RawBatch, StoreError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            self.changed.borrow_and_update();
            self.store.sweep();
            match self.pull() {
                Ok(Some(batch)) => {
                    self.last = batch.revision;
                    return Some((Ok(batch), self));
                }
                Ok(None) => {}
                Err(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            }
            if let Ok(Err(_)) = tokio::time::timeout(SWEEP, self.changed.changed()).await {
                return None;
            }
        }
    }

    fn pull(&mut self) -> Result<Option<RawBatch>, StoreError> {
        let state = self.store.shared.lock();
        if let Some(error) = state.watch_faults.get(self.faults_seen) {
            return Err(error.clone());
        }
        if self.last < state.compacted || state.identity != self.identity {
            return Err(StoreError::Expired { requested: self.last, oldest: state.compacted });
        }
        if state.revision == self.last {
            return Ok(None);
        }
        let start = state.log.partition_point(|event| event.revision <= self.last);
        let events =
            state.log.range(start..).filter(|event| self.ranges.contains(&event.key)).cloned().collect();
        Ok(Some(RawBatch { events, revision: state.revision }))
    }
}
