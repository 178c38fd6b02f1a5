//! The queue of events in virtual time. Events of the same moment come in the order in which they were added.

use std::collections::BTreeMap;

use gantry_model::Moment;

use crate::events::Event;

/// Moment at which every run begins.
pub(crate) const BEGIN: Moment = Moment(1_000_000_000);

/// All future events.
#[derive(Debug)]
pub(crate) struct Timeline {
    /// The present moment.
    pub(crate) now: Moment,
    added: u64,
    events: BTreeMap<(Moment, u64), Event>,
}

impl Timeline {
    /// Creates an empty queue.
    pub(crate) fn new() -> Self {
        Self { now: BEGIN, added: 0, events: BTreeMap::new() }
    }

    /// Adds an event `millis` from now.
    pub(crate) fn after(&mut self, millis: u64, event: Event) {
        self.added += 1;
        self.events.insert((Moment(self.now.0 + millis), self.added), event);
    }

    /// Takes the next event before `end`, and moves the present moment there.
    pub(crate) fn next(&mut self, end: Moment) -> Option<Event> {
        let entry = self.events.first_entry().filter(|entry| entry.key().0 < end)?;
        let ((at, _), event) = entry.remove_entry();
        self.now = at;
        Some(event)
    }
}
