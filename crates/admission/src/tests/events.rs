use gantry_model::{
    AllocationId, Assignment, ExitStatus, InstanceGoal, InstancePhase, InstanceSpec, Kind, LimitHit, MachineName,
    MachinePlan, ObservedInstance, ObservedMachine, Reason, ReleaseConfig, RoleLimit, Slot, StopReason,
};

use super::*;
use crate::{events_of_deploys, events_of_report};

fn texts(changes: &[RecordChange]) -> Vec<String> {
    let event = |change: &RecordChange| match change {
        RecordChange::Put(record) => match &**record {
            StoreRecord::Event(event) => Some(event.what.clone()),
            _ => None,
        },
        RecordChange::Remove(_) => None,
    };
    changes.iter().filter_map(event).collect()
}

#[test]
fn the_turning_points_of_a_deploy_are_events() {
    use DeployState::*;
    let mut records = released(&[push_of("a")]);
    let number = run(&mut records, |actor| actor.start_deploy(&shop(), push_of("b"), false)).expect("a deploy");
    let deploy = (*records.deploys[&shop()][&number]).clone();
    for (state, reason, expected) in [
        (Building, None, None),
        (Promoting, None, Some("deploy #2 (v2) promoting")),
        (Draining, None, None),
        (Done, None, Some("deploy #2 (v2) done")),
        (Reverting, Some(Reason::Aborted), None),
        (Reverted, Some(Reason::Aborted), Some("deploy #2 (v2) reverted: aborted by `gantry abort`")),
        (Superseded, None, Some("deploy #2 (v2) superseded")),
    ] {
        let changed = Deploy { state, reason, release: Some(ReleaseNumber(2)), ..deploy.clone() };
        let events = events_of_deploys(&records, std::slice::from_ref(&changed), NOW);
        assert_eq!(texts(&events), expected.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{state}");
        // The same state once more is no news.
        let mut known = records.clone();
        put(&mut known, StoreRecord::Deploy(changed.clone()));
        assert_eq!(events_of_deploys(&known, &[changed], NOW).len(), 0, "{state}");
    }
}

#[test]
fn the_event_of_a_release_that_was_taken_back_has_its_time_in_service() {
    let mut records = released(&[push_of("a")]);
    for (served, expected) in [(true, Some(3_000)), (false, None)] {
        let mut deploy = Deploy::new(shop(), DeployNumber(7), push_of("x"), "test".into(), false, Moment(0));
        let before = if served { DeployState::Draining } else { DeployState::Starting };
        deploy.enter(before, Moment(1_000));
        deploy.enter(DeployState::Reverted, Moment(4_000));
        events_of_deploys(&records, &[deploy], NOW).into_iter().for_each(|change| records.apply(change));
        let AuditAction::DeployProgressed { served_millis, .. } = newest_action(&records) else { panic!("an event") };
        assert_eq!(served_millis, expected);
    }
}

#[test]
fn events_of_one_decision_have_consecutive_numbers() {
    let mut records = released(&[push_of("a")]);
    run(&mut records, |actor| actor.start_deploy(&shop(), push_of("b"), false)).expect("a deploy");
    let done = |number| {
        let mut deploy = Deploy::new(shop(), DeployNumber(number), push_of("x"), "test".into(), false, Moment(0));
        deploy.state = DeployState::Done;
        deploy
    };
    let events = events_of_deploys(&records, &[done(7), done(8), done(9)], NOW);
    events.into_iter().for_each(|change| records.apply(change));
    assert_eq!(records.events.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
}

fn instance(index: u32) -> AllocationId {
    Slot { app: shop(), release: ReleaseNumber(1), role: role_name("web"), index }.numbered(1)
}

fn machine() -> MachineName {
    MachineName::parse("m").expect("a name")
}

/// Returns records with instances of `shop` that are to run on machine `m`.
pub(super) fn assigned(count: u32, goal: &InstanceGoal, kind: Kind) -> RecordIndex {
    let mut records = released(&[push_of("a")]);
    let spec = std::sync::Arc::new(InstanceSpec {
        image: digest("ab"),
        commit: None,
        config: ReleaseConfig::default(),
        role: Role { kind, ..Role::new(RoleCommand::Shell("serve".into())) },
        volumes_of: None,
    });
    let mut part = MachinePlan::default();
    for index in 1..=count {
        part.instances.insert(instance(index), Assignment { goal: *goal, spec: spec.clone() });
    }
    put(&mut records, StoreRecord::Machine(machine(), part.into()));
    records
}

fn seen(exit: Option<ExitStatus>, restarts: u32) -> ObservedInstance {
    ObservedInstance { restarts, exit, ..ObservedInstance::new(InstancePhase::Ready, Moment(0)) }
}

fn exited(code: i32, at: u64) -> ExitStatus {
    ExitStatus { code: Some(code), at: Moment(at), ..ExitStatus::default() }
}

fn report(records: &RecordIndex, before: &[ObservedInstance], now: &[ObservedInstance]) -> Vec<String> {
    let map = |seen: &[ObservedInstance]| (1..).map(instance).zip(seen.iter().cloned()).collect::<BTreeMap<_, _>>();
    let before = ObservedMachine { instances: map(before), ..ObservedMachine::default() };
    let now = map(now);
    texts(&events_of_report(records, &machine(), &before.changes(&now), NOW))
}

#[test]
fn an_exit_is_an_event_the_first_second_fourth_and_eighth_time() {
    let records = assigned(1, &InstanceGoal::Run, Kind::Service);
    let told: Vec<u32> = (0..20)
        .filter(|restarts| {
            let before = seen(Some(exited(1, 1)), *restarts);
            !report(&records, &[before], &[seen(Some(exited(1, 2)), *restarts)]).is_empty()
        })
        .collect();
    assert_eq!(told, [0, 1, 3, 7, 15]);
    let texts = report(&records, &[seen(None, 0)], &[seen(Some(exited(3, 2)), 0)]);
    assert_eq!(texts, ["shop.v1.web-1 exited with 3"]);
}

#[test]
fn known_planned_and_job_exits_make_no_event() {
    let records = assigned(1, &InstanceGoal::Run, Kind::Service);
    let exit = || seen(Some(exited(1, 1)), 0);
    assert_eq!(report(&records, &[exit()], &[exit()]).len(), 0, "known already");
    let planned = ExitStatus { stopped: Some(StopReason::Planned), ..exited(0, 2) };
    assert_eq!(report(&records, &[seen(None, 0)], &[seen(Some(planned), 0)]).len(), 0, "Gantry stopped it by plan");
    assert_eq!(report(&records, &[], &[exit()]).len(), 0, "an instance that was not there before");
    for (goal, kind) in [(InstanceGoal::Stop, Kind::Service), (InstanceGoal::Run, Kind::Job)] {
        let records = assigned(1, &goal, kind);
        assert_eq!(report(&records, &[seen(None, 0)], &[exit()]).len(), 0, "{goal:?} {kind:?}");
    }
}

#[test]
fn a_limit_is_an_event_once() {
    let records = assigned(1, &InstanceGoal::Run, Kind::Service);
    let hit = |limit, count| LimitHit { limit, count, since: Moment(1), last: Moment(2) };
    let with = |hits: &[LimitHit]| ObservedInstance { limit_hits: hits.to_vec(), ..seen(None, 0) };
    let first = report(&records, &[with(&[])], &[with(&[hit(RoleLimit::Processes(64), 1)])]);
    assert_eq!(first.len(), 1);
    assert!(first[0].starts_with("shop.v1.web-1 ") && first[0].contains("64"), "{first:?}");
    let (once, more) = (hit(RoleLimit::Processes(64), 1), hit(RoleLimit::Processes(64), 9));
    assert_eq!(report(&records, &[with(std::slice::from_ref(&once))], &[with(&[more])]).len(), 0);
    let raised = hit(RoleLimit::Processes(128), 1);
    assert_eq!(report(&records, &[with(&[once])], &[with(&[raised])]).len(), 1, "another limit");
}

#[test]
fn bounds_the_events_of_one_report() {
    let records = assigned(50, &InstanceGoal::Run, Kind::Service);
    let before: Vec<_> = (0..50).map(|_| seen(None, 0)).collect();
    let now: Vec<_> = (0..50).map(|_| seen(Some(exited(1, 2)), 0)).collect();
    assert_eq!(report(&records, &before, &now).len(), 20);
}
