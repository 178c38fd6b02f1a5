//! The planner against a small world under virtual time: an agent and a router that do, in any order and with any
//! delay, what the plan says; instances that crash; deploys, aborts and destruction at any moment. After every pass the
//! auditor must find nothing, and once the world is left alone it must come to rest in the wanted state.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_model::deploy::Order;
use gantry_model::role::{Command, Role};
use gantry_model::{
    App, AppName, Cause, Deploy, DeployNumber, DeployState, Digest, Exit, Generation, Goal, HostName, InstanceId,
    MachineName, MachinePlan, Moment, Observed, ObservedInstance, Phase, Plan, Reason, Release, ReleaseNumber,
    RoleName, RouterId, Seconds,
};
use gantry_planner::{Desired, DesiredApp, Policy, audit, plan};
use proptest::prelude::*;

struct World {
    desired: Desired,
    observed: Observed,
    plan: Plan,
    policy: Policy,
    now: Moment,
    /// What the agent and the router have been given, which may be behind the plan.
    agent: MachinePlan,
    reporting: bool,
    shape: Shape,
    history: Vec<Deploy>,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    volume: bool,
    step: bool,
    /// A role that others find by name, and no route leads to.
    worker: bool,
    copies: u32,
    /// How long a retired copy may finish, where the role says so.
    drain: Option<u32>,
}

#[derive(Debug, Clone)]
enum Event {
    Push { hold: bool },
    BuildEnds { well: bool },
    AgentTakesPlan,
    RouterTakesTable,
    InstanceAdvances(usize),
    InstanceCrashes(usize),
    Order(Order),
    Time(u16),
    ControllerForgets,
}

fn app_name() -> AppName {
    AppName::parse("shop").expect("a name")
}

fn router() -> RouterId {
    RouterId { machine: machine(), number: 1 }
}

fn machine() -> MachineName {
    MachineName::parse("m").expect("a name")
}

fn host() -> HostName {
    HostName::parse("shop.localhost").expect("a name")
}

impl World {
    fn new(shape: Shape) -> Self {
        let policy = Policy::new(HostName::parse("localhost").expect("a name"));
        let app = App::new(app_name(), Moment(0));
        let app = DesiredApp { app, releases: BTreeMap::new(), deploys: Vec::new() };
        let mut world = Self {
            desired: Desired { apps: BTreeMap::from([(app_name(), app)]) },
            observed: Observed::default(),
            plan: Plan::default(),
            policy,
            now: Moment(1_000_000),
            agent: MachinePlan::default(),
            reporting: true,
            shape,
            history: Vec::new(),
        };
        world.heartbeat();
        world
    }

    fn app(&mut self) -> &mut DesiredApp {
        self.desired.apps.get_mut(&app_name()).expect("the app")
    }

    fn heartbeat(&mut self) {
        let now = self.now;
        if self.reporting {
            self.observed.machines.entry(machine()).or_default().seen = now;
            let router = self.observed.routers.entry(router()).or_default();
            router.seen = now;
        }
    }

    /// Plans until nothing changes, with the auditor after each pass.
    fn settle(&mut self) {
        for pass in 0.. {
            assert!(pass < 50, "the planner does not come to rest");
            let decision = plan(&self.desired, &self.observed, &self.plan, &self.policy, self.now);
            let still = decision.plan == self.plan && decision.apps.is_empty() && decision.deploys.is_empty();
            if still {
                return;
            }
            let mut decided = self.desired.clone();
            for app in decision.apps {
                let name = app.name.clone();
                decided.apps.get_mut(&name).expect("the app").app = app;
            }
            for deploy in decision.deploys {
                let deploys = &mut decided.apps.get_mut(&deploy.app).expect("the app").deploys;
                let place = deploys.iter().position(|d| d.number == deploy.number).expect("the deploy");
                deploys[place] = deploy;
            }
            let violations = audit(&decided, &self.observed, &self.plan, &decision.plan, self.now);
            assert_eq!(violations, vec![], "state {:?}", decided.apps[&app_name()].deploys);
            self.desired = decided;
            self.plan = decision.plan;
            let finals: Vec<Deploy> = self.app().deploys.iter().filter(|d| d.state.is_final()).cloned().collect();
            self.app().deploys.retain(|deploy| !deploy.state.is_final());
            self.history.extend(finals);
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Push { hold } => self.push(hold),
            Event::BuildEnds { well } => self.build_ends(well),
            Event::AgentTakesPlan => self.agent_takes_plan(),
            Event::RouterTakesTable => self.router_takes_table(),
            Event::InstanceAdvances(n) => self.advance(n),
            Event::InstanceCrashes(n) => self.crash(n),
            Event::Order(order) => {
                if let Some(deploy) = self.app().deploys.first_mut() {
                    deploy.order = Some(order);
                }
            }
            Event::Time(seconds) => self.now.0 += u64::from(seconds) * 1000,
            Event::ControllerForgets => {
                // What agents and routers have is not lost with it: they tell it again.
                let (machines, routers) = (self.observed.machines.clone(), self.observed.routers.clone());
                self.observed = Observed { began: self.now, ..Observed::default() };
                self.settle();
                (self.observed.machines, self.observed.routers) = (machines, routers);
            }
        }
        self.heartbeat();
        self.report();
        self.settle();
    }

