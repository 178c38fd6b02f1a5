//! The newest changes of a keyspace, for watches and for reads of the past.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::{Key, KeyRange, KeyValue, Quota, Refusal, Revision};

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Key,
    /// Revision of the change.
    pub revision: Revision,
    /// The new entry; none if the key was removed.
    pub entry: Option<Arc<KeyValue>>,
    /// The entry before.
    pub previous: Option<Arc<KeyValue>>,
}

impl Event {
    fn size(&self) -> usize {
        // A fixed part stands for the event itself, so that events of empty values count, too.
        64 + self.key.len() + self.entry.as_ref().map_or(0, |entry| entry.value.len())
    }
}

/// Changes of a range, for one watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// The changes in order. All changes of a revision are there, or none.
    pub events: Vec<Event>,
    /// Newest revision that the changes cover. The watch goes on after it.
    pub through: Revision,
}

/// Maximum number of events that one look at the history returns. A revision is never split, so there may be more.
const EVENTS_MAX: usize = 512;

/// The history of a keyspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History {
    events: VecDeque<Event>,
    bytes: usize,
    /// Newest revision whose changes are gone.
    compacted: Revision,
}

impl History {
    /// A history that begins after a revision.
    pub(crate) fn after(compacted: Revision) -> Self {
        Self { compacted, ..Self::default() }
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn push(
        &mut self,
        key: &[u8],
        revision: Revision,
        entry: Option<Arc<KeyValue>>,
        previous: Option<Arc<KeyValue>>,
        quota: &Quota,
    ) {
        let event = Event { key: key.to_vec(), revision, entry, previous };
        self.bytes += event.size();
        self.events.push_back(event);
        while self.events.len() > quota.history_events || self.bytes > quota.history_bytes {
            let Some(oldest) = self.events.front().map(|event| event.revision) else { return };
            self.compact(oldest);
        }
    }

    /// Forgets all changes up to a revision.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while self.events.front().is_some_and(|event| event.revision <= revision) {
            self.bytes -= self.events.pop_front().map_or(0, |event| event.size());
        }
        self.compacted = self.compacted.max(revision);
    }

    /// Takes back all changes after a revision.
    pub(crate) fn revert_to(&mut self, revision: Revision) {
        while self.events.back().is_some_and(|event| event.revision > revision) {
            self.bytes -= self.events.pop_back().map_or(0, |event| event.size());
        }
        self.compacted = self.compacted.min(revision);
    }

    /// Returns the changes of a range from a revision on.
    pub(crate) fn events(&self, range: &KeyRange, from: Revision, newest: Revision) -> Result<Events, Refusal> {
        if from <= self.compacted {
            return Err(Refusal::Compacted { asked: from, compacted: self.compacted });
        }
        let first = self.events.partition_point(|event| event.revision < from);
        let (mut events, mut through): (Vec<Event>, _) = (Vec::new(), newest);
        for event in self.events.range(first..) {
            let last = events.last().map(|event| event.revision);
            if events.len() >= EVENTS_MAX && last != Some(event.revision) {
                through = event.revision - 1;
                break;
            }
            if range.contains(&event.key) {
                events.push(event.clone());
            }
        }
        Ok(Events { events, through })
    }

    /// Takes all changes after a revision back from a copy of the entries.
    pub(crate) fn rewind(&self, entries: &mut BTreeMap<Key, Arc<KeyValue>>, revision: Revision) {
        for event in self.events.iter().rev().take_while(|event| event.revision > revision) {
            match &event.previous {
                Some(entry) => drop(entries.insert(event.key.clone(), Arc::clone(entry))),
                None => drop(entries.remove(&event.key)),
            }
        }
    }
}
