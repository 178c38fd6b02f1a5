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
        let mut cluster = TestCluster::new(shape);
        for event in &events {
            cluster.apply(event);
        }
        cluster.left_alone();
        let app = &cluster.desired.apps[&app_name()];
        prop_assert!(app.deploys.is_empty(), "not over: {:?}", app.deploys);
        let copies = if shape.volume { 1 } else { shape.copies as usize };
        let (wanted, workers) = if app.app.current.is_some() { (copies, usize::from(shape.worker)) } else { (0, 0) };
        let runs: Vec<&AllocationId> = cluster.plan.assignments().map(|(_, id, _)| id).collect();
        prop_assert_eq!(runs.len(), wanted + workers, "{:?}", runs);
        let table = cluster.table();
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

fn deploy_one(cluster: &mut TestCluster) {
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.left_alone();
}

/// Deploys a second release, up to the state in which the old release stands by.
fn promote_second(cluster: &mut TestCluster) {
    deploy_one(cluster);
    promote_next(cluster);
}

fn promote_next(cluster: &mut TestCluster) {
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    cluster.apply(&ClusterEvent::AgentTakesPlan);
    (0..4).for_each(|_| (0..4).for_each(|n| cluster.apply(&ClusterEvent::InstanceAdvances(n))));
    cluster.apply(&ClusterEvent::RouterTakesTable);
}

#[test]
fn a_second_release_replaces_the_first_behind_the_barrier() {
    let mut cluster = TestCluster::new(AppShape { worker: true, ..plain().shape });
    deploy_one(&mut cluster);
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    cluster.apply(&ClusterEvent::AgentTakesPlan);
    (0..4).for_each(|_| (0..6).for_each(|n| cluster.apply(&ClusterEvent::InstanceAdvances(n))));
    assert_eq!(cluster.app().deploys[0].state, DeployState::Promoting, "waits for the router");
    assert!(cluster.table().routes[&host()].endpoints.iter().all(|e| e.allocation.slot.release == ReleaseNumber(2)));
    cluster.apply(&ClusterEvent::Time(5));
    assert!(
        cluster.plan.assignments().all(|(_, _, a)| a.goal != InstanceGoal::Stop),
        "nothing stops before the acknowledgement"
    );
    cluster.apply(&ClusterEvent::RouterTakesTable);
    assert_eq!(cluster.app().deploys[0].state, DeployState::Draining);
    cluster.left_alone();
    assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Done);
}

