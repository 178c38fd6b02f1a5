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
    let mut world = TestCluster::new(shape);
    world.apply(&ClusterEvent::Push { hold: false });
    world.left_alone();
    world
}

fn scale(world: &mut TestCluster, copies: u32) {
    world.app().app.scale.insert(role_named("web"), copies);
    world.settle();
}

/// The allocations of the plan with their goals.
fn plan(world: &TestCluster) -> Vec<(String, InstanceGoal)> {
    world.plan.assignments().map(|(_, id, assignment)| (id.short(), assignment.goal)).collect()
}

fn running(world: &TestCluster) -> Vec<String> {
    plan(world).into_iter().filter(|(_, goal)| *goal == InstanceGoal::Run).map(|(id, _)| id).collect()
}

fn highest(world: &TestCluster, slot: &str) -> u32 {
    world.plan.numbers[&app_name()].highest(&Slot::parse(slot).expect("a slot"))
}

#[test]
fn a_returning_copy_gets_a_new_allocation_while_the_old_one_stops() {
    let mut world = deployed(PLAIN);
    assert_eq!(running(&world), ["web-1", "web-2"]);
    scale(&mut world, 1);
    world.apply(&ClusterEvent::RouterTakesTable);
    assert_eq!(plan(&world)[1], ("web-2".to_owned(), InstanceGoal::Stop));
    scale(&mut world, 2);
    let expected = [("web-1", InstanceGoal::Run), ("web-2", InstanceGoal::Stop), ("web-2.2", InstanceGoal::Run)];
    assert_eq!(plan(&world), expected.map(|(id, goal)| (id.to_owned(), goal)));
    world.left_alone();
    assert_eq!(running(&world), ["web-1", "web-2.2"]);
    assert_eq!(
        world.plan.endpoints().map(|endpoint| endpoint.allocation.short()).collect::<Vec<_>>(),
        ["web-1", "web-2.2"]
    );
}

#[test]
fn keeps_a_retired_copy_that_the_plan_needs_again() {
    let mut world = deployed(PLAIN);
    scale(&mut world, 1);
    assert!(matches!(plan(&world)[1], (_, InstanceGoal::Retire { .. })), "no router has acknowledged yet");
    scale(&mut world, 2);
    assert_eq!(running(&world), ["web-1", "web-2"]);
}

#[test]
fn a_number_is_never_used_twice() {
    let mut world = deployed(PLAIN);
    for round in 2..6 {
        scale(&mut world, 0);
        world.left_alone();
        assert_eq!(plan(&world), []);
        scale(&mut world, 2);
        world.left_alone();
        assert_eq!(running(&world), [1, 2].map(|index| format!("web-{index}.{round}")));
        assert_eq!(highest(&world, "shop.v1.web-1"), round);
    }
    // A new release begins anew.
    scale(&mut world, 1);
    world.apply(&ClusterEvent::Push { hold: false });
    world.left_alone();
    assert_eq!(running(&world), ["web-1"]);
    assert_eq!((highest(&world, "shop.v1.web-1"), highest(&world, "shop.v2.web-1")), (5, 1));
}

#[test]
fn a_single_writer_waits_for_the_allocation_before_it() {
    let mut world = deployed(AppShape { volume: true, ..PLAIN });
    scale(&mut world, 0);
    world.apply(&ClusterEvent::RouterTakesTable);
    world.apply(&ClusterEvent::AgentTakesPlan);
    assert_eq!(plan(&world), [("web-1".to_owned(), InstanceGoal::Stop)]);
    scale(&mut world, 1);
    assert_eq!(plan(&world).len(), 1, "the old copy has the volume");
    let waits = world.plan_once().report.waits;
    let old = AllocationId::parse("shop.v1.web-1").expect("an id");
    let expected = Reason::StopFirst { role: old.slot.role.clone(), instance: old };
    assert_eq!(waits[&app_name()], [expected]);
    world.apply(&ClusterEvent::InstanceAdvances(0));
    assert_eq!(running(&world), ["web-1.2"]);
}

/// After a restore, a machine runs an allocation that no record names. The agent removes it.
#[test]
fn does_not_treat_an_unknown_allocation_as_new() {
    for (volume, expected) in [(false, vec!["web-1.4", "web-2"]), (true, vec![])] {
        let mut world = TestCluster::new(AppShape { volume, ..PLAIN });
        world.apply(&ClusterEvent::Push { hold: false });
        world.build_ends(true);
        let unknown = AllocationId::parse("shop.v1.web-1.3").expect("an id");
        let stranger = ObservedInstance { phase: InstancePhase::Ready, ..fresh(&unknown, world.now) };
        world.machine().instances.insert(unknown.clone(), stranger);
        world.settle();
        assert_eq!(running(&world), expected, "volume: {volume}");
        world.machine().instances.remove(&unknown);
        world.left_alone();
        assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
        assert_eq!(running(&world)[0], if volume { "web-1" } else { "web-1.4" });
    }
}

#[test]
fn allocation_numbers_continue_above_those_on_machines() {
    let mut world = deployed(PLAIN);
    world.plan.numbers.insert(app_name(), AllocationNumbers::default().into());
    scale(&mut world, 1);
    world.apply(&ClusterEvent::RouterTakesTable);
    scale(&mut world, 2);
    assert_eq!(highest(&world, "shop.v1.web-2"), 2);
    assert!(world.observed.machines[&machine()].instances.keys().all(|id| id.number == 1));
}
