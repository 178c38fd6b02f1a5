//! The times that are due now, under the policies for missed times and for runs that overlap.

use gantry_model::Moment;
use serde::{Deserialize, Serialize};

use crate::{MissedPolicy, OverlapPolicy, Schedule};

/// Age from which a time counts as missed, in milliseconds. Restarts of the server are shorter.
const MISSED_MILLIS: u64 = 60_000;

/// Maximum number of runs of one pass: the newest missed times of the policy [`MissedPolicy::All`].
const RUNS_MAX: usize = 100;

/// Maximum number of times that a pass reads from the last handled one on. A schedule with more times than this
/// since then is dense, and only the times of the last [`DENSE_MILLIS`] matter.
const TIMES_SCANNED_MAX: usize = 1000;
const DENSE_MILLIS: u64 = 15 * 60 * 1000;

/// Longest time that a request is on its way.
const ON_THE_WAY_MILLIS: u64 = 60 * 1000;

/// Progress of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Creation of the schedule.
    pub created: Moment,
    /// All times up to this moment are handled: run, or skipped.
    pub handled: Moment,
    /// Number of runs.
    pub runs: u64,
}

/// The times that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTimes {
    /// Times to run, the oldest first.
    pub run: Vec<Moment>,
    /// Number of times that the policy for missed times skips.
    pub skipped: u64,
    /// All times up to this moment are handled once these times are.
    pub handled: Moment,
}

/// Decision about a due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// The job is queued.
    Run,
    /// No job is queued.
    Skip,
    /// The last job is cancelled, and the job is queued.
    Replace,
}

impl Progress {
    /// The progress of a new schedule.
    #[must_use]
    pub fn new(created: Moment) -> Self {
        // A time at the moment of the creation itself is still due.
        Self { created, handled: Moment(created.0.saturating_sub(1)), runs: 0 }
    }

    /// The progress of a new schedule that a request brought. A start that passed while the request was on its way is
    /// still due.
    #[must_use]
    pub fn requested(created: Moment, schedule: &Schedule) -> Self {
        let passed = |start: &Moment| *start <= created && created.since(*start) <= ON_THE_WAY_MILLIS;
        let due_from = schedule.start.filter(passed).unwrap_or(created);
        Self { created, ..Self::new(due_from) }
    }

    /// The next time; none if the schedule is over.
    #[must_use]
    pub fn next(&self, schedule: &Schedule) -> Option<Moment> {
        let runs_left = schedule.count.is_none_or(|count| self.runs < count);
        schedule.next_after(self.created, self.handled).filter(|_| runs_left)
    }

    /// The next `most` times.
    #[must_use]
    pub fn upcoming(&self, schedule: &Schedule, most: usize) -> Vec<Moment> {
        let mut progress = *self;
        let mut times = Vec::new();
        while let Some(next) = progress.next(schedule).filter(|_| times.len() < most) {
            times.push(next);
            progress = Self { handled: next, runs: progress.runs + 1, ..progress };
        }
        times
    }

    /// The times that are due at `now`.
    #[must_use]
    pub fn due_times(&self, schedule: &Schedule, now: Moment) -> DueTimes {
        let mut due = Vec::new();
        let mut after = self.handled;
        while let Some(next) = schedule.next_after(self.created, after).filter(|next| *next <= now) {
            due.push(next);
            let dense = due.len() == TIMES_SCANNED_MAX;
            after = if dense { next.max(Moment(now.0.saturating_sub(DENSE_MILLIS))) } else { next };
        }
        let all = due.len();
        let missed = due.partition_point(|time| now.since(*time) > MISSED_MILLIS);
        let mut run = match schedule.missed {
            MissedPolicy::Skip => due.split_off(missed),
            // A time that is not missed runs for the missed ones, too.
            MissedPolicy::Once => due.split_off(missed.min(all.saturating_sub(1))),
            MissedPolicy::All => due.split_off(all.saturating_sub(RUNS_MAX)),
        };
        if let Some(count) = schedule.count {
            let left = usize::try_from(count.saturating_sub(self.runs)).unwrap_or(usize::MAX);
            run.truncate(left);
        }
        let skipped = (all - run.len()) as u64;
        DueTimes { run, skipped, handled: now.max(self.handled) }
    }
}

impl Overlap {
    /// Decides about a due time. `open`: the last job of the schedule still waits or runs.
    #[must_use]
    pub fn decide(policy: OverlapPolicy, open: bool) -> Self {
        match policy {
            OverlapPolicy::Forbid if open => Self::Skip,
            OverlapPolicy::Replace if open => Self::Replace,
            _ => Self::Run,
        }
    }
}
