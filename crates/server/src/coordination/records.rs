//! The records of keyspaces in the store.
//!
//! | key | record |
//! |---|---|
//! | `coordination/floor` | the lowest revision of every keyspace: above the revisions of destroyed and restored ones |
//! | `coordination/<app>/head` | the app's revision, and removals that are not complete |
//! | `coordination/<app>/keys/<hex>` | a key |
//! | `coordination/<app>/leases/<hex>` | a lease |
//!
//! A removal of more keys than a transaction holds is first written into the head, in one transaction with everything
//! else of the effects. The keys follow in further transactions; a load leaves out the keys that the head describes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_coordination::{Clearing, KeyRange, KeyValue, Keyspace, LeaseId, LoadedEntry, LoadedLease, Quota, Revision};
use gantry_model::{AppName, Moment};
use gantry_store::StoreEntry;
use serde::{Deserialize, Serialize};

/// Prefix of all keys.
pub(super) const PREFIX: &str = "coordination/";

/// Key of the floor.
pub(super) const FLOOR: &str = "coordination/floor";

/// The head of a keyspace.
#[derive(Debug, Default, Serialize, Deserialize)]
struct HeadRecord {
    revision: Revision,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clearings: Vec<ClearingRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum ClearingRecord {
    One { key: String, before: Revision },
    Between { first: String, end: String, before: Revision },
    From { first: String, before: Revision },
    Lease { lease: i64, before: Revision },
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyRecord {
    value: String,
    created: Revision,
    modified: Revision,
    version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaseRecord {
    ttl: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dedicated: bool,
}

pub(super) fn app_prefix(space: &AppName) -> String {
    format!("{PREFIX}{space}/")
}

pub(super) fn head_key(space: &AppName) -> String {
    format!("{PREFIX}{space}/head")
}

pub(super) fn entry_key(space: &AppName, key: &[u8]) -> String {
    format!("{PREFIX}{space}/keys/{}", hex::encode(key))
}

pub(super) fn lease_key(space: &AppName, lease: LeaseId) -> String {
    format!("{PREFIX}{space}/leases/{:016x}", lease.0)
}

/// Serializes a record. Records are numbers and texts, which always have a form in JSON.
fn written(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

pub(super) fn floor(revision: Revision) -> Vec<u8> {
    written(&revision)
}

pub(super) fn head(revision: Revision, clearings: &[Clearing]) -> Vec<u8> {
    let record = |clearing: &Clearing| match clearing {
        Clearing::Range { range: KeyRange::One(key), before } => {
            ClearingRecord::One { key: hex::encode(key), before: *before }
        }
        Clearing::Range { range: KeyRange::Between(first, end), before } => {
            ClearingRecord::Between { first: hex::encode(first), end: hex::encode(end), before: *before }
        }
        Clearing::Range { range: KeyRange::From(first), before } => {
            ClearingRecord::From { first: hex::encode(first), before: *before }
        }
        Clearing::Lease { lease, before } => ClearingRecord::Lease { lease: lease.0, before: *before },
    };
    written(&HeadRecord { revision, clearings: clearings.iter().map(record).collect() })
}

pub(super) fn entry(entry: &KeyValue) -> Vec<u8> {
    written(&KeyRecord {
        value: STANDARD.encode(&entry.value),
        created: entry.created,
        modified: entry.modified,
        version: entry.version,
        lease: entry.lease.map(|lease| lease.0),
    })
}

pub(super) fn lease(lease: LoadedLease) -> Vec<u8> {
    written(&LeaseRecord { ttl: lease.ttl, dedicated: lease.dedicated })
}

/// The records of one keyspace.
#[derive(Debug, Default)]
pub(super) struct SpaceRecords {
    revision: Revision,
    clearings: Vec<Clearing>,
    entries: Vec<LoadedEntry>,
    leases: Vec<LoadedLease>,
    /// The first record that cannot be read.
    damaged: Option<String>,
}

/// All records.
#[derive(Debug, Default)]
pub(super) struct LoadedRecords {
    pub(super) floor: Revision,
    pub(super) spaces: BTreeMap<AppName, SpaceRecords>,
}

/// A keyspace from its records, with the keys whose removal is not complete.
pub(super) struct LoadedSpace {
    pub(super) keyspace: Keyspace,
    pub(super) leftovers: Vec<String>,
}

impl LoadedRecords {
    /// Reads the entries of the store.
    pub(super) fn read(entries: Vec<StoreEntry>) -> Self {
        let mut loaded = Self::default();
        for StoreEntry { key, value, .. } in entries {
            if key == FLOOR {
                loaded.floor = serde_json::from_slice(&value).unwrap_or_default();
                continue;
            }
            let Some((app, rest)) = key.strip_prefix(PREFIX).and_then(|path| path.split_once('/')) else { continue };
            let Ok(app) = AppName::parse(app) else { continue };
            let space = loaded.spaces.entry(app).or_default();
            if space.read_one(rest, &value).is_none() {
                space.damaged.get_or_insert(key);
            }
        }
        loaded
    }
}

/// A record of an app's keyspace that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record {key} cannot be read")]
pub(super) struct DamagedRecord {
    /// Key of the record.
    pub(super) key: String,
}

impl SpaceRecords {
    /// Reads one record; none if it cannot be read.
    fn read_one(&mut self, key: &str, value: &[u8]) -> Option<()> {
        match key.split_once('/') {
            None if key == "head" => {
                let head: HeadRecord = serde_json::from_slice(value).ok()?;
                self.revision = head.revision;
                self.clearings = head.clearings.iter().map(read_clearing).collect::<Option<_>>()?;
            }
            Some(("keys", key)) => {
                let record: KeyRecord = serde_json::from_slice(value).ok()?;
                self.entries.push(LoadedEntry {
                    key: hex::decode(key).ok()?,
                    value: STANDARD.decode(record.value).ok()?,
                    created: record.created,
                    modified: record.modified,
                    version: record.version,
                    lease: record.lease.map(LeaseId),
                });
            }
            Some(("leases", id)) => {
                let record: LeaseRecord = serde_json::from_slice(value).ok()?;
                let id = LeaseId(u64::from_str_radix(id, 16).ok()?.cast_signed());
                self.leases.push(LoadedLease { id, ttl: record.ttl, dedicated: record.dedicated });
            }
            // A record of a newer version.
            _ => {}
        }
        Some(())
    }

    /// Makes the keyspace.
    pub(super) fn load(self, space: &AppName, floor: Revision, now: Moment) -> Result<LoadedSpace, DamagedRecord> {
        if let Some(key) = self.damaged {
            return Err(DamagedRecord { key });
        }
        let is_cleared = |entry: &LoadedEntry| {
            self.clearings.iter().any(|clearing| clearing.covers(&entry.key, entry.modified, entry.lease))
        };
        let (cleared, entries): (Vec<_>, Vec<_>) = self.entries.into_iter().partition(is_cleared);
        let leftovers = cleared.iter().map(|entry| entry_key(space, &entry.key)).collect();
        let revision = self.revision.max(floor);
        let keyspace = Keyspace::load(Quota::default(), revision, entries, self.leases, now);
        Ok(LoadedSpace { keyspace, leftovers })
    }
}

fn read_clearing(record: &ClearingRecord) -> Option<Clearing> {
    let bytes = |text: &String| hex::decode(text).ok();
    Some(match record {
        ClearingRecord::One { key, before } => Clearing::Range { range: KeyRange::One(bytes(key)?), before: *before },
        ClearingRecord::Between { first, end, before } => {
            Clearing::Range { range: KeyRange::Between(bytes(first)?, bytes(end)?), before: *before }
        }
        ClearingRecord::From { first, before } => {
            Clearing::Range { range: KeyRange::From(bytes(first)?), before: *before }
        }
        ClearingRecord::Lease { lease, before } => Clearing::Lease { lease: LeaseId(*lease), before: *before },
    })
}