    fn push(&mut self, hold: bool) {
        let now = self.now;
        let app = self.app();
        app.app.last_deploy += 1;
        let number = DeployNumber(app.app.last_deploy);
        let cause = Cause::Rollback { to: ReleaseNumber(1) };
        app.deploys.push(Deploy::new(app_name(), number, cause, "test".into(), hold, now));
    }

    fn build_ends(&mut self, well: bool) {
        let (shape, now) = (self.shape, self.now);
        let app = self.app();
        let Some(index) = app.deploys.iter().position(|d| d.state == DeployState::Building && d.release.is_none())
        else {
            return;
        };
        if !well {
            app.deploys[index].enter(DeployState::Reverting, now);
            app.deploys[index].reason = Some(Reason::Aborted);
            return;
        }
        app.app.last_release += 1;
        let number = ReleaseNumber(app.app.last_release);
        app.releases.insert(number, release(number, shape, app.deploys[index].number));
        app.deploys[index].release = Some(number);
        app.deploys[index].enter(DeployState::Placing, now);
    }

    fn agent_takes_plan(&mut self) {
        if let Some(part) = self.plan.machines.get(&machine()) {
            self.agent = part.clone();
        }
        let now = self.now;
        let report = self.observed.machines.entry(machine()).or_default();
        report.generation = self.agent.generation;
        let stops = |id: &InstanceId| self.agent.instances.get(id).is_none_or(|a| a.goal == Goal::Stop);
        let wanted: Vec<InstanceId> = self.agent.instances.keys().filter(|id| !stops(id)).cloned().collect();
        for id in wanted {
            report.instances.entry(id.clone()).or_insert_with(|| fresh(&id, now));
        }
        // What is to stop takes its time, and does not come back by being wanted again.
        for (_, instance) in report.instances.iter_mut().filter(|(id, _)| stops(id)) {
            instance.phase = Phase::Stopping;
        }
    }

    fn router_takes_table(&mut self) {
        let generation = self.plan.table.generation;
        self.observed.routers.entry(router()).or_default().generation = generation;
    }

    fn pick(&mut self, n: usize) -> Option<(bool, &mut ObservedInstance)> {
        let instances = &mut self.observed.machines.get_mut(&machine())?.instances;
        let count = instances.len();
        let (id, instance) = instances.iter_mut().nth(n.checked_rem(count)?)?;
        Some((id.role.is_release_step(), instance))
    }

    fn advance(&mut self, n: usize) {
        let now = self.now;
        let stopped = |instance: &ObservedInstance| instance.phase == Phase::Stopping;
        if self.pick(n).is_some_and(|(_, instance)| stopped(instance)) {
            let instances = &mut self.observed.machines.get_mut(&machine()).expect("a machine").instances;
            let first = instances.iter().find(|(_, instance)| stopped(instance)).map(|(id, _)| id.clone());
            instances.remove(&first.expect("it was picked"));
            return;
        }
        let Some((once, instance)) = self.pick(n) else { return };
        let phase = match instance.phase {
            Phase::Preparing => Phase::Starting,
            Phase::Starting if once => Phase::Exited,
            Phase::Exited if once => Phase::Exited,
            Phase::Exited => Phase::Starting,
            _ => Phase::Ready,
        };
        if once && phase == Phase::Exited && instance.exit.is_none() {
            instance.exit = Some(exit(0, now));
        }
        instance.phase = phase;
    }

