//! A local picture of a part of the store, kept up to date: list, then watch, and list again when history is lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use calico_model::{Key, Revision, Update};
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::backoff::Backoff;
use crate::datastore::{Datastore, List, ParseFailure, WatchEvent};
use crate::error::StoreError;
use crate::request::ListRequest;

/// How complete the picture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncStatus {
    /// No answer from the store yet, or none for a long time.
    WaitForDatastore,
    /// The store answers; updates that follow may be a part of the picture.
    Resync,
    /// Everything the store held has been delivered; updates that follow are changes.
    InSync,
}

/// What a syncer delivers, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum SyncEvent {
    /// The status changed.
    Status(SyncStatus),
    /// Objects were written or deleted. A deletion is only sent for a key that was sent with a value before.
    Updates(Vec<Update>),
    /// A stored value cannot be read; the last good value of the key, if any, stays valid.
    ParseFailed(ParseFailure),
}

/// Settings of a [`Syncer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncerOptions {
    /// Shortest time between two complete lists.
    pub min_resync_interval: Duration,
    /// First pause after a failure; doubles up to `max_retry`, with jitter.
    pub min_retry: Duration,
    /// Longest pause after a failure.
    pub max_retry: Duration,
    /// Time without any answer after which the status goes back to [`SyncStatus::WaitForDatastore`].
    pub disconnected_after: Duration,
    /// Watches that may fail in a row at one revision before everything is listed again.
    pub max_failures_per_revision: u32,
    /// Pause between lists for stores that cannot watch.
    pub poll_interval: Duration,
    /// Most updates in one event.
    pub batch: usize,
    /// Events that wait for a slow consumer; after that the syncer stops reading.
    pub queue: usize,
}

impl Default for SyncerOptions {
    fn default() -> Self {
        Self {
            min_resync_interval: Duration::from_millis(500),
            min_retry: Duration::from_millis(100),
            max_retry: Duration::from_secs(5),
            disconnected_after: Duration::from_secs(600),
            max_failures_per_revision: 5,
            poll_interval: Duration::from_secs(5),
            batch: 1_000,
            queue: 16,
        }
    }
}

/// Counters of one syncer, for metrics.
#[derive(Debug, Default)]
pub struct SyncerStats {
    resyncs: AtomicU64,
    failures: AtomicU64,
    parse_failures: AtomicU64,
    updates: AtomicU64,
    objects: AtomicU64,
    last_heard_ms: AtomicU64,
    listed: AtomicU64,
}

impl SyncerStats {
    /// Complete lists so far.
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Relaxed)
    }

    /// Failed lists and watches so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Stored values that could not be read so far.
    pub fn parse_failures(&self) -> u64 {
        self.parse_failures.load(Ordering::Relaxed)
    }

    /// Updates delivered so far.
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Objects in the picture.
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// Unix milliseconds of the last answer or event of the store; 0 before the first.
    pub fn last_heard_unix_ms(&self) -> u64 {
        self.last_heard_ms.load(Ordering::Relaxed)
    }

    /// Revision of the last complete list, 0 when the store has no numbers. Set when everything up to it has been
    /// handed over, before the status that says so.
    pub fn listed(&self) -> u64 {
        self.listed.load(Ordering::Acquire)
    }

    fn heard(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.last_heard_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A running list-and-watch. Dropping it stops the task behind it.
///
/// ```
/// use calico_datastore::{Datastore, ListRequest, MemoryStore, Store, SyncEvent, SyncStatus, Syncer};
/// use calico_model::{Key, Value};
/// use std::sync::Arc;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let store = Arc::new(Store::new(MemoryStore::new()));
/// store.create(Key::ReadyFlag, Value::ReadyFlag(true)).await?;
/// let mut syncer = Syncer::start(store.clone(), ListRequest::everything(), Default::default());
/// assert_eq!(syncer.next().await, Some(SyncEvent::Status(SyncStatus::WaitForDatastore)));
/// assert_eq!(syncer.next().await, Some(SyncEvent::Status(SyncStatus::Resync)));
/// let Some(SyncEvent::Updates(updates)) = syncer.next().await else { panic!() };
/// assert_eq!((updates.len(), &updates[0].key), (1, &Key::ReadyFlag));
/// assert_eq!(syncer.next().await, Some(SyncEvent::Status(SyncStatus::InSync)));
/// # Ok::<(), calico_datastore::StoreError>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Syncer {
    events: mpsc::Receiver<SyncEvent>,
    stats: Arc<SyncerStats>,
}