/// A failed deploy removes the configuration that the deploy added, except variables that a user changed since.
#[test]
fn a_failed_deploy_removes_the_variables_that_it_added() {
    let mut cluster = plain();
    deploy_one(&mut cluster);
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    let app = cluster.app();
    let release = app.deploys[0].release.expect("a release");
    for name in ["BROUGHT", "CHANGED", "OWN"] {
        app.app.config.insert(name.to_owned(), "one".to_owned());
    }
    let brought = ["BROUGHT", "CHANGED", "OWN"].map(|name| (name.to_owned(), "one".to_owned()));
    Arc::make_mut(app.releases.get_mut(&release).expect("there")).config = BTreeMap::from(brought).into();
    app.deploys[0].brought = ["BROUGHT", "CHANGED"].map(str::to_owned).into();
    app.app.config.insert("CHANGED".to_owned(), "two".to_owned());
    cluster.apply(&ClusterEvent::Order(DeployOrder::Abort));
    cluster.left_alone();
    let config: Vec<(String, String)> = cluster.app().app.config.clone().into_iter().collect();
    let wanted = [("CHANGED", "two"), ("OWN", "one")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(config, wanted);
}

/// Bake time of the second release after a jump, in seconds.
fn bake_time_after(jump: ClusterEvent, before: u16) -> u16 {
    let mut cluster = plain();
    promote_second(&mut cluster);
    cluster.apply(&ClusterEvent::Time(before));
    cluster.apply(&jump);
    cluster.apply(&ClusterEvent::RouterTakesTable);
    let is_watching =
        |cluster: &TestCluster| cluster.desired.apps[&app_name()].deploys[0].state == DeployState::Draining;
    let stands_by = |cluster: &TestCluster| {
        let mut old = cluster.plan.assignments().filter(|(_, id, _)| id.slot.release == ReleaseNumber(1));
        old.any(|(_, _, a)| a.goal != InstanceGoal::Stop)
    };
    let mut seconds = 0;
    while !cluster.desired.apps[&app_name()].deploys.is_empty() && is_watching(&cluster) && stands_by(&cluster) {
        cluster.apply(&ClusterEvent::Time(1));
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
        let mut cluster = plain();
        promote_second(&mut cluster);
        let busy = cluster.plan.assignments().map(|(_, id, _)| id.clone()).next().expect("an instance");
        cluster.observed.routers.values_mut().next().expect("a router").active.insert(busy.clone(), 1);
        // 15 s of bake time pass first. The drain of 30 s counts from the promotion.
        cluster.apply(&ClusterEvent::Time(15));
        cluster.apply(&ClusterEvent::RouterTakesTable);
        cluster.apply(&jump);
        let goal =
            |cluster: &TestCluster| cluster.plan.assignments().find(|(_, id, _)| **id == busy).map(|(_, _, a)| a.goal);
        let mut seconds = 0;
        while matches!(goal(&cluster), Some(InstanceGoal::Retire { .. })) {
            cluster.apply(&ClusterEvent::Time(1));
            seconds += 1;
            assert!(seconds < 100, "the jump {jump:?} keeps a drain");
        }
        assert!((left - 1..=left + 1).contains(&seconds), "{jump:?}: {seconds} s");
    }
}

#[test]
fn a_request_through_the_router_of_another_machine_counts_once() {
    let mut cluster = plain();
    promote_second(&mut cluster);
    let busy = cluster.plan.assignments().map(|(_, id, _)| id.clone()).next().expect("an instance");
    // The router of the instance's machine has three requests; two of them came in through another machine.
    cluster.observed.routers.get_mut(&router()).expect("a router").active.insert(busy.clone(), 3);
    // The bake time passes, and every router learns that the old release leaves.
    cluster.apply(&ClusterEvent::Time(15));
    cluster.apply(&ClusterEvent::RouterTakesTable);
    let mut other = cluster.observed.routers[&router()].clone();
    other.active.insert(busy.clone(), 2);
    let machine = MachineName::parse("other").expect("a name");
    cluster.observed.routers.insert(RouterId { machine, number: 1 }, other);
    let waits = |cluster: &mut TestCluster| cluster.plan_once().report.waits[&app_name()][0].to_string();
    assert_eq!(waits(&mut cluster), format!("{busy} is finishing 3 requests"));
    // The requests from elsewhere count, although the router of the instance's machine is gone.
    cluster.observed.routers.get_mut(&router()).expect("a router").active.clear();
    assert_eq!(waits(&mut cluster), format!("{busy} is finishing 2 requests"));
}

#[test]
fn a_long_drain_delays_no_deploy() {
    let mut cluster = TestCluster::new(AppShape { drain: Some(7200), ..plain().shape });
    deploy_one(&mut cluster);
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.left_alone();
    let old = |cluster: &TestCluster| {
        let goals = cluster.plan.assignments().filter(|(_, id, _)| id.slot.release == ReleaseNumber(1));
        goals.map(|(_, id, a)| (id.clone(), a.goal)).collect::<Vec<_>>()
    };
    // The old instances have no requests, so they stop at once, regardless of their drain time.
    assert_eq!(old(&cluster), vec![]);
    let busy: AllocationId = cluster.plan.assignments().map(|(_, id, _)| id.clone()).next().expect("an instance");
    for router in cluster.observed.routers.values_mut() {
        router.active.insert(busy.clone(), 1);
    }
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.left_alone();
    assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Done);
    let goal =
        |cluster: &TestCluster| cluster.plan.assignments().find(|(_, id, _)| **id == busy).map(|(_, _, a)| a.goal);
    assert!(matches!(goal(&cluster), Some(InstanceGoal::Retire { .. })), "{:?}", goal(&cluster));
    (0..40).for_each(|_| cluster.left_alone());
    assert_eq!(goal(&cluster), None, "after two hours it goes all the same");
}

