//! Reads and compare-and-swap writes on one connection.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior};

use super::schema::{self, REVISION_SHIFT};
use crate::backend::{Bytes, Change, Committed, KeyRange, KeyRanges, RawEntry, RawEvent, RawList, RawWrite};
use crate::error::StoreError;
use crate::memory::check;

/// Operations in the log.
const OP_CREATE: i64 = 1;
const OP_UPDATE: i64 = 2;
const OP_DELETE: i64 = 3;

/// Rows of the log read at once; more than one transaction can hold.
const LOG_PAGE: usize = 1_000;

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0))
}

fn revision_of(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn number_of(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<RawEntry> {
    Ok(RawEntry {
        key: row.get(0)?,
        value: Bytes::from(row.get_ref(1)?.as_bytes()?),
        revision: revision_of(row.get(2)?),
    })
}

/// Newest revision.
pub(crate) fn current(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT cur FROM revision WHERE id = 1")?
        .query_row((), |row| row.get(0))
        .map(revision_of)
}

/// Revision up to which the log has been dropped.
pub(crate) fn compacted(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(match schema::meta(connection, "compact_rev")? {
        Some(Value::Integer(number)) => revision_of(number),
        _ => 0,
    })
}

/// Identity of the data.
pub(crate) fn identity(connection: &Connection) -> rusqlite::Result<String> {
    Ok(match schema::meta(connection, "store_uuid")? {
        Some(Value::Text(text)) => text,
        _ => String::new(),
    })
}

pub(crate) fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<RawEntry>> {
    connection
        .prepare_cached("SELECT key, value, mod_rev FROM kv WHERE key = ?1")?
        .query_row((key,), entry)
        .optional()
}

/// All ranges and the revision, seen in one read transaction.
pub(crate) fn list(connection: &mut Connection, ranges: &KeyRanges) -> rusqlite::Result<RawList> {
    let txn = connection.transaction()?;
    let mut list = RawList { entries: Vec::new(), revision: current(&txn)? };
    for range in ranges.as_slice() {
        if let KeyRange::Exact(key) = range {
            list.entries.extend(get(&txn, key)?);
            continue;
        }
        // An upper end that is not UTF-8 sorts after every key below it all the same: keys without an end
        // are compared with the prefix in this process.
        let end = range.end().and_then(|end| String::from_utf8(end).ok());
        match end {
            Some(end) => {
                let mut statement = txn.prepare_cached(
                    "SELECT key, value, mod_rev FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key",
                )?;
                let rows = statement.query_map((range.start(), end), entry)?;
                for row in rows {
                    list.entries.push(row?);
                }
            }
            None => {
                let mut statement =
                    txn.prepare_cached("SELECT key, value, mod_rev FROM kv WHERE key >= ?1 ORDER BY key")?;
                let rows = statement.query_map((range.start(),), entry)?;
                for row in rows {
                    let row = row?;
                    if range.contains(&row.key) {
                        list.entries.push(row);
                    }
                }
            }
        }
    }
    Ok(list)
}

/// Checks all conditions and applies all changes in one `BEGIN IMMEDIATE` transaction.
pub(crate) fn commit(
    connection: &mut Connection,
    place: &str,
    writes: &[RawWrite],
) -> Result<Committed, StoreError> {
    let failed = |error| schema::map(place, error);
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let mut previous = Vec::with_capacity(writes.len());
    for write in writes {
        let stored = get(&txn, &write.key).map_err(failed)?;
        check(write, stored.as_ref())?;
        previous.push(stored);
    }
    if writes.iter().all(|write| write.change == Change::Check) {
        let revision = current(&txn).map_err(failed)?;
        return Ok(Committed { revision, previous });
    }
    let revision = apply(&txn, writes, &previous).map_err(failed)?;
    txn.commit().map_err(failed)?;
    Ok(Committed { revision, previous })
}

fn apply(txn: &Connection, writes: &[RawWrite], previous: &[Option<RawEntry>]) -> rusqlite::Result<u64> {
    let number: i64 = txn
        .prepare_cached("UPDATE revision SET cur = cur + 1 WHERE id = 1 RETURNING cur")?
        .query_row((), |row| row.get(0))?;
    let now = now_ms();
    let mut put = txn.prepare_cached(
        "INSERT INTO kv(key, value, create_rev, mod_rev, version, expires_at) VALUES (?1, ?2, ?3, ?3, 1, ?4)
         ON CONFLICT(key) DO UPDATE SET value = excluded.value, mod_rev = excluded.mod_rev,
             version = version + 1, expires_at = excluded.expires_at",
    )?;
    let mut delete = txn.prepare_cached("DELETE FROM kv WHERE key = ?1")?;
    let mut log = txn.prepare_cached(
        "INSERT INTO log(id, key, op, value, prev, prev_rev, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (index, (write, stored)) in writes.iter().zip(previous).enumerate() {
        let id = (number << REVISION_SHIFT) | i64::try_from(index).unwrap_or(0);
        let stored_revision = stored.as_ref().map(|entry| number_of(entry.revision));
        match &write.change {
            Change::Put { value, ttl } => {
                let expires =
                    ttl.map(|ttl| now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)));
                put.execute((&write.key, &value[..], number, expires))?;
                let op = if stored.is_some() { OP_UPDATE } else { OP_CREATE };
                let none: Option<&[u8]> = None;
                log.execute((id, &write.key, op, Some(&value[..]), none, stored_revision, now))?;
            }
            Change::Delete => {
                delete.execute((&write.key,))?;
                let none: Option<&[u8]> = None;
                let gone = stored.as_ref().map(|entry| &entry.value[..]);
                log.execute((id, &write.key, OP_DELETE, none, gone, stored_revision, now))?;
            }
            Change::Check => {}
        }
    }
    Ok(revision_of(number))
}

