//! The schema version of the records, and the migrations from one version to the next.
//!
//! The record [`KEY`] holds the version. A store with records but without this one has version 1. A new store begins at
//! the newest version: [`newest`]. A migration is a pure function of all records of a store. The server's core writes a
//! migration's changes at the start, guarded by leadership, before the core reads any record.
//!
//! Every prefix of a migration's transactions is safe. The preparation adds only records and fields that the version
//! before does not know, so a server of either version can start from any prefix. The last transaction switches: it removes the old
//! records and writes the new version. A migration that starts again overwrites its own preparation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::RecordError;
use crate::migrations::{allocation_numbers, configs, machine_addresses, role_kinds, routes_per_app};

/// Key of the record with the schema version.
pub const KEY: &str = "schema";

/// Key of the mark in a store into which records are being copied. The value names the source. Without all records, a
/// server would stop what the missing ones ask for.
pub const UNFINISHED: &str = "migrating-from";

/// The schema version that this program writes, and the newest that it reads.
pub const VERSION: u32 = 6;

/// All records of a store as the store holds them, by key.
pub type RawRecords = BTreeMap<String, Vec<u8>>;

/// A change of one record as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawChange {
    /// Sets a record.
    Put(String, Vec<u8>),
    /// Removes a record.
    Remove(String),
}

impl RawChange {
    /// Applies the change to records in memory.
    pub fn apply(self, records: &mut RawRecords) {
        match self {
            Self::Put(key, value) => drop(records.insert(key, value)),
            Self::Remove(key) => drop(records.remove(&key)),
        }
    }
}

/// Changes that bring the records to a schema version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The version that the changes lead to.
    pub to: u32,
    /// Changes to write first, in any number of transactions.
    pub preparation: Vec<RawChange>,
    /// Changes to write last, in one transaction. They include the new version.
    pub switch: Vec<RawChange>,
}

/// A store whose records this program cannot migrate.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A newer program wrote the records.
    #[error(
        "cannot use the store: its records have schema version {found}, and this gantry knows versions up to {known}; \
         start the newer gantry again, or move the store away and bring back a backup from before the upgrade: gantry \
         restore FILE"
    )]
    Newer {
        /// Version of the records.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// A copy into the store has not ended.
    #[error(
        "cannot use the store: it has only a part of the records, because a copy from {from} has not ended; wait for the end of \
         the `gantry restore` or `gantry store migrate` that makes the copy, or repeat the command if it was interrupted"
    )]
    Unfinished {
        /// The source of the copy: a store or a backup, with its machine.
        from: String,
    },
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl SchemaError {
    /// The error for a store whose mark [`UNFINISHED`] has this value.
    #[must_use]
    pub fn unfinished(mark: &[u8]) -> Self {
        Self::Unfinished { from: String::from_utf8_lossy(mark).into_owned() }
    }
}

/// The record with the schema version.
#[derive(Serialize, Deserialize)]
struct SchemaRecord {
    version: u32,
}

/// A step from one schema version to the next, as a function of all records.
type MigrationStep = fn(&RawRecords) -> Result<StepChanges, RecordError>;

/// The preparation of a step, and its switch without the new version.
pub(crate) type StepChanges = (Vec<RawChange>, Vec<RawChange>);

/// The step from version 1 to version 2 is the first, and so on.
const STEPS: [MigrationStep; VERSION as usize - 1] =
    [routes_per_app, allocation_numbers, machine_addresses, role_kinds, configs];

/// Returns the schema version that the value of the record [`KEY`] names; version 1 without the record.
///
/// # Errors
/// [`SchemaError::Newer`], or [`SchemaError::Record`] for a value that is no schema version.
pub fn version(value: Option<&[u8]>) -> Result<u32, SchemaError> {
    let Some(value) = value else { return Ok(1) };
    let record: SchemaRecord = serde_json::from_slice(value).map_err(|error| RecordError::new(KEY, error))?;
    match record.version {
        0 => Err(RecordError::new(KEY, "versions begin at 1").into()),
        found if found > VERSION => Err(SchemaError::Newer { found, known: VERSION }),
        found => Ok(found),
    }
}

/// Returns the record of the newest version, with which a new store begins.
///
/// # Errors
/// [`SchemaError::Record`] if the record cannot be serialized.
pub fn newest() -> Result<RawChange, SchemaError> {
    switch_to(VERSION)
}

/// Returns the change that names a store's schema version.
fn switch_to(version: u32) -> Result<RawChange, SchemaError> {
    let text = serde_json::to_vec(&SchemaRecord { version }).map_err(|error| RecordError::new(KEY, error))?;
    Ok(RawChange::Put(KEY.to_owned(), text))
}

/// Returns the next migration of a store; none if the records have the present version.
///
/// # Errors
/// As [`version`], or [`SchemaError::Unfinished`], or when a record that the migration reads cannot be read.
pub fn next_migration(records: &RawRecords) -> Result<Option<Migration>, SchemaError> {
    if let Some(mark) = records.get(UNFINISHED) {
        return Err(SchemaError::unfinished(mark));
    }
    let found = version(records.get(KEY).map(Vec::as_slice))?;
    if found == VERSION {
        return Ok(None);
    }
    let (preparation, mut switch) = STEPS[found as usize - 1](records)?;
    switch.push(switch_to(found + 1)?);
    Ok(Some(Migration { to: found + 1, preparation, switch }))
}

/// Brings records in memory, such as those of a backup, to the present version.
///
/// # Errors
/// As [`next_migration`].
pub fn migrated(mut records: RawRecords) -> Result<RawRecords, SchemaError> {
    while let Some(migration) = next_migration(&records)? {
        migration.preparation.into_iter().chain(migration.switch).for_each(|change| change.apply(&mut records));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_newer_version_by_name() {
        let error = version(Some(br#"{"version":99}"#)).expect_err("newer");
        assert!(matches!(error, SchemaError::Newer { found: 99, known: VERSION }));
        let text = error.to_string();
        assert!(text.contains("schema version 99") && text.contains("gantry restore FILE"), "{text}");
        for broken in ["", "7", r#"{"version":0}"#, r#"{"version":-1}"#, r#"{"version":"2"}"#] {
            let error = version(Some(broken.as_bytes())).expect_err(broken);
            assert!(error.to_string().starts_with("the store's record schema cannot be read"), "{error}");
        }
    }

    #[test]
    fn refuses_a_store_with_a_part_of_the_records() {
        let mut records = migrated(RawRecords::new()).expect("a new store");
        assert!(next_migration(&records).expect("readable").is_none());
        records.insert(UNFINISHED.to_owned(), b"/backup.tar".to_vec());
        let error = next_migration(&records).expect_err("a part");
        assert!(matches!(&error, SchemaError::Unfinished { from } if from == "/backup.tar"));
        assert!(error.to_string().contains("gantry restore"), "{error}");
    }

    #[test]
    fn ignores_fields_of_a_newer_version() {
        assert_eq!(version(Some(br#"{"version":1,"by":"later"}"#)).expect("a version"), 1);
    }

    #[test]
    fn an_unnamed_store_is_migrated_until_it_has_the_present_version() {
        let mut records = RawRecords::new();
        let mut versions = Vec::new();
        while let Some(migration) = next_migration(&records).expect("a migration") {
            versions.push(migration.to);
            migration.preparation.into_iter().chain(migration.switch).for_each(|change| change.apply(&mut records));
            assert!(versions.len() <= VERSION as usize, "{versions:?}");
        }
        assert_eq!(versions.last(), Some(&VERSION));
        assert_eq!(version(records.get(KEY).map(Vec::as_slice)).expect("a version"), VERSION);
    }
}
