//! Tests of the core without a store: events, their consequences, and every prefix of a step's transactions.
//!
//! - `events`: tables of the events with their effects.
//! - `histories`: random histories, in which the dirty sets leave nothing for a plan of everything.
//! - `previews`: previews of deploys.

mod events;
mod histories;
mod previews;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::dirty::DirtySet;
use crate::state::{CoreEvent, CoreState, EventEffects};
use crate::transactions::transactions;
use gantry_control::{MachineReport, RouterReport};
use gantry_model::clock::ClockJumps;
use gantry_model::{
    AllocationId, App, AppName, Assignment, AuditAction, Bytes, Deploy, DeployCause, DeployNumber, DeployState, Digest,
    Exposure, Generation, InstanceGoal, InstancePhase, InstanceSpec, Machine, MachineAvailability, MachineCapacity,
    MachineId, MachineName, MachinePlan, MilliCpu, Moment, ObservedInstance, Release, ReleaseConfig, ReleaseNumber,
    Role, RoleCommand, RoleName, RoutingHead, Scope,
};
use gantry_plan_audit::{AuditInput, RoutableReleases, audit};
use gantry_records::{EventRecord, RecordChange, RecordIndex, StoreRecord, TokenRecord};

/// Time at which the state of every test is created.
const START: u64 = 1_000_000;

pub(crate) fn app_name(name: &str) -> AppName {
    AppName::parse(name).expect("a name")
}

pub(crate) fn machine_name(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

pub(crate) fn instance_id(text: &str) -> AllocationId {
    AllocationId::parse(text).expect("an id")
}

/// A machine that registered with a gibibyte of memory and four processors.
pub(crate) fn registered(name: &str) -> Machine {
    Machine {
        id: MachineId::from_random(1),
        name: machine_name(name),
        capacity: MachineCapacity { cpu: MilliCpu(4_000), memory: Bytes::mebi(1024) },
        program: "test".into(),
        protocol: 3,
        registered: Moment(0),
        addresses: Vec::new(),
        subnet: None,
        architecture: None,
        labels: BTreeMap::new(),
        availability: MachineAvailability::Schedulable,
    }
}

/// A part of the plan with assignments.
pub(crate) fn part(assigned: &[(&str, InstanceGoal)]) -> MachinePlan {
    let instances = assigned.iter().map(|(id, goal)| (instance_id(id), assignment(*goal))).collect();
    MachinePlan { generation: Generation(1), instances }
}

/// The goal of an instance that has left the routes.
pub(crate) fn retire() -> InstanceGoal {
    InstanceGoal::Retire { removed_in: Generation(1), since: Moment(START) }
}

/// The texts of events for the audit trail.
fn texts(trail: &[RecordChange]) -> Vec<String> {
    let text = |change: &RecordChange| match change {
        RecordChange::Put(record) => match &**record {
            StoreRecord::Event(event) => Some(event.what.clone()),
            _ => None,
        },
        RecordChange::Remove(_) => None,
    };
    trail.iter().filter_map(text).collect()
}

fn digest() -> Digest {
    Digest::from_hex(&"ab".repeat(32)).expect("a digest")
}

fn ready(address: Ipv4Addr) -> ObservedInstance {
    let since = Moment(START);
    ObservedInstance {
        started: Some(since),
        address: Some(address),
        ..ObservedInstance::new(InstancePhase::Ready, since)
    }
}

pub(crate) fn assignment(goal: InstanceGoal) -> Assignment {
    let role = Role::new(RoleCommand::Shell("serve".into()));
    let spec = InstanceSpec { image: digest(), commit: None, config: ReleaseConfig::default(), role, volumes_of: None };
    Assignment { spec: Arc::new(spec), goal }
}

fn report(ids: &[&str]) -> MachineReport {
    let instances = ids.iter().enumerate().map(|(n, id)| (instance_id(id), ready(address(n))));
    MachineReport { generation: Generation(1), instances: instances.collect(), network: Vec::new() }
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a53_0002 + u32::try_from(number).expect("small"))
}

