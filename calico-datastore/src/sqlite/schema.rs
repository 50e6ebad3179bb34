//! The file: how it is opened, who may read it, what is inside, and what is refused.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

use crate::error::StoreError;

/// `Cali` in ASCII, in the header of the file (`PRAGMA application_id`).
pub(crate) const APPLICATION_ID: i64 = 0x4361_6c69;
/// Version of the tables (`PRAGMA user_version`).
pub(crate) const SCHEMA: i64 = 1;
/// Log rows are numbered `revision << REVISION_SHIFT | index in the transaction`.
pub(crate) const REVISION_SHIFT: u32 = 16;

const TABLES: &str = "
    CREATE TABLE meta(k TEXT PRIMARY KEY, v NOT NULL) WITHOUT ROWID;
    CREATE TABLE revision(id INTEGER PRIMARY KEY CHECK(id = 1), cur INTEGER NOT NULL);
    CREATE TABLE kv(
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value BLOB NOT NULL,
        create_rev INTEGER NOT NULL, mod_rev INTEGER NOT NULL, version INTEGER NOT NULL, expires_at INTEGER);
    CREATE INDEX kv_expires ON kv(expires_at) WHERE expires_at IS NOT NULL;
    CREATE TABLE log(
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, op INTEGER NOT NULL, value BLOB,
        prev BLOB, prev_rev INTEGER, at INTEGER NOT NULL);
";

/// File systems on which WAL's shared memory does not work between machines (`statfs(2)` magic numbers).
const NETWORK_FILE_SYSTEMS: [(u64, &str); 7] = [
    (0x6969, "NFS"),
    (0x0102_1997, "9p"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x6b41_4653, "AFS"),
];

/// A file is created and its permissions are set by one thread at a time: closing any descriptor of a database
/// file drops the POSIX locks that other connections of this process hold on it.
static CREATION: Mutex<()> = Mutex::new(());

/// Where the files of one datastore are.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The database.
    pub(crate) database: PathBuf,
    /// Eight bytes, rewritten after each commit, to wake readers.
    pub(crate) notify: PathBuf,
    /// Locked shared by every process that has the store open, exclusively by a repair.
    pub(crate) lock: PathBuf,
    /// Copies.
    pub(crate) backups: PathBuf,
}

impl Files {
    pub(crate) fn new(database: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = database.file_name().unwrap_or_default().to_os_string();
            name.push(suffix);
            database.with_file_name(name)
        };
        Self {
            database: database.to_path_buf(),
            notify: beside("-notify"),
            lock: beside("-lock"),
            backups: beside("-backups"),
        }
    }

    pub(crate) fn place(&self) -> String {
        self.database.display().to_string()
    }

    /// Creates directory and files with the right modes, refuses file systems where WAL is unsafe.
    pub(crate) fn prepare(&self) -> Result<(), StoreError> {
        let guard = CREATION.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = self.database.parent().filter(|path| !path.as_os_str().is_empty()) {
            if !directory.is_dir() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)
                    .map_err(|error| io_error(directory, &error))?;
            }
            self.refuse_network(directory)?;
        }
        for path in [&self.database, &self.notify, &self.lock] {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // Without permission to create, opening may still work read-only; SQLite reports it better.
                Err(_) if path.exists() => {}
                Err(error) => return Err(io_error(path, &error)),
            }
        }
        drop(guard);
        let mode = fs::metadata(&self.database).map(|meta| meta.permissions().mode());
        if let Ok(mode) = mode
            && mode & 0o077 != 0
        {
            tracing::warn!(file = %self.database.display(), mode = format_args!("{:o}", mode & 0o777),
                "datastore is readable by others; chmod 600 it");
        }
        Ok(())
    }

    fn refuse_network(&self, directory: &Path) -> Result<(), StoreError> {
        let Ok(stat) = rustix::fs::statfs(directory) else { return Ok(()) };
        // f_type is signed on some architectures; the magic numbers are 32 bits wide.
        let magic = (stat.f_type as u64) & 0xffff_ffff;
        match NETWORK_FILE_SYSTEMS.iter().find(|(number, _)| *number == magic) {
            Some((_, name)) => Err(StoreError::Config {
                name: "DATASTORE_PATH".to_owned(),
                reason: format!(
                    "{} is on {name}; the embedded store needs a local file system (use etcd to share between machines)",
                    directory.display()
                ),
            }),
            None => Ok(()),
        }
    }

    /// Identity of the file that is at the path now.
    pub(crate) fn inode(&self) -> Option<(u64, u64)> {
        fs::metadata(&self.database).ok().map(|meta| (meta.dev(), meta.ino()))
    }
}