#[test]
fn a_crash_in_the_bake_time_restores_the_old_release_at_once() {
    let mut cluster = plain();
    promote_second(&mut cluster);
    cluster.apply(&ClusterEvent::Time(4));
    cluster.apply(&ClusterEvent::InstanceCrashes(2));
    let table = cluster.table();
    let route = &table.routes[&host()];
    assert_eq!((route.release, route.endpoints.len()), (ReleaseNumber(1), 2));
    cluster.left_alone();
    let last = cluster.history.last().expect("a deploy");
    assert_eq!(last.state, DeployState::Reverted);
    assert!(matches!(&last.reason, Some(Reason::Exited { exit, .. }) if exit.code == Some(1)));
}

#[test]
fn a_rollback_restores_configuration_only_when_done() {
    let mut cluster = plain();
    deploy_one(&mut cluster);
    let set = BTreeMap::from([("COLOR".to_owned(), "blue".to_owned())]);
    cluster.app().app.config.clone_from(&set);
    promote_next(&mut cluster);
    cluster.apply(&ClusterEvent::InstanceCrashes(2));
    cluster.left_alone();
    assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Reverted);
    assert_eq!(cluster.app().app.config, set, "what failed changes nothing");
    deploy_one(&mut cluster);
    assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Done);
    assert_eq!(cluster.app().app.config, BTreeMap::new());
}

#[test]
fn a_deploy_without_progress_fails_with_the_awaited_reason() {
    let mut cluster = plain();
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    cluster.apply(&ClusterEvent::AgentTakesPlan);
    cluster.apply(&ClusterEvent::Time(121));
    cluster.left_alone();
    let reason = cluster.history[0].reason.clone().expect("a reason");
    assert!(reason.to_string().starts_with("no progress for 120 s: shop.v1.web-1 is being prepared"), "{reason}");
    assert_eq!(reason, Reason::NoProgress { waited: Seconds(120), on: reason_on(&reason) });
}

#[test]
fn a_deploy_waits_for_a_draining_single_writer_and_says_so() {
    let mut cluster = TestCluster::new(AppShape { volume: true, copies: 1, drain: Some(600), ..plain().shape });
    deploy_one(&mut cluster);
    let busy = cluster.plan.assignments().next().expect("an instance").1.clone();
    let router = cluster.observed.routers.values_mut().next().expect("a router");
    router.active.insert(busy.clone(), 1);
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    for _ in 0..40 {
        cluster.apply(&ClusterEvent::AgentTakesPlan);
        cluster.apply(&ClusterEvent::RouterTakesTable);
        cluster.apply(&ClusterEvent::Time(5));
    }
    assert_eq!(cluster.app().deploys[0].state, DeployState::Starting, "200 s later");
    let decision = cluster.plan_once();
    let told = decision.report.waits[&app_name()].first().expect("a reason").to_string();
    assert!(told.contains(&format!("its old copy {busy} must be gone")), "{told}");
    (0..3).for_each(|_| cluster.left_alone());
    assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Done);
}

/// The goal of the second copy of release 1.
fn goal_of_second(cluster: &TestCluster) -> Option<InstanceGoal> {
    cluster.plan.assignments().find(|(_, id, _)| id.slot.index == 2).map(|(_, _, assignment)| assignment.goal)
}

fn scale_to_one(cluster: &mut TestCluster) {
    cluster.app().app.scale.insert(RoleName::parse("web").expect("a name"), 1);
    cluster.plan_until_stable();
}

#[test]
fn an_instance_that_left_the_routes_stops_only_when_every_router_knows() {
    let mut cluster = plain();
    deploy_one(&mut cluster);
    cluster.machine().instances.values_mut().nth(1).expect("the second copy").phase = InstancePhase::Unhealthy;
    cluster.plan_until_stable();
    assert_eq!(cluster.table().routes[&host()].endpoints.len(), 1, "the routes lose the copy");
    scale_to_one(&mut cluster);
    assert!(matches!(goal_of_second(&cluster), Some(InstanceGoal::Retire { .. })), "{:?}", goal_of_second(&cluster));
    cluster.apply(&ClusterEvent::RouterTakesTable);
    assert_eq!(goal_of_second(&cluster), Some(InstanceGoal::Stop));
}