fn router(generation: u64, active: &[(&str, u64)]) -> RouterReport {
    let active = active.iter().map(|(id, count)| (instance_id(id), *count)).collect();
    let (counts, failures) = (BTreeMap::new(), BTreeMap::new());
    RouterReport { number: 1, gone: false, generation: Generation(generation), active, counts, failures }
}

/// Records with a machine `m` that runs `web-1`, and retires `web-2`.
fn records() -> RecordIndex {
    let mut records = RecordIndex::default();
    let part = part(&[("shop.v1.web-1", InstanceGoal::Run), ("shop.v1.web-2", retire())]);
    records.apply(StoreRecord::App(App::new(app_name("shop"), Moment(0))).into());
    records.apply(StoreRecord::Machine(machine_name("m"), part.into()).into());
    records.apply(StoreRecord::Routing(RoutingHead { revision: Generation(2), ..RoutingHead::default() }).into());
    records
}

fn state() -> CoreState {
    CoreState::new(records(), ClockJumps::default(), Moment(START))
}

impl CoreState {
    fn machine(&mut self, report: MachineReport, now: u64) -> EventEffects {
        self.apply(CoreEvent::Machine(machine_name("m"), report), Moment(now))
    }

    fn router(&mut self, report: RouterReport, now: u64) -> EventEffects {
        self.apply(CoreEvent::Router(machine_name("m"), report), Moment(now))
    }

    fn put(&mut self, record: StoreRecord) -> EventEffects {
        self.apply(CoreEvent::Committed(vec![record.into()]), Moment(START + 1))
    }
}

#[test]
fn a_heartbeat_without_news_plans_nothing_and_wakes_no_peer() {
    let mut state = state();
    let first = state.machine(report(&["shop.v1.web-1"]), START + 1);
    assert_eq!(first.dirty, DirtySet::everything(), "the first report of a machine");
    let second = state.machine(report(&["shop.v1.web-1"]), START + 3_000);
    assert!(second.dirty.is_empty() && second.changed == Default::default() && second.trail.is_empty());
    assert_eq!(state.view().observed.machines[&machine_name("m")].seen, Moment(START + 3_000), "the report counts");
    assert!(state.plan(&second.dirty, Moment(START + 3_000)).is_none());
}

/// The address of a machine's report in memory. A copy would have another address.
fn place(state: &CoreState) -> *const gantry_model::ObservedMachine {
    Arc::as_ptr(&state.view().observed.machines[&machine_name("m")])
}

#[test]
fn a_confirmed_report_is_neither_copied_nor_compared() {
    let mut state = state();
    let alive = |report| CoreEvent::MachineAlive(machine_name("m"), Arc::new(report));
    let first = state.apply(alive(report(&["shop.v1.web-1"])), Moment(START + 1));
    assert_eq!(first.dirty, DirtySet::everything(), "a machine that is not known yet");
    let place_before = place(&state);
    // The server does not look at the report: it would find that the copy is gone.
    let second = state.apply(alive(report(&[])), Moment(START + 1_000));
    assert!(second.dirty.is_empty() && second.changed == Default::default() && second.trail.is_empty());
    let observed = Arc::clone(&state.view().observed.machines[&machine_name("m")]);
    assert_eq!((observed.instances.len(), observed.seen), (1, Moment(START + 1_000)));
    drop(observed);
    assert_eq!(place(&state), place_before);
}

