//! Placements of slots: each is an allocation of its own, with a number that the slot has never had.

use gantry_model::{
    AllocationId, AllocationNumbers, DeployState, InstanceGoal, InstancePhase, ObservedInstance, Reason, Slot,
};

use crate::cloud::{AppShape, ClusterEvent, TestCluster, app_name, fresh, machine};
use crate::fixtures::role_named;

const PLAIN: AppShape =
    AppShape { volume: false, step: false, worker: false, copies: 2, drain: None, start: None, health_host: None };

/// A cluster with a deployed app.
fn deployed(shape: AppShape) -> TestCluster {
    let mut cluster = TestCluster::new(shape);
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.left_alone();
    cluster
}

fn scale(cluster: &mut TestCluster, copies: u32) {
    cluster.app().app.scale.insert(role_named("web"), copies);
    cluster.plan_until_stable();
}

/// The allocations of the plan with their goals.
fn plan(cluster: &TestCluster) -> Vec<(String, InstanceGoal)> {
    cluster.plan.assignments().map(|(_, id, assignment)| (id.short(), assignment.goal)).collect()
}

fn running(cluster: &TestCluster) -> Vec<String> {
    plan(cluster).into_iter().filter(|(_, goal)| *goal == InstanceGoal::Run).map(|(id, _)| id).collect()
}

fn highest(cluster: &TestCluster, slot: &str) -> u32 {
    cluster.plan.numbers[&app_name()].highest(&Slot::parse(slot).expect("a slot"))
}

#[test]
fn a_returning_copy_gets_a_new_allocation_while_the_old_one_stops() {
    let mut cluster = deployed(PLAIN);
    assert_eq!(running(&cluster), ["web-1", "web-2"]);
    scale(&mut cluster, 1);
    cluster.apply(&ClusterEvent::RouterTakesTable);
    assert_eq!(plan(&cluster)[1], ("web-2".to_owned(), InstanceGoal::Stop));
    scale(&mut cluster, 2);
    let expected = [("web-1", InstanceGoal::Run), ("web-2", InstanceGoal::Stop), ("web-2.2", InstanceGoal::Run)];
    assert_eq!(plan(&cluster), expected.map(|(id, goal)| (id.to_owned(), goal)));
    cluster.left_alone();
    assert_eq!(running(&cluster), ["web-1", "web-2.2"]);
    assert_eq!(
        cluster.plan.endpoints().map(|endpoint| endpoint.allocation.short()).collect::<Vec<_>>(),
        ["web-1", "web-2.2"]
    );
}

#[test]
fn keeps_a_retired_copy_that_the_plan_needs_again() {
    let mut cluster = deployed(PLAIN);
    scale(&mut cluster, 1);
    assert!(matches!(plan(&cluster)[1], (_, InstanceGoal::Retire { .. })), "no router has acknowledged yet");
    scale(&mut cluster, 2);
    assert_eq!(running(&cluster), ["web-1", "web-2"]);
}

#[test]
fn a_number_is_never_used_twice() {
    let mut cluster = deployed(PLAIN);
    for round in 2..6 {
        scale(&mut cluster, 0);
        cluster.left_alone();
        assert_eq!(plan(&cluster), []);
        scale(&mut cluster, 2);
        cluster.left_alone();
        assert_eq!(running(&cluster), [1, 2].map(|index| format!("web-{index}.{round}")));
        assert_eq!(highest(&cluster, "shop.v1.web-1"), round);
    }
    // A new release starts over.
    scale(&mut cluster, 1);
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.left_alone();
    assert_eq!(running(&cluster), ["web-1"]);
    assert_eq!((highest(&cluster, "shop.v1.web-1"), highest(&cluster, "shop.v2.web-1")), (5, 1));
}

#[test]
fn a_single_writer_waits_for_the_allocation_before_it() {
    let mut cluster = deployed(AppShape { volume: true, ..PLAIN });
    scale(&mut cluster, 0);
    cluster.apply(&ClusterEvent::RouterTakesTable);
    cluster.apply(&ClusterEvent::AgentTakesPlan);
    assert_eq!(plan(&cluster), [("web-1".to_owned(), InstanceGoal::Stop)]);
    scale(&mut cluster, 1);
    assert_eq!(plan(&cluster).len(), 1, "the old copy has the volume");
    let waits = cluster.plan_once().report.waits;
    let old = AllocationId::parse("shop.v1.web-1").expect("an id");
    let expected = Reason::StopFirst { role: old.slot.role.clone(), instance: old };
    assert_eq!(waits[&app_name()], [expected]);
    cluster.apply(&ClusterEvent::InstanceAdvances(0));
    assert_eq!(running(&cluster), ["web-1.2"]);
}

/// After a restore, a machine runs an allocation that no record names. The agent removes it.
#[test]
fn does_not_treat_an_unknown_allocation_as_new() {
    for (volume, expected) in [(false, vec!["web-1.4", "web-2"]), (true, vec![])] {
        let mut cluster = TestCluster::new(AppShape { volume, ..PLAIN });
        cluster.apply(&ClusterEvent::Push { hold: false });
        cluster.build_ends(true);
        let unknown = AllocationId::parse("shop.v1.web-1.3").expect("an id");
        let stranger = ObservedInstance { phase: InstancePhase::Ready, ..fresh(&unknown, cluster.now) };
        cluster.machine().instances.insert(unknown.clone(), stranger);
        cluster.plan_until_stable();
        assert_eq!(running(&cluster), expected, "volume: {volume}");
        cluster.machine().instances.remove(&unknown);
        cluster.left_alone();
        assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Done);
        assert_eq!(running(&cluster)[0], if volume { "web-1" } else { "web-1.4" });
    }
}

#[test]
fn allocation_numbers_continue_above_those_on_machines() {
    let mut cluster = deployed(PLAIN);
    cluster.plan.numbers.insert(app_name(), AllocationNumbers::default().into());
    scale(&mut cluster, 1);
    cluster.apply(&ClusterEvent::RouterTakesTable);
    scale(&mut cluster, 2);
    assert_eq!(highest(&cluster, "shop.v1.web-2"), 2);
    assert!(cluster.observed.machines[&machine()].instances.keys().all(|id| id.number == 1));
}