    fn crash(&mut self, n: usize) {
        let now = self.now;
        if let Some((_, instance)) = self.pick(n)
            && matches!(instance.phase, Phase::Starting | Phase::Ready)
        {
            instance.phase = Phase::Exited;
            instance.exit = Some(exit(1, now));
        }
    }

    /// After the controller forgot what it had seen, agent and router tell it again.
    fn report(&mut self) {
        self.observed.machines.entry(machine()).or_default();
    }

    /// Everyone does its work until nothing moves.
    fn left_alone(&mut self) {
        for _ in 0..40 {
            self.apply(&Event::Order(Order::Promote));
            self.apply(&Event::BuildEnds { well: true });
            self.apply(&Event::AgentTakesPlan);
            for n in 0..20 {
                self.apply(&Event::InstanceAdvances(n));
            }
            self.apply(&Event::RouterTakesTable);
            self.apply(&Event::Time(5));
        }
    }
}

fn fresh(id: &InstanceId, now: Moment) -> ObservedInstance {
    let low = u8::try_from(id.release.0 % 200).expect("small");
    ObservedInstance {
        phase: Phase::Preparing,
        since: now,
        address: Some(Ipv4Addr::new(10, 0, low, u8::try_from(id.index).expect("small"))),
        restarts: 0,
        exit: None,
        probe: None,
        failure: None,
        warning: None,
    }
}

fn exit(code: i32, at: Moment) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
        out_of_memory: None,
        out_of_processes: None,
        out_of_disk: None,
        at,
        tail: vec!["the last line".into()],
    }
}

fn release(number: ReleaseNumber, shape: Shape, deploy: DeployNumber) -> Release {
    let mut web = Role::new(Command::Shell("serve".into()));
    web.instances = shape.copies;
    web.drain = shape.drain.map(Seconds);
    if shape.volume {
        web.volumes.insert("data".into(), "/data".into());
    }
    let mut roles = BTreeMap::from([(RoleName::parse("web").expect("a name"), web)]);
    if shape.worker {
        roles.insert(RoleName::parse("worker").expect("a name"), Role::new(Command::Shell("work".into())));
    }
    if shape.step {
        let step = Role::new(Command::Shell("migrate".into()));
        roles.insert(RoleName::parse("release").expect("a name"), step);
    }
    Release {
        app: app_name(),
        number,
        image: Digest::from_hex(&"ab".repeat(32)).expect("a digest"),
        commit: None,
        config: BTreeMap::new(),
        roles,
        deploy,
        created: Moment(0),
        by: "test".into(),
        cause: Cause::Rollback { to: ReleaseNumber(1) },
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 1..4u32).prop_map(|(volume, step, worker, copies)| Shape {
        volume,
        step,
        worker,
        copies,
        drain: None,
    })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => any::<bool>().prop_map(|hold| Event::Push { hold }),
        3 => any::<bool>().prop_map(|well| Event::BuildEnds { well }),
        8 => Just(Event::AgentTakesPlan),
        8 => Just(Event::RouterTakesTable),
        12 => (0..20usize).prop_map(Event::InstanceAdvances),
        2 => (0..20usize).prop_map(Event::InstanceCrashes),
        1 => prop_oneof![Just(Order::Promote), Just(Order::Abort)].prop_map(Event::Order),
        4 => (1..40u16).prop_map(Event::Time),
        1 => Just(Event::ControllerForgets),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_invariants_and_comes_to_rest(shape in shapes(), events in events()) {
        let mut world = World::new(shape);
        for event in &events {
            world.apply(event);
        }
        world.left_alone();
        let app = &world.desired.apps[&app_name()];
        prop_assert!(app.deploys.is_empty(), "not over: {:?}", app.deploys);
        let copies = if shape.volume { 1 } else { shape.copies as usize };
        let (wanted, workers) = if app.app.current.is_some() { (copies, usize::from(shape.worker)) } else { (0, 0) };
        let runs: Vec<&InstanceId> = world.plan.assignments().map(|(_, id, _)| id).collect();
        prop_assert_eq!(runs.len(), wanted + workers, "{:?}", runs);
        if let Some(route) = world.plan.table.routes.get(&host()) {
            prop_assert_eq!(route.endpoints.len(), wanted);
        }
    }
}

