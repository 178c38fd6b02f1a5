//! The keyspace of one app.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::Moment;

use crate::history::{Events, History};
use crate::lease::{Lease, deadline};
use crate::{Key, KeyRange, LeaseId, Quota, Refusal, Revision};

/// A key's value and its revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Vec<u8>,
    /// Revision that created the key.
    pub created: Revision,
    /// Revision that last wrote the key.
    pub modified: Revision,
    /// Number of writes since the key was created.
    pub version: i64,
    /// The lease with which the key ends.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    pub(crate) fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// An entry from the records.
pub type LoadedEntry = KeyValue;

/// A lease from the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedLease {
    /// The identifier.
    pub id: LeaseId,
    /// Time to live in seconds.
    pub ttl: i64,
    /// The lease belongs to one key and ends with the key.
    pub dedicated: bool,
}

/// Keys, values and leases of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    pub(crate) quota: Quota,
    pub(crate) revision: Revision,
    pub(crate) entries: BTreeMap<Key, Arc<KeyValue>>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) history: History,
    /// Bytes of all keys and values.
    pub(crate) bytes: usize,
}

impl Keyspace {
    /// Loads a keyspace from its records. The history begins empty, and each lease has its whole time again. A key whose
    /// lease has no record ends at once, because the missing lease counts as expired.
    #[must_use]
    pub fn load(
        quota: Quota,
        revision: Revision,
        entries: Vec<LoadedEntry>,
        leases: Vec<LoadedLease>,
        now: Moment,
    ) -> Self {
        let newest = entries.iter().map(|entry| entry.modified).max().unwrap_or_default();
        let revision = revision.max(newest).max(1);
        let mut keyspace = Self {
            quota,
            revision,
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            history: History::after(revision),
            bytes: 0,
        };
        for LoadedLease { id, ttl, dedicated } in leases {
            let lease = Lease { ttl, dedicated, deadline: deadline(now, ttl), keys: Default::default() };
            keyspace.leases.insert(id, lease);
        }
        for entry in entries {
            if let Some(lease) = entry.lease {
                let over = || Lease { ttl: 0, dedicated: false, deadline: now, keys: Default::default() };
                keyspace.leases.entry(lease).or_insert_with(over).keys.insert(entry.key.clone());
            }
            keyspace.bytes += entry.size();
            keyspace.entries.insert(entry.key.clone(), Arc::new(entry));
        }
        keyspace
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The newest revision whose changes the history no longer has.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.history.compacted()
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry of a key.
    #[must_use]
    pub fn entry(&self, key: &[u8]) -> Option<&Arc<KeyValue>> {
        self.entries.get(key)
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<KeyValue>> {
        self.entries.values()
    }

    /// The record of a lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<LoadedLease> {
        let lease = self.leases.get(&id)?;
        Some(LoadedLease { id, ttl: lease.ttl, dedicated: lease.dedicated })
    }

    /// All leases.
    pub fn lease_ids(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.keys().copied()
    }

    /// The changes of a range from a revision on.
    ///
    /// # Errors
    /// When the history no longer has the revision.
    pub fn events(&self, range: &KeyRange, from: Revision) -> Result<Events, Refusal> {
        self.history.events(range, from, self.revision)
    }

    /// The entries of a range in the order of their keys.
    pub(crate) fn range(&self, range: &KeyRange) -> impl Iterator<Item = &Arc<KeyValue>> {
        let ends = range.clone();
        let entries = self.entries.range(range.first().clone()..).map(|(_, entry)| entry);
        entries.take_while(move |entry| ends.contains(&entry.key))
    }
}
