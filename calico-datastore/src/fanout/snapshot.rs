//! The state that a server fans out: a copy-on-write snapshot and a chain of breadcrumbs.
//!
//! One writer publishes, any number of readers follow at their own pace. Each update is encoded once; the
//! encoding of a shard of the snapshot is kept until something in the shard changes, so that a crowd of
//! joining clients costs one encoding.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use calico_model::Update;
use tokio::sync::watch;

use super::frame::{self, KeyValue};
use crate::syncer::SyncStatus;

/// Shards of a snapshot: few enough to copy the list per breadcrumb, many enough that a changed shard is small.
const SHARDS: usize = 512;
/// Updates in one breadcrumb.
const BATCH: usize = 100;
/// Bytes in one breadcrumb; one update may exceed it.
const BATCH_BYTES: usize = 1 << 20;
/// Breadcrumbs kept for clients that come back.
const HISTORY: usize = 4_096;
/// Bytes of breadcrumbs kept for them.
const HISTORY_BYTES: u64 = 16 << 20;

/// One object.
#[derive(Debug, Clone)]
struct Entry {
    /// Content without its encoding around it, to recognise writes that change nothing.
    value: Arc<[u8]>,
    /// Element of a batch.
    encoded: Bytes,
}

#[derive(Debug, Default)]
struct Shard {
    entries: BTreeMap<Arc<str>, Entry>,
    /// The shard as a batch frame, made when the first reader asks.
    frame: OnceLock<Bytes>,
}

impl Clone for Shard {
    fn clone(&self) -> Self {
        // A shard is copied to be changed.
        Self { entries: self.entries.clone(), frame: OnceLock::new() }
    }
}

/// All objects at one breadcrumb. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    shards: Arc<Vec<Arc<Shard>>>,
    count: usize,
    revision: u64,
}

impl Snapshot {
    fn new() -> Self {
        Self { shards: Arc::new(vec![Arc::default(); SHARDS]), count: 0, revision: 0 }
    }

    /// Objects in it.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Newest revision of the store in it.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Batch frames that together are the snapshot.
    pub(crate) fn frames(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.shards.iter().filter(|shard| !shard.entries.is_empty()).map(|shard| {
            shard
                .frame
                .get_or_init(|| frame::batch(shard.entries.values().map(|entry| &entry.encoded)))
                .clone()
        })
    }

    /// Applies an update; the element to send, or `None` when nothing changes.
    fn apply(&mut self, path: &str, update: &Update) -> Option<Bytes> {
        let revision = update.revision.as_str();
        self.revision = self.revision.max(revision.parse().unwrap_or(0));
        let shard_index = shard_of(path);
        let present = self.shards.get(shard_index)?.entries.get(path);
        let mut kv = KeyValue {
            path: path.to_owned(),
            value: Vec::new(),
            revision: revision.to_owned(),
            deleted: update.value.is_none(),
        };
        let Some(value) = &update.value else {
            if present.is_some() {
                let shard = self.shard_mut(shard_index)?;
                shard.entries.remove(path);
                self.count -= 1;
            }
            // Sent even if unknown here: a client may have it from another server.
            return Some(frame::encode_kv(&kv));
        };
        kv.value = stored_form(value);
        let (new, same) = (present.is_none(), present.is_some_and(|entry| *entry.value == *kv.value));
        let encoded = frame::encode_kv(&kv);
        let entry = Entry { value: kv.value.into(), encoded: encoded.clone() };
        // The newer revision is kept in any case: a client that comes from another server may know it.
        self.shard_mut(shard_index)?.entries.insert(path.into(), entry);
        self.count += usize::from(new);
        (!same).then_some(encoded)
    }

    fn shard_mut(&mut self, index: usize) -> Option<&mut Shard> {
        let shard = Arc::make_mut(Arc::make_mut(&mut self.shards).get_mut(index)?);
        shard.frame = OnceLock::new();
        Some(shard)
    }
}

/// The bytes of a value without its resource version, which travels beside it: so that equality ignores it.
fn stored_form(value: &calico_model::Value) -> Vec<u8> {
    if let calico_model::Value::Resource(resource) = value
        && !resource.metadata().resource_version.is_empty()
    {
        let mut bare = calico_model::AnyResource::clone(resource);
        bare.metadata_mut().resource_version.clear();
        return bare.to_json();
    }
    value.to_json()
}

fn shard_of(path: &str) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    path.hash(&mut hasher);
    usize::try_from(hasher.finish() % (SHARDS as u64)).unwrap_or(0)
}

/// One step of the stream.
#[derive(Debug)]
pub(crate) struct Crumb {
    pub(crate) seq: u64,
    /// When it was published.
    pub(crate) at: Instant,
    /// Batch frame; empty when only the status changed.
    pub(crate) deltas: Bytes,
    pub(crate) status: SyncStatus,
    /// Bytes of all breadcrumbs up to this one: the difference of two says what lies between them.
    pub(crate) total_bytes: u64,
    next: OnceLock<Arc<Crumb>>,
}

