//! Copies of a store in use, and what happens when the file is damaged.

use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::FlockOperation;

use super::SqliteOptions;
use super::schema::{self, APPLICATION_ID, Files, SCHEMA};
use super::txn::{self, now_ms};
use crate::error::StoreError;

/// Backups kept.
const KEEP: usize = 3;
/// After a restore the revision jumps by this much beyond every revision that may have been handed out since
/// the backup, so that no compare-and-swap and no resumed watch from before can match by accident.
const REVISION_JUMP: u64 = 1_000_000_000;

/// Writes a consistent copy to a file that must not exist yet.
pub(crate) fn copy_to(connection: &mut Connection, files: &Files, target: &Path) -> Result<(), StoreError> {
    if target.exists() {
        return Err(StoreError::Failed {
            store: target.display().to_string(),
            reason: "already exists; a backup never overwrites a file".to_owned(),
        });
    }
    let name = target.to_str().ok_or_else(|| StoreError::Config {
        name: "backup path".to_owned(),
        reason: format!("{} is not UTF-8", target.display()),
    })?;
    connection.execute("VACUUM INTO ?1", (name,)).map_err(|error| schema::map(&files.place(), error))?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o600))
        .map_err(|error| schema::io_error(target, &error))
}

/// Makes one more numbered backup and removes the oldest.
pub(crate) fn rotate(connection: &mut Connection, files: &Files) -> Result<(), StoreError> {
    if !files.backups.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&files.backups)
            .map_err(|error| schema::io_error(&files.backups, &error))?;
    }
    let unfinished = files.backups.join("unfinished");
    let _ = fs::remove_file(&unfinished);
    copy_to(connection, files, &unfinished)?;
    let target = files.backups.join(format!("{:015}.db", now_ms()));
    fs::rename(&unfinished, &target).map_err(|error| schema::io_error(&target, &error))?;
    let all = backups(files);
    for old in all.iter().take(all.len().saturating_sub(KEEP)) {
        let _ = fs::remove_file(old);
    }
    Ok(())
}

/// Finished backups, oldest first.
fn backups(files: &Files) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(&files.backups)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "db"));
    found.sort();
    found
}

/// Replaces the content of a live store by that of a backup file. Returns the revision it continues at.
pub(crate) fn restore_from(
    connection: &mut Connection,
    files: &Files,
    source: &Path,
) -> Result<u64, StoreError> {
    let place = files.place();
    let failed = |error| schema::map(&place, error);
    let before = txn::current(connection).map_err(failed)?;
    let origin = open_backup(source)?;
    let restore = rusqlite::backup::Backup::new(&origin, connection).map_err(failed)?;
    restore.run_to_completion(1_000, Duration::from_millis(1), None).map_err(failed)?;
    drop(restore);
    continue_after(connection, &place, before)
}

/// Gives restored data an identity of its own, without history, at a revision nobody has seen.
fn continue_after(connection: &mut Connection, place: &str, before: u64) -> Result<u64, StoreError> {
    let failed = |error| schema::map(place, error);
    let restored = txn::current(connection).map_err(failed)?;
    let next = before.max(restored).saturating_add(REVISION_JUMP);
    let number = i64::try_from(next).unwrap_or(i64::MAX >> schema::REVISION_SHIFT);
    let txn = connection.transaction().map_err(failed)?;
    txn.execute("DELETE FROM log", ()).map_err(failed)?;
    txn.execute("UPDATE revision SET cur = ?1", (number,)).map_err(failed)?;
    txn.execute("UPDATE meta SET v = ?1 WHERE k = 'compact_rev'", (number,)).map_err(failed)?;
    txn.execute("UPDATE meta SET v = ?1 WHERE k = 'store_uuid'", (uuid::Uuid::new_v4().to_string(),))
        .map_err(failed)?;
    txn.commit().map_err(failed)?;
    Ok(next)
}

fn open_backup(source: &Path) -> Result<Connection, StoreError> {
    let place = source.display().to_string();
    let failed = |error| schema::map(&place, error);
    let origin = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let id: i64 = origin.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    let found: i64 = origin.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if id != APPLICATION_ID {
        return Err(StoreError::Foreign { store: place, reason: format!("application id {id:#x}") });
    }
    if found > SCHEMA {
        return Err(StoreError::NewerSchema { store: place, found, known: SCHEMA });
    }
    Ok(origin)
}

/// Checks the file; when it is damaged and nobody else uses it, moves it aside and restores the newest good
/// backup, or leaves the way free for an empty store.
pub(crate) fn repair_if_damaged(files: &Files, options: &SqliteOptions) -> Result<(), StoreError> {
    let Some(damage) = damage(files, options)? else { return Ok(()) };
    let lock = OpenOptions::new()
        .read(true)
        .open(&files.lock)
        .map_err(|error| schema::io_error(&files.lock, &error))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(StoreError::Corrupt {
            store: files.place(),
            reason: format!("{damage}; other programs have it open: stop them and start the agent again"),
        });
    }
    let aside = files.database.with_file_name(format!(
        "{}-damaged-{}",
        files.database.file_name().unwrap_or_default().to_string_lossy(),
        now_ms()
    ));
    fs::rename(&files.database, &aside).map_err(|error| schema::io_error(&aside, &error))?;
    for suffix in ["-wal", "-shm"] {
        let beside = |path: &Path| {
            let mut name = path.as_os_str().to_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        if beside(&files.database).exists() {
            let target = beside(&aside);
            fs::rename(beside(&files.database), &target)
                .map_err(|error| schema::io_error(&target, &error))?;
        }
    }
    tracing::error!(store = %files.place(), %damage, kept = %aside.display(), "datastore was damaged and moved aside");
    files.prepare()?;
    for source in backups(files).iter().rev() {
        let mut connection = schema::connect(files, options.busy_timeout)?;
        match restore_from(&mut connection, files, source) {
            Ok(_) => {
                tracing::error!(backup = %source.display(), "datastore restored from backup; changes since then are lost");
                return Ok(());
            }
            Err(error) => tracing::error!(backup = %source.display(), %error, "backup cannot be used"),
        }
    }
    tracing::error!(store = %files.place(), "no backup: the datastore starts empty");
    Ok(())
}

/// What is wrong with the file, if anything. Errors that are not damage are returned as they are.
fn damage(files: &Files, options: &SqliteOptions) -> Result<Option<String>, StoreError> {
    let length = fs::metadata(&files.database).map_or(0, |meta| meta.len());
    if length == 0 {
        return Ok(None);
    }
    let connection = match schema::connect(files, options.busy_timeout) {
        Ok(connection) => connection,
        Err(StoreError::Corrupt { reason, .. }) => return Ok(Some(reason)),
        Err(error) => return Err(error),
    };
    let verdict: Result<String, _> = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0));
    match verdict {
        Ok(text) if text == "ok" => {}
        Ok(text) => return Ok(Some(text)),
        Err(error) => {
            return match schema::map(&files.place(), error) {
                StoreError::Corrupt { reason, .. } | StoreError::Foreign { reason, .. } => Ok(Some(reason)),
                error => Err(error),
            };
        }
    }
    Ok(match txn::current(&connection) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    })
}
