//! Several apps on several machines with two routers, under random events. After each event only the apps that the event
//! affects are planned, with an index that is kept from pass to pass. Then nothing may be left for a plan of everything to
//! do. Once no more events come, the cluster must come to rest.

mod fixtures;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use fixtures::{app_named, loads, machine_named, release_with, reported, role_named, web_role};
use gantry_model::{
    AllocationId, App, AppName, Deploy, DeployCause, DeployNumber, DeployState, ExitStatus, HostName, InstanceGoal,
    InstancePhase, MachineName, Moment, ObservedCluster, ObservedInstance, Plan, Release, Role, RoleCommand, RouterId,
};
use gantry_plan_audit::{AuditInput, RoutableReleases, audit};
use gantry_planner::{
    ClusterIndex, DesiredApp, DesiredCluster, PlanScope, PlannerInput, PlannerPolicy, plan, plan_everything,
};
use proptest::prelude::*;

const APPS: usize = 3;
const MACHINES: usize = 3;
const ROUTERS: usize = 2;

#[derive(Debug, Clone)]
enum Event {
    /// A deploy of a new release is placed.
    Deploy(usize),
    /// A machine takes over its part, and reports.
    Accept(usize),
    /// An instance of a machine goes on by one phase.
    Advance(usize, usize),
    /// An instance of a machine ends.
    Crash(usize, usize),
    /// A router takes over the routes.
    Acknowledge(usize),
    /// A router ends.
    RouterGone(usize),
    /// The number of copies of an app changes.
    Scale(usize, u32),
    /// Time passes.
    Time(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => (0..APPS).prop_map(Event::Deploy),
        8 => (0..MACHINES).prop_map(Event::Accept),
        12 => (0..MACHINES, 0..8usize).prop_map(|(machine, n)| Event::Advance(machine, n)),
        1 => (0..MACHINES, 0..8usize).prop_map(|(machine, n)| Event::Crash(machine, n)),
        6 => (0..ROUTERS).prop_map(Event::Acknowledge),
        1 => (0..ROUTERS).prop_map(Event::RouterGone),
        1 => (0..APPS, 0..4u32).prop_map(|(app, copies)| Event::Scale(app, copies)),
        3 => (1..20u64).prop_map(Event::Time),
    ];
    prop::collection::vec(event, 1..80)
}

fn app_name(number: usize) -> AppName {
    app_named(&format!("app-{number}"))
}

fn machine_name(number: usize) -> MachineName {
    machine_named(&format!("m{number}"))
}

fn router_id(number: usize) -> RouterId {
    RouterId { machine: machine_name(number), number: 1 }
}

fn cause() -> DeployCause {
    DeployCause::Config { keys: Vec::new() }
}

/// A release with a web role, and for every second app a worker.
fn release(app: usize, number: u64) -> Release {
    let mut roles = BTreeMap::from([(role_named("web"), web_role(2))]);
    if app.is_multiple_of(2) {
        roles.insert(role_named("worker"), Role::new(RoleCommand::Shell("work".into())));
    }
    release_with(&app_name(app), number, roles)
}

struct Cluster {
    desired: DesiredCluster,
    observed: ObservedCluster,
    plan: Plan,
    index: ClusterIndex,
    policy: PlannerPolicy,
    now: Moment,
    /// The next address. No two instances ever have the same.
    address: u32,
}

impl Cluster {
    fn new() -> Self {
        let now = Moment(1_000_000_000);
        let mut observed = ObservedCluster::default();
        let mut desired = DesiredCluster::default();
        for machine in (0..MACHINES).map(machine_name) {
            observed.machines.insert(machine, Arc::default());
        }
        for router in (0..ROUTERS).map(router_id) {
            observed.routers.entry(router).or_default().seen = now;
        }
        for name in (0..APPS).map(app_name) {
            let app = App::new(name.clone(), now);
            desired.apps.insert(name, DesiredApp { app, releases: BTreeMap::new(), deploys: Vec::new() });
        }
        let policy = PlannerPolicy::new(HostName::parse("localhost").expect("a name"));
        let (plan, index) = (Plan::default(), ClusterIndex::default());
        let mut cluster = Self { desired, observed, plan, index, policy, now, address: 0x0a53_0001 };
        let everything = (0..APPS).map(app_name).collect();
        cluster.plan_until_stable(everything, (0..MACHINES).map(machine_name).collect());
        cluster
    }