impl Drop for Crumb {
    fn drop(&mut self) {
        // A long chain that a slow reader held would overflow the stack if each crumb dropped its successor.
        let mut next = self.next.take();
        while let Some(crumb) = next {
            next = match Arc::into_inner(crumb) {
                Some(mut last_owner) => last_owner.next.take(),
                None => None,
            };
        }
    }
}

/// What readers see of a cache.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Which run: random, never 0.
    pub(crate) epoch: u64,
    latest: Mutex<(Arc<Crumb>, Snapshot)>,
    history: Mutex<VecDeque<Arc<Crumb>>>,
    newest: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Newest breadcrumb and the snapshot that belongs to it.
    pub(crate) fn latest(&self) -> (Arc<Crumb>, Snapshot) {
        lock(&self.latest).clone()
    }

    /// Newest breadcrumb.
    pub(crate) fn tail(&self) -> Arc<Crumb> {
        Arc::clone(&lock(&self.latest).0)
    }

    /// The breadcrumb with a number, if it is still there.
    pub(crate) fn find(&self, seq: u64) -> Option<Arc<Crumb>> {
        let history = lock(&self.history);
        let first = history.front()?.seq;
        history.get(usize::try_from(seq.checked_sub(first)?).ok()?).cloned()
    }

    /// A reader that starts after a breadcrumb.
    pub(crate) fn follow(&self, crumb: Arc<Crumb>) -> Follower {
        Follower { crumb, newest: self.newest.subscribe() }
    }
}

/// A reader's position.
#[derive(Debug)]
pub(crate) struct Follower {
    crumb: Arc<Crumb>,
    newest: watch::Receiver<u64>,
}

impl Follower {
    /// Where the reader is.
    pub(crate) fn position(&self) -> &Arc<Crumb> {
        &self.crumb
    }

    /// The next breadcrumb if there is one already.
    pub(crate) fn try_next(&mut self) -> Option<Arc<Crumb>> {
        let next = Arc::clone(self.crumb.next.get()?);
        self.crumb = Arc::clone(&next);
        Some(next)
    }

    /// The next breadcrumb; `None` when the writer is gone.
    pub(crate) async fn next(&mut self) -> Option<Arc<Crumb>> {
        loop {
            self.newest.borrow_and_update();
            if let Some(next) = self.try_next() {
                return Some(next);
            }
            self.newest.changed().await.ok()?;
        }
    }
}

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Cache {
    shared: Arc<Shared>,
    snapshot: Snapshot,
    tail: Arc<Crumb>,
    /// Updates that changed nothing.
    pub(crate) skipped: u64,
}