/// Opens one connection and brings the tables into being when the file is new.
pub(crate) fn connect(files: &Files, busy_timeout: Duration) -> Result<Connection, StoreError> {
    let place = files.place();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(&files.database, flags).map_err(|error| map(&place, error))?;
    patience(&mut connection, busy_timeout).map_err(|error| map(&place, error))?;
    let application_id: i64 = pragma(&connection, "application_id").map_err(|error| map(&place, error))?;
    let found: i64 = pragma(&connection, "user_version").map_err(|error| map(&place, error))?;
    if application_id != APPLICATION_ID {
        refuse_foreign(&connection, &place, application_id, found)?;
    } else if found > SCHEMA {
        return Err(StoreError::NewerSchema { store: place, found, known: SCHEMA });
    }
    configure(&connection).map_err(|error| map(&place, error))?;
    if application_id != APPLICATION_ID {
        create(&mut connection).map_err(|error| map(&place, error))?;
    }
    Ok(connection)
}

fn refuse_foreign(connection: &Connection, place: &str, id: i64, version: i64) -> Result<(), StoreError> {
    let objects: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))
        .map_err(|error| map(place, error))?;
    if id == 0 && version == 0 && objects == 0 {
        return Ok(());
    }
    // Another process may have created the tables between our two reads.
    if pragma(connection, "application_id").ok() == Some(APPLICATION_ID) {
        return Ok(());
    }
    Err(StoreError::Foreign {
        store: place.to_owned(),
        reason: format!(
            "it is an SQLite file with application id {id:#x} and {objects} tables or indexes; choose another path"
        ),
    })
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA journal_mode=WAL", (), |_| Ok(()))?;
    connection.execute_batch(
        "PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA wal_autocheckpoint=1000;
         PRAGMA journal_size_limit=16777216; PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF;",
    )?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = pragma(&txn, "user_version")?;
    if found == 0 {
        txn.execute_batch(TABLES)?;
        txn.execute("INSERT INTO revision(id, cur) VALUES (1, 1)", ())?;
        txn.execute("INSERT INTO meta(k, v) VALUES ('compact_rev', 1), ('schema', ?1)", (SCHEMA,))?;
        txn.execute("INSERT INTO meta(k, v) VALUES ('store_uuid', ?1)", (uuid::Uuid::new_v4().to_string(),))?;
        txn.pragma_update(None, "application_id", APPLICATION_ID)?;
        txn.pragma_update(None, "user_version", SCHEMA)?;
    }
    txn.commit()
}

/// Waits for the write lock in short steps. SQLite's own handler sleeps up to 100 ms at a time, much longer
/// than a commit takes; with many writers most of them would sleep while the lock is free.
fn patience(connection: &mut Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    let mut began = std::time::Instant::now();
    connection.busy_handler(Some(move |attempt: i32| {
        if attempt == 0 {
            began = std::time::Instant::now();
        }
        if began.elapsed() >= busy_timeout {
            return false;
        }
        let micros = match attempt {
            0..=20 => 100,
            21..=100 => 300,
            _ => 1_000,
        };
        std::thread::sleep(Duration::from_micros(micros));
        true
    }))
}

/// Reads one value of `meta`.
pub(crate) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<rusqlite::types::Value>> {
    connection
        .prepare_cached("SELECT v FROM meta WHERE k = ?1")?
        .query_row((name,), |row| row.get(0))
        .optional()
}

/// Translates a failure of SQLite.
pub(crate) fn map(place: &str, error: rusqlite::Error) -> StoreError {
    let store = place.to_owned();
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Unreachable { store, reason: "stayed locked by another writer; retry".to_owned() }
        }
        Some(ErrorCode::DiskFull) => {
            StoreError::ReadOnly { store, reason: "the disk is full; free space and retry".to_owned() }
        }
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly {
            store,
            reason: format!("{reason}; check permissions and that the file system is mounted read-write"),
        },
        Some(ErrorCode::SystemIoFailure) => {
            StoreError::ReadOnly { store, reason: format!("{reason}; check the disk and `dmesg`") }
        }
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Corrupt {
            store,
            reason: format!(
                "{reason}; stop all programs that use it and start the agent, which restores a backup"
            ),
        },
        Some(ErrorCode::NotADatabase) => StoreError::Foreign { store, reason },
        Some(
            ErrorCode::PermissionDenied | ErrorCode::CannotOpen | ErrorCode::AuthorizationForStatementDenied,
        ) => StoreError::Unauthorised {
            store,
            reason: format!("{reason}; run as the user that owns the file"),
        },
        _ => StoreError::Failed { store, reason },
    }
}

/// Translates a failure of the operating system.
pub(crate) fn io_error(path: &Path, error: &std::io::Error) -> StoreError {
    let store = path.display().to_string();
    match error.kind() {
        ErrorKind::PermissionDenied => {
            StoreError::Unauthorised { store, reason: format!("{error}; run as the user that owns it") }
        }
        ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem | ErrorKind::QuotaExceeded => {
            StoreError::ReadOnly { store, reason: error.to_string() }
        }
        _ => StoreError::Failed { store, reason: error.to_string() },
    }
}