#[test]
fn a_restarted_server_waits_for_the_routers_of_all_machines() {
    let other = MachineName::parse("n").expect("a name");
    for reports in [true, false] {
        let mut cluster = plain();
        deploy_one(&mut cluster);
        cluster.plan.machines.insert(other.clone(), Arc::default());
        scale_to_one(&mut cluster);
        cluster.observed.began = cluster.now;
        cluster.apply(&ClusterEvent::RouterTakesTable);
        assert!(
            matches!(goal_of_second(&cluster), Some(InstanceGoal::Retire { .. })),
            "{:?}",
            goal_of_second(&cluster)
        );
        if reports {
            let router = cluster.observed.routers.values().next().expect("a router").clone();
            cluster.observed.routers.insert(RouterId { machine: other.clone(), number: 1 }, router);
        } else {
            cluster.apply(&ClusterEvent::Time(11));
        }
        cluster.plan_until_stable();
        assert_eq!(goal_of_second(&cluster), Some(InstanceGoal::Stop), "the other router reports: {reports}");
    }
}

#[test]
fn an_exit_fails_the_deploy_while_another_role_waits_stop_first() {
    let mut cluster =
        TestCluster::new(AppShape { volume: true, worker: true, copies: 1, drain: Some(600), ..plain().shape });
    deploy_one(&mut cluster);
    let busy = cluster.plan.assignments().map(|(_, id, _)| id.clone()).find(|id| id.slot.role.as_str() == "web");
    cluster.observed.routers.values_mut().next().expect("a router").active.insert(busy.expect("an instance"), 1);
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    cluster.apply(&ClusterEvent::AgentTakesPlan);
    let instances = cluster.observed.machines[&machine()].instances.keys();
    let worker =
        instances.cloned().position(|id| id.slot.role.as_str() == "worker" && id.slot.release == ReleaseNumber(2));
    let worker = worker.expect("its new worker is placed");
    cluster.apply(&ClusterEvent::InstanceAdvances(worker));
    cluster.apply(&ClusterEvent::InstanceCrashes(worker));
    cluster.apply(&ClusterEvent::RouterTakesTable);
    let reason = cluster.history.last().expect("a deploy that is over").reason.clone();
    assert!(
        matches!(&reason, Some(Reason::Exited { instance, .. }) if instance.slot.role.as_str() == "worker"),
        "{reason:?}"
    );
}

#[test]
fn a_release_step_may_exceed_the_deadline() {
    let mut cluster = TestCluster::new(AppShape { step: true, ..plain().shape });
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    cluster.apply(&ClusterEvent::AgentTakesPlan);
    for _ in 0..40 {
        cluster.apply(&ClusterEvent::Time(5));
    }
    cluster.left_alone();
    assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Done);
}

/// Simulates ten minutes without a server, and a new server without any report.
fn away(cluster: &mut TestCluster) {
    cluster.now.0 += 600_000;
    cluster.observed = ObservedCluster { began: cluster.now, ..ObservedCluster::default() };
    cluster.plan_until_stable();
}

