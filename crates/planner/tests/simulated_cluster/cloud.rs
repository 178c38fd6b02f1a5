//! A small simulated cluster under virtual time: an agent and a router that carry out the plan, in any order and with
//! any delay. After every pass the auditor must find no violation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::deploy::DeployOrder;
use gantry_model::role::{Kind, Role, RoleCommand};
use gantry_model::{
    AllocationId, App, AppName, Deploy, DeployCause, DeployNumber, DeployState, ExitStatus, HostName, InstanceGoal,
    InstancePhase, MachineName, MachinePlan, Moment, ObservedCluster, ObservedInstance, ObservedMachine, Plan, Reason,
    Release, ReleaseNumber, RouterId, RoutingTable, Seconds,
};
use gantry_plan_audit::{AuditInput, RoutableReleases, audit};
use gantry_planner::{
    ClusterIndex, DesiredApp, DesiredCluster, PlanDecision, PlanScope, PlannerInput, PlannerPolicy, plan,
    plan_everything,
};

use crate::fixtures::{app_named, loads, machine_named, release_with, reported, role_named, web_role};

pub(crate) struct TestCluster {
    pub(crate) desired: DesiredCluster,
    pub(crate) observed: ObservedCluster,
    pub(crate) plan: Plan,
    pub(crate) policy: PlannerPolicy,
    pub(crate) now: Moment,
    /// The plan that the agent has received, which may be older than `plan`.
    pub(crate) agent: MachinePlan,
    pub(crate) reporting: bool,
    pub(crate) shape: AppShape,
    pub(crate) history: Vec<Deploy>,
    /// Allocations that have left the plan.
    gone: BTreeSet<AllocationId>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct AppShape {
    pub(crate) volume: bool,
    pub(crate) step: bool,
    /// True if the app has a worker role, which has a name and no route.
    pub(crate) worker: bool,
    pub(crate) copies: u32,
    /// The drain time, if the role declares one.
    pub(crate) drain: Option<u32>,
    /// The start time, if the role declares one.
    pub(crate) start: Option<u32>,
    /// The host name of health checks, if the role declares one.
    pub(crate) health_host: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub(crate) enum ClusterEvent {
    Push {
        hold: bool,
    },
    BuildEnds {
        well: bool,
    },
    AgentTakesPlan,
    RouterTakesTable,
    InstanceAdvances(usize),
    InstanceCrashes(usize),
    Order(DeployOrder),
    Time(u16),
    ServerForgets,
    /// The wall clock jumps by this many seconds, and the server shifts its stamps.
    ClockJumps(i32),
    /// The wall clock jumps by this many seconds while no server runs, so the stamps stay.
    ClockJumpsUnseen(i32),
}

pub(crate) fn app_name() -> AppName {
    app_named("shop")
}

pub(crate) fn router() -> RouterId {
    RouterId { machine: machine(), number: 1 }
}

pub(crate) fn machine() -> MachineName {
    machine_named("m")
}

pub(crate) fn host() -> HostName {
    HostName::parse("shop.localhost").expect("a name")
}

impl TestCluster {
    pub(crate) fn new(shape: AppShape) -> Self {
        let policy = PlannerPolicy::new(HostName::parse("localhost").expect("a name"));
        let app = App::new(app_name(), Moment(0));
        let app = DesiredApp { app, releases: BTreeMap::new(), deploys: Vec::new() };
        let mut cluster = Self {
            desired: DesiredCluster { apps: BTreeMap::from([(app_name(), app)]), ..DesiredCluster::default() },
            observed: ObservedCluster::default(),
            plan: Plan::default(),
            policy,
            now: Moment(1_000_000_000),
            agent: MachinePlan::default(),
            reporting: true,
            shape,
            history: Vec::new(),
            gone: BTreeSet::new(),
        };
        cluster.heartbeat();
        cluster
    }

    pub(crate) fn app(&mut self) -> &mut DesiredApp {
        self.desired.apps.get_mut(&app_name()).expect("the app")
    }

    /// The machine's report.
    pub(crate) fn machine(&mut self) -> &mut ObservedMachine {
        Arc::make_mut(self.observed.machines.entry(machine()).or_default())
    }

    /// Plans once, in two ways that must agree: everything, and the app alone.
    pub(crate) fn plan_once(&self) -> PlanDecision {
        let Self { desired, observed, plan: previous, policy, now, .. } = self;
        let decision = plan_everything(desired, observed, previous, policy, *now);
        let index = ClusterIndex::of(previous, observed);
        let scope = PlanScope { apps: [app_name()].into(), machines: [machine()].into() };
        let mut loads = loads(previous, observed);
        let alone = plan(
            &PlannerInput { scope: &scope, desired, observed, previous, index: &index, policy, now: *now },
            &mut loads,
        );
        assert_eq!(alone, decision);
        decision
    }

    pub(crate) fn heartbeat(&mut self) {
        let now = self.now;
        if self.reporting {
            self.machine().seen = now;
            let router = self.observed.routers.entry(router()).or_default();
            router.seen = now;
        }
    }

    /// The routes of all apps as a router gets them.
    pub(crate) fn table(&self) -> RoutingTable {
        RoutingTable::assemble(&self.plan)
    }

    /// Plans until nothing changes, and runs the auditor after each pass.
    pub(crate) fn plan_until_stable(&mut self) {
        for pass in 0.. {
            assert!(pass < 50, "the planner does not come to rest");
            let decision = self.plan_once();
            if decision.apps.is_empty()
                && decision.deploys.is_empty()
                && decision.machines.is_empty()
                && decision.routes.is_empty()
                && decision.routing.is_none()
            {
                return;
            }
            let planned = decision.applied_to(&self.plan);
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
            let mut routable = RoutableReleases::default();
            decided.apps.values().for_each(|app| routable.add(&app.app, &app.deploys));
            let (observed, previous, plan, now) = (&self.observed, &self.plan, &planned, self.now);
            let violations =
                audit(&AuditInput { routable: &routable, observed, previous, plan, machines: &BTreeMap::new(), now });
            assert_eq!(violations, vec![], "state {:?}", decided.apps[&app_name()].deploys);
            self.desired = decided;
            let before = std::mem::replace(&mut self.plan, planned);
            let left = before.assignments().filter(|(_, id, _)| self.plan.assignment(id).is_none());
            self.gone.extend(left.map(|(_, id, _)| id.clone()));
            let is_back = |id: &AllocationId| self.gone.contains(id) && before.assignment(id).is_none();
            let back = self.plan.assignments().find(|(_, id, _)| is_back(id));
            assert_eq!(back, None, "an allocation returns");
            let finals: Vec<Deploy> = self.app().deploys.iter().filter(|d| d.state.is_final()).cloned().collect();
            self.app().deploys.retain(|deploy| !deploy.state.is_final());
            self.history.extend(finals);
        }
    }

    pub(crate) fn apply(&mut self, event: &ClusterEvent) {
        match *event {
            ClusterEvent::Push { hold } => self.push(hold),
            ClusterEvent::BuildEnds { well } => self.build_ends(well),
            ClusterEvent::AgentTakesPlan => self.agent_takes_plan(),
            ClusterEvent::RouterTakesTable => self.router_takes_table(),
            ClusterEvent::InstanceAdvances(n) => self.advance(n),
            ClusterEvent::InstanceCrashes(n) => self.crash(n),
            ClusterEvent::Order(order) => {
                if let Some(deploy) = self.app().deploys.first_mut() {
                    deploy.order = Some(order);
                }
            }
            ClusterEvent::Time(seconds) => self.now.0 += u64::from(seconds) * 1000,
            ClusterEvent::ClockJumps(seconds) => {
                let by = i64::from(seconds) * 1000;
                self.now = self.now.moved(by);
                self.observed.move_stamps(by);
                for part in self.plan.machines.values_mut() {
                    Arc::make_mut(part).retires_mut().for_each(|(_, since)| *since = since.moved(by));
                }
                for deploy in &mut self.app().deploys {
                    (deploy.entered, deploy.progressed) = (deploy.entered.moved(by), deploy.progressed.moved(by));
                }
            }
            ClusterEvent::ClockJumpsUnseen(seconds) => {
                self.now = self.now.moved(i64::from(seconds) * 1000);
                self.apply(&ClusterEvent::ServerForgets);
            }
            ClusterEvent::ServerForgets => {
                // Agents and routers keep their state while the server loses its own, and report again.
                let (machines, routers) = (self.observed.machines.clone(), self.observed.routers.clone());
                self.observed = ObservedCluster { began: self.now, ..ObservedCluster::default() };
                self.plan_until_stable();
                (self.observed.machines, self.observed.routers) = (machines, routers);
            }
        }
        self.heartbeat();
        self.report();
        self.plan_until_stable();
    }

    fn push(&mut self, hold: bool) {
        let now = self.now;
        let app = self.app();
        app.app.last_deploy += 1;
        let number = DeployNumber(app.app.last_deploy);
        let cause = DeployCause::Rollback { to: ReleaseNumber(1) };
        app.deploys.push(Deploy::new(app_name(), number, cause, "test".into(), hold, now));
    }

    pub(crate) fn build_ends(&mut self, well: bool) {
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
        app.releases.insert(number, release(number, shape, app.deploys[index].number).into());
        app.deploys[index].release = Some(number);
        app.deploys[index].enter(DeployState::Placing, now);
    }

    fn agent_takes_plan(&mut self) {
        if let Some(part) = self.plan.machines.get(&machine()) {
            self.agent = (**part).clone();
        }
        let now = self.now;
        let agent = self.agent.clone();
        let stops = |id: &AllocationId| agent.instances.get(id).is_none_or(|a| a.goal == InstanceGoal::Stop);
        let expected: Vec<AllocationId> = agent.instances.keys().filter(|id| !stops(id)).cloned().collect();
        let report = self.machine();
        report.generation = agent.generation;
        for id in expected {
            report.instances.entry(id.clone()).or_insert_with(|| fresh(&id, now));
        }
        // A stopping instance needs time, and does not return if the plan wants it again.
        for (_, instance) in report.instances.iter_mut().filter(|(id, _)| stops(id)) {
            instance.phase = InstancePhase::Stopping;
        }
    }

    fn router_takes_table(&mut self) {
        let generation = self.plan.routing.revision;
        self.observed.routers.entry(router()).or_default().generation = generation;
    }

    fn pick(&mut self, n: usize) -> Option<(bool, &mut ObservedInstance)> {
        let instances = &mut Arc::make_mut(self.observed.machines.get_mut(&machine())?).instances;
        let count = instances.len();
        let (id, instance) = instances.iter_mut().nth(n.checked_rem(count)?)?;
        Some((id.slot.role.as_str() == "release", instance))
    }

    fn advance(&mut self, n: usize) {
        let now = self.now;
        let stopped = |instance: &ObservedInstance| instance.phase == InstancePhase::Stopping;
        if self.pick(n).is_some_and(|(_, instance)| stopped(instance)) {
            let instances = &mut self.machine().instances;
            let first = instances.iter().find(|(_, instance)| stopped(instance)).map(|(id, _)| id.clone());
            instances.remove(&first.expect("it was picked"));
            return;
        }
        let Some((once, instance)) = self.pick(n) else { return };
        let phase = match instance.phase {
            InstancePhase::Preparing => InstancePhase::Starting,
            InstancePhase::Starting if once => InstancePhase::Exited,
            InstancePhase::Exited if once => InstancePhase::Exited,
            InstancePhase::Exited => InstancePhase::Starting,
            _ => InstancePhase::Ready,
        };
        if once && phase == InstancePhase::Exited && instance.exit.is_none() {
            instance.exit = Some(exit(0, now));
        }
        instance.phase = phase;
    }

    fn crash(&mut self, n: usize) {
        let now = self.now;
        if let Some((_, instance)) = self.pick(n)
            && matches!(instance.phase, InstancePhase::Starting | InstancePhase::Ready)
        {
            instance.phase = InstancePhase::Exited;
            instance.exit = Some(exit(1, now));
        }
    }

    /// Creates the machine's report again after the server lost all reports.
    fn report(&mut self) {
        self.machine();
    }

    /// Lets all components work until nothing changes.
    pub(crate) fn left_alone(&mut self) {
        for _ in 0..40 {
            self.apply(&ClusterEvent::Order(DeployOrder::Promote));
            self.apply(&ClusterEvent::BuildEnds { well: true });
            self.apply(&ClusterEvent::AgentTakesPlan);
            for n in 0..20 {
                self.apply(&ClusterEvent::InstanceAdvances(n));
            }
            self.apply(&ClusterEvent::RouterTakesTable);
            self.apply(&ClusterEvent::Time(5));
        }
    }
}

pub(crate) fn fresh(id: &AllocationId, now: Moment) -> ObservedInstance {
    let low = u8::try_from(id.slot.release.0 % 200).expect("small");
    let address = Ipv4Addr::new(10, 0, low, u8::try_from(id.slot.index).expect("small"));
    ObservedInstance { since: now, ..reported(InstancePhase::Preparing, address) }
}

pub(crate) fn exit(code: i32, at: Moment) -> ExitStatus {
    ExitStatus { code: Some(code), at, tail: vec!["the last line".into()], ..ExitStatus::default() }
}

pub(crate) fn release(number: ReleaseNumber, shape: AppShape, deploy: DeployNumber) -> Release {
    let mut web = web_role(shape.copies);
    web.drain = shape.drain.map(Seconds);
    web.health.path = Some("/up".into());
    web.health.start = shape.start.map(Seconds);
    web.health.host = shape.health_host.map(ToOwned::to_owned);
    if shape.volume {
        web.volumes.insert("data".into(), "/data".into());
    }
    let mut roles = BTreeMap::from([(role_named("web"), web)]);
    if shape.worker {
        roles.insert(role_named("worker"), Role::new(RoleCommand::Shell("work".into())));
    }
    if shape.step {
        let step = Role { kind: Kind::Job, ..Role::new(RoleCommand::Shell("migrate".into())) };
        roles.insert(role_named("release"), step);
    }
    Release { deploy, ..release_with(&app_name(), number.0, roles) }
}
