//! Offsets of the machines' clocks from this server's clock, as the agents' messages show them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use gantry_model::clock::TOLERANCE;
use gantry_model::{MachineName, Moment};

/// Number of messages that decide an offset. A message may wait on its way, which makes the clock of its machine seem
/// behind.
const SAMPLES: usize = 3;

/// Smallest offset of a warning, in milliseconds. Certificates and join tokens fail from an hour on.
const WARNING_MILLIS: u64 = 60_000;

/// Offsets of the last messages of each connected machine, in milliseconds; the newest last.
#[derive(Default)]
pub(crate) struct ClockOffsets(Mutex<BTreeMap<MachineName, VecDeque<i64>>>);

impl ClockOffsets {
    /// Takes over the time that a machine's message names, and that of its arrival.
    pub(crate) fn observe(&self, machine: &MachineName, sent: Moment, arrived: Moment) {
        let mut all = self.lock();
        let samples = all.entry(machine.clone()).or_default();
        samples.push_back(i64::try_from(sent.0).unwrap_or(i64::MAX).saturating_sub_unsigned(arrived.0));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// Forgets a machine whose connection has ended.
    pub(crate) fn forget(&self, machine: &MachineName) {
        self.lock().remove(machine);
    }

    /// Returns how far a machine's clock is ahead of this server's, in milliseconds; negative if it is behind. None if the
    /// clocks agree, or if the machine is not connected.
    pub(crate) fn of(&self, machine: &MachineName) -> Option<i64> {
        let offset = self.lock().get(machine)?.iter().copied().max()?;
        (offset.unsigned_abs() > TOLERANCE).then_some(offset)
    }

    /// Returns the machines whose clocks are so far off that a warning is due, with their offsets.
    pub(crate) fn wrong(&self) -> Vec<(MachineName, i64)> {
        let machines: Vec<MachineName> = self.lock().keys().cloned().collect();
        let offsets = machines.into_iter().filter_map(|machine| Some((self.of(&machine)?, machine)));
        offsets.filter(|(offset, _)| offset.unsigned_abs() >= WARNING_MILLIS).map(|(by, name)| (name, by)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<MachineName, VecDeque<i64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delayed_message_does_not_make_a_clock_wrong() {
        let (offsets, machine) = (ClockOffsets::default(), MachineName::parse("m1").expect("a name"));
        let arrives = |sent: u64, arrived: u64| {
            offsets.observe(&machine, Moment(1_000_000 + sent), Moment(1_000_000 + arrived));
            offsets.of(&machine)
        };
        assert_eq!(arrives(0, 80), None);
        assert_eq!(arrives(5_000, 90_000), None, "it waited on its way");
        // The clock went back by two minutes.
        assert_eq!(arrives(0, 120_000), None, "the messages before say otherwise");
        assert_eq!((arrives(5_000, 125_000), offsets.wrong()), (Some(-85_000), vec![(machine.clone(), -85_000)]));
        assert_eq!(arrives(10_000, 130_000), Some(-120_000));
        assert_eq!((arrives(200_000, 170_000), offsets.wrong()), (Some(30_000), vec![]));
        offsets.forget(&machine);
        assert_eq!(offsets.of(&machine), None);
    }
}
