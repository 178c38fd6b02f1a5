//! Missed times, limits of runs, and overlap.

use gantry_model::Moment;
use proptest::prelude::*;

use super::{at, cron};
use crate::{MissedPolicy, Overlap, OverlapPolicy, Progress, Schedule, Timing, Zone, parse_rfc3339, rfc3339};

#[test]
fn moments_are_read_and_written_in_rfc_3339() {
    let moment = at("2026-11-30T06:00:00Z");
    assert_eq!(rfc3339(moment), "2026-11-30T06:00:00Z");
    assert_eq!(parse_rfc3339("2026-11-30T07:00:00+01:00"), Some(moment));
    assert_eq!((parse_rfc3339("1960-01-01T00:00:00Z"), parse_rfc3339("tomorrow")), (None, None));
}

const HOUR: u64 = 3_600_000;

fn hourly(missed: MissedPolicy) -> Schedule {
    Schedule { missed, ..Schedule::cron(cron("0 * * * *"), Zone::utc()) }
}

#[test]
fn missed_times_follow_the_policy() {
    let created = at("2026-11-30T00:30:00Z");
    let noon = at("2026-11-30T04:00:10Z");
    let late = at("2026-11-30T04:30:00Z");
    let run = |missed, now| {
        let due = Progress::new(created).due_times(&hourly(missed), now);
        (due.run.len(), due.skipped, due.run.last().copied())
    };
    let four = Some(at("2026-11-30T04:00:00Z"));
    assert_eq!(run(MissedPolicy::Skip, noon), (1, 3, four));
    assert_eq!(run(MissedPolicy::Once, noon), (1, 3, four));
    assert_eq!(run(MissedPolicy::All, noon), (4, 0, four));
    assert_eq!(run(MissedPolicy::Skip, late), (0, 4, None));
    assert_eq!(run(MissedPolicy::Once, late), (1, 3, four));
    assert_eq!(run(MissedPolicy::All, late), (4, 0, four));
    assert_eq!(run(MissedPolicy::Once, created), (0, 0, None));
}

#[test]
fn a_long_absence_costs_a_bounded_number_of_runs() {
    let created = at("2026-11-30T00:00:00Z");
    let month = Moment(created.0 + 30 * 24 * HOUR);
    let second = Schedule { missed: MissedPolicy::All, ..Schedule::new(Timing::Every(1)) };
    let due = Progress::new(created).due_times(&second, month);
    assert_eq!((due.run.len(), due.run.last(), due.handled), (100, Some(&month), month));
    let once = Schedule { missed: MissedPolicy::Once, ..second };
    let runs = Progress::new(created).due_times(&once, month).run;
    assert_eq!(runs.last(), Some(&month));
}

#[test]
fn a_start_that_passes_while_the_request_is_on_its_way_is_due() {
    let created = at("2026-11-30T06:00:00Z");
    let first = |ago: u64| {
        let schedule = Schedule { start: Some(Moment(created.0 - ago)), ..Schedule::new(Timing::Every(3600)) };
        Progress::requested(created, &schedule).due_times(&schedule, created).run
    };
    assert_eq!(first(0), [created]);
    assert_eq!(first(7), [Moment(created.0 - 7)]);
    assert!(first(HOUR / 2).is_empty());
}

#[test]
fn start_end_and_count_bound_the_times() {
    let created = at("2026-11-30T00:00:00Z");
    let start = at("2026-12-01T00:00:00Z");
    let mut schedule = Schedule { start: Some(start), count: Some(2), ..hourly(MissedPolicy::Once) };
    let progress = Progress::new(created);
    assert_eq!(progress.upcoming(&schedule, 5), [start, Moment(start.0 + HOUR)]);
    schedule.end = Some(start);
    assert_eq!(progress.upcoming(&schedule, 5), [start]);
    schedule.timing = Timing::Every(60);
    assert_eq!(progress.upcoming(&schedule, 5), [start]);
    schedule.timing = Timing::Once;
    assert_eq!(progress.upcoming(&schedule, 5), [start]);
    // A start in the past runs once, at the creation.
    schedule = Schedule { start: Some(Moment(5)), ..Schedule::new(Timing::Once) };
    assert_eq!(progress.upcoming(&schedule, 5), [created]);
    let every = Schedule::new(Timing::Every(60));
    assert_eq!(progress.next(&every), Some(Moment(created.0 + 60_000)));
}

#[test]
fn overlap_follows_the_policy() {
    for (policy, open) in [
        (OverlapPolicy::Allow, Overlap::Run),
        (OverlapPolicy::Forbid, Overlap::Skip),
        (OverlapPolicy::Replace, Overlap::Replace),
    ] {
        assert_eq!((Overlap::decide(policy, true), Overlap::decide(policy, false)), (open, Overlap::Run));
    }
}

proptest! {
    /// However the turns fall, no time runs twice, and with the policy "all" none is lost.
    #[test]
    fn turns_split_the_times(pauses in proptest::collection::vec(1u64..7_200_000, 1..40), every in 1u64..3000) {
        let created = Moment(1_790_000_000_000);
        let schedule = Schedule { missed: MissedPolicy::All, ..Schedule::new(Timing::Every(every)) };
        let (mut progress, mut now, mut ran) = (Progress::new(created), created, Vec::new());
        for pause in pauses {
            now = Moment(now.0 + pause.min(every * 90_000));
            let due = progress.due_times(&schedule, now);
            ran.extend(due.run.iter().map(|time| time.0));
            progress = Progress { handled: due.handled, runs: progress.runs + due.run.len() as u64, ..progress };
        }
        let expected: Vec<u64> = (1..).map(|n| created.0 + n * every * 1000).take_while(|time| *time <= now.0).collect();
        prop_assert_eq!(ran, expected);
    }
}
