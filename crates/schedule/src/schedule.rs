//! Schedules.

use gantry_model::Moment;
use gantry_model::role::{MissedPolicy, OverlapPolicy};
use serde::{Deserialize, Serialize};

use crate::{Cron, Progress, Zone};

/// Longest interval, in seconds: 366 days.
const EVERY_MAX: u64 = 366 * 24 * 3600;

/// When a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Schedule {
    /// Times, between `start` and `end`.
    pub timing: Timing,
    /// No time before this moment is due.
    pub start: Option<Moment>,
    /// No time after this moment is due.
    pub end: Option<Moment>,
    /// Maximum number of runs.
    pub count: Option<u64>,
    /// Policy for times at which the server was away.
    pub missed: MissedPolicy,
    /// Policy for a time at which the last job of the schedule still waits or runs.
    pub overlap: OverlapPolicy,
}

/// Times of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timing {
    /// By the wall clock of a zone.
    Cron {
        /// The expression.
        cron: Cron,
        /// The zone.
        zone: Zone,
    },
    /// At an interval in seconds, from the start.
    Every(u64),
    /// Once, at the start.
    Once,
}

/// Reason why a schedule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// Expression and interval are both given.
    #[error("a schedule has a cron expression or an interval, not both")]
    TwoTimings,
    /// Neither expression, interval nor start is given.
    #[error("a schedule needs a cron expression, an interval, or a start to run once")]
    NoTiming,
    /// A time zone without an expression.
    #[error("a time zone belongs to a cron expression; an interval has none")]
    StrayZone,
    /// The interval is out of its range.
    #[error("the interval is {0} s; choose 1 to {EVERY_MAX}")]
    Interval(u64),
    /// The number of runs is zero.
    #[error("the number of runs is 0; choose 1 or more")]
    NoRuns,
    /// No time is ever due.
    #[error("the schedule never runs: no time from now on matches it")]
    Never,
}

/// A schedule as files and requests have it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<Cron>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<Zone>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    missed: MissedPolicy,
    overlap: OverlapPolicy,
}

impl TryFrom<Fields> for Schedule {
    type Error = InvalidSchedule;

    fn try_from(fields: Fields) -> Result<Self, InvalidSchedule> {
        let timing = match (fields.cron, fields.every) {
            (Some(_), Some(_)) => return Err(InvalidSchedule::TwoTimings),
            (Some(cron), None) => Timing::Cron { cron, zone: fields.timezone.unwrap_or_else(Zone::utc) },
            (None, _) if fields.timezone.is_some() => return Err(InvalidSchedule::StrayZone),
            (None, Some(every)) => Timing::Every(every),
            (None, None) if fields.start.is_none() => return Err(InvalidSchedule::NoTiming),
            (None, None) => Timing::Once,
        };
        let Fields { start, end, count, missed, overlap, .. } = fields;
        Ok(Self { timing, start, end, count, missed, overlap })
    }
}

impl From<Schedule> for Fields {
    fn from(schedule: Schedule) -> Self {
        let (cron, timezone, every) = match schedule.timing {
            Timing::Cron { cron, zone } => (Some(cron), Some(zone), None),
            Timing::Every(every) => (None, None, Some(every)),
            Timing::Once => (None, None, None),
        };
        let Schedule { start, end, count, missed, overlap, .. } = schedule;
        Self { cron, timezone, every, start, end, count, missed, overlap }
    }
}

impl Schedule {
    /// A schedule by the wall clock, with the default policies.
    #[must_use]
    pub fn cron(cron: Cron, zone: Zone) -> Self {
        Self::new(Timing::Cron { cron, zone })
    }

    /// A schedule with the default policies.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        let (missed, overlap) = (MissedPolicy::default(), OverlapPolicy::default());
        Self { timing, start: None, end: None, count: None, missed, overlap }
    }

    /// Checks a new schedule.
    ///
    /// # Errors
    /// [`InvalidSchedule`]: a number is out of its range, or the schedule never runs.
    pub fn check(&self, now: Moment) -> Result<(), InvalidSchedule> {
        match self.timing {
            Timing::Every(every) if !(1..=EVERY_MAX).contains(&every) => return Err(InvalidSchedule::Interval(every)),
            _ if self.count == Some(0) => return Err(InvalidSchedule::NoRuns),
            _ => {}
        }
        Progress::requested(now, self).next(self).map(|_| ()).ok_or(InvalidSchedule::Never)
    }

    /// The zone whose wall clock the schedule follows.
    #[must_use]
    pub fn zone(&self) -> Zone {
        match &self.timing {
            Timing::Cron { zone, .. } => zone.clone(),
            Timing::Every(_) | Timing::Once => Zone::utc(),
        }
    }

    /// The first time after `after`. `created`: an interval without a start counts from here. Does not know how often the
    /// schedule has run.
    pub(crate) fn next_after(&self, created: Moment, after: Moment) -> Option<Moment> {
        let start = self.start.unwrap_or_default();
        let next = match &self.timing {
            Timing::Cron { cron, zone } => {
                // The start itself may be due.
                let before = if after < start { start.0.div_ceil(1000).saturating_sub(1) } else { after.0 / 1000 };
                let due = cron.next_after(zone, i64::try_from(before).ok()?)?;
                Moment(u64::try_from(due).ok()?.checked_mul(1000)?)
            }
            Timing::Every(seconds) => {
                let first = self.start.unwrap_or(Moment(created.0.checked_add(seconds.checked_mul(1000)?)?));
                let every = seconds.saturating_mul(1000).max(1);
                match after.0.checked_sub(first.0) {
                    None => first,
                    Some(gone) => Moment(first.0.checked_add((gone / every + 1).checked_mul(every)?)?),
                }
            }
            // A start in the past is due at the creation.
            Timing::Once => Some(start.max(created)).filter(|due| after < *due)?,
        };
        self.end.is_none_or(|end| next <= end).then_some(next)
    }
}