fn plain() -> World {
    World::new(Shape { volume: false, step: false, worker: false, copies: 2, drain: None })
}

fn deploy_one(world: &mut World) {
    world.apply(&Event::Push { hold: false });
    world.left_alone();
}

/// A second release is deployed, up to where the old one stands by.
fn promote_second(world: &mut World) {
    deploy_one(world);
    world.apply(&Event::Push { hold: false });
    world.apply(&Event::BuildEnds { well: true });
    world.apply(&Event::AgentTakesPlan);
    (0..4).for_each(|_| (0..4).for_each(|n| world.apply(&Event::InstanceAdvances(n))));
    world.apply(&Event::RouterTakesTable);
}

#[test]
fn a_second_release_replaces_the_first_behind_the_barrier() {
    let mut world = World::new(Shape { worker: true, ..plain().shape });
    deploy_one(&mut world);
    world.apply(&Event::Push { hold: false });
    world.apply(&Event::BuildEnds { well: true });
    world.apply(&Event::AgentTakesPlan);
    (0..4).for_each(|_| (0..6).for_each(|n| world.apply(&Event::InstanceAdvances(n))));
    assert_eq!(world.app().deploys[0].state, DeployState::Promoting, "waits for the router");
    assert!(world.plan.table.routes[&host()].endpoints.iter().all(|e| e.instance.release == ReleaseNumber(2)));
    world.apply(&Event::Time(5));
    assert!(world.plan.assignments().all(|(_, _, a)| a.goal != Goal::Stop), "nothing stops before the acknowledgement");
    world.apply(&Event::RouterTakesTable);
    assert_eq!(world.app().deploys[0].state, DeployState::Draining);
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn a_role_that_drains_for_hours_holds_up_no_deploy() {
    let mut world = World::new(Shape { drain: Some(7200), ..plain().shape });
    deploy_one(&mut world);
    world.apply(&Event::Push { hold: false });
    world.left_alone();
    let old = |world: &World| {
        let goals = world.plan.assignments().filter(|(_, id, _)| id.release == ReleaseNumber(1));
        goals.map(|(_, id, a)| (id.clone(), a.goal)).collect::<Vec<_>>()
    };
    // Nobody asks anything of it: it is stopped at once, however long it might drain.
    assert_eq!(old(&world), vec![]);
    let busy: InstanceId = world.plan.assignments().map(|(_, id, _)| id.clone()).next().expect("an instance");
    for router in world.observed.routers.values_mut() {
        router.active.insert(busy.clone(), 1);
    }
    world.apply(&Event::Push { hold: false });
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
    let goal = |world: &World| world.plan.assignments().find(|(_, id, _)| **id == busy).map(|(_, _, a)| a.goal);
    assert!(matches!(goal(&world), Some(Goal::Retire { .. })), "{:?}", goal(&world));
    (0..40).for_each(|_| world.left_alone());
    assert_eq!(goal(&world), None, "after two hours it goes all the same");
}

#[test]
fn a_crash_after_promotion_brings_the_old_release_back_at_once() {
    let mut world = plain();
    promote_second(&mut world);
    world.apply(&Event::Time(4));
    world.apply(&Event::InstanceCrashes(2));
    let route = &world.plan.table.routes[&host()];
    assert_eq!((route.release, route.endpoints.len()), (ReleaseNumber(1), 2));
    world.left_alone();
    let last = world.history.last().expect("a deploy");
    assert_eq!(last.state, DeployState::Reverted);
    assert!(matches!(&last.reason, Some(Reason::Exited { exit, .. }) if exit.code == Some(1)));
}

#[test]
fn a_rollback_brings_its_configuration_once_it_can_no_longer_fail() {
    let mut world = plain();
    promote_second(&mut world);
    let set = BTreeMap::from([("COLOR".to_owned(), "blue".to_owned())]);
    world.app().app.config.clone_from(&set);
    world.apply(&Event::InstanceCrashes(2));
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Reverted);
    assert_eq!(world.app().app.config, set, "what failed changes nothing");
    deploy_one(&mut world);
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
    assert_eq!(world.app().app.config, BTreeMap::new());
}