#[test]
fn a_confirmed_report_of_a_router_counts_as_a_report_after_a_silence() {
    let mut state = state();
    let id = gantry_model::RouterId { machine: machine_name("m"), number: 1 };
    let alive = |generation| {
        CoreEvent::RouterAlive(id.clone(), Arc::new(RouterReport { number: 0, ..router(generation, &[]) }))
    };
    let shop = DirtySet { apps: [app_name("shop")].into(), ..DirtySet::default() };
    assert_eq!(state.apply(alive(2), Moment(START)).dirty, shop, "a new router");
    assert!(state.apply(alive(1), Moment(START + 1_000)).dirty.is_empty(), "the report is not looked at");
    let generation = |state: &CoreState| state.view().observed.routers[&id].generation;
    assert_eq!(generation(&state), Generation(2));
    assert_eq!(state.apply(alive(1), Moment(START + 30_000)).dirty, shop, "back from silence");
    assert_eq!(generation(&state), Generation(1));
    assert!(state.apply(alive(3), Moment(START + 100_000)).dirty.revisions, "of lost records");
    assert!(
        state.apply(alive(3), Moment(START + 100_001)).dirty.revisions,
        "as long as no plan has raised the revision"
    );
}

#[test]
fn a_silent_router_is_forgotten_with_time_and_not_at_the_reports_of_others() {
    let mut state = state();
    state.router(router(2, &[]), START);
    state.apply(CoreEvent::Router(machine_name("n"), router(2, &[])), Moment(START + 60_000));
    let known = |state: &CoreState| state.view().observed.routers.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(known(&state).len(), 2, "a report looks at no other router");
    state.apply(CoreEvent::Tick, Moment(START + 60_001));
    assert_eq!(known(&state), ["n/1"]);
}

#[test]
fn a_status_change_marks_its_app_and_its_machine() {
    let mut state = state();
    state.machine(report(&["shop.v1.web-1", "other.v1.web-1"]), START + 1);
    let mut changed = report(&["shop.v1.web-1", "other.v1.web-1"]);
    changed.instances.get_mut(&instance_id("shop.v1.web-1")).expect("there").phase = InstancePhase::Unhealthy;
    let effects = state.machine(changed, START + 2);
    let expected = DirtySet { apps: [app_name("shop")].into(), ..DirtySet::default() };
    assert_eq!(effects.dirty, expected);
    assert_eq!(effects.changed, Default::default(), "a report wakes nobody");
    // An instance that appears or goes is a change too, and so is an accepted plan.
    assert_eq!(state.machine(report(&["shop.v1.web-1"]), START + 3).dirty.apps.len(), 2);
    let accepted = MachineReport { generation: Generation(2), ..report(&["shop.v1.web-1"]) };
    assert_eq!(state.machine(accepted, START + 4).dirty.machines, [machine_name("m")].into());
}

#[test]
fn a_router_matters_when_it_acknowledges_drains_comes_or_goes() {
    let mut state = state();
    assert!(!state.router(router(1, &[]), START).dirty.is_empty(), "a new router");
    assert!(state.router(router(1, &[("shop.v1.web-1", 7)]), START + 1).dirty.is_empty(), "load");
    assert!(!state.router(router(1, &[("shop.v1.web-2", 1)]), START + 2).dirty.is_empty(), "a retired one works");
    assert!(state.router(router(1, &[("shop.v1.web-2", 1)]), START + 3).dirty.is_empty(), "no news");
    assert!(!state.router(router(1, &[]), START + 4).dirty.is_empty(), "a retired one is drained");
    let acknowledged = state.router(router(2, &[]), START + 5).dirty;
    assert_eq!(acknowledged, DirtySet { apps: [app_name("shop")].into(), ..DirtySet::default() }, "it waits for this");
    assert!(!state.router(router(2, &[]), START + 30_000).dirty.is_empty(), "back from silence");
    assert!(!state.router(RouterReport { gone: true, ..router(2, &[]) }, START + 30_001).dirty.is_empty(), "gone");
    assert!(state.router(RouterReport { gone: true, ..router(2, &[]) }, START + 30_002).dirty.is_empty());
    assert!(state.view().observed.routers.is_empty());
    assert!(state.router(router(3, &[]), START + 30_003).dirty.revisions, "of lost records");
}

