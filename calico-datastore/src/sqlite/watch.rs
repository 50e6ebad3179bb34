//! Waking up when any process has written, and following the log.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;
use tokio::sync::watch;

use super::store::Inner;
use crate::backend::{KeyRanges, RawBatch};
use crate::backoff::Jitter;
use crate::error::StoreError;

/// How long the watcher sleeps when no notification arrives: it covers a writer that was killed between its
/// commit and its notification, and file systems without inotify.
const FALLBACK: Duration = Duration::from_secs(1);
/// How often the whole database is copied by a process that does maintenance.
const BACKUP_EVERY: Duration = Duration::from_secs(3_600);

/// Thread that turns notifications of all processes into one in-process signal.
pub(crate) struct Watcher {
    stop: Arc<OwnedFd>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The thread ends by itself; a failed wake-up only delays that to its next fallback round.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
    }
}

impl Watcher {
    pub(crate) fn start(store: &Arc<Inner>) -> Result<Self, StoreError> {
        let failed = |what: &str, error: std::io::Error| StoreError::Failed {
            store: store.files.place(),
            reason: format!("{what}: {error}"),
        };
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed("eventfd", error.into()))?;
        let stop = Arc::new(stop);
        // Without inotify (limits of the user, odd file systems) the fallback still works, later.
        let notifications = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .and_then(|fd| {
                inotify::add_watch(&fd, &store.files.notify, inotify::WatchFlags::MODIFY).map(|_| fd)
            })
            .map_err(|error| tracing::warn!(%error, "no inotify, the datastore is polled each second"))
            .ok();
        let weak = Arc::downgrade(store);
        let waiter = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("datastore-watch".to_owned())
            .spawn(move || run(&weak, &waiter, notifications.as_ref()))
            .map_err(|error| failed("thread", error))?;
        Ok(Self { stop })
    }
}

fn run(store: &Weak<Inner>, stop: &OwnedFd, notifications: Option<&OwnedFd>) {
    let mut jitter = Jitter::new();
    let mut next_backup = Instant::now() + BACKUP_EVERY;
    let mut next_sweep = Instant::now();
    loop {
        let Some(inner) = store.upgrade() else { return };
        inner.refresh();
        let now = Instant::now();
        if now >= next_sweep {
            next_sweep = now + FALLBACK;
            inner.sweep();
        }
        if now >= next_backup && inner.options.maintain {
            next_backup = now + BACKUP_EVERY;
            inner.hourly_backup();
        }
        drop(inner);
        if !wait(stop, notifications, jitter.spread(FALLBACK)) {
            return;
        }
    }
}

/// Waits for a notification or the time-out; false when the store was closed.
fn wait(stop: &OwnedFd, notifications: Option<&OwnedFd>, timeout: Duration) -> bool {
    let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
    if let Some(fd) = notifications {
        fds.push(PollFd::new(fd, PollFlags::IN));
    }
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(1),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // EINTR and the like: go round once more.
    let _ = poll(&mut fds, Some(&timeout));
    if fds.first().is_some_and(|fd| fd.revents().contains(PollFlags::IN)) {
        return false;
    }
    if let Some(fd) = notifications {
        // Drained before the database is read: a write after this point makes the descriptor readable again.
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        while reader.next().is_ok() {}
    }
    true
}

/// One open watch. It pulls from the log at its own pace: a slow reader costs nothing but its own delay.
pub(crate) struct Follower {
    pub(crate) store: Arc<Inner>,
    /// Keeps the thread that moves `changed` alive.
    pub(crate) _watcher: Arc<Watcher>,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) ranges: Arc<KeyRanges>,
    pub(crate) last: u64,
    pub(crate) identity: String,
    pub(crate) ended: bool,
}

impl Follower {
    pub(crate) async fn step(mut self) -> Option<(Result<RawBatch, StoreError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            self.changed.borrow_and_update();
            let store = Arc::clone(&self.store);
            let ranges = Arc::clone(&self.ranges);
            let from = self.last;
            let page = super::store::blocking(move || store.read_log(&ranges, from)).await;
            let error = match page {
                Ok(page) if page.identity != self.identity || page.revision < self.last => {
                    StoreError::Expired { requested: self.last, oldest: page.compacted }
                }
                Ok(page) if self.last < page.compacted => {
                    StoreError::Expired { requested: self.last, oldest: page.compacted }
                }
                Ok(page) if page.revision > self.last => {
                    self.last = page.revision;
                    // Silence about other keys still moves the resume point, but only once the log is drained.
                    if page.events.is_empty() && page.more {
                        continue;
                    }
                    return Some((Ok(RawBatch { events: page.events, revision: page.revision }), self));
                }
                Ok(_) => {
                    if self.changed.changed().await.is_err() {
                        return None;
                    }
                    continue;
                }
                Err(error) => error,
            };
            self.ended = true;
            return Some((Err(error), self));
        }
    }
}
