//! A machine and its report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_model::{Digest, MachineName};

use crate::limits::{FAULTS_HALVED, LAYERS_MAX};

/// Source of a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerSource {
    /// The servers.
    Server,
    /// A machine that has the layer.
    Machine(MachineName),
}

/// A layer that a machine wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedLayer {
    /// The machines that were sources and failed.
    pub failed: BTreeSet<MachineName>,
    /// The source of a transfer under way.
    pub from: Option<LayerSource>,
}

/// The layers of a machine. A machine reports after each change, and when it connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerReport {
    /// Layers that the machine has verified and can send.
    pub has: BTreeSet<Digest>,
    /// Layers that the machine wants.
    pub wants: BTreeMap<Digest, WantedLayer>,
}

impl LayerReport {
    /// Drops layers beyond [`LAYERS_MAX`], and failures that can make no difference any more.
    pub(crate) fn bounded(mut self) -> Self {
        self.has = self.has.into_iter().take(LAYERS_MAX).collect();
        self.wants = self.wants.into_iter().take(LAYERS_MAX).collect();
        for want in self.wants.values_mut().filter(|want| want.failed.len() > LAYERS_MAX) {
            want.failed = std::mem::take(&mut want.failed).into_iter().take(LAYERS_MAX).collect();
        }
        self
    }
}

/// State of a machine.
#[derive(Debug, Default)]
pub(crate) struct Member {
    pub(crate) report: LayerReport,
    pub(crate) seen: Duration,
    /// The machine fell silent: its report does not count.
    pub(crate) is_silent: bool,
    /// Transfers that began from this machine.
    pub(crate) sent: u64,
    /// Transfers from this machine that failed.
    pub(crate) faults: Faults,
}

/// Failures of a machine as a source. A link that was bad once is not bad for ever: each [`FAULTS_HALVED`] without a
/// failure halves the count.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Number of failures that counted at `since`.
    count: u64,
    /// Time of the last failure.
    since: Duration,
}

impl Faults {
    /// Counts a failure.
    pub(crate) fn add(&mut self, now: Duration) {
        *self = Self { count: self.at(now) + 1, since: now };
    }

    /// Number of failures that count now.
    pub(crate) fn at(self, now: Duration) -> u64 {
        let halvings = now.saturating_sub(self.since).as_secs() / FAULTS_HALVED.as_secs();
        u32::try_from(halvings).ok().and_then(|halvings| self.count.checked_shr(halvings)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_less_with_time() {
        let half = FAULTS_HALVED.as_secs();
        for (failures, after, counted) in [
            (0, 0, 0),
            (4, 0, 4),
            (4, half - 1, 4),
            (4, half, 2),
            (4, 2 * half, 1),
            (4, 3 * half, 0),
            (1, half, 0),
            (5, half, 2),
            (5, 64 * half, 0),
            (5, u64::MAX - 100, 0),
        ] {
            let mut faults = Faults::default();
            (0..failures).for_each(|_| faults.add(Duration::from_secs(100)));
            let now = Duration::from_secs(100 + after);
            assert_eq!(faults.at(now), counted, "{failures} failures, {after} s ago");
        }
    }

    #[test]
    fn a_further_failure_is_added_to_those_that_still_count() {
        let mut faults = Faults::default();
        (0..4).for_each(|_| faults.add(Duration::ZERO));
        faults.add(FAULTS_HALVED);
        assert_eq!([1_u32, 2].map(|times| faults.at(times * FAULTS_HALVED)), [3, 1]);
        assert_eq!(faults.at(Duration::ZERO), 3, "a time before the last failure");
    }
}
