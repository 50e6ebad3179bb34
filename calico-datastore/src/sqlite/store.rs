//! [`SqliteStore`]: connections, blocking calls and the [`Backend`] on top.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use rusqlite::Connection;
use rustix::fs::FlockOperation;
use tokio::sync::watch;

use super::schema::{self, Files};
use super::txn::{self, LogPage};
use super::watch::{Follower, Watcher};
use super::{SqliteOptions, backup, compact};
use crate::backend::{
    Backend, Change, Committed, KeyRanges, RawEntry, RawList, RawWatch, RawWrite, StoreInfo,
};
use crate::error::StoreError;

/// Idle read connections kept open.
const IDLE_READERS: usize = 8;

/// The embedded store. Clones share connections.
///
/// Every method of [`Backend`] works inside and outside of a tokio runtime; the methods that end in
/// `_blocking` do the same on the calling thread.
///
/// ```
/// use calico_datastore::{Expect, RawWrite, SqliteOptions, SqliteStore};
/// let directory = tempfile::tempdir().unwrap();
/// let store = SqliteStore::open(SqliteOptions::new(directory.path().join("calico.db")))?;
/// let done = store.txn_blocking(&[RawWrite::put("/calico/v1/Ready", Expect::Absent, *b"true")])?;
/// let entry = store.get_blocking("/calico/v1/Ready")?.unwrap();
/// assert_eq!((&entry.value[..], entry.revision), (&b"true"[..], done.revision));
/// # Ok::<(), calico_datastore::StoreError>(())
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.inner.files.database).finish_non_exhaustive()
    }
}

/// State shared by the clones, the watches and the watcher thread.
pub(crate) struct Inner {
    pub(crate) files: Files,
    pub(crate) options: SqliteOptions,
    writer: Mutex<Opened>,
    readers: Mutex<Vec<Opened>>,
    notify: Option<File>,
    newest: watch::Sender<u64>,
    watcher: Mutex<Weak<Watcher>>,
    /// Watcher started for time-to-live sweeps rather than for a watch.
    sweeper: Mutex<Option<Arc<Watcher>>>,
    /// Shared lock: says that this process uses the file.
    _in_use: Option<File>,
}

/// A connection and the file it belongs to.
struct Opened {
    connection: Connection,
    inode: Option<(u64, u64)>,
}

