//! Schedules of container jobs: when a job is due. Pure: the time is an argument.
//!
//! - [`Schedule`]: a schedule, and its next times. Begin there.
//! - [`Cron`]: cron expressions. `field`: their fields.
//! - [`Zone`]: time zones, from a database that is part of the program.
//! - [`DueTimes`]: the times that are due now. Policies for missed times and for runs that overlap.
//!
//! # Clock changes
//! An expression without `*` in hours, minutes and seconds names fixed times of the day. A fixed time is never lost and never
//! doubled: a time that the clock skips is due right after the gap, and a time that the clock repeats is due at its first pass. Any
//! other expression follows the clock: nothing is due in a gap, and both passes of a repeated hour count.
//!
//! Both rules hold for every change of a zone, also for one of 30 minutes or at midnight. The rules of Debian's cron are the
//! same, except that two times that meet after a gap are due once.

mod cron;
mod due_times;
mod field;
mod occurrence;
mod schedule;
#[cfg(test)]
mod tests;
mod time;
mod zone;

pub use cron::{Cron, InvalidCron};
pub use due_times::{DueTimes, Overlap, Progress};
pub use field::InvalidField;
pub use gantry_model::role::{MissedPolicy, OverlapPolicy};
pub use schedule::{InvalidSchedule, Schedule, Timing};
pub use time::{parse_rfc3339, rfc3339};
pub use zone::{UnknownZone, Zone};