impl Syncer {
    /// Starts following a part of a store. Must be called within a tokio runtime.
    pub fn start(store: Arc<dyn Datastore>, request: ListRequest, options: SyncerOptions) -> Self {
        let (sender, events) = mpsc::channel(options.queue.max(1));
        let stats = Arc::new(SyncerStats::default());
        let task = Task {
            backoff: Backoff::new(options.min_retry, options.max_retry),
            store,
            request,
            options,
            out: sender.clone(),
            known: HashMap::new(),
            status: None,
            stats: Arc::clone(&stats),
            last_success: Instant::now(),
            next_list: tokio::time::Instant::now(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                _ = task.run() => {}
            }
        });
        Self { events, stats }
    }

    /// The next event. `None` only after the runtime has shut down.
    pub async fn next(&mut self) -> Option<SyncEvent> {
        self.events.recv().await
    }

    /// Counters.
    pub fn stats(&self) -> &Arc<SyncerStats> {
        &self.stats
    }

    /// The channel of events, for callers with a select loop of their own. Dropping it stops the task.
    pub fn into_events(self) -> mpsc::Receiver<SyncEvent> {
        self.events
    }
}

/// The consumer went away.
struct Closed;

/// What to do after a watch.
enum Next {
    Resync,
    Watch(Revision),
}

struct Task {
    store: Arc<dyn Datastore>,
    request: ListRequest,
    options: SyncerOptions,
    out: mpsc::Sender<SyncEvent>,
    /// Revision of every object the consumer has.
    known: HashMap<Key, Revision>,
    status: Option<SyncStatus>,
    stats: Arc<SyncerStats>,
    backoff: Backoff,
    last_success: Instant,
    next_list: tokio::time::Instant,
}

impl Task {
    async fn run(mut self) -> Result<(), Closed> {
        self.set_status(SyncStatus::WaitForDatastore).await?;
        let mut from = self.resync().await?;
        let mut failures = 0;
        loop {
            let next = self.follow(from.clone()).await?;
            from = match next {
                Next::Watch(revision) if revision != from => {
                    failures = 0;
                    revision
                }
                Next::Watch(revision) => {
                    failures += 1;
                    if failures < self.options.max_failures_per_revision {
                        revision
                    } else {
                        failures = 0;
                        self.resync().await?
                    }
                }
                Next::Resync => {
                    failures = 0;
                    self.resync().await?
                }
            };
        }
    }

    /// Lists until it works, delivers the difference to what the consumer has, returns the revision.
    async fn resync(&mut self) -> Result<Revision, Closed> {
        if self.status == Some(SyncStatus::InSync) {
            self.set_status(SyncStatus::Resync).await?;
        }
        loop {
            tokio::time::sleep_until(self.next_list).await;
            self.next_list = tokio::time::Instant::now() + self.options.min_resync_interval;
            match self.store.list(&self.request).await {
                Ok(list) => {
                    self.success();
                    return self.replace(list).await;
                }
                Err(error) => self.failed("list", &error).await?,
            }
        }
    }

    async fn replace(&mut self, list: List) -> Result<Revision, Closed> {
        self.stats.resyncs.fetch_add(1, Ordering::Relaxed);
        if self.status != Some(SyncStatus::Resync) {
            self.set_status(SyncStatus::Resync).await?;
        }
        let mut old = std::mem::take(&mut self.known);
        let mut pending = Vec::new();
        for item in list.items {
            let seen = old.remove(&item.key);
            let changed = seen.as_ref() != Some(&item.revision);
            self.known.insert(item.key.clone(), item.revision.clone());
            if changed {
                pending.push(Update::set(item.key, item.value, item.revision));
            }
            if pending.len() >= self.options.batch {
                self.send_updates(&mut pending).await?;
            }
        }
        for failure in list.failures {
            if let Ok(key) = Key::parse(&failure.key)
                && let Some(revision) = old.remove(&key)
            {
                // Still there, only unreadable: the last good value stays.
                self.known.insert(key, revision);
            }
            self.parse_failed(failure).await?;
        }
        let mut gone: Vec<Key> = old.into_keys().collect();
        gone.sort();
        for key in gone {
            pending.push(Update::deleted(key, list.revision.clone()));
            if pending.len() >= self.options.batch {
                self.send_updates(&mut pending).await?;
            }
        }
        self.send_updates(&mut pending).await?;
        self.stats.listed.store(list.revision.as_str().parse().unwrap_or(0), Ordering::Release);
        self.set_status(SyncStatus::InSync).await?;
        Ok(list.revision)
    }

