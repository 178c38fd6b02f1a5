//! Effects of a command on the records, and the way back.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::Moment;

use crate::lease::Lease;
use crate::{Key, KeyRange, KeyValue, Keyspace, LeaseId, Revision};

/// Effects of one command. The caller writes the records of the changed keys and leases, or reverts the effects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandEffects {
    /// Keys whose record changes.
    pub keys: BTreeSet<Key>,
    /// Leases whose record changes.
    pub leases: BTreeSet<LeaseId>,
    /// Description of the removed keys, for a removal that needs several writes.
    pub clearings: Vec<Clearing>,
    /// The keyspace has a new revision.
    pub advanced: bool,
    /// Time of the command.
    pub(crate) now: Moment,
    undo: Vec<Undo>,
    /// Revision before the command.
    before: Revision,
}

/// A description of removed keys that needs no list of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clearing {
    /// All keys of a range that were last written before this revision.
    Range {
        /// The range.
        range: KeyRange,
        /// The revision of the removal.
        before: Revision,
    },
    /// All keys of a lease that were last written before this revision.
    Lease {
        /// The lease.
        lease: LeaseId,
        /// The revision of the removal.
        before: Revision,
    },
}

impl Clearing {
    /// Reports whether an entry with this key, last write and lease was removed.
    #[must_use]
    pub fn covers(&self, key: &[u8], modified: Revision, lease: Option<LeaseId>) -> bool {
        match self {
            Self::Range { range, before } => modified < *before && range.contains(key),
            Self::Lease { lease: own, before } => modified < *before && lease == Some(*own),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Undo {
    Entry(Key, Option<Arc<KeyValue>>),
    Lease(LeaseId, Option<Lease>),
}

impl CommandEffects {
    /// Reports whether the effects change no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.leases.is_empty()
    }
}

impl Keyspace {
    pub(crate) fn begin_effects(&self, now: Moment) -> CommandEffects {
        CommandEffects { before: self.revision, now, ..CommandEffects::default() }
    }

    /// Takes the next revision, once for a command.
    pub(crate) fn begin_revision(&mut self, effects: &mut CommandEffects) -> Revision {
        if !effects.advanced {
            effects.advanced = true;
            self.revision += 1;
        }
        self.revision
    }

    /// Sets or removes an entry, with its place in its lease and in the history.
    pub(crate) fn set_entry(
        &mut self,
        key: &[u8],
        entry: Option<Arc<KeyValue>>,
        revision: Revision,
        effects: &mut CommandEffects,
    ) {
        let before = self.place_entry(key, entry.clone());
        self.history.push(key, revision, entry, before.clone(), &self.quota);
        effects.keys.insert(key.to_vec());
        let lease = before.as_ref().and_then(|entry| entry.lease);
        effects.undo.push(Undo::Entry(key.to_vec(), before));
        // A dedicated lease ends with its key.
        let is_over = |id: &LeaseId| self.leases.get(id).is_some_and(|lease| lease.dedicated && lease.keys.is_empty());
        if let Some(lease) = lease.filter(is_over) {
            self.set_lease(lease, None, effects);
        }
    }

    pub(crate) fn set_lease(&mut self, id: LeaseId, lease: Option<Lease>, effects: &mut CommandEffects) {
        let before = match lease {
            Some(lease) => self.leases.insert(id, lease),
            None => self.leases.remove(&id),
        };
        effects.leases.insert(id);
        effects.undo.push(Undo::Lease(id, before));
    }

    /// Puts an entry in its place; returns the entry that was there.
    fn place_entry(&mut self, key: &[u8], entry: Option<Arc<KeyValue>>) -> Option<Arc<KeyValue>> {
        let lease = entry.as_ref().and_then(|entry| entry.lease);
        let size = entry.as_ref().map_or(0, |entry| entry.size());
        let before = match entry {
            Some(entry) => self.entries.insert(key.to_vec(), entry),
            None => self.entries.remove(key),
        };
        self.bytes = self.bytes + size - before.as_ref().map_or(0, |entry| entry.size());
        if let Some(lease) = before.as_ref().and_then(|entry| entry.lease)
            && let Some(lease) = self.leases.get_mut(&lease)
        {
            lease.keys.remove(key);
        }
        if let Some(lease) = lease
            && let Some(lease) = self.leases.get_mut(&lease)
        {
            lease.keys.insert(key.to_vec());
        }
        before
    }

    /// Takes the effects of a command back. Commands are reverted in the opposite order.
    pub fn revert(&mut self, effects: CommandEffects) {
        for undo in effects.undo.into_iter().rev() {
            match undo {
                Undo::Entry(key, entry) => drop(self.place_entry(&key, entry)),
                Undo::Lease(id, Some(lease)) => drop(self.leases.insert(id, lease)),
                Undo::Lease(id, None) => drop(self.leases.remove(&id)),
            }
        }
        self.history.revert_to(effects.before);
        self.revision = effects.before;
    }
}
