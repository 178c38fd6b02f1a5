//! Jumps of the wall clock.

use gantry_model::clock::{ClockJump, ClockReading, SteadyClock, TOLERANCE};
use gantry_model::{AuditAction, DeployNumber, DeployState, Generation, InstanceGoal, Kind, Moment};
use gantry_records::{DestroyedApp, RecordIndex, StoreRecord};

use super::events::assigned;
use super::*;
use crate::{JumpedRecords, newest_stamp, stamps_ahead};

#[test]
fn a_clock_jump_moves_the_timestamps() {
    let mut records = released(&[push_of("a")]);
    let started = Actor::new(&records, Moment(10_000_000), "alice").start_deploy(&shop(), push_of("b"), false);
    let open = apply(&mut records, started);
    let done = *records.deploys[&shop()].keys().next().expect("the first");
    for by in [-3_600_000i64, 3_600_000] {
        let now = Moment(10_005_000).moved(by);
        let jump = ClockJump { at: now, by, suspended: 0 };
        let mut jumped = records.clone();
        let moved = JumpedRecords::new(&records, jump, now, None);
        moved.changes(&records).into_iter().for_each(|change| jumped.apply(change));
        let stamps = |records: &RecordIndex, number| {
            let deploy = &records.deploys[&shop()][&number];
            (deploy.entered, deploy.progressed, deploy.created)
        };
        let moved = Moment(10_000_000).moved(by);
        assert_eq!(stamps(&jumped, open), (moved, moved, Moment(10_000_000)), "{by}");
        assert_eq!(stamps(&jumped, done), stamps(&records, done), "history stays");
        let told = jumped.events.values().next_back().expect("an event");
        assert!(told.at == now && told.what.starts_with("the clock of the machine went "), "{told:?}");
        assert!(matches!(told.action, Some(AuditAction::ClockJumped { .. })));
        let numbers: Vec<u64> = jumped.events.keys().copied().collect();
        assert!(numbers.is_sorted(), "the trail keeps its order");
    }
}

/// Time of the stamps before the jump.
const AT: Moment = Moment(10_000_000);

/// Records with an open deploy whose stamps are `AT`, and an instance that retires since `AT`.
fn with_stamps() -> (RecordIndex, DeployNumber) {
    let mut records = assigned(1, &InstanceGoal::Retire { removed_in: Generation(1), since: AT }, Kind::Service);
    let started = Actor::new(&records, AT, "alice").start_deploy(&shop(), push_of("b"), false);
    let open = apply(&mut records, started);
    (records, open)
}

fn stamps(records: &RecordIndex, number: DeployNumber) -> Vec<Moment> {
    let deploy = &records.deploys[&shop()][&number];
    let retires = records.plan.machines.values().flat_map(|part| part.retires()).map(|(_, since)| since);
    [deploy.entered, deploy.progressed].into_iter().chain(retires).collect()
}

#[test]
fn an_interrupted_write_of_moved_timestamps_moves_each_once() {
    let (records, open) = with_stamps();
    let at = |by| ClockJump { at: AT.moved(by), by, suspended: 0 };
    let all = JumpedRecords::new(&records, at(3_600_000), AT.moved(3_600_000), None);
    let changes = all.changes(&records);
    assert_eq!(changes.len(), 3, "the deploy, the machine, the event");
    // Any prefix of the write may have been stored; meanwhile the clock may have jumped again.
    for written in 0..=changes.len() {
        for by in [3_600_000, 3_600_001, -7_200_000] {
            let mut jumped = records.clone();
            changes.iter().take(written).cloned().for_each(|change| jumped.apply(change));
            let rest = JumpedRecords::new(&jumped, at(by), AT.moved(by), Some(&all));
            let rest = rest.changes(&jumped);
            if by == 3_600_000 {
                assert_eq!(rest.len(), changes.len() - written);
            }
            rest.into_iter().for_each(|change| jumped.apply(change));
            assert_eq!(stamps(&jumped, open), [AT.moved(by); 3], "{written} written, then a jump of {by}");
            assert_eq!(jumped.events.len(), records.events.len() + 1);
        }
    }
}

#[test]
fn a_clock_jump_moves_the_time_of_a_destroyed_app_once() {
    let (mut records, _) = with_stamps();
    let blog = app_name("blog");
    records.apply(StoreRecord::Destroyed(DestroyedApp { app: blog.clone(), at: AT, last_release: 1 }).into());
    let jump = ClockJump { at: AT.moved(3_600_000), by: 3_600_000, suspended: 0 };
    let all = JumpedRecords::new(&records, jump, jump.at, None);
    let changes = all.changes(&records);
    for written in 0..=changes.len() {
        let mut jumped = records.clone();
        changes.iter().take(written).cloned().for_each(|change| jumped.apply(change));
        let rest = JumpedRecords::new(&jumped, jump, jump.at, Some(&all)).changes(&jumped);
        rest.into_iter().for_each(|change| jumped.apply(change));
        assert_eq!(jumped.destroyed[&blog].at, jump.at, "{written} written");
    }
}