/// Runs blocking work: on tokio's blocking threads inside a runtime, right here outside of one.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    match tokio::runtime::Handle::try_current() {
        Ok(handle) => match handle.spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => {
                Err(StoreError::Failed { store: "datastore thread".to_owned(), reason: error.to_string() })
            }
        },
        Err(_) => work(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SqliteStore {
    /// Opens or creates the store.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] and [`StoreError::NewerSchema`] for files that are not ours to touch,
    /// [`StoreError::Corrupt`] for damaged ones, [`StoreError::Unauthorised`] without permission,
    /// [`StoreError::Config`] for a network file system.
    pub fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let files = Files::new(&options.path);
        files.prepare()?;
        if options.maintain {
            backup::repair_if_damaged(&files, &options)?;
        }
        let in_use = OpenOptions::new().read(true).open(&files.lock).ok();
        if let Some(file) = &in_use {
            rustix::fs::flock(file, FlockOperation::LockShared)
                .map_err(|error| schema::io_error(&files.lock, &error.into()))?;
        }
        let opened =
            Opened { connection: schema::connect(&files, options.busy_timeout)?, inode: files.inode() };
        let current = txn::current(&opened.connection).map_err(|error| schema::map(&files.place(), error))?;
        let inner = Inner {
            notify: OpenOptions::new().write(true).open(&files.notify).ok(),
            files,
            options,
            writer: Mutex::new(opened),
            readers: Mutex::new(Vec::new()),
            newest: watch::channel(current).0,
            watcher: Mutex::new(Weak::new()),
            sweeper: Mutex::new(None),
            _in_use: in_use,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// One object.
    pub fn get_blocking(&self, key: &str) -> Result<Option<RawEntry>, StoreError> {
        self.inner.read(|connection| txn::get(connection, key))
    }

    /// All objects of the ranges at one revision.
    pub fn list_blocking(&self, ranges: &KeyRanges) -> Result<RawList, StoreError> {
        self.inner.read(|connection| txn::list(connection, ranges))
    }

    /// All writes or none.
    pub fn txn_blocking(&self, writes: &[RawWrite]) -> Result<Committed, StoreError> {
        RawWrite::check_all(writes)?;
        let expires = writes.iter().any(|write| matches!(write.change, Change::Put { ttl: Some(_), .. }));
        if expires {
            self.inner.start_sweeper()?;
        }
        self.inner.commit(writes)
    }

    /// Identity, place and newest revision.
    pub fn info_blocking(&self) -> Result<StoreInfo, StoreError> {
        self.inner.read(|connection| {
            Ok(StoreInfo {
                kind: "sqlite",
                place: self.inner.files.place(),
                identity: txn::identity(connection)?,
                revision: txn::current(connection)?,
            })
        })
    }

    /// Writes a consistent copy of the whole store to a new file while it is in use.
    pub fn backup_blocking(&self, target: &std::path::Path) -> Result<(), StoreError> {
        self.inner.with_reader(|connection, files| backup::copy_to(connection, files, target))
    }

    /// Replaces all content by that of a backup, while other processes use the store. Watches resync, and the
    /// revision never steps back: it continues after the highest of both.
    pub fn restore_blocking(&self, source: &std::path::Path) -> Result<(), StoreError> {
        let mut writer = self.inner.writer()?;
        let revision = backup::restore_from(&mut writer.connection, &self.inner.files, source)?;
        drop(writer);
        self.inner.announce(revision);
        Ok(())
    }

    /// Drops log entries beyond the retention now. Returns the new oldest revision when it moved.
    pub fn compact_blocking(&self) -> Result<Option<u64>, StoreError> {
        let mut writer = self.inner.writer()?;
        compact::compact(&mut writer.connection, &self.inner.files.place(), &self.inner.options)
    }
}

impl Inner {
    fn open(&self) -> Result<Opened, StoreError> {
        let inode = self.files.inode();
        if inode.is_none() {
            return Err(StoreError::Unreachable {
                store: self.files.place(),
                reason: "the file was removed; restart the agent to create or restore it".to_owned(),
            });
        }
        Ok(Opened { connection: schema::connect(&self.files, self.options.busy_timeout)?, inode })
    }

    /// The write connection, opened again when somebody put another file in its place.
    fn writer(&self) -> Result<MutexGuard<'_, Opened>, StoreError> {
        let mut writer = lock(&self.writer);
        if writer.inode != self.files.inode() {
            *writer = self.open()?;
        }
        Ok(writer)
    }

    fn with_reader<T>(
        &self,
        work: impl FnOnce(&mut Connection, &Files) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let inode = self.files.inode();
        let idle = {
            let mut readers = lock(&self.readers);
            readers.retain(|opened| opened.inode == inode);
            readers.pop()
        };
        let mut opened = match idle {
            Some(opened) => opened,
            None => self.open()?,
        };
        let result = work(&mut opened.connection, &self.files);
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS {
            readers.push(opened);
        }
        result
    }

    fn read<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.with_reader(|connection, files| {
            work(connection).map_err(|error| schema::map(&files.place(), error))
        })
    }

    pub(crate) fn read_log(&self, ranges: &KeyRanges, from: u64) -> Result<LogPage, StoreError> {
        self.read(|connection| txn::read_log(connection, ranges, from))
    }

    fn commit(&self, writes: &[RawWrite]) -> Result<Committed, StoreError> {
        let mut writer = self.writer()?;
        let place = self.files.place();
        let done = txn::commit(&mut writer.connection, &place, writes)?;
        self.announce(done.revision);
        if done.revision % compact::COMPACT_EVERY == 0
            && let Err(error) = compact::compact(&mut writer.connection, &place, &self.options)
        {
            // The write itself is done; the next writer tries again.
            tracing::warn!(store = %place, %error, "compaction failed");
        }
        Ok(done)
    }

    /// Tells this process and the others that there is something new. Only after the commit.
    fn announce(&self, revision: u64) {
        self.newest.send_replace(revision);
        if let Some(notify) = &self.notify {
            // Readers look by themselves each second: a failed notification only delays them.
            let _ = notify.write_all_at(&revision.to_be_bytes(), 0);
        }
    }

    /// Called by the watcher thread: publishes the newest revision if it moved.
    pub(crate) fn refresh(&self) {
        match self.read(|connection| txn::current(connection)) {
            Ok(current) => {
                self.newest.send_if_modified(|known| {
                    let moved = *known != current;
                    *known = current;
                    moved
                });
            }
            // Wakes the watches: their own read reports the error to their users.
            Err(error) => {
                tracing::warn!(store = %self.files.place(), %error, "cannot read the revision");
                self.newest.send_modify(|_| ());
            }
        }
    }

    pub(crate) fn sweep(&self) {
        let place = self.files.place();
        let result = self.writer().and_then(|mut writer| compact::sweep(&mut writer.connection, &place));
        match result {
            Ok(Some(done)) => self.announce(done.revision),
            Ok(None) => {}
            Err(error) => tracing::warn!(store = %place, %error, "cannot delete expired objects"),
        }
    }

    pub(crate) fn hourly_backup(&self) {
        if let Err(error) = self.with_reader(backup::rotate) {
            tracing::warn!(store = %self.files.place(), %error, "backup failed");
        }
    }

    fn watcher(self: &Arc<Self>) -> Result<Arc<Watcher>, StoreError> {
        let mut slot = lock(&self.watcher);
        if let Some(watcher) = slot.upgrade() {
            return Ok(watcher);
        }
        let watcher = Arc::new(Watcher::start(self)?);
        *slot = Arc::downgrade(&watcher);
        Ok(watcher)
    }

    fn start_sweeper(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut slot = lock(&self.sweeper);
        if slot.is_none() {
            *slot = Some(self.watcher()?);
        }
        Ok(())
    }
}

