//! The embedded store: one SQLite file that several processes (agent, CNI plugin, command line) use at once.
//!
//! `kv` holds the current state, `log` the recent changes. A write is one `BEGIN IMMEDIATE` transaction that
//! raises the revision by one, so commit order is revision order and there are no gaps. After its commit a
//! writer rewrites eight bytes in `<file>-notify`; watches of all processes wake through inotify and read the
//! log. Nothing depends on the notification: each second the readers look by themselves.

mod backup;
mod compact;
mod schema;
mod store;
mod txn;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

pub use store::SqliteStore;

/// Where the embedded datastore is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/var/lib/calico/datastore/calico.db";

/// Settings of a [`SqliteStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The database file. Beside it appear `-wal`, `-shm`, `-notify`, `-lock` and `-backups/`.
    pub path: PathBuf,
    /// How long a write waits for writers of other processes. Default 5 s.
    pub busy_timeout: Duration,
    /// Revisions that stay watchable at least. Default 10,000.
    pub retain_revisions: u64,
    /// Age up to which revisions stay watchable. Default 10 min.
    pub retain_age: Duration,
    /// Revisions kept at most, however young they are. Default 500,000.
    pub retain_most: u64,
    /// Check the file when opening it, restore the newest backup if it is damaged, make hourly backups.
    /// For long-lived programs; a CNI plugin leaves it off. Default off.
    pub maintain: bool,
}

impl SqliteOptions {
    /// Defaults for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            busy_timeout: Duration::from_secs(5),
            retain_revisions: 10_000,
            retain_age: Duration::from_secs(600),
            retain_most: 500_000,
            maintain: false,
        }
    }

    /// For the long-lived program of a node: checks, repairs and backups.
    #[must_use]
    pub fn maintained(mut self) -> Self {
        self.maintain = true;
        self
    }
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self::new(DEFAULT_PATH)
    }
}
