//! Keeping the log short, and deleting what has outlived its time.

use rusqlite::{Connection, TransactionBehavior};

use super::SqliteOptions;
use super::schema::{self, REVISION_SHIFT};
use super::txn::{commit, compacted, current, now_ms};
use crate::backend::{Committed, Expect, RawWrite};
use crate::error::StoreError;

/// A writer looks whether there is something to compact each time the revision passes a multiple of this.
pub(crate) const COMPACT_EVERY: u64 = 1_000;
/// Rows deleted in one transaction, so that no writer waits long.
const BATCH: i64 = 500;
/// Transactions of one call: a little more than what has been added since the last one.
const BATCHES: usize = 6;
/// Expired keys deleted in one transaction.
const SWEEP: i64 = 100;

/// Deletes log rows that nobody needs any more. Returns the new oldest revision when it moved.
pub(crate) fn compact(
    connection: &mut Connection,
    place: &str,
    options: &SqliteOptions,
) -> Result<Option<u64>, StoreError> {
    let failed = |error| schema::map(place, error);
    let mut moved = None;
    for _ in 0..BATCHES {
        let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let newest = current(&txn).map_err(failed)?;
        let oldest = compacted(&txn).map_err(failed)?;
        let target = target(&txn, options, newest).map_err(failed)?;
        if target <= oldest {
            break;
        }
        let limit = i64::try_from(target.saturating_add(1) << REVISION_SHIFT).unwrap_or(i64::MAX);
        // Rows of one revision are deleted together: the oldest revision must stay whole or be gone.
        let (count, last): (i64, Option<i64>) = txn
            .prepare_cached(
                "SELECT count(*), max(id) FROM (SELECT id FROM log WHERE id < ?1 ORDER BY id LIMIT ?2)",
            )
            .and_then(|mut statement| {
                statement.query_row((limit, BATCH), |row| Ok((row.get(0)?, row.get(1)?)))
            })
            .map_err(failed)?;
        let reached = match last {
            Some(last) if count == BATCH => u64::try_from(last >> REVISION_SHIFT).unwrap_or(0).min(target),
            _ => target,
        };
        let limit = i64::try_from(reached.saturating_add(1) << REVISION_SHIFT).unwrap_or(i64::MAX);
        txn.prepare_cached("DELETE FROM log WHERE id < ?1")
            .and_then(|mut statement| statement.execute((limit,)))
            .map_err(failed)?;
        txn.prepare_cached("UPDATE meta SET v = ?1 WHERE k = 'compact_rev'")
            .and_then(|mut statement| statement.execute((i64::try_from(reached).unwrap_or(i64::MAX),)))
            .map_err(failed)?;
        txn.commit().map_err(failed)?;
        moved = Some(reached);
        if reached >= target {
            break;
        }
    }
    Ok(moved)
}

/// Newest revision that may go: older than the retained count and the retained age, or beyond the hard cap.
fn target(connection: &Connection, options: &SqliteOptions, newest: u64) -> rusqlite::Result<u64> {
    let by_count = newest.saturating_sub(options.retain_revisions);
    let by_cap = newest.saturating_sub(options.retain_most);
    let age = i64::try_from(options.retain_age.as_millis()).unwrap_or(i64::MAX);
    let limit = i64::try_from(by_count.saturating_add(1) << REVISION_SHIFT).unwrap_or(i64::MAX);
    // Times in the log rise with the ids (up to clock steps), so the first row that is young enough ends the scan
    // of what compaction would delete anyway.
    let first_young: Option<i64> = connection
        .prepare_cached("SELECT id FROM log WHERE id < ?1 AND at >= ?2 ORDER BY id LIMIT 1")?
        .query((limit, now_ms().saturating_sub(age)))?
        .next()?
        .map(|row| row.get(0))
        .transpose()?;
    let by_age = match first_young {
        Some(id) => u64::try_from(id >> REVISION_SHIFT).unwrap_or(0).saturating_sub(1),
        None => by_count,
    };
    Ok(by_count.min(by_age).max(by_cap.min(by_count)))
}

/// Deletes up to one transaction's worth of expired keys, as ordinary logged deletes.
pub(crate) fn sweep(connection: &mut Connection, place: &str) -> Result<Option<Committed>, StoreError> {
    let failed = |error| schema::map(place, error);
    let dead: Vec<RawWrite> = {
        let mut statement = connection
            .prepare_cached(
                "SELECT key, mod_rev FROM kv WHERE expires_at IS NOT NULL AND expires_at <= ?1
                 ORDER BY expires_at LIMIT ?2",
            )
            .map_err(failed)?;
        let rows = statement
            .query_map((now_ms(), SWEEP), |row| {
                let revision = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
                Ok(RawWrite::delete(row.get::<_, String>(0)?, Expect::Revision(revision)))
            })
            .map_err(failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)?
    };
    if dead.is_empty() {
        return Ok(None);
    }
    match commit(connection, place, &dead) {
        Ok(done) => Ok(Some(done)),
        // Renewed or removed by somebody else meanwhile: the next sweep sees the new state.
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
