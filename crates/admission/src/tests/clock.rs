//! Jumps of the wall clock.

use gantry_model::clock::{ClockJump, TOLERANCE};
use gantry_model::{AuditAction, DeployNumber, Generation, InstanceGoal, Kind, Moment};
use gantry_records::{RecordIndex, StoreRecord};

use super::events::assigned;
use super::*;
use crate::{JumpedRecords, clock_went_back};

#[test]
fn a_clock_that_jumps_takes_the_stamps_with_it() {
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
fn a_write_of_moved_stamps_that_ended_half_way_moves_none_twice() {
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
fn a_clock_that_went_back_while_no_server_ran_is_noticed() {
    let mut records = with_app();
    assert_eq!(clock_went_back(&records, NOW), None, "there is no event");
    run(&mut records, |actor| actor.change_branch(&shop(), "main".to_owned())).expect("changed");
    assert_eq!(clock_went_back(&records, NOW), None);
    assert_eq!(clock_went_back(&records, Moment(NOW.0 - TOLERANCE + 1)), None, "within the tolerance");
    let now = Moment(NOW.0 - 10_000);
    let jump = clock_went_back(&records, now).expect("10 s");
    assert_eq!((jump.by, jump.at), (-10_000, now));
}