#[test]
fn a_committed_change_notifies_machines_with_a_changed_part() {
    let mut state = state();
    let machine = state.put(StoreRecord::Machine(machine_name("m"), Arc::default()));
    assert_eq!((machine.changed.machines.len(), machine.changed.routes, machine.changed.apps.len()), (1, false, 0));
    assert_eq!(machine.dirty.apps, [app_name("shop")].into(), "its instances are gone");
    let routes = state.put(StoreRecord::Routes(app_name("blog"), Arc::default()));
    assert!(routes.changed.routes && routes.changed.machines.is_empty());
    assert_eq!(routes.dirty.apps, [app_name("blog")].into(), "the routes of other apps are not affected");
    let deploy = Deploy::new(app_name("shop"), DeployNumber(1), cause(), "test".into(), false, Moment(START));
    let deploy = state.put(StoreRecord::Deploy(deploy));
    assert!(deploy.changed.apps == [app_name("shop")].into() && !deploy.changed.routes);
    assert_eq!(deploy.dirty.apps, [app_name("shop")].into());
    let action = AuditAction::TokenRevoked { token: "x".to_owned() };
    let event = EventRecord::new(1, Moment(0), "x", None, action);
    let token = TokenRecord { name: "x".into(), scope: Scope::Admin, created: Moment(0), expires: None, server: None };
    for other in [StoreRecord::Event(event), StoreRecord::Token { hash: "x".into(), token }] {
        let effects = state.put(other);
        assert!(effects.dirty.is_empty() && effects.changed == Default::default());
    }
    let removed = RecordChange::Remove("apps/shop".to_owned());
    let removed = state.apply(CoreEvent::Committed(vec![removed]), Moment(START + 2));
    assert_eq!(removed.dirty.apps, [app_name("shop")].into());
}

#[test]
fn time_matters_to_open_deploys_and_retired_instances_alone() {
    let mut state = state();
    let later = Moment(START + 60_000);
    assert_eq!(state.apply(CoreEvent::Tick, later).dirty.apps, [app_name("shop")].into(), "web-2 retires");
    state.put(StoreRecord::Machine(machine_name("m"), Arc::default()));
    assert!(state.apply(CoreEvent::Tick, later).dirty.is_empty());
    let mut deploy = Deploy::new(app_name("shop"), DeployNumber(1), cause(), "test".into(), false, Moment(START));
    state.put(StoreRecord::Deploy(deploy.clone()));
    assert_eq!(state.apply(CoreEvent::Tick, later).dirty.apps, [app_name("shop")].into());
    deploy.enter(DeployState::Done, later);
    state.put(StoreRecord::Deploy(deploy));
    assert!(state.apply(CoreEvent::Tick, later).dirty.is_empty());
    let mut app = App::new(app_name("shop"), Moment(0));
    app.destroying = true;
    state.put(StoreRecord::App(app));
    assert!(!state.apply(CoreEvent::Tick, later).dirty.is_empty());
}

#[test]
fn reloaded_records_notify_every_machine() {
    let mut state = state();
    let mut other = RecordIndex::default();
    other.apply(StoreRecord::Machine(machine_name("n"), Arc::default()).into());
    let effects = state.apply(CoreEvent::Loaded(Box::new(other)), Moment(START + 1));
    assert_eq!(effects.changed.machines, [machine_name("m"), machine_name("n")].into());
    assert!(effects.changed.routes && effects.changed.all_apps && effects.dirty.everything);
}

#[test]
fn durations_count_from_the_beginning_of_a_term() {
    let mut state = state();
    let effects = state.apply(CoreEvent::TermBegan, Moment(START + 1));
    assert!(effects.dirty.everything);
    assert_eq!(state.view().observed.began, Moment(START + 1));
}

#[test]
fn a_reader_keeps_its_snapshot() {
    let mut state = state();
    let before = state.view();
    state.put(StoreRecord::App(App::new(app_name("new"), Moment(0))));
    state.machine(report(&["shop.v1.web-1"]), START + 5);
    assert!(!before.records.apps.contains_key(&app_name("new")) && before.observed.machines.is_empty());
    assert!(state.view().records.apps.contains_key(&app_name("new")));
    assert_eq!(state.view().now, Moment(START + 5));
}

pub(crate) fn cause() -> DeployCause {
    DeployCause::Config { keys: vec!["A".into()] }
}