impl Backend for SqliteStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<RawEntry>, StoreError>> {
        // One indexed read of a few microseconds: cheaper than a thread hand-over.
        Box::pin(async move { self.get_blocking(key) })
    }

    fn list<'a>(&'a self, ranges: &'a KeyRanges) -> BoxFuture<'a, Result<RawList, StoreError>> {
        let store = self.clone();
        let ranges = ranges.clone();
        Box::pin(blocking(move || store.list_blocking(&ranges)))
    }

    fn txn(&self, writes: Vec<RawWrite>) -> BoxFuture<'_, Result<Committed, StoreError>> {
        let store = self.clone();
        Box::pin(blocking(move || store.txn_blocking(&writes)))
    }

    fn watch<'a>(&'a self, ranges: &'a KeyRanges, from: u64) -> BoxFuture<'a, Result<RawWatch, StoreError>> {
        Box::pin(async move {
            let inner = Arc::clone(&self.inner);
            let watcher = inner.watcher()?;
            let changed = inner.newest.subscribe();
            let (current, oldest, identity) = inner.read(|connection| {
                let txn = connection.transaction()?;
                Ok((txn::current(&txn)?, txn::compacted(&txn)?, txn::identity(&txn)?))
            })?;
            if from < oldest || from > current {
                return Err(StoreError::Expired { requested: from, oldest });
            }
            let follower = Follower {
                store: inner,
                _watcher: watcher,
                changed,
                ranges: Arc::new(ranges.clone()),
                last: from,
                identity,
                ended: false,
            };
            Ok(stream::unfold(follower, Follower::step).boxed())
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>> {
        Box::pin(async move { self.info_blocking() })
    }
}