/// What a watch finds in the log.
pub(crate) struct LogPage {
    pub(crate) events: Vec<RawEvent>,
    /// Everything up to here has been seen.
    pub(crate) revision: u64,
    /// History begins after this revision.
    pub(crate) compacted: u64,
    pub(crate) identity: String,
    /// There is more after `revision`.
    pub(crate) more: bool,
}

/// Reads the log after `from`, whole revisions only.
pub(crate) fn read_log(
    connection: &mut Connection,
    ranges: &KeyRanges,
    from: u64,
) -> rusqlite::Result<LogPage> {
    let txn = connection.transaction()?;
    let mut page = LogPage {
        events: Vec::new(),
        revision: current(&txn)?,
        compacted: compacted(&txn)?,
        identity: identity(&txn)?,
        more: false,
    };
    if from < page.compacted || from >= page.revision {
        return Ok(page);
    }
    let after = number_of(from.saturating_add(1)) << REVISION_SHIFT;
    let mut statement =
        txn.prepare_cached("SELECT id, key, op, value FROM log WHERE id >= ?1 ORDER BY id LIMIT ?2")?;
    let mut rows = statement.query((after, i64::try_from(LOG_PAGE).unwrap_or(i64::MAX)))?;
    let mut count = 0;
    let mut last = from;
    while let Some(row) = rows.next()? {
        count += 1;
        last = revision_of(row.get::<_, i64>(0)? >> REVISION_SHIFT);
        let key = row.get_ref(1)?.as_str()?;
        if !ranges.contains(key) {
            continue;
        }
        let deleted = row.get::<_, i64>(2)? == OP_DELETE;
        let value = if deleted { None } else { Some(Bytes::from(row.get_ref(3)?.as_bytes()?)) };
        page.events.push(RawEvent { key: key.to_owned(), value, revision: last });
    }
    if count == LOG_PAGE {
        // The page may end inside the last revision: leave that one for the next page.
        page.events.retain(|event| event.revision < last);
        page.revision = last.saturating_sub(1);
        page.more = true;
    }
    Ok(page)
}
