//! Steps: the effects of a command on the records, and the way back.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::Moment;

use crate::lease::Lease;
use crate::{Entry, Key, KeyRange, Keyspace, LeaseId, Revision};

/// Effects of one command. The caller writes the records of the changed keys and leases, or reverts the step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
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
    /// Revision before the step.
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
    Entry(Key, Option<Arc<Entry>>),
    Lease(LeaseId, Option<Lease>),
}

impl Step {
    /// Reports whether the step changes no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.leases.is_empty()
    }
}

impl Keyspace {
    pub(crate) fn begin_step(&self, now: Moment) -> Step {
        Step { before: self.revision, now, ..Step::default() }
    }

    /// Takes the next revision, once in a step.
    pub(crate) fn begin_revision(&mut self, step: &mut Step) -> Revision {
        if !step.advanced {
            step.advanced = true;
            self.revision += 1;
        }
        self.revision
    }

    /// Sets or removes an entry, with its place in its lease and in the history.
    pub(crate) fn set_entry(&mut self, key: &[u8], entry: Option<Arc<Entry>>, revision: Revision, step: &mut Step) {
        let before = self.place_entry(key, entry.clone());
        self.history.push(key, revision, entry, before.clone(), &self.quota);
        step.keys.insert(key.to_vec());
        let lease = before.as_ref().and_then(|entry| entry.lease);
        step.undo.push(Undo::Entry(key.to_vec(), before));
        // A dedicated lease ends with its key.
        let is_over = |id: &LeaseId| self.leases.get(id).is_some_and(|lease| lease.dedicated && lease.keys.is_empty());
        if let Some(lease) = lease.filter(is_over) {
            self.set_lease(lease, None, step);
        }
    }

    pub(crate) fn set_lease(&mut self, id: LeaseId, lease: Option<Lease>, step: &mut Step) {
        let before = match lease {
            Some(lease) => self.leases.insert(id, lease),
            None => self.leases.remove(&id),
        };
        step.leases.insert(id);
        step.undo.push(Undo::Lease(id, before));
    }

    /// Puts an entry in its place; returns the entry that was there.
    fn place_entry(&mut self, key: &[u8], entry: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
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

    /// Takes a step back. Steps are reverted in the opposite order.
    pub fn revert(&mut self, step: Step) {
        for undo in step.undo.into_iter().rev() {
            match undo {
                Undo::Entry(key, entry) => drop(self.place_entry(&key, entry)),
                Undo::Lease(id, Some(lease)) => drop(self.leases.insert(id, lease)),
                Undo::Lease(id, None) => drop(self.leases.remove(&id)),
            }
        }
        self.history.revert_to(step.before);
        self.revision = step.before;
    }
}
