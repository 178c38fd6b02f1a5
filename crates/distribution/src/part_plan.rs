//! The parts of one layer on their way to one machine.
//!
//! ```text
//! Missing ─ next ─► UnderWay(source) ─ verified ─► Verified
//!    ▲                     │
//!    └─────── failed ──────┘
//! ```
//! Each source sends one part at a time. A fast source therefore sends more parts than a slow one, and a source that fails
//! costs one part. A source that is slow beside another one sends no further part while the other one is offered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::limits::{SLOW_PART, SLOW_TIMES, SOURCES_AT_ONCE};
use crate::member::LayerSource;

/// State of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PartState {
    Missing,
    UnderWay(LayerSource),
    Verified,
}

/// Decides which source sends which part of a layer. Parts have numbers from 0 on.
#[derive(Debug)]
pub struct PartPlan {
    parts: Vec<PartState>,
    /// The sources that may send parts.
    offered: BTreeSet<LayerSource>,
    /// The sources that failed.
    failed: BTreeSet<LayerSource>,
    /// The sources that have been started and not ended.
    working: BTreeSet<LayerSource>,
    /// The time that the last part of each source took.
    pace: BTreeMap<LayerSource, Duration>,
}

impl PartPlan {
    /// Makes the plan of a layer with `count` parts. The receiver has some of the parts already.
    #[must_use]
    pub fn new(count: usize, verified: &BTreeSet<usize>) -> Self {
        let state = |part| if verified.contains(&part) { PartState::Verified } else { PartState::Missing };
        let parts = (0..count).map(state).collect();
        let (offered, failed, working) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Self { parts, offered, failed, working, pace: BTreeMap::new() }
    }

    /// Replaces the sources that may send parts: the first [`SOURCES_AT_ONCE`] that have not failed. A source that is no
    /// longer offered ends after its part.
    pub fn offer(&mut self, sources: impl IntoIterator<Item = LayerSource>) {
        let usable = sources.into_iter().filter(|source| !self.failed.contains(source));
        self.offered = usable.take(SOURCES_AT_ONCE).collect();
    }

    /// Starts sources, and returns them. The caller takes parts for each with [`PartPlan::next`] until there is none.
    pub fn start(&mut self) -> Vec<LayerSource> {
        let room = SOURCES_AT_ONCE.saturating_sub(self.working.len()).min(self.count(&PartState::Missing));
        let idle = self.offered.difference(&self.working).filter(|source| !self.is_slow(source));
        let started: Vec<LayerSource> = idle.take(room).cloned().collect();
        self.working.extend(started.iter().cloned());
        started
    }

    /// Returns the next part for a started source. Without a part for it, the source has ended.
    pub fn next(&mut self, source: &LayerSource) -> Option<usize> {
        let is_usable = self.working.contains(source) && self.offered.contains(source) && !self.is_slow(source);
        let part = self.parts.iter().position(|part| *part == PartState::Missing).filter(|_| is_usable);
        match part {
            Some(part) => self.parts[part] = PartState::UnderWay(source.clone()),
            None => {
                self.working.remove(source);
            }
        }
        part
    }

    /// Takes note that the part under way from a source has arrived after some time, and is the right one.
    pub fn verified(&mut self, source: &LayerSource, took: Duration) {
        self.settle(source, &PartState::Verified);
        self.pace.insert(source.clone(), took);
    }

    /// Returns whether another source that is offered is much faster. The fastest source is never slow.
    fn is_slow(&self, source: &LayerSource) -> bool {
        let Some(pace) = self.pace.get(source).filter(|pace| **pace > SLOW_PART) else { return false };
        let mut others = self.offered.iter().filter(|other| *other != source);
        others.any(|other| self.pace.get(other).is_some_and(|other| *pace > *other * SLOW_TIMES))
    }

    /// Takes note that a source has failed. The source has ended, sends no further part, and its part is missing again.
    pub fn failed(&mut self, source: &LayerSource) {
        self.settle(source, &PartState::Missing);
        self.working.remove(source);
        self.offered.remove(source);
        self.failed.insert(source.clone());
    }

    /// Lets a source that failed send again, once the source is offered again.
    pub fn allow(&mut self, source: &LayerSource) {
        self.failed.remove(source);
    }

    fn settle(&mut self, source: &LayerSource, state: &PartState) {
        let under_way = PartState::UnderWay(source.clone());
        self.parts.iter_mut().filter(|part| **part == under_way).for_each(|part| *part = state.clone());
    }

    fn count(&self, state: &PartState) -> usize {
        self.parts.iter().filter(|part| *part == state).count()
    }

    /// Returns whether all parts have arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.count(&PartState::Verified) == self.parts.len()
    }

    /// Returns whether a source sends or may send.
    #[must_use]
    pub fn has_source(&self) -> bool {
        !self.offered.is_empty() || !self.working.is_empty()
    }

    /// Returns whether no source sends.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.working.is_empty()
    }
}

#[cfg(test)]
mod tests;
