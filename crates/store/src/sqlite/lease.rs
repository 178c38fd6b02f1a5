//! Leases. They run by `CLOCK_MONOTONIC` and name the boot that granted them. Rejected designs and limits:
//!
//! - The wall clock: a jump would end a lease whose owner renews it, or keep for an hour a lease whose owner is dead.
//! - `CLOCK_BOOTTIME`: a process that could take a lease over has the same file open on the same machine, so that the
//!   suspended machine suspends both. A lease in etcd runs out during a suspension; there the create revision of the
//!   leader's key guards each write.
//! - A process that is stopped for longer than the TTL loses its lease to another process. The same guard then refuses
//!   its writes.
//!
//! A lease outlives a restart of its process, but not a reboot.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};

use super::write;
use crate::{LeaseId, StoreError};

/// Returns the time that leases run by, in milliseconds since this boot.
fn now() -> i64 {
    i64::try_from(gantry_linux::clock::awake().as_millis()).unwrap_or(i64::MAX)
}

/// Returns the id of this boot of the machine.
fn boot() -> &'static str {
    static BOOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BOOT.get_or_init(gantry_linux::clock::boot_id)
}

fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4).max(1000)
}

/// Adds the boot column to a file of an earlier Gantry. A lease without a boot is over: its owner ended with that
/// Gantry.
pub(super) fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let columns = transaction
        .prepare("SELECT name FROM pragma_table_info('leases')")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    if columns.iter().any(|name| name == "boot") {
        return Ok(());
    }
    transaction.execute_batch("ALTER TABLE leases ADD COLUMN boot TEXT NOT NULL DEFAULT ''")?;
    transaction.commit()
}

pub(super) fn grant(transaction: &Transaction<'_>, ttl: Duration) -> rusqlite::Result<LeaseId> {
    let ttl = millis(ttl);
    transaction.prepare_cached("INSERT INTO leases (ttl, expires, boot) VALUES (?1, ?2, ?3)")?.execute(params![
        ttl,
        now().saturating_add(ttl),
        boot()
    ])?;
    Ok(LeaseId(transaction.last_insert_rowid()))
}

pub(super) fn renew(transaction: &Transaction<'_>, lease: LeaseId) -> rusqlite::Result<Result<(), StoreError>> {
    let renewed = transaction
        .prepare_cached("UPDATE leases SET expires = ?2 + ttl WHERE id = ?1")?
        .execute(params![lease.0, now()])?;
    Ok(if renewed == 1 { Ok(()) } else { Err(StoreError::LeaseGone(lease.0)) })
}

/// Reports whether a lease has expired, without a transaction, for the idle thread.
pub(super) fn any_expired(connection: &Connection) -> bool {
    let query = || -> rusqlite::Result<bool> {
        connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM leases WHERE expires <= ?1 OR boot <> ?2)")?
            .query_row(params![now(), boot()], |row| row.get(0))
    };
    query().unwrap_or(true)
}

pub(super) fn expire(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let expired: Vec<i64> = transaction
        .prepare_cached("SELECT id FROM leases WHERE expires <= ?1 OR boot <> ?2")?
        .query_map(params![now(), boot()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    expired.into_iter().try_for_each(|id| end(transaction, LeaseId(id)))
}

/// Removes a lease and every key attached to the lease, in one revision.
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