/// A cluster of one server, two machines and one router, all simulated. Each machine runs at once what its part says,
/// and the router takes over each table.
struct SimulatedCluster {
    state: CoreState,
    now: u64,
    /// The machines that report.
    machines: Vec<&'static str>,
}

impl SimulatedCluster {
    fn new(records: RecordIndex, now: u64) -> Self {
        let state = CoreState::new(records, ClockJumps::default(), Moment(now));
        let mut cluster = Self { state, now, machines: vec!["a", "b"] };
        cluster.report_all();
        cluster
    }

    /// Every machine and the router report what the present plan makes of them. Returns what this affects.
    fn report_all(&mut self) -> DirtySet {
        let mut dirty = DirtySet::default();
        let plan = self.state.view().records.plan.clone();
        for name in self.machines.iter().copied().map(machine_name) {
            let part = plan.machines.get(&name).map(|part| (**part).clone()).unwrap_or_default();
            let left = part.instances.iter().filter(|(_, assignment)| assignment.goal != InstanceGoal::Stop);
            // The address depends on the slot alone, as on a machine that keeps it.
            let place =
                |id: &AllocationId| usize::try_from(id.slot.release.0 * 10 + u64::from(id.slot.index)).expect("small");
            let instances = left.map(|(id, _)| (id.clone(), ready(address(place(id))))).collect();
            let report = MachineReport { generation: part.generation, instances, network: Vec::new() };
            dirty.merge(self.state.apply(CoreEvent::Machine(name, report), Moment(self.now)).dirty);
        }
        let report = router(plan.routing.revision.0, &[]);
        dirty.merge(self.state.apply(CoreEvent::Router(machine_name("a"), report), Moment(self.now)).dirty);
        dirty
    }

    /// Plans one step and returns its groups after an audit. Planning only the app must give the same as planning
    /// everything.
    fn plan(&mut self) -> Vec<Vec<RecordChange>> {
        let (view, now) = (self.state.view(), Moment(self.now));
        let step = self.state.plan(&DirtySet::everything(), now).expect("dirty");
        let (apps, machines) = ([app_name("shop")].into(), ["a", "b"].map(machine_name).into());
        let alone = DirtySet { apps, machines, ..DirtySet::default() };
        let alone = self.state.plan(&alone, now).expect("dirty");
        assert_eq!(format!("{:?}", alone.groups), format!("{:?}", step.groups));
        let mut next = (*view.records).clone();
        step.groups.iter().flatten().for_each(|change| next.apply(change.clone()));
        let mut routable = RoutableReleases::default();
        next.apps.iter().for_each(|(name, app)| routable.add(app, next.open_deploys(name).map(AsRef::as_ref)));
        let (observed, previous, plan) = (&*view.observed, &*view.records.plan, &*next.plan);
        let found =
            audit(&AuditInput { routable: &routable, observed, previous, plan, machines: &BTreeMap::new(), now });
        assert_eq!(found, [], "at {now:?}");
        step.groups
    }

    /// Runs until the open deploys are over. Before each write, also runs a second cluster from each prefix of the
    /// write, as after a kill, if `branch` is set.
    fn run(&mut self, branch: bool) -> usize {
        let mut prefixes = 0;
        for _ in 0..200 {
            let groups = self.plan();
            if branch {
                let parts = transactions(groups.clone(), 1);
                for kept in 0..parts.len() {
                    let mut records = (*self.state.view().records).clone();
                    parts[..kept].iter().flatten().for_each(|change| records.apply(change.clone()));
                    let mut other = SimulatedCluster::new(records, self.now + 1_000);
                    other.run(false);
                    other.assert_v2_serves();
                    prefixes += 1;
                }
            }
            let done = groups.is_empty();
            if !done {
                self.state.apply(CoreEvent::Committed(groups.concat()), Moment(self.now));
            }
            self.now += 1_000;
            self.report_all();
            let view = self.state.view();
            let open = view.records.apps.keys().any(|app| view.records.open_deploys(app).next().is_some());
            let leaving =
                view.records.plan.assignments().any(|(_, _, assignment)| assignment.goal != InstanceGoal::Run);
            if done && !open && !leaving {
                return prefixes;
            }
        }
        panic!("the cluster does not come to rest");
    }

