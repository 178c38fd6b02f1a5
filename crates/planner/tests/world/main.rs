//! Tests the planner in a small simulated cluster under virtual time. An agent and a router carry out the plan, in any
//! order and with any delay. Instances crash; deploys, aborts and destruction come at any moment. After every pass the
//! auditor must find no violation. Once no more events come, the cluster must come to rest in the wanted state.

mod allocations;
mod cloud;
#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::collections::BTreeMap;
use std::sync::Arc;

use cloud::{AppShape, ClusterEvent, TestCluster, app_name, host, machine, router};
use gantry_model::deploy::DeployOrder;
use gantry_model::{
    AllocationId, ClosedReason, DeployNumber, DeployState, Generation, InstanceGoal, InstancePhase, MachineName,
    ObservedCluster, Reason, ReleaseNumber, RoleName, RouterId, Seconds, TrustedProxies,
};
use proptest::prelude::*;

fn shapes() -> impl Strategy<Value = AppShape> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 1..4u32).prop_map(|(volume, step, worker, copies)| AppShape {
        volume,
        step,
        worker,
        copies,
        drain: None,
        start: None,
        health_host: None,
    })
}

fn events() -> impl Strategy<Value = Vec<ClusterEvent>> {
    let event = prop_oneof![
        2 => any::<bool>().prop_map(|hold| ClusterEvent::Push { hold }),
        3 => any::<bool>().prop_map(|well| ClusterEvent::BuildEnds { well }),
        8 => Just(ClusterEvent::AgentTakesPlan),
        8 => Just(ClusterEvent::RouterTakesTable),
        12 => (0..20usize).prop_map(ClusterEvent::InstanceAdvances),
        2 => (0..20usize).prop_map(ClusterEvent::InstanceCrashes),
        1 => prop_oneof![Just(DeployOrder::Promote), Just(DeployOrder::Abort)].prop_map(ClusterEvent::Order),
        4 => (1..40u16).prop_map(ClusterEvent::Time),
        1 => Just(ClusterEvent::ServerForgets),
        1 => (-7200..7200i32).prop_map(ClusterEvent::ClockJumps),
        1 => (-7200..7200i32).prop_map(ClusterEvent::ClockJumpsUnseen),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_invariants_and_converges(shape in shapes(), events in events()) {
        let mut world = TestCluster::new(shape);
        for event in &events {
            world.apply(event);
        }
        world.left_alone();
        let app = &world.desired.apps[&app_name()];
        prop_assert!(app.deploys.is_empty(), "not over: {:?}", app.deploys);
        let copies = if shape.volume { 1 } else { shape.copies as usize };
        let (wanted, workers) = if app.app.current.is_some() { (copies, usize::from(shape.worker)) } else { (0, 0) };
        let runs: Vec<&AllocationId> = world.plan.assignments().map(|(_, id, _)| id).collect();
        prop_assert_eq!(runs.len(), wanted + workers, "{:?}", runs);
        let table = world.table();
        if let Some(route) = table.routes.get(&host()) {
            prop_assert_eq!(route.endpoints.len(), wanted);
        }
    }
}

fn plain() -> TestCluster {
    TestCluster::new(AppShape {
        volume: false,
        step: false,
        worker: false,
        copies: 2,
        drain: None,
        start: None,
        health_host: None,
    })
}

fn deploy_one(world: &mut TestCluster) {
    world.apply(&ClusterEvent::Push { hold: false });
    world.left_alone();
}

/// Deploys a second release, up to the state in which the old release stands by.
fn promote_second(world: &mut TestCluster) {
    deploy_one(world);
    promote_next(world);
}

fn promote_next(world: &mut TestCluster) {
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    world.apply(&ClusterEvent::AgentTakesPlan);
    (0..4).for_each(|_| (0..4).for_each(|n| world.apply(&ClusterEvent::InstanceAdvances(n))));
    world.apply(&ClusterEvent::RouterTakesTable);
}

#[test]
fn a_second_release_replaces_the_first_behind_the_barrier() {
    let mut world = TestCluster::new(AppShape { worker: true, ..plain().shape });
    deploy_one(&mut world);
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    world.apply(&ClusterEvent::AgentTakesPlan);
    (0..4).for_each(|_| (0..6).for_each(|n| world.apply(&ClusterEvent::InstanceAdvances(n))));
    assert_eq!(world.app().deploys[0].state, DeployState::Promoting, "waits for the router");
    assert!(world.table().routes[&host()].endpoints.iter().all(|e| e.allocation.slot.release == ReleaseNumber(2)));
    world.apply(&ClusterEvent::Time(5));
    assert!(
        world.plan.assignments().all(|(_, _, a)| a.goal != InstanceGoal::Stop),
        "nothing stops before the acknowledgement"
    );
    world.apply(&ClusterEvent::RouterTakesTable);
    assert_eq!(world.app().deploys[0].state, DeployState::Draining);
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

/// A failed deploy removes the configuration that the deploy added, except variables that a user changed since.
#[test]
fn a_failed_deploy_removes_the_variables_that_it_added() {
    let mut world = plain();
    deploy_one(&mut world);
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    let app = world.app();
    let release = app.deploys[0].release.expect("a release");
    for name in ["BROUGHT", "CHANGED", "OWN"] {
        app.app.config.insert(name.to_owned(), "one".to_owned());
    }
    let brought = ["BROUGHT", "CHANGED", "OWN"].map(|name| (name.to_owned(), "one".to_owned()));
    Arc::make_mut(app.releases.get_mut(&release).expect("there")).config = BTreeMap::from(brought).into();
    app.deploys[0].brought = ["BROUGHT", "CHANGED"].map(str::to_owned).into();
    app.app.config.insert("CHANGED".to_owned(), "two".to_owned());
    world.apply(&ClusterEvent::Order(DeployOrder::Abort));
    world.left_alone();
    let config: Vec<(String, String)> = world.app().app.config.clone().into_iter().collect();
    let wanted = [("CHANGED", "two"), ("OWN", "one")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(config, wanted);
}

/// Bake time of the second release after a jump, in seconds.
fn bake_time_after(jump: ClusterEvent, before: u16) -> u16 {
    let mut world = plain();
    promote_second(&mut world);
    world.apply(&ClusterEvent::Time(before));
    world.apply(&jump);
    world.apply(&ClusterEvent::RouterTakesTable);
    let is_watching = |world: &TestCluster| world.desired.apps[&app_name()].deploys[0].state == DeployState::Draining;
    let stands_by = |world: &TestCluster| {
        let mut old = world.plan.assignments().filter(|(_, id, _)| id.slot.release == ReleaseNumber(1));
        old.any(|(_, _, a)| a.goal != InstanceGoal::Stop)
    };
    let mut seconds = 0;
    while !world.desired.apps[&app_name()].deploys.is_empty() && is_watching(&world) && stands_by(&world) {
        world.apply(&ClusterEvent::Time(1));
        seconds += 1;
        assert!(seconds < 100, "the jump {jump:?} holds the deploy up");
    }
    seconds
}

#[test]
fn wall_clock_jumps_change_no_bake_time() {
    for seconds in [-3600, -54, -2, 2, 11, 3600, 31_536_000] {
        // The bake time is 15 s, and 5 s have passed.
        assert_eq!(bake_time_after(ClusterEvent::ClockJumps(seconds), 5), 10, "{seconds} s");
        // The bake time restarts with the server.
        assert_eq!(bake_time_after(ClusterEvent::ClockJumpsUnseen(seconds), 5), 15, "{seconds} s, unseen");
    }
}

#[test]
fn wall_clock_jumps_change_no_drain_time() {
    for (jump, left) in [
        (ClusterEvent::ClockJumps(3600), 15),
        (ClusterEvent::ClockJumps(-3600), 15),
        (ClusterEvent::ClockJumpsUnseen(3600), 30),
        (ClusterEvent::ClockJumpsUnseen(-3600), 30),
    ] {
        let mut world = plain();
        promote_second(&mut world);
        let busy = world.plan.assignments().map(|(_, id, _)| id.clone()).next().expect("an instance");
        world.observed.routers.values_mut().next().expect("a router").active.insert(busy.clone(), 1);
        // 15 s of bake time pass first. The drain of 30 s counts from the promotion.
        world.apply(&ClusterEvent::Time(15));
        world.apply(&ClusterEvent::RouterTakesTable);
        world.apply(&jump);
        let goal =
            |world: &TestCluster| world.plan.assignments().find(|(_, id, _)| **id == busy).map(|(_, _, a)| a.goal);
        let mut seconds = 0;
        while matches!(goal(&world), Some(InstanceGoal::Retire { .. })) {
            world.apply(&ClusterEvent::Time(1));
            seconds += 1;
            assert!(seconds < 100, "the jump {jump:?} keeps a drain");
        }
        assert!((left - 1..=left + 1).contains(&seconds), "{jump:?}: {seconds} s");
    }
}

#[test]
fn a_request_through_the_router_of_another_machine_counts_once() {
    let mut world = plain();
    promote_second(&mut world);
    let busy = world.plan.assignments().map(|(_, id, _)| id.clone()).next().expect("an instance");
    // The router of the instance's machine has three requests; two of them came in through another machine.
    world.observed.routers.get_mut(&router()).expect("a router").active.insert(busy.clone(), 3);
    // The bake time passes, and every router learns that the old release leaves.
    world.apply(&ClusterEvent::Time(15));
    world.apply(&ClusterEvent::RouterTakesTable);
    let mut other = world.observed.routers[&router()].clone();
    other.active.insert(busy.clone(), 2);
    let machine = MachineName::parse("other").expect("a name");
    world.observed.routers.insert(RouterId { machine, number: 1 }, other);
    let waits = |world: &mut TestCluster| world.plan_once().report.waits[&app_name()][0].to_string();
    assert_eq!(waits(&mut world), format!("{busy} is finishing 3 requests"));
    // The requests from elsewhere count, although the router of the instance's machine is gone.
    world.observed.routers.get_mut(&router()).expect("a router").active.clear();
    assert_eq!(waits(&mut world), format!("{busy} is finishing 2 requests"));
}

#[test]
fn a_long_drain_delays_no_deploy() {
    let mut world = TestCluster::new(AppShape { drain: Some(7200), ..plain().shape });
    deploy_one(&mut world);
    world.apply(&ClusterEvent::Push { hold: false });
    world.left_alone();
    let old = |world: &TestCluster| {
        let goals = world.plan.assignments().filter(|(_, id, _)| id.slot.release == ReleaseNumber(1));
        goals.map(|(_, id, a)| (id.clone(), a.goal)).collect::<Vec<_>>()
    };
    // The old instances have no requests, so they stop at once, regardless of their drain time.
    assert_eq!(old(&world), vec![]);
    let busy: AllocationId = world.plan.assignments().map(|(_, id, _)| id.clone()).next().expect("an instance");
    for router in world.observed.routers.values_mut() {
        router.active.insert(busy.clone(), 1);
    }
    world.apply(&ClusterEvent::Push { hold: false });
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
    let goal = |world: &TestCluster| world.plan.assignments().find(|(_, id, _)| **id == busy).map(|(_, _, a)| a.goal);
    assert!(matches!(goal(&world), Some(InstanceGoal::Retire { .. })), "{:?}", goal(&world));
    (0..40).for_each(|_| world.left_alone());
    assert_eq!(goal(&world), None, "after two hours it goes all the same");
}

#[test]
fn a_crash_in_the_bake_time_restores_the_old_release_at_once() {
    let mut world = plain();
    promote_second(&mut world);
    world.apply(&ClusterEvent::Time(4));
    world.apply(&ClusterEvent::InstanceCrashes(2));
    let table = world.table();
    let route = &table.routes[&host()];
    assert_eq!((route.release, route.endpoints.len()), (ReleaseNumber(1), 2));
    world.left_alone();
    let last = world.history.last().expect("a deploy");
    assert_eq!(last.state, DeployState::Reverted);
    assert!(matches!(&last.reason, Some(Reason::Exited { exit, .. }) if exit.code == Some(1)));
}

#[test]
fn a_rollback_restores_configuration_only_when_done() {
    let mut world = plain();
    deploy_one(&mut world);
    let set = BTreeMap::from([("COLOR".to_owned(), "blue".to_owned())]);
    world.app().app.config.clone_from(&set);
    promote_next(&mut world);
    world.apply(&ClusterEvent::InstanceCrashes(2));
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Reverted);
    assert_eq!(world.app().app.config, set, "what failed changes nothing");
    deploy_one(&mut world);
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
    assert_eq!(world.app().app.config, BTreeMap::new());
}

#[test]
fn a_deploy_without_progress_fails_with_the_awaited_reason() {
    let mut world = plain();
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    world.apply(&ClusterEvent::AgentTakesPlan);
    world.apply(&ClusterEvent::Time(121));
    world.left_alone();
    let reason = world.history[0].reason.clone().expect("a reason");
    assert!(reason.to_string().starts_with("no progress for 120 s: shop.v1.web-1 is being prepared"), "{reason}");
    assert_eq!(reason, Reason::NoProgress { waited: Seconds(120), on: reason_on(&reason) });
}

#[test]
fn a_deploy_waits_for_a_draining_single_writer_and_says_so() {
    let mut world = TestCluster::new(AppShape { volume: true, copies: 1, drain: Some(600), ..plain().shape });
    deploy_one(&mut world);
    let busy = world.plan.assignments().next().expect("an instance").1.clone();
    let router = world.observed.routers.values_mut().next().expect("a router");
    router.active.insert(busy.clone(), 1);
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    for _ in 0..40 {
        world.apply(&ClusterEvent::AgentTakesPlan);
        world.apply(&ClusterEvent::RouterTakesTable);
        world.apply(&ClusterEvent::Time(5));
    }
    assert_eq!(world.app().deploys[0].state, DeployState::Starting, "200 s later");
    let decision = world.plan_once();
    let told = decision.report.waits[&app_name()].first().expect("a reason").to_string();
    assert!(told.contains(&format!("its old copy {busy} must be gone")), "{told}");
    (0..3).for_each(|_| world.left_alone());
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

/// The goal of the second copy of release 1.
fn goal_of_second(world: &TestCluster) -> Option<InstanceGoal> {
    world.plan.assignments().find(|(_, id, _)| id.slot.index == 2).map(|(_, _, assignment)| assignment.goal)
}

fn scale_to_one(world: &mut TestCluster) {
    world.app().app.scale.insert(RoleName::parse("web").expect("a name"), 1);
    world.settle();
}

#[test]
fn an_instance_that_left_the_routes_stops_only_when_every_router_knows() {
    let mut world = plain();
    deploy_one(&mut world);
    world.machine().instances.values_mut().nth(1).expect("the second copy").phase = InstancePhase::Unhealthy;
    world.settle();
    assert_eq!(world.table().routes[&host()].endpoints.len(), 1, "the routes lose the copy");
    scale_to_one(&mut world);
    assert!(matches!(goal_of_second(&world), Some(InstanceGoal::Retire { .. })), "{:?}", goal_of_second(&world));
    world.apply(&ClusterEvent::RouterTakesTable);
    assert_eq!(goal_of_second(&world), Some(InstanceGoal::Stop));
}

#[test]
fn a_restarted_server_waits_for_the_routers_of_all_machines() {
    let other = MachineName::parse("n").expect("a name");
    for reports in [true, false] {
        let mut world = plain();
        deploy_one(&mut world);
        world.plan.machines.insert(other.clone(), Arc::default());
        scale_to_one(&mut world);
        world.observed.began = world.now;
        world.apply(&ClusterEvent::RouterTakesTable);
        assert!(matches!(goal_of_second(&world), Some(InstanceGoal::Retire { .. })), "{:?}", goal_of_second(&world));
        if reports {
            let router = world.observed.routers.values().next().expect("a router").clone();
            world.observed.routers.insert(RouterId { machine: other.clone(), number: 1 }, router);
        } else {
            world.apply(&ClusterEvent::Time(11));
        }
        world.settle();
        assert_eq!(goal_of_second(&world), Some(InstanceGoal::Stop), "the other router reports: {reports}");
    }
}

#[test]
fn an_exit_fails_the_deploy_while_another_role_waits_stop_first() {
    let mut world =
        TestCluster::new(AppShape { volume: true, worker: true, copies: 1, drain: Some(600), ..plain().shape });
    deploy_one(&mut world);
    let busy = world.plan.assignments().map(|(_, id, _)| id.clone()).find(|id| id.slot.role.as_str() == "web");
    world.observed.routers.values_mut().next().expect("a router").active.insert(busy.expect("an instance"), 1);
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    world.apply(&ClusterEvent::AgentTakesPlan);
    let instances = world.observed.machines[&machine()].instances.keys();
    let worker =
        instances.cloned().position(|id| id.slot.role.as_str() == "worker" && id.slot.release == ReleaseNumber(2));
    let worker = worker.expect("its new worker is placed");
    world.apply(&ClusterEvent::InstanceAdvances(worker));
    world.apply(&ClusterEvent::InstanceCrashes(worker));
    world.apply(&ClusterEvent::RouterTakesTable);
    let reason = world.history.last().expect("a deploy that is over").reason.clone();
    assert!(
        matches!(&reason, Some(Reason::Exited { instance, .. }) if instance.slot.role.as_str() == "worker"),
        "{reason:?}"
    );
}

#[test]
fn a_release_step_may_exceed_the_deadline() {
    let mut world = TestCluster::new(AppShape { step: true, ..plain().shape });
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    world.apply(&ClusterEvent::AgentTakesPlan);
    for _ in 0..40 {
        world.apply(&ClusterEvent::Time(5));
    }
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

/// Simulates ten minutes without a server, and a new server without any report.
fn away(world: &mut TestCluster) {
    world.now.0 += 600_000;
    world.observed = ObservedCluster { began: world.now, ..ObservedCluster::default() };
    world.settle();
}

#[test]
fn time_without_a_server_does_not_count_towards_the_deadline() {
    let mut world = plain();
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    world.apply(&ClusterEvent::AgentTakesPlan);
    away(&mut world);
    assert_eq!(world.history, []);
    world.heartbeat();
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn a_crash_while_the_server_was_away_reverts_the_deploy() {
    let mut world = plain();
    promote_second(&mut world);
    assert_eq!(world.app().deploys[0].state, DeployState::Draining);
    let (machines, routers) = (world.observed.machines.clone(), world.observed.routers.clone());
    away(&mut world);
    world.observed.routers = routers;
    world.heartbeat();
    world.settle();
    world.observed.machines = machines;
    world.apply(&ClusterEvent::InstanceCrashes(2));
    world.left_alone();
    let last = world.history.last().expect("a deploy");
    assert_eq!((last.number, last.state), (DeployNumber(2), DeployState::Reverted));
}

#[test]
fn unpacking_a_large_image_is_progress() {
    let mut world = plain();
    world.apply(&ClusterEvent::Push { hold: false });
    world.apply(&ClusterEvent::BuildEnds { well: true });
    world.apply(&ClusterEvent::AgentTakesPlan);
    for megabytes in 1..6 {
        world.apply(&ClusterEvent::Time(100));
        assert!(world.history.is_empty(), "after {megabytes} reports: {:?}", world.history);
        let report = std::sync::Arc::make_mut(world.observed.machines.get_mut(&machine()).expect("a report"));
        report.instances.values_mut().for_each(|instance| instance.unpacked = megabytes << 20);
        world.settle();
    }
    // The image is unpacked, and the phases go on from there: a later step outweighs all that was unpacked.
    (0..2).for_each(|n| world.apply(&ClusterEvent::InstanceAdvances(n)));
    world.apply(&ClusterEvent::Time(100));
    assert!(world.history.is_empty(), "{:?}", world.history);
    world.apply(&ClusterEvent::Time(121));
    world.left_alone();
    let reason = world.history[0].reason.clone().expect("a reason");
    assert!(matches!(reason, Reason::NoProgress { .. }), "{reason}");
}

fn reason_on(reason: &Reason) -> Option<Box<Reason>> {
    match reason {
        Reason::NoProgress { on, .. } => on.clone(),
        _ => None,
    }
}

#[test]
fn the_newest_queued_deploy_supersedes_the_others() {
    let mut world = plain();
    for _ in 0..3 {
        world.apply(&ClusterEvent::Push { hold: false });
    }
    assert_eq!(world.history[0].reason, Some(Reason::SupersededBy { deploy: DeployNumber(3) }));
    assert_eq!(world.app().deploys.len(), 2);
}

#[test]
fn a_restarted_server_keeps_the_routes() {
    let mut world = plain();
    deploy_one(&mut world);
    let before = world.table();
    world.observed = ObservedCluster::default();
    world.settle();
    assert_eq!(world.table(), before);
    assert_ne!(before.generation, Generation(0));
}

#[test]
fn restored_records_are_numbered_above_reported_generations() {
    let mut world = plain();
    deploy_one(&mut world);
    let (desired, old) = (world.desired.clone(), world.plan.clone());
    for _ in 0..3 {
        deploy_one(&mut world);
    }
    (world.desired, world.plan) = (desired, old);
    let (agent, router) = (world.agent.generation, world.observed.routers[&router()].generation);
    assert!(agent > world.plan.machines[&machine()].generation && router > world.table().generation);
    world.settle();
    assert!(world.plan.machines[&machine()].generation > agent && world.table().generation > router);
    let given = (world.plan.machines[&machine()].generation, world.table().generation);
    world.settle();
    assert_eq!((world.plan.machines[&machine()].generation, world.table().generation), given, "once is enough");
    world.left_alone();
    let running: Vec<u64> = world.plan.assignments().map(|(_, id, _)| id.slot.release.0).collect();
    assert_eq!(running, [1, 1]);
    assert_eq!(world.app().app.last_release, 4, "the numbers of what runs are not given again");
    let gone =
        |world: &TestCluster| world.observed.machines[&machine()].instances.keys().all(|id| id.slot.release.0 == 1);
    assert!(gone(&world), "{:?}", world.observed.machines[&machine()].instances.keys());
    deploy_one(&mut world);
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn a_destroyed_app_leaves_no_assignment_and_no_route() {
    let mut world = plain();
    deploy_one(&mut world);
    world.app().app.destroying = true;
    world.left_alone();
    assert_eq!(world.plan.assignments().count(), 0);
    assert!(world.table().routes.is_empty());
}

#[test]
fn an_app_without_serving_instances_is_closed_with_the_cause() {
    let mut world = plain();
    world.settle();
    let closed = |world: &TestCluster| world.table().closed.get(&host()).map(|closed| closed.reason);
    assert_eq!(closed(&world), Some(ClosedReason::NoRelease));
    deploy_one(&mut world);
    assert_eq!((closed(&world), world.table().routes.len()), (None, 1));
    let generation = world.table().generation;
    world.app().app.scale.insert(fixtures::role_named("web"), 0);
    world.left_alone();
    assert_eq!((closed(&world), world.table().routes.len()), (Some(ClosedReason::ScaledToZero), 0));
    assert!(world.table().generation > generation);
    assert_eq!(world.plan.assignments().count(), 0, "the copies ended");
    world.app().app.traffic.paused = true;
    world.settle();
    assert_eq!((closed(&world), world.table().routes.len()), (None, 1), "requests wait while the app is paused");
}

#[test]
fn routes_carry_the_tunnels_of_the_machines() {
    let mut world = plain();
    deploy_one(&mut world);
    let generation = world.table().generation;
    let address = "10.0.0.7:7001".parse().expect("an address");
    world.desired.tunnels.set(&MachineName::parse("other").expect("a name"), &[address]);
    world.settle();
    assert_eq!(world.table().tunnels, world.desired.tunnels);
    assert!(world.table().generation > generation);
}

#[test]
fn routes_carry_the_trusted_proxies() {
    let mut world = plain();
    deploy_one(&mut world);
    let generation = world.table().generation;
    world.desired.trusted_proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a range")]);
    world.settle();
    assert_eq!(world.table().trusted_proxies, world.desired.trusted_proxies);
    assert!(world.table().generation > generation);
    world.app().app.traffic.trusted_proxies = TrustedProxies::new(vec!["::1".parse().expect("a range")]);
    world.app().app.traffic.rate = Some(1);
    world.apply(&ClusterEvent::Push { hold: true });
    while !world.table().routes.values().any(|route| route.held) {
        world.apply(&ClusterEvent::BuildEnds { well: true });
        world.apply(&ClusterEvent::AgentTakesPlan);
        (0..8).for_each(|n| world.apply(&ClusterEvent::InstanceAdvances(n)));
        world.apply(&ClusterEvent::RouterTakesTable);
        world.apply(&ClusterEvent::Time(1));
    }
    let table = world.table();
    let held = table.routes.values().find(|route| route.held).expect("a held release");
    assert_eq!((held.traffic.trusted_proxies.len(), held.traffic.rate), (1, None));
}

#[test]
fn a_declared_start_time_extends_the_deadline() {
    for (start, ends_at) in [(None, 120), (Some(60), 120), (Some(300), 300)] {
        let mut world = plain();
        world.shape.start = start;
        world.apply(&ClusterEvent::Push { hold: false });
        world.build_ends(true);
        world.apply(&ClusterEvent::AgentTakesPlan);
        world.apply(&ClusterEvent::RouterTakesTable);
        let begun = world.now;
        while world.history.is_empty() {
            world.apply(&ClusterEvent::Time(1));
            world.heartbeat();
            world.settle();
            assert!(world.now.since(begun) < 400_000, "the deploy has no end");
        }
        let waited = world.now.since(begun) / 1000;
        assert!((ends_at..ends_at + 10).contains(&waited), "start {start:?}: it ended after {waited} s");
    }
}

#[test]
fn health_checks_send_the_apps_host_unless_the_role_names_one() {
    for (host, expected) in [(None, "shop.localhost"), (Some("shop.example"), "shop.example")] {
        let mut world = plain();
        world.shape.health_host = host;
        deploy_one(&mut world);
        let (_, _, assignment) = world.plan.assignments().next().expect("an instance");
        assert_eq!(assignment.spec.role.health.host.as_deref(), Some(expected));
    }
}