#[test]
fn time_without_a_server_does_not_count_towards_the_deadline() {
    let mut cluster = plain();
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    cluster.apply(&ClusterEvent::AgentTakesPlan);
    away(&mut cluster);
    assert_eq!(cluster.history, []);
    cluster.heartbeat();
    cluster.left_alone();
    assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn a_crash_while_the_server_was_away_reverts_the_deploy() {
    let mut cluster = plain();
    promote_second(&mut cluster);
    assert_eq!(cluster.app().deploys[0].state, DeployState::Draining);
    let (machines, routers) = (cluster.observed.machines.clone(), cluster.observed.routers.clone());
    away(&mut cluster);
    cluster.observed.routers = routers;
    cluster.heartbeat();
    cluster.plan_until_stable();
    cluster.observed.machines = machines;
    cluster.apply(&ClusterEvent::InstanceCrashes(2));
    cluster.left_alone();
    let last = cluster.history.last().expect("a deploy");
    assert_eq!((last.number, last.state), (DeployNumber(2), DeployState::Reverted));
}

#[test]
fn unpacking_a_large_image_is_progress() {
    let mut cluster = plain();
    cluster.apply(&ClusterEvent::Push { hold: false });
    cluster.apply(&ClusterEvent::BuildEnds { well: true });
    cluster.apply(&ClusterEvent::AgentTakesPlan);
    for megabytes in 1..6 {
        cluster.apply(&ClusterEvent::Time(100));
        assert!(cluster.history.is_empty(), "after {megabytes} reports: {:?}", cluster.history);
        let report = std::sync::Arc::make_mut(cluster.observed.machines.get_mut(&machine()).expect("a report"));
        report.instances.values_mut().for_each(|instance| instance.unpacked = megabytes << 20);
        cluster.plan_until_stable();
    }
    // The image is unpacked, and the phases go on from there: a later step outweighs all that was unpacked.
    (0..2).for_each(|n| cluster.apply(&ClusterEvent::InstanceAdvances(n)));
    cluster.apply(&ClusterEvent::Time(100));
    assert!(cluster.history.is_empty(), "{:?}", cluster.history);
    cluster.apply(&ClusterEvent::Time(121));
    cluster.left_alone();
    let reason = cluster.history[0].reason.clone().expect("a reason");
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
    let mut cluster = plain();
    for _ in 0..3 {
        cluster.apply(&ClusterEvent::Push { hold: false });
    }
    assert_eq!(cluster.history[0].reason, Some(Reason::SupersededBy { deploy: DeployNumber(3) }));
    assert_eq!(cluster.app().deploys.len(), 2);
}

#[test]
fn a_restarted_server_keeps_the_routes() {
    let mut cluster = plain();
    deploy_one(&mut cluster);
    let before = cluster.table();
    cluster.observed = ObservedCluster::default();
    cluster.plan_until_stable();
    assert_eq!(cluster.table(), before);
    assert_ne!(before.generation, Generation(0));
}

#[test]
fn restored_records_are_numbered_above_reported_generations() {
    let mut cluster = plain();
    deploy_one(&mut cluster);
    let (desired, old) = (cluster.desired.clone(), cluster.plan.clone());
    for _ in 0..3 {
        deploy_one(&mut cluster);
    }
    (cluster.desired, cluster.plan) = (desired, old);
    let (agent, router) = (cluster.agent.generation, cluster.observed.routers[&router()].generation);
    assert!(agent > cluster.plan.machines[&machine()].generation && router > cluster.table().generation);
    cluster.plan_until_stable();
    assert!(cluster.plan.machines[&machine()].generation > agent && cluster.table().generation > router);
    let given = (cluster.plan.machines[&machine()].generation, cluster.table().generation);
    cluster.plan_until_stable();
    assert_eq!((cluster.plan.machines[&machine()].generation, cluster.table().generation), given, "once is enough");
    cluster.left_alone();
    let running: Vec<u64> = cluster.plan.assignments().map(|(_, id, _)| id.slot.release.0).collect();
    assert_eq!(running, [1, 1]);
    assert_eq!(cluster.app().app.last_release, 4, "the numbers of what runs are not given again");
    let gone =
        |cluster: &TestCluster| cluster.observed.machines[&machine()].instances.keys().all(|id| id.slot.release.0 == 1);
    assert!(gone(&cluster), "{:?}", cluster.observed.machines[&machine()].instances.keys());
    deploy_one(&mut cluster);
    assert_eq!(cluster.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn a_destroyed_app_leaves_no_assignment_and_no_route() {
    let mut cluster = plain();
    deploy_one(&mut cluster);
    cluster.app().app.destroying = true;
    cluster.left_alone();
    assert_eq!(cluster.plan.assignments().count(), 0);
    assert!(cluster.table().routes.is_empty());
}

#[test]
fn an_app_without_serving_instances_is_closed_with_the_cause() {
    let mut cluster = plain();
    cluster.plan_until_stable();
    let closed = |cluster: &TestCluster| cluster.table().closed.get(&host()).map(|closed| closed.reason);
    assert_eq!(closed(&cluster), Some(ClosedReason::NoRelease));
    deploy_one(&mut cluster);
    assert_eq!((closed(&cluster), cluster.table().routes.len()), (None, 1));
    let generation = cluster.table().generation;
    cluster.app().app.scale.insert(fixtures::role_named("web"), 0);
    cluster.left_alone();
    assert_eq!((closed(&cluster), cluster.table().routes.len()), (Some(ClosedReason::ScaledToZero), 0));
    assert!(cluster.table().generation > generation);
    assert_eq!(cluster.plan.assignments().count(), 0, "the copies ended");
    cluster.app().app.traffic.paused = true;
    cluster.plan_until_stable();
    assert_eq!((closed(&cluster), cluster.table().routes.len()), (None, 1), "requests wait while the app is paused");
}

#[test]
fn routes_carry_the_tunnels_of_the_machines() {
    let mut cluster = plain();
    deploy_one(&mut cluster);
    let generation = cluster.table().generation;
    let address = "10.0.0.7:7001".parse().expect("an address");
    cluster.desired.tunnels.set(&MachineName::parse("other").expect("a name"), &[address]);
    cluster.plan_until_stable();
    assert_eq!(cluster.table().tunnels, cluster.desired.tunnels);
    assert!(cluster.table().generation > generation);
}

#[test]
fn routes_carry_the_trusted_proxies() {
    let mut cluster = plain();
    deploy_one(&mut cluster);
    let generation = cluster.table().generation;
    cluster.desired.trusted_proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a range")]);
    cluster.plan_until_stable();
    assert_eq!(cluster.table().trusted_proxies, cluster.desired.trusted_proxies);
    assert!(cluster.table().generation > generation);
    cluster.app().app.traffic.trusted_proxies = TrustedProxies::new(vec!["::1".parse().expect("a range")]);
    cluster.app().app.traffic.rate = Some(1);
    cluster.apply(&ClusterEvent::Push { hold: true });
    while !cluster.table().routes.values().any(|route| route.held) {
        cluster.apply(&ClusterEvent::BuildEnds { well: true });
        cluster.apply(&ClusterEvent::AgentTakesPlan);
        (0..8).for_each(|n| cluster.apply(&ClusterEvent::InstanceAdvances(n)));
        cluster.apply(&ClusterEvent::RouterTakesTable);
        cluster.apply(&ClusterEvent::Time(1));
    }
    let table = cluster.table();
    let held = table.routes.values().find(|route| route.held).expect("a held release");
    assert_eq!((held.traffic.trusted_proxies.len(), held.traffic.rate), (1, None));
}

#[test]
fn a_declared_start_time_extends_the_deadline() {
    for (start, ends_at) in [(None, 120), (Some(60), 120), (Some(300), 300)] {
        let mut cluster = plain();
        cluster.shape.start = start;
        cluster.apply(&ClusterEvent::Push { hold: false });
        cluster.build_ends(true);
        cluster.apply(&ClusterEvent::AgentTakesPlan);
        cluster.apply(&ClusterEvent::RouterTakesTable);
        let begun = cluster.now;
        while cluster.history.is_empty() {
            cluster.apply(&ClusterEvent::Time(1));
            cluster.heartbeat();
            cluster.plan_until_stable();
            assert!(cluster.now.since(begun) < 400_000, "the deploy has no end");
        }
        let waited = cluster.now.since(begun) / 1000;
        assert!((ends_at..ends_at + 10).contains(&waited), "start {start:?}: it ended after {waited} s");
    }
}

#[test]
fn health_checks_send_the_apps_host_unless_the_role_names_one() {
    for (host, expected) in [(None, "shop.localhost"), (Some("shop.example"), "shop.example")] {
        let mut cluster = plain();
        cluster.shape.health_host = host;
        deploy_one(&mut cluster);
        let (_, _, assignment) = cluster.plan.assignments().next().expect("an instance");
        assert_eq!(assignment.spec.role.health.host.as_deref(), Some(expected));
    }
}