impl Cache {
    pub(crate) fn new(epoch: u64) -> Self {
        let tail = Arc::new(Crumb {
            seq: 1,
            at: Instant::now(),
            deltas: Bytes::new(),
            status: SyncStatus::WaitForDatastore,
            total_bytes: 0,
            next: OnceLock::new(),
        });
        let snapshot = Snapshot::new();
        let shared = Arc::new(Shared {
            epoch: epoch.max(1),
            latest: Mutex::new((Arc::clone(&tail), snapshot.clone())),
            history: Mutex::new(VecDeque::from([Arc::clone(&tail)])),
            newest: watch::channel(1).0,
        });
        Self { shared, snapshot, tail, skipped: 0 }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Publishes updates in breadcrumbs of bounded size.
    pub(crate) fn apply(&mut self, updates: &[Update]) {
        let mut elements: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        for update in updates {
            match self.snapshot.apply(&update.key.path(), update) {
                Some(element) => {
                    bytes += element.len();
                    elements.push(element);
                }
                None => self.skipped += 1,
            }
            if elements.len() >= BATCH || bytes >= BATCH_BYTES {
                self.publish(frame::batch(elements.iter()), self.tail.status);
                elements.clear();
                bytes = 0;
            }
        }
        if !elements.is_empty() {
            self.publish(frame::batch(elements.iter()), self.tail.status);
        } else {
            // Nothing to tell, but revisions may have moved.
            self.offer();
        }
    }

    /// The snapshot contains everything up to this revision, although no object may carry it: what was deleted
    /// before the store was read left no trace.
    pub(crate) fn reached(&mut self, revision: u64) {
        self.snapshot.revision = self.snapshot.revision.max(revision);
        self.offer();
    }

    /// Lets new readers have the present snapshot at the present breadcrumb.
    fn offer(&self) {
        *lock(&self.shared.latest) = (Arc::clone(&self.tail), self.snapshot.clone());
    }

    /// Publishes a change of status.
    pub(crate) fn set_status(&mut self, status: SyncStatus) {
        if self.tail.status != status {
            self.publish(Bytes::new(), status);
        }
    }

    fn publish(&mut self, deltas: Bytes, status: SyncStatus) {
        let size = u64::try_from(deltas.len()).unwrap_or(0);
        let crumb = Arc::new(Crumb {
            seq: self.tail.seq + 1,
            at: Instant::now(),
            total_bytes: self.tail.total_bytes + size,
            deltas,
            status,
            next: OnceLock::new(),
        });
        // First the link, then the newest, then the bell: whoever wakes finds everything in place.
        let _ = self.tail.next.set(Arc::clone(&crumb));
        self.tail = Arc::clone(&crumb);
        self.offer();
        let mut history = lock(&self.shared.history);
        history.push_back(Arc::clone(&crumb));
        while history.len() > HISTORY
            || history.front().is_some_and(|first| crumb.total_bytes - first.total_bytes > HISTORY_BYTES)
        {
            history.pop_front();
        }
        drop(history);
        self.shared.newest.send_replace(crumb.seq);
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Frame, MAX_SERVER_FRAME, decode};
    use super::*;
    use calico_model::{Key, Revision, Value};

    fn update(name: usize, text: &str, revision: u64) -> Update {
        let key = Key::GlobalConfig { name: format!("N{name}") };
        Update::set(key, Value::Text(text.into()), Revision::from(revision))
    }

    fn replay(state: &mut BTreeMap<String, Vec<u8>>, bytes: &Bytes) {
        let mut buffer = bytes::BytesMut::from(&bytes[..]);
        while let Some(frame) = decode(&mut buffer, MAX_SERVER_FRAME).unwrap() {
            let Frame::KvBatch(batch) = frame else { panic!("{frame:?}") };
            for kv in batch.kvs {
                if kv.deleted {
                    state.remove(&kv.path)
                } else {
                    state.insert(kv.path, kv.value)
                };
            }
        }
    }

    fn contents(snapshot: &Snapshot) -> BTreeMap<String, Vec<u8>> {
        let mut state = BTreeMap::new();
        snapshot.frames().for_each(|frame| replay(&mut state, &frame));
        assert_eq!(state.len(), snapshot.len());
        state
    }

    #[tokio::test]
    async fn snapshot_plus_deltas_is_the_latest_snapshot() {
        let mut cache = Cache::new(7);
        cache.apply(&(0..500).map(|n| update(n, "a", n as u64)).collect::<Vec<_>>());
        let (crumb, snapshot) = cache.shared().latest();
        assert_eq!(crumb.seq, 6, "five breadcrumbs of a hundred");
        let mut state = contents(&snapshot);
        let mut follower = cache.shared().follow(crumb);
        cache.apply(&(0..300).map(|n| update(n * 2, "b", 500 + n as u64)).collect::<Vec<_>>());
        let gone = Key::GlobalConfig { name: "N7".into() };
        cache.apply(&[Update::deleted(gone, Revision::from(900))]);
        // The old snapshot is untouched.
        assert_eq!(contents(&snapshot), state);
        let (tail, latest) = cache.shared().latest();
        while follower.position().seq < tail.seq {
            let crumb = follower.next().await.unwrap();
            replay(&mut state, &crumb.deltas);
        }
        assert_eq!(state, contents(&latest));
        assert_eq!(latest.revision(), 900);
        assert_eq!((snapshot.len(), latest.len()), (500, 549));
    }

    #[test]
    fn writes_that_change_nothing_are_not_sent() {
        let mut cache = Cache::new(1);
        cache.apply(&[update(1, "a", 1)]);
        let before = cache.shared().tail().seq;
        cache.apply(&[update(1, "a", 2)]);
        assert_eq!((cache.shared().tail().seq, cache.skipped), (before, 1));
        // New readers learn the newer revision all the same.
        assert_eq!(cache.shared().latest().1.revision(), 2);
        cache.reached(9);
        assert_eq!(cache.shared().latest().1.revision(), 9);
    }

    #[test]
    fn unchanged_shards_keep_their_encoding() {
        let mut cache = Cache::new(1);
        cache.apply(&(0..50).map(|n| update(n, "a", 1)).collect::<Vec<_>>());
        let first: Vec<Bytes> = cache.shared().latest().1.frames().collect();
        cache.apply(&[update(1, "b", 2)]);
        let second: Vec<Bytes> = cache.shared().latest().1.frames().collect();
        let shared = first.iter().zip(&second).filter(|(a, b)| a.as_ptr() == b.as_ptr()).count();
        assert_eq!((first.len(), shared), (second.len(), first.len() - 1));
    }

    #[test]
    fn history_is_bounded_and_found_by_number() {
        let mut cache = Cache::new(1);
        for n in 0..6_000 {
            cache.apply(&[update(n % 10, &n.to_string(), n as u64)]);
        }
        let tail = cache.shared().tail().seq;
        assert!(cache.shared().find(tail - 4_000).is_some_and(|crumb| crumb.seq == tail - 4_000));
        assert!(cache.shared().find(2).is_none() && cache.shared().find(0).is_none());
        assert!(cache.shared().find(tail + 1).is_none());
        let large = "x".repeat(1 << 20);
        for n in 0..40 {
            cache.apply(&[update(n % 2, &format!("{large}{n}"), n as u64)]);
        }
        let held = lock(&cache.shared().history).len();
        assert!(held <= 17, "{held}");
    }

    #[test]
    fn a_long_chain_is_dropped_without_recursion() {
        let mut cache = Cache::new(1);
        let (first, _) = cache.shared().latest();
        for n in 0..200_000 {
            cache.set_status(if n % 2 == 0 { SyncStatus::Resync } else { SyncStatus::InSync });
        }
        drop(cache);
        drop(first);
    }
}