    fn assert_v2_serves(&self) {
        let view = self.state.view();
        assert_eq!(view.records.apps[&app_name("shop")].current, Some(ReleaseNumber(2)));
        let ids: Vec<String> = view.records.plan.assignments().map(|(_, id, _)| id.to_string()).collect();
        assert_eq!(ids.len(), 3, "{ids:?}");
        assert!(ids.iter().all(|id| id.starts_with("shop.v2.web-")), "{ids:?}");
        let routed = view.records.plan.endpoints().count();
        assert_eq!(routed, 3);
    }
}

/// A role that serves HTTP.
fn web_role(copies: u32) -> Role {
    Role { exposure: Exposure::Http, instances: copies, ..Role::new(RoleCommand::Shell("serve".into())) }
}

pub(crate) fn role_name(name: &str) -> RoleName {
    RoleName::parse(name).expect("a role")
}

/// A release from the deploy of the same number.
pub(crate) fn release_of(app: &str, number: u64, roles: BTreeMap<RoleName, Role>) -> Release {
    Release {
        app: app_name(app),
        number: ReleaseNumber(number),
        image: digest(),
        commit: None,
        config: ReleaseConfig::default(),
        roles,
        deploy: DeployNumber(number),
        created: Moment(START),
        by: "test".into(),
        cause: cause(),
    }
}

/// A release of `shop` with three copies.
fn release(number: u64) -> Release {
    release_of("shop", number, [(role_name("web"), web_role(3))].into())
}

/// Returns the records of a deploy of a release that is about to be placed. The release has the deploy's number.
fn deploy_of(records: &RecordIndex, release: Release, now: u64) -> [StoreRecord; 3] {
    let (name, number) = (release.app.clone(), release.number);
    let known = records.apps.get(&name).map(|app| (**app).clone());
    let mut app = known.unwrap_or_else(|| App::new(name.clone(), Moment(START)));
    (app.last_release, app.last_deploy) = (number.0, number.0);
    let mut deploy = Deploy::new(name, DeployNumber(number.0), cause(), "test".into(), false, Moment(now));
    (deploy.release, deploy.previous) = (Some(number), app.current);
    deploy.enter(DeployState::Placing, Moment(now));
    [StoreRecord::App(app), StoreRecord::Release(release), StoreRecord::Deploy(deploy)]
}

/// Adds a deploy of a further release of `shop`.
fn deploying(records: &mut RecordIndex, number: u64, now: u64) {
    deploy_of(records, release(number), now).into_iter().for_each(|record| records.apply(record.into()));
}

#[test]
fn every_prefix_of_every_step_of_a_deploy_leads_to_the_same_end() {
    let mut records = RecordIndex::default();
    deploying(&mut records, 1, START);
    let mut cluster = SimulatedCluster::new(records, START);
    cluster.run(false);
    let mut records = (*cluster.state.view().records).clone();
    deploying(&mut records, 2, cluster.now);
    let mut cluster = SimulatedCluster::new(records, cluster.now);
    let prefixes = cluster.run(true);
    cluster.assert_v2_serves();
    assert!(prefixes > 15, "{prefixes} prefixes are too few to be a deploy");
}

/// A cluster at rest with three copies on three machines.
fn three_machines() -> SimulatedCluster {
    let mut records = RecordIndex::default();
    deploying(&mut records, 1, START);
    let mut cluster = SimulatedCluster::new(records, START);
    cluster.machines = vec!["a", "b", "c"];
    cluster.report_all();
    cluster.run(false);
    cluster
}

