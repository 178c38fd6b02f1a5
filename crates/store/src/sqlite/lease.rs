//! Leases. They run by the wall clock, so that one outlives a restart of the process but not its owner.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction, params};

use super::write;
use crate::{LeaseId, StoreError};

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4).max(1000)
}

pub(super) fn grant(transaction: &Transaction<'_>, ttl: Duration) -> rusqlite::Result<LeaseId> {
    let ttl = millis(ttl);
    transaction
        .prepare_cached("INSERT INTO leases (ttl, expires) VALUES (?1, ?2)")?
        .execute(params![ttl, now().saturating_add(ttl)])?;
    Ok(LeaseId(transaction.last_insert_rowid()))
}

pub(super) fn renew(transaction: &Transaction<'_>, lease: LeaseId) -> rusqlite::Result<Result<(), StoreError>> {
    let renewed = transaction
        .prepare_cached("UPDATE leases SET expires = ?2 + ttl WHERE id = ?1")?
        .execute(params![lease.0, now()])?;
    Ok(if renewed == 1 { Ok(()) } else { Err(StoreError::LeaseGone(lease.0)) })
}

/// A look without a transaction, for the idle thread.
pub(super) fn any_expired(connection: &Connection) -> bool {
    let query = || -> rusqlite::Result<bool> {
        connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM leases WHERE expires <= ?1)")?
            .query_row([now()], |row| row.get(0))
    };
    query().unwrap_or(true)
}

pub(super) fn expire(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let expired: Vec<i64> = transaction
        .prepare_cached("SELECT id FROM leases WHERE expires <= ?1")?
        .query_map([now()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    expired.into_iter().try_for_each(|id| end(transaction, LeaseId(id)))
}

/// Removes a lease with every key that hangs on it, in one revision.
pub(super) fn end(transaction: &Transaction<'_>, lease: LeaseId) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([lease.0])?;
    let keys: Vec<String> = transaction
        .prepare_cached("SELECT key FROM entries WHERE lease = ?1")?
        .query_map([lease.0], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Ok(());
    }
    let next = write::begin_revision(transaction)?;
    for (step, key) in (0..).zip(&keys) {
        write::delete(transaction, next, step, key)?;
    }
    Ok(())
}
