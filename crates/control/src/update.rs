//! Replication of a part by differences from a revision.
//!
//! A sender keeps what it sent last and sends only the items that changed since. A receiver applies a difference only to
//! the revision that the difference was made from; otherwise it asks for the complete part. A receiver never goes back
//! to an older revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Items of a part by key, such as `route/shop.example`.
pub type Items = BTreeMap<String, Value>;

/// A change of a part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Revision that the change applies to; `None` if the update is the complete part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Revision after the change.
    pub revision: u64,
    /// New and changed items.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: Items,
    /// Keys of removed items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

/// An item that a receiver could not read, and therefore keeps as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadItem {
    /// Key of the item.
    pub key: String,
    /// The reason.
    pub reason: String,
}

/// A part that is sent item by item.
pub trait SentPart: Default {
    /// Adds to `update` the items that differ from `old`, and the keys of the items that `old` has and this part lacks.
    fn difference(&self, old: &Self, update: &mut Update);
}

/// A part that is replicated item by item.
pub trait Replicated: SentPart + Clone {
    /// Applies the items of an update. Items with an unknown kind of key are passed over. Returns the items that could
    /// not be read; they stay as they were.
    fn apply(&mut self, update: &Update) -> Vec<UnreadItem>;

    /// Takes an item from the previous part, if that part has the item.
    fn keep(&mut self, before: &Self, key: &str);
}

/// Sends a part to one receiver. All senders of a part share the part.
#[derive(Debug)]
pub struct UpdateSender<T> {
    /// Revision that the receiver has.
    known: Option<u64>,
    /// The part at that revision, if this sender sent it.
    sent: Option<Arc<T>>,
}

/// The change of a part from a receiver's revision to a newer revision.
#[derive(Debug)]
pub struct PartStep<T> {
    base: Option<(u64, Arc<T>)>,
    revision: u64,
    part: Arc<T>,
}

impl<T: SentPart> PartStep<T> {
    /// The revisions before and after the step; none before a complete part.
    #[must_use]
    pub fn revisions(&self) -> (Option<u64>, u64) {
        (self.base.as_ref().map(|(revision, _)| *revision), self.revision)
    }

    /// The update that carries out the step.
    #[must_use]
    pub fn update(&self) -> Update {
        let (base, revision) = self.revisions();
        let mut update = Update { base, revision, ..Update::default() };
        match &self.base {
            Some((_, before)) => self.part.difference(before, &mut update),
            None => self.part.difference(&T::default(), &mut update),
        }
        update
    }
}

impl<T: SentPart> UpdateSender<T> {
    /// Creates a sender for a receiver that has the part at `known`.
    #[must_use]
    pub fn new(known: Option<u64>) -> Self {
        Self { known, sent: None }
    }

    /// Returns the step that brings the receiver to `part` at `revision`; none if the receiver has this revision or a
    /// newer one.
    pub fn advance(&mut self, revision: u64, part: &Arc<T>) -> Option<PartStep<T>> {
        if self.known.is_some_and(|known| known >= revision) {
            // The receiver's part is this one: the next difference is made from it.
            if self.known == Some(revision) && self.sent.is_none() {
                self.sent = Some(Arc::clone(part));
            }
            return None;
        }
        let base = self.known.zip(self.sent.take());
        (self.known, self.sent) = (Some(revision), Some(Arc::clone(part)));
        Some(PartStep { base, revision, part: Arc::clone(part) })
    }

    /// As [`UpdateSender::advance`], of a part that no other sender has. Returns the update.
    pub fn next(&mut self, revision: u64, part: &T) -> Option<Update>
    where
        T: Clone,
    {
        self.advance(revision, &Arc::new(part.clone())).map(|step| step.update())
    }

    /// Forgets what the receiver has: the next update is complete.
    pub fn resend(&mut self) {
        (self.known, self.sent) = (None, None);
    }
}

/// Sends a report to one receiver. Reports have no revision of their own; the sender counts.
#[derive(Debug)]
pub struct ReportSender<R> {
    count: u64,
    updates: UpdateSender<R>,
}

impl<R> Default for ReportSender<R> {
    fn default() -> Self {
        Self { count: 0, updates: UpdateSender { known: None, sent: None } }
    }
}

impl<R: Replicated + PartialEq> ReportSender<R> {
    /// Returns the update to `report`; none if nothing changed.
    pub fn next(&mut self, report: &R) -> Option<Update> {
        if self.updates.sent.as_deref() == Some(report) {
            return None;
        }
        self.count += 1;
        self.updates.next(self.count, report)
    }

    /// Forgets what the receiver has: the next update is complete.
    pub fn resend(&mut self) {
        self.updates.resend();
    }
}

/// Outcome of an update at its receiver.
#[derive(Debug, PartialEq, Eq)]
pub enum Receipt {
    /// The part is at a newer revision.
    Applied(Vec<UnreadItem>),
    /// The update is not newer than the part.
    Old,
    /// The update is a difference from another revision; the complete part is needed.
    Gap,
}

/// Receives a part.
#[derive(Debug)]
pub struct UpdateReceiver<T> {
    known: Option<(u64, Arc<T>)>,
}

impl<T: Replicated> UpdateReceiver<T> {
    /// Creates a receiver that has the part at a revision, or no part.
    #[must_use]
    pub fn new(known: Option<(u64, T)>) -> Self {
        Self { known: known.map(|(revision, part)| (revision, Arc::new(part))) }
    }

    /// Revision of the part.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.known.as_ref().map(|(revision, _)| *revision)
    }

    /// The part.
    #[must_use]
    pub fn part(&self) -> Option<&T> {
        self.shared().map(AsRef::as_ref)
    }

    /// The part, to be shared. The next update changes a copy while others have the part.
    #[must_use]
    pub fn shared(&self) -> Option<&Arc<T>> {
        self.known.as_ref().map(|(_, part)| part)
    }

    /// Receives an update.
    pub fn receive(&mut self, update: &Update) -> Receipt {
        if self.revision().is_some_and(|known| update.revision <= known) {
            return Receipt::Old;
        }
        let unread = match (&update.base, &mut self.known) {
            (None, known) => {
                // Items that cannot be read keep their former state even in a complete part.
                let mut next = T::default();
                let unread = next.apply(update);
                if let Some((_, before)) = &*known {
                    unread.iter().for_each(|item| next.keep(before, &item.key));
                }
                *known = Some((update.revision, Arc::new(next)));
                unread
            }
            (Some(base), Some((revision, part))) if *base == *revision => {
                *revision = update.revision;
                Arc::make_mut(part).apply(update)
            }
            (Some(_), _) => return Receipt::Gap,
        };
        Receipt::Applied(unread)
    }
}