    /// Watches until the stream ends or fails.
    async fn follow(&mut self, from: Revision) -> Result<Next, Closed> {
        let watch = match self.store.watch(&self.request, &from).await {
            Ok(watch) => watch,
            Err(error) => return self.watch_failed(from, &error).await,
        };
        let mut reached = from;
        let mut pending = Vec::new();
        let mut chunks = watch.ready_chunks(self.options.batch);
        while let Some(chunk) = chunks.next().await {
            for event in chunk {
                match event {
                    Ok(WatchEvent::Update(update)) => self.take(update, &mut pending),
                    Ok(WatchEvent::ParseFailed(failure)) => {
                        self.send_updates(&mut pending).await?;
                        self.parse_failed(failure).await?;
                    }
                    Ok(WatchEvent::Bookmark(revision)) => reached = revision,
                    Err(error) => {
                        self.send_updates(&mut pending).await?;
                        return self.watch_failed(reached, &error).await;
                    }
                }
            }
            self.success();
            self.send_updates(&mut pending).await?;
        }
        // The store ended the watch without an error: take it up where it stopped.
        tokio::time::sleep(self.backoff.next()).await;
        Ok(Next::Watch(reached))
    }

    async fn watch_failed(&mut self, reached: Revision, error: &StoreError) -> Result<Next, Closed> {
        match error {
            StoreError::Expired { .. } => {
                tracing::info!(%error, "datastore history is gone, listing again");
                Ok(Next::Resync)
            }
            StoreError::NotSupported { .. } => {
                tokio::time::sleep(self.options.poll_interval).await;
                Ok(Next::Resync)
            }
            _ => {
                self.failed("watch", error).await?;
                Ok(Next::Watch(reached))
            }
        }
    }

    /// Notes one change, unless the consumer has it already.
    fn take(&mut self, update: Update, pending: &mut Vec<Update>) {
        let news = match update.value {
            Some(_) => {
                let before = self.known.insert(update.key.clone(), update.revision.clone());
                before.as_ref() != Some(&update.revision)
            }
            None => self.known.remove(&update.key).is_some(),
        };
        if news {
            pending.push(update);
        }
    }

    fn success(&mut self) {
        self.last_success = Instant::now();
        self.backoff.reset();
        self.stats.heard();
    }

    async fn failed(&mut self, operation: &'static str, error: &StoreError) -> Result<(), Closed> {
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        let pause = self.backoff.next();
        tracing::warn!(operation, %error, ?pause, "datastore does not answer");
        if self.last_success.elapsed() >= self.options.disconnected_after {
            self.set_status(SyncStatus::WaitForDatastore).await?;
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn parse_failed(&mut self, failure: ParseFailure) -> Result<(), Closed> {
        self.stats.parse_failures.fetch_add(1, Ordering::Relaxed);
        self.send(SyncEvent::ParseFailed(failure)).await
    }

    async fn set_status(&mut self, status: SyncStatus) -> Result<(), Closed> {
        if self.status == Some(status) {
            return Ok(());
        }
        self.status = Some(status);
        self.send(SyncEvent::Status(status)).await
    }

    async fn send_updates(&mut self, pending: &mut Vec<Update>) -> Result<(), Closed> {
        if pending.is_empty() {
            return Ok(());
        }
        let updates = std::mem::take(pending);
        self.stats.updates.fetch_add(u64::try_from(updates.len()).unwrap_or(0), Ordering::Relaxed);
        self.stats.objects.store(u64::try_from(self.known.len()).unwrap_or(0), Ordering::Relaxed);
        self.send(SyncEvent::Updates(updates)).await
    }

    async fn send(&mut self, event: SyncEvent) -> Result<(), Closed> {
        self.out.send(event).await.map_err(|_| Closed)
    }
}
