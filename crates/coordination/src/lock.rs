//! Locks and elections. Each candidate has a key under the name, with a lease. The key with the lowest create revision
//! holds the lock; its create revision is the fencing token. The keys are those of etcd's own locks and elections, so
//! candidates of both interfaces wait in one line.
//!
//! A later holder always has a higher token: the line is in the order of create revisions, and no revision is used twice.

use std::sync::Arc;

use crate::transaction::Put;
use crate::{CommandEffects, Key, KeyRange, KeyValue, Keyspace, LeaseId, Refusal, Revision};

/// State of a lock or an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockState {
    /// The place that holds the lock.
    pub holder: Option<Arc<KeyValue>>,
    /// Number of places behind the holder.
    pub waiting: usize,
}

/// Answer to a candidate that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The place is the first one: the candidate has the lock.
    First,
    /// Another place comes before it.
    Waiting,
    /// The place is gone: its lease ended.
    Gone,
}

/// Key of a candidate's place.
#[must_use]
pub fn place_key(name: &[u8], lease: LeaseId) -> Key {
    let mut key = name.to_vec();
    key.extend(format!("/{:x}", lease.0).bytes());
    key
}

/// Range of all places of a lock.
#[must_use]
pub fn places(name: &[u8]) -> KeyRange {
    let mut prefix = name.to_vec();
    prefix.push(b'/');
    KeyRange::prefix(&prefix)
}

impl Keyspace {
    fn first_place(&self, name: &[u8]) -> Option<&Arc<KeyValue>> {
        self.range(&places(name)).min_by_key(|entry| entry.created)
    }

    fn place(&self, name: &[u8], token: Revision) -> Result<Arc<KeyValue>, Refusal> {
        let found = self.range(&places(name)).find(|entry| entry.created == token && entry.lease.is_some());
        found.cloned().ok_or(Refusal::LockLost)
    }

    /// The state of a lock.
    #[must_use]
    pub fn lock_state(&self, name: &[u8]) -> LockState {
        let waiting = self.range(&places(name)).count().saturating_sub(1);
        LockState { holder: self.first_place(name).cloned(), waiting }
    }

    pub(crate) fn turn(&self, name: &[u8], key: &[u8], token: Revision) -> Turn {
        match (self.entries.get(key), self.first_place(name)) {
            (Some(own), Some(first)) if own.created == token && first.key == own.key => Turn::First,
            (Some(own), _) if own.created == token => Turn::Waiting,
            _ => Turn::Gone,
        }
    }

    pub(crate) fn enter(
        &mut self,
        name: &[u8],
        lease: LeaseId,
        ttl: Option<i64>,
        value: Option<Vec<u8>>,
        effects: &mut CommandEffects,
    ) -> Result<Arc<KeyValue>, Refusal> {
        if let Some(ttl) = ttl {
            self.grant(lease, ttl, true, effects)?;
        }
        if !self.leases.contains_key(&lease) {
            return Err(Refusal::LeaseNotFound);
        }
        let key = place_key(name, lease);
        match self.entries.get(&key) {
            Some(own) if value.as_ref().is_none_or(|value| *value == own.value) => Ok(Arc::clone(own)),
            _ => self.write_place(key, value.unwrap_or_default(), lease, effects),
        }
    }

    fn write_place(
        &mut self,
        key: Key,
        value: Vec<u8>,
        lease: LeaseId,
        effects: &mut CommandEffects,
    ) -> Result<Arc<KeyValue>, Refusal> {
        let put = Put { lease: Some(lease), ..Put::new(key.clone(), value) };
        self.put(put, effects)?;
        self.entries.get(&key).cloned().ok_or(Refusal::LockLost)
    }

    pub(crate) fn renew(
        &mut self,
        name: &[u8],
        token: Revision,
        value: Option<Vec<u8>>,
        effects: &mut CommandEffects,
    ) -> Result<Arc<KeyValue>, Refusal> {
        let own = self.place(name, token)?;
        let lease = own.lease.ok_or(Refusal::LockLost)?;
        self.keep_alive(lease, effects.now).ok_or(Refusal::LockLost)?;
        match value {
            Some(value) if value != own.value => self.write_place(own.key.clone(), value, lease, effects),
            _ => Ok(own),
        }
    }

    pub(crate) fn leave(&mut self, name: &[u8], token: Revision, effects: &mut CommandEffects) -> Result<(), Refusal> {
        let own = self.place(name, token)?;
        let revision = self.begin_revision(effects);
        self.set_entry(&own.key, None, revision, effects);
        Ok(())
    }
}