#[test]
fn no_progress_ends_a_deploy_and_says_what_it_waited_for() {
    let mut world = plain();
    world.apply(&Event::Push { hold: false });
    world.apply(&Event::BuildEnds { well: true });
    world.apply(&Event::AgentTakesPlan);
    world.apply(&Event::Time(121));
    world.left_alone();
    let reason = world.history[0].reason.clone().expect("a reason");
    assert!(reason.to_string().starts_with("no progress for 120 s: shop.v1.web-1 is not ready"), "{reason}");
    assert_eq!(reason, Reason::NoProgress { waited: Seconds(120), on: reason_on(&reason) });
}

#[test]
fn a_single_writer_that_drains_for_long_is_waited_for_and_told() {
    let mut world = World::new(Shape { volume: true, copies: 1, drain: Some(600), ..plain().shape });
    deploy_one(&mut world);
    let busy = world.plan.assignments().next().expect("an instance").1.clone();
    let router = world.observed.routers.values_mut().next().expect("a router");
    router.active.insert(busy.clone(), 1);
    world.apply(&Event::Push { hold: false });
    world.apply(&Event::BuildEnds { well: true });
    for _ in 0..40 {
        world.apply(&Event::AgentTakesPlan);
        world.apply(&Event::RouterTakesTable);
        world.apply(&Event::Time(5));
    }
    assert_eq!(world.app().deploys[0].state, DeployState::Starting, "200 s later");
    let decision = plan(&world.desired, &world.observed, &world.plan, &world.policy, world.now);
    let told = decision.report.waits[&app_name()].first().expect("a reason").to_string();
    assert!(told.contains(&format!("its old copy {busy} must be gone")), "{told}");
    (0..3).for_each(|_| world.left_alone());
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn a_process_that_ends_fails_its_deploy_though_another_role_waits_for_its_old_copy() {
    let mut world = World::new(Shape { volume: true, worker: true, copies: 1, drain: Some(600), ..plain().shape });
    deploy_one(&mut world);
    let busy = world.plan.assignments().map(|(_, id, _)| id.clone()).find(|id| id.role.as_str() == "web");
    world.observed.routers.values_mut().next().expect("a router").active.insert(busy.expect("an instance"), 1);
    world.apply(&Event::Push { hold: false });
    world.apply(&Event::BuildEnds { well: true });
    world.apply(&Event::AgentTakesPlan);
    let instances = world.observed.machines[&machine()].instances.keys();
    let worker = instances.cloned().position(|id| id.role.as_str() == "worker" && id.release == ReleaseNumber(2));
    let worker = worker.expect("its new worker is placed");
    world.apply(&Event::InstanceAdvances(worker));
    world.apply(&Event::InstanceCrashes(worker));
    let reason = world.history.last().expect("a deploy that is over").reason.clone();
    assert!(
        matches!(&reason, Some(Reason::Exited { instance, .. }) if instance.role.as_str() == "worker"),
        "{reason:?}"
    );
}

#[test]
fn a_release_step_may_take_longer_than_the_deadline() {
    let mut world = World::new(Shape { step: true, ..plain().shape });
    world.apply(&Event::Push { hold: false });
    world.apply(&Event::BuildEnds { well: true });
    world.apply(&Event::AgentTakesPlan);
    for _ in 0..40 {
        world.apply(&Event::Time(5));
    }
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

/// The controller is away for ten minutes; what it sees at first is nothing.
fn away(world: &mut World) {
    world.now.0 += 600_000;
    world.observed = Observed { began: world.now, ..Observed::default() };
    world.settle();
}

#[test]
fn a_controller_that_was_away_fails_no_deploy_for_want_of_progress() {
    let mut world = plain();
    world.apply(&Event::Push { hold: false });
    world.apply(&Event::BuildEnds { well: true });
    world.apply(&Event::AgentTakesPlan);
    away(&mut world);
    assert_eq!(world.history, []);
    world.heartbeat();
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn a_crash_after_promotion_is_taken_back_though_the_controller_was_away() {
    let mut world = plain();
    promote_second(&mut world);
    assert_eq!(world.app().deploys[0].state, DeployState::Draining);
    let (machines, routers) = (world.observed.machines.clone(), world.observed.routers.clone());
    away(&mut world);
    world.observed.routers = routers;
    world.heartbeat();
    world.settle();
    world.observed.machines = machines;
    world.apply(&Event::InstanceCrashes(2));
    world.left_alone();
    let last = world.history.last().expect("a deploy");
    assert_eq!((last.number, last.state), (DeployNumber(2), DeployState::Reverted));
}

fn reason_on(reason: &Reason) -> Option<Box<Reason>> {
    match reason {
        Reason::NoProgress { on, .. } => on.clone(),
        _ => None,
    }
}

#[test]
fn the_newest_of_the_waiting_deploys_wins() {
    let mut world = plain();
    for _ in 0..3 {
        world.apply(&Event::Push { hold: false });
    }
    assert_eq!(world.history[0].reason, Some(Reason::SupersededBy { deploy: DeployNumber(3) }));
    assert_eq!(world.app().deploys.len(), 2);
}

#[test]
fn a_controller_that_has_just_begun_empties_no_route() {
    let mut world = plain();
    deploy_one(&mut world);
    let before = world.plan.table.clone();
    world.observed = Observed::default();
    world.settle();
    assert_eq!(world.plan.table, before);
    assert_ne!(before.generation, Generation(0));
}

#[test]
fn records_out_of_a_backup_are_told_to_those_who_had_newer_ones() {
    let mut world = plain();
    deploy_one(&mut world);
    let (desired, old) = (world.desired.clone(), world.plan.clone());
    for _ in 0..3 {
        deploy_one(&mut world);
    }
    (world.desired, world.plan) = (desired, old);
    let (agent, router) = (world.agent.generation, world.observed.routers[&router()].generation);
    assert!(agent > world.plan.machines[&machine()].generation && router > world.plan.table.generation);
    world.settle();
    assert!(world.plan.machines[&machine()].generation > agent && world.plan.table.generation > router);
    let given = (world.plan.machines[&machine()].generation, world.plan.table.generation);
    world.settle();
    assert_eq!((world.plan.machines[&machine()].generation, world.plan.table.generation), given, "once is enough");
    world.left_alone();
    let running: Vec<u64> = world.plan.assignments().map(|(_, id, _)| id.release.0).collect();
    assert_eq!(running, [1, 1]);
    assert_eq!(world.app().app.last_release, 4, "the numbers of what runs are not given again");
    let gone = |world: &World| world.observed.machines[&machine()].instances.keys().all(|id| id.release.0 == 1);
    assert!(gone(&world), "{:?}", world.observed.machines[&machine()].instances.keys());
    deploy_one(&mut world);
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn what_runs_unknown_under_a_name_is_gone_before_the_name_is_given() {
    let mut world = plain();
    deploy_one(&mut world);
    // Of another release with the next number, of which no record tells, and whose machine reports late.
    let unknown = InstanceId { release: ReleaseNumber(2), ..world.plan.assignments().next().expect("one").1.clone() };
    world.apply(&Event::Push { hold: false });
    world.build_ends(true);
    let stranger = ObservedInstance { phase: Phase::Ready, ..fresh(&unknown, world.now) };
    let reported = |world: &mut World, there: bool| {
        let report = world.observed.machines.get_mut(&machine()).expect("a machine");
        if there {
            report.instances.insert(unknown.clone(), stranger.clone())
        } else {
            report.instances.remove(&unknown)
        };
        world.settle();
        world.plan.assignments().any(|(_, id, _)| *id == unknown)
    };
    assert!(!reported(&mut world, true), "it would be taken for the new one");
    assert!(reported(&mut world, false));
    world.left_alone();
    assert_eq!(world.history.last().expect("a deploy").state, DeployState::Done);
}

#[test]
fn a_destroyed_app_leaves_nothing() {
    let mut world = plain();
    deploy_one(&mut world);
    world.app().app.destroying = true;
    world.left_alone();
    assert_eq!(world.plan.assignments().count(), 0);
    assert!(world.plan.table.routes.is_empty());
}
