//! Checksums: a short hash beside each row, so that a bit flip on the disk is detected. SQLite's own check covers the
//! structure of its pages but not their content.

use rusqlite::{Connection, Row, Transaction, ffi, params};
use sha2::{Digest, Sha256};

use crate::{LeaseId, Revision, StoreEntry};

/// Hashes fields with their lengths, so that different rows never hash the same bytes.
fn hash(fields: &[&[u8]]) -> i64 {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update((field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    let digest = hasher.finalize();
    i64::from_le_bytes(std::array::from_fn(|index| digest[index]))
}

pub(super) fn of_entry(entry: &StoreEntry, lease: Option<LeaseId>) -> i64 {
    let lease = lease.map_or(-1, |lease| lease.0);
    let numbers = [entry.created, entry.modified, lease].map(i64::to_le_bytes);
    hash(&[entry.key.as_bytes(), &entry.value, &numbers[0], &numbers[1], &numbers[2]])
}

pub(super) fn of_change(revision: Revision, step: i64, key: &str, value: Option<&[u8]>, created: Revision) -> i64 {
    let numbers = [revision, step, created].map(i64::to_le_bytes);
    let there: &[u8] = if value.is_some() { b"y" } else { b"n" };
    hash(&[&numbers[0], &numbers[1], key.as_bytes(), there, value.unwrap_or_default(), &numbers[2]])
}

fn of_head(revision: Revision, compacted: Revision) -> i64 {
    hash(&[&revision.to_le_bytes(), &compacted.to_le_bytes()])
}

pub(super) fn of_mark(revision: Revision) -> i64 {
    hash(&[&revision.to_le_bytes()])
}

/// Returns the error for a row with a wrong checksum.
pub(super) fn broken(what: &str) -> rusqlite::Error {
    let shown: String = what.chars().take(100).collect();
    rusqlite::Error::SqliteFailure(
        ffi::Error::new(ffi::SQLITE_CORRUPT),
        Some(format!("the record {shown:?} has a wrong checksum")),
    )
}

/// Reads an entry from the columns `key, value, created, modified, lease, seal` and verifies its checksum.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<StoreEntry> {
    let entry = StoreEntry { key: row.get(0)?, value: row.get(1)?, created: row.get(2)?, modified: row.get(3)? };
    let lease: Option<i64> = row.get(4)?;
    if row.get::<_, i64>(5)? == of_entry(&entry, lease.map(LeaseId)) { Ok(entry) } else { Err(broken(&entry.key)) }
}

/// Returns the last revision, and the oldest revision that a watch can still start after.
pub(super) fn head(connection: &Connection) -> rusqlite::Result<(Revision, Revision)> {
    let (revision, compacted, checksum): (Revision, Revision, i64) = connection
        .prepare_cached("SELECT revision, compacted, seal FROM head")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    if checksum == of_head(revision, compacted) { Ok((revision, compacted)) } else { Err(broken("head")) }
}

pub(super) fn set_head(connection: &Connection, revision: Revision, compacted: Revision) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE head SET revision = ?1, compacted = ?2, seal = ?3")?
        .execute(params![revision, compacted, of_head(revision, compacted)])
        .map(drop)
}

/// Verifies every row and returns the number of entries.
pub(super) fn check(connection: &Connection) -> rusqlite::Result<usize> {
    head(connection)?;
    let mut statement = connection.prepare("SELECT key, value, created, modified, lease, seal FROM entries")?;
    let mut entries = 0;
    for found in statement.query_map([], entry)? {
        found?;
        entries += 1;
    }
    let mut statement = connection.prepare("SELECT revision, step, key, value, created, seal FROM changes")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (key, value): (String, Option<Vec<u8>>) = (row.get(2)?, row.get(3)?);
        let checksum = of_change(row.get(0)?, row.get(1)?, &key, value.as_deref(), row.get(4)?);
        if checksum != row.get::<_, i64>(5)? {
            return Err(broken(&key));
        }
    }
    Ok(entries)
}

/// Adds checksums to a file of format 1, which has none.
pub(super) fn upgrade(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in ["head", "entries", "changes"] {
        transaction.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN seal INTEGER NOT NULL DEFAULT 0"))?;
    }
    let (revision, compacted) =
        transaction.query_row("SELECT revision, compacted FROM head", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    set_head(transaction, revision, compacted)?;
    let mut entries = Vec::new();
    let mut statement = transaction.prepare("SELECT key, value, created, modified, lease FROM entries")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entry = StoreEntry { key: row.get(0)?, value: row.get(1)?, created: row.get(2)?, modified: row.get(3)? };
        let lease: Option<i64> = row.get(4)?;
        entries.push((of_entry(&entry, lease.map(LeaseId)), entry.key));
    }
    for (checksum, key) in entries {
        transaction.execute("UPDATE entries SET seal = ?1 WHERE key = ?2", params![checksum, key])?;
    }
    // Only watches use the history, and a watch without history lists again.
    transaction.execute("DELETE FROM changes", [])?;
    set_head(transaction, revision, revision)
}