    /// The apps that wait for routers or for time: those with a deploy or a retired instance.
    fn waiting(&self) -> BTreeSet<AppName> {
        let busy = self.desired.apps.iter().filter(|(_, app)| !app.deploys.is_empty()).map(|(name, _)| name);
        let retired = self.plan.assignments().filter(|(_, _, a)| matches!(a.goal, InstanceGoal::Retire { .. }));
        busy.chain(retired.map(|(_, id, _)| &id.slot.app)).cloned().collect()
    }

    /// Plans what is affected until nothing changes, with an audit of each pass.
    fn plan_until_stable(&mut self, apps: BTreeSet<AppName>, machines: BTreeSet<MachineName>) {
        let mut scope = PlanScope { apps, machines };
        for pass in 0.. {
            assert!(pass < 60, "the planner does not come to rest");
            let of_scope = self.desired.apps.iter().filter(|(name, _)| scope.apps.contains(*name));
            let of_scope = of_scope.map(|(name, app)| (name.clone(), app.clone())).collect();
            let desired = DesiredCluster { apps: of_scope, ..DesiredCluster::default() };
            let Self { observed, plan: previous, index, policy, now, .. } = &*self;
            let input = PlannerInput { scope: &scope, desired: &desired, observed, previous, index, policy, now: *now };
            let decision = plan(&input, &mut loads(previous, observed));
            if decision.is_empty() {
                break;
            }
            let planned = decision.applied_to(previous);
            let mut next = PlanScope::default();
            for app in decision.apps {
                next.apps.insert(app.name.clone());
                let known = self.desired.apps.get_mut(&app.name).expect("the app");
                known.app = app;
            }
            for deploy in decision.deploys {
                next.apps.insert(deploy.app.clone());
                let deploys = &mut self.desired.apps.get_mut(&deploy.app).expect("the app").deploys;
                deploys.retain(|known| known.number != deploy.number);
                if !deploy.state.is_final() {
                    deploys.push(deploy);
                }
            }
            next.apps.extend(decision.routes.iter().flatten().map(|(app, _)| app.clone()));
            for (machine, part) in &decision.machines {
                let before = self.plan.machines.get(machine);
                let before = || before.into_iter().flat_map(|part| &part.instances);
                let differs = |(id, assigned): &(&AllocationId, _)| before().all(|known| known != (*id, *assigned));
                next.apps.extend(part.instances.iter().filter(differs).map(|(id, _)| id.slot.app.clone()));
                let gone = before().filter(|(id, _)| !part.instances.contains_key(*id));
                next.apps.extend(gone.map(|(id, _)| id.slot.app.clone()));
                next.machines.insert(machine.clone());
                self.index.assigned(machine, before().map(|(id, _)| id), part.instances.keys());
            }
            let mut routable = RoutableReleases::default();
            self.desired.apps.values().for_each(|app| routable.add(&app.app, &app.deploys));
            let (observed, previous, now) = (&self.observed, &self.plan, self.now);
            let found = audit(&AuditInput {
                routable: &routable,
                observed,
                previous,
                plan: &planned,
                machines: &BTreeMap::new(),
                now,
            });
            assert_eq!(found, []);
            self.plan = planned;
            scope = next;
        }
        let Self { desired, observed, plan: previous, index, policy, now, .. } = &*self;
        assert_eq!(*index, ClusterIndex::of(previous, observed), "the index follows");
        let left = plan_everything(desired, observed, previous, policy, *now);
        assert!(left.is_empty(), "planning only the affected apps forgot something: {left:?}");
    }