#[test]
fn a_stamp_of_the_time_between_two_attempts_moves_with_the_clock() {
    let (records, open) = with_stamps();
    let by = -60_000;
    let jump = ClockJump { at: AT.moved(by), by, suspended: 0 };
    let first = JumpedRecords::new(&records, jump, AT.moved(by), None);
    let mut jumped = records.clone();
    first.changes(&records).into_iter().for_each(|change| jumped.apply(change));
    // The outcome was not known; the deploy went on by the clock that had not followed.
    let mut deploy = (*jumped.deploys[&shop()][&open]).clone();
    deploy.progressed = AT.moved(500);
    jumped.apply(StoreRecord::Deploy(deploy).into());
    let second = JumpedRecords::new(&jumped, jump, AT.moved(by), Some(&first));
    second.changes(&jumped.clone()).into_iter().for_each(|change| jumped.apply(change));
    let moved = AT.moved(by);
    assert_eq!(stamps(&jumped, open), [moved, moved.moved(500), moved]);
}

#[test]
fn the_newest_stamp_is_that_of_an_event_or_of_a_duration_that_counts() {
    assert_eq!(newest_stamp(&RecordIndex::default()), None);
    let (mut records, open) = with_stamps();
    let told = records.events.values().next_back().expect("an event").at;
    assert_eq!(newest_stamp(&records), Some(told));
    let mut deploy = (*records.deploys[&shop()][&open]).clone();
    for (stamp, newest) in [(Moment(told.0 + 500), Moment(told.0 + 500)), (Moment(told.0 - 500), told)] {
        deploy.progressed = stamp;
        records.apply(StoreRecord::Deploy(deploy.clone()).into());
        assert_eq!(newest_stamp(&records), Some(newest));
    }
    let since = Moment(told.0 + 700);
    let retired = assigned(1, &InstanceGoal::Retire { removed_in: Generation(1), since }, Kind::Service);
    assert_eq!(newest_stamp(&retired), Some(since));
    // The stamps of finished deploys do not move with the clock, and may lie in the future for ever.
    deploy.state = DeployState::Done;
    deploy.entered = Moment(told.0 + 900);
    records.apply(StoreRecord::Deploy(deploy).into());
    assert_eq!(newest_stamp(&records), Some(told));
}

#[test]
fn a_server_that_takes_over_with_a_clock_behind_counts_on() {
    let (mut records, open) = with_stamps();
    let mut deploy = (*records.deploys[&shop()][&open]).clone();
    deploy.progressed = AT.moved(500);
    records.apply(StoreRecord::Deploy(deploy).into());
    let newest = newest_stamp(&records).expect("stamps");
    let behind = ClockReading { wall: newest.moved(-3_600_000), awake: 1_000, booted: 1_000 };
    let clock = SteadyClock::after(behind, newest);
    let jump = clock.jump(behind).expect("the difference of the clocks");
    let moved = JumpedRecords::new(&records, jump, behind.wall, None);
    moved.changes(&records.clone()).into_iter().for_each(|change| records.apply(change));
    assert_eq!(behind.wall.since(records.deploys[&shop()][&open].entered), 500, "as by the clock before");
    assert_eq!(newest_stamp(&records), Some(behind.wall), "the next server finds no stamp in the future");
}

#[test]
fn stamps_of_a_server_whose_clock_was_ahead_move_back_to_the_present() {
    let (records, open) = with_stamps();
    let newest = newest_stamp(&records).expect("stamps");
    assert_eq!(stamps_ahead(&RecordIndex::default(), AT), None, "there is no stamp");
    assert_eq!(stamps_ahead(&records, newest), None);
    assert_eq!(stamps_ahead(&records, Moment(newest.0 - TOLERANCE + 1)), None, "within the tolerance");
    let now = newest.moved(-10_000);
    let jump = stamps_ahead(&records, now).expect("10 s");
    assert_eq!((jump.by, jump.at), (-10_000, now));
    let mut moved = records.clone();
    JumpedRecords::new(&records, jump, now, None).changes(&records).into_iter().for_each(|change| moved.apply(change));
    assert_eq!(stamps(&moved, open), [AT.moved(-10_000); 3]);
    assert_eq!(stamps_ahead(&moved, now), None);
}