impl SimulatedCluster {
    /// Lets time pass: those who report report, and the server plans. Returns the events for the audit trail.
    fn pass(&mut self, millis: u64) -> Vec<String> {
        let mut trail = Vec::new();
        for _ in 0..millis / 500 {
            self.now += 500;
            let mut dirty = self.report_all();
            let ticked = self.state.apply(CoreEvent::Tick, Moment(self.now));
            trail.extend(texts(&ticked.trail));
            dirty.merge(ticked.dirty);
            while let Some(step) = self.state.plan(&dirty, Moment(self.now)) {
                let changes = step.groups.concat();
                self.state.apply(CoreEvent::Planned { apps: step.apps, report: step.report }, Moment(self.now));
                if changes.is_empty() {
                    break;
                }
                dirty = self.state.apply(CoreEvent::Committed(changes), Moment(self.now)).dirty;
            }
        }
        trail
    }

    /// The machines of the copies that are to run.
    fn running(&self) -> Vec<String> {
        let view = self.state.view();
        let runs = view.records.plan.assignments().filter(|(_, _, assigned)| assigned.goal == InstanceGoal::Run);
        runs.map(|(machine, _, _)| machine.to_string()).collect()
    }

    /// The machines that routes lead to.
    fn routed(&self) -> Vec<String> {
        let view = self.state.view();
        let mut machines: Vec<String> =
            view.records.plan.endpoints().map(|endpoint| endpoint.at.machine().to_string()).collect();
        machines.sort();
        machines
    }
}

#[test]
fn a_lost_machine_is_replaced_within_seconds_and_learns_of_it_when_it_returns() {
    let mut cluster = three_machines();
    assert_eq!(cluster.pass(1_000), [""; 0]);
    assert_eq!(cluster.routed(), ["a", "b", "c"]);
    cluster.machines = vec!["a", "b"];
    assert_eq!(cluster.pass(3_000), [""; 0]);
    assert_eq!(cluster.routed(), ["a", "b", "c"], "a suspected machine may live");
    assert_eq!(cluster.pass(1_000), ["machine c is lost; its copies move"]);
    assert_eq!(cluster.running().len(), 3);
    assert!(!cluster.running().contains(&"c".to_owned()), "{:?}", cluster.running());
    assert_eq!(cluster.routed().len(), 3, "the copies elsewhere serve: {:?}", cluster.routed());
    assert_eq!(cluster.state.view().states[&machine_name("c")], gantry_model::MachineState::Lost);
    cluster.machines.push("c");
    cluster.pass(60_000);
    let left: Vec<String> = cluster.state.view().records.plan.assignments().map(|(_, id, _)| id.to_string()).collect();
    assert_eq!(left.len(), 3, "what had moved is gone: {left:?}");
    assert_eq!(cluster.state.view().states[&machine_name("c")], gantry_model::MachineState::Ready);
}

#[test]
fn silence_of_all_machines_moves_no_copy() {
    let mut cluster = three_machines();
    cluster.machines.clear();
    cluster.pass(60_000);
    assert_eq!(cluster.routed(), ["a", "b", "c"]);
    assert_eq!(cluster.running(), ["a", "b", "c"]);
}

#[test]
fn a_destroyed_app_leaves_its_last_release_number() {
    let mut cluster = three_machines();
    let shop = (*cluster.state.view().records.apps[&app_name("shop")]).clone();
    for app in [shop, App::new(app_name("blog"), Moment(START))] {
        let destroying = StoreRecord::App(App { destroying: true, ..app });
        cluster.state.apply(CoreEvent::Committed(vec![destroying.into()]), Moment(cluster.now));
    }
    cluster.pass(120_000);
    let records = cluster.state.view().records;
    assert!(records.apps.is_empty(), "{:?}", records.apps.keys());
    let last: Vec<_> =
        records.destroyed.values().map(|destroyed| (destroyed.app.as_str(), destroyed.last_release)).collect();
    assert_eq!(last, [("blog", 0), ("shop", 1)], "an app without a release may have left jobs, too");
    for destroyed in records.destroyed.values() {
        assert!(Moment(START) < destroyed.at && destroyed.at <= Moment(cluster.now), "{destroyed:?}");
    }
}