    /// Changes the report of a machine, and plans the apps whose instances changed.
    fn report(&mut self, machine: usize, change: impl FnOnce(&mut BTreeMap<AllocationId, ObservedInstance>)) {
        let machine = machine_name(machine);
        let report = Arc::clone(&self.observed.machines[&machine]);
        let mut next = (*report).clone();
        change(&mut next.instances);
        next.seen = self.now;
        let mut affected: BTreeSet<AppName> =
            report.changes(&next.instances).into_iter().map(|(id, _, _)| id.slot.app.clone()).collect();
        let part = self.plan.machines.get(&machine).cloned().unwrap_or_default();
        if next.generation != part.generation {
            next.generation = part.generation;
            affected.extend(
                part.instances.keys().filter(|id| !next.instances.contains_key(*id)).map(|id| id.slot.app.clone()),
            );
        }
        self.index.reported(&machine, report.instances.keys(), next.instances.keys());
        self.observed.machines.insert(machine.clone(), next.into());
        self.plan_until_stable(affected, [machine].into());
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Deploy(number) => self.deploy(number),
            Event::Accept(machine) => self.accept(machine),
            Event::Advance(machine, n) => self.advance(machine, n),
            Event::Crash(machine, n) => {
                let exit = ExitStatus { code: Some(1), at: self.now, ..ExitStatus::default() };
                self.report(machine, |instances| {
                    let count = instances.len().max(1);
                    if let Some(instance) = instances.values_mut().nth(n % count)
                        && instance.phase == InstancePhase::Ready
                    {
                        (instance.phase, instance.exit) = (InstancePhase::Exited, Some(exit));
                    }
                });
            }
            Event::Acknowledge(number) => {
                let router = self.observed.routers.entry(router_id(number)).or_default();
                (router.generation, router.seen) = (self.plan.routing.revision, self.now);
                self.plan_until_stable(self.waiting(), BTreeSet::new());
            }
            Event::RouterGone(number) => {
                self.observed.routers.remove(&router_id(number));
                self.plan_until_stable(self.waiting(), BTreeSet::new());
            }
            Event::Scale(number, copies) => {
                let app = self.desired.apps.get_mut(&app_name(number)).expect("the app");
                app.app.scale.insert(role_named("web"), copies);
                self.plan_until_stable([app_name(number)].into(), BTreeSet::new());
            }
            Event::Time(seconds) => {
                self.now.0 += seconds * 1_000;
                self.observed.routers.values_mut().for_each(|router| router.seen = self.now);
                self.plan_until_stable(self.waiting(), BTreeSet::new());
            }
        }
    }

    fn deploy(&mut self, number: usize) {
        let name = app_name(number);
        let app = self.desired.apps.get_mut(&name).expect("the app");
        if !app.deploys.is_empty() {
            return;
        }
        app.app.last_release += 1;
        app.app.last_deploy += 1;
        let release = release(number, app.app.last_release);
        let mut deploy =
            Deploy::new(name.clone(), DeployNumber(app.app.last_deploy), cause(), "test".into(), false, self.now);
        (deploy.release, deploy.previous) = (Some(release.number), app.app.current);
        deploy.enter(DeployState::Placing, self.now);
        app.releases.insert(release.number, release.into());
        app.deploys.push(deploy);
        self.plan_until_stable([name].into(), BTreeSet::new());
    }

    fn accept(&mut self, machine: usize) {
        let part = self.plan.machines.get(&machine_name(machine)).cloned().unwrap_or_default();
        let mut address = self.address;
        self.report(machine, |instances| {
            for (id, assigned) in &part.instances {
                if assigned.goal != InstanceGoal::Stop && !instances.contains_key(id) {
                    address += 1;
                    instances.insert(id.clone(), reported(InstancePhase::Preparing, Ipv4Addr::from(address)));
                }
            }
            let stops = |id: &AllocationId| part.instances.get(id).is_none_or(|a| a.goal == InstanceGoal::Stop);
            let stopping = instances.iter_mut().filter(|(id, _)| stops(id));
            stopping.for_each(|(_, instance)| instance.phase = InstancePhase::Stopping);
        });
        self.address = address;
    }

    fn advance(&mut self, machine: usize, n: usize) {
        self.report(machine, |instances| {
            let count = instances.len().max(1);
            let Some((id, instance)) = instances.iter_mut().nth(n % count) else { return };
            instance.phase = match instance.phase {
                InstancePhase::Preparing | InstancePhase::Exited => InstancePhase::Starting,
                InstancePhase::Stopping => {
                    let id = id.clone();
                    instances.remove(&id);
                    return;
                }
                _ => InstancePhase::Ready,
            };
        });
    }

    /// Lets all components work until nothing changes.
    fn left_alone(&mut self) {
        for _ in 0..30 {
            for machine in 0..MACHINES {
                self.apply(&Event::Accept(machine));
                (0..8).for_each(|n| self.apply(&Event::Advance(machine, n)));
            }
            (0..ROUTERS).for_each(|router| self.apply(&Event::Acknowledge(router)));
            self.apply(&Event::Time(5));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn planning_the_affected_apps_leaves_nothing_to_plan(events in events()) {
        let mut cluster = Cluster::new();
        for event in &events {
            cluster.apply(event);
        }
        cluster.left_alone();
        for (name, app) in &cluster.desired.apps {
            prop_assert!(app.deploys.is_empty(), "not over: {:?}", app.deploys);
            let copies = app.app.scale.get(&role_named("web")).copied().unwrap_or(2) as usize;
            let assigned: Vec<&AllocationId> = cluster.plan.assignments_of(name).map(|(_, id, _)| id).collect();
            let web = assigned.iter().filter(|id| id.slot.role.as_str() == "web").count();
            prop_assert_eq!(web, if app.app.current.is_some() { copies } else { 0 }, "{:?}", assigned);
            prop_assert!(assigned.iter().all(|id| Some(id.slot.release) == app.app.current));
        }
    }
}
