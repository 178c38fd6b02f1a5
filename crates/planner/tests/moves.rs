//! Copies that leave their machine: because it is lost or drained, or because they fail there.

mod fixtures;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use fixtures::{app_named, loads, machine_named, release_with, reported, role_named, web_role};
use gantry_model::{
    AllocationId, App, Bytes, Deploy, DeployNumber, DeployState, HostName, InstanceGoal, InstancePhase, LabelKey,
    LabelValue, Moment, ObservedCluster, ObservedRouter, Plan, Reason, ReleaseNumber, Role, RoleCommand, RouterId,
    RoutingTable, Seconds,
};
use gantry_placement::{MachineReadiness, PlacementMachine, Resources};
use gantry_plan_audit::{AuditInput, AuditedMachine, RoutableReleases, audit};
use gantry_planner::{
    ClusterIndex, DesiredApp, DesiredCluster, PlanReport, PlanScope, PlannerInput, PlannerPolicy, RebalanceBudget,
    plan, unregistered,
};

/// An app with a release that serves. The machines carry out the plan in [`PlacementScenario::agents_act`].
struct PlacementScenario {
    desired: DesiredCluster,
    observed: ObservedCluster,
    plan: Plan,
    machines: BTreeMap<String, PlacementMachine>,
    /// Lost machines whose leases are over.
    fenced: BTreeSet<String>,
    report: PlanReport,
    /// The budget of the policy, if it is not the default.
    rebalance: Option<RebalanceBudget>,
    now: Moment,
    /// The next address. No two instances have the same.
    address: u32,
}

impl PlacementScenario {
    fn new(machines: &[&str], roles: &[(&str, Role)]) -> Self {
        let now = Moment(1_000_000_000);
        let mut app = App::new(app_named("shop"), now);
        (app.current, app.last_release, app.last_deploy) = (Some(ReleaseNumber(1)), 1, 1);
        let roles = roles.iter().map(|(name, role)| (role_named(name), role.clone())).collect();
        let releases = [(ReleaseNumber(1), Arc::new(release_with(&app.name, 1, roles)))].into();
        let apps = [(app.name.clone(), DesiredApp { app, releases, deploys: Vec::new() })].into();
        let mut scenario = Self {
            desired: DesiredCluster { apps, ..DesiredCluster::default() },
            observed: ObservedCluster::default(),
            plan: Plan::default(),
            machines: BTreeMap::new(),
            fenced: BTreeSet::new(),
            report: PlanReport::default(),
            rebalance: None,
            now,
            address: 0x0a53_0001,
        };
        machines.iter().for_each(|name| scenario.add(name));
        scenario.rest();
        scenario
    }

    fn add(&mut self, name: &str) {
        let capacity = Resources { memory: 1 << 30, cpu: 4000 };
        let machine = unregistered(machine_named(name), MachineReadiness::Ready);
        self.machines.insert(name.to_owned(), PlacementMachine { capacity, protocol: 3, ..machine });
        self.observed.machines.insert(machine_named(name), Arc::default());
        let router = RouterId { machine: machine_named(name), number: 1 };
        self.observed.routers.insert(router, ObservedRouter::default());
    }

    /// Adds an app with the roles of `shop`, in a release of the same number.
    fn add_app(&mut self, name: &str) {
        let mut copy = self.desired.apps[&app_named("shop")].clone();
        copy.app.name = app_named(name);
        let roles = copy.releases[&ReleaseNumber(1)].roles.clone();
        copy.releases = [(ReleaseNumber(1), Arc::new(release_with(&copy.app.name, 1, roles)))].into();
        self.desired.apps.insert(copy.app.name.clone(), copy);
        self.rest();
    }

    fn make(&mut self, name: &str, readiness: MachineReadiness) {
        self.machines.get_mut(name).expect("a machine").readiness = readiness;
        self.plan_until_stable();
    }

    /// Plans until nothing changes, and audits each step.
    fn plan_until_stable(&mut self) {
        for pass in 0.. {
            assert!(pass < 50, "the planner does not come to rest");
            let mut index = ClusterIndex::of(&self.plan, &self.observed);
            for machine in self.machines.values() {
                index.machine_is(&machine.name, machine.readiness);
                index.machine_is_fenced(&machine.name, self.fenced.contains(machine.name.as_str()));
            }
            let mut loads = loads(&self.plan, &self.observed);
            self.machines.values().for_each(|machine| loads.put_machine(machine.clone()));
            let scope = PlanScope {
                apps: self.desired.apps.keys().cloned().collect(),
                machines: self.observed.machines.keys().cloned().collect(),
            };
            let mut policy = PlannerPolicy::new(HostName::parse("localhost").expect("a name"));
            policy.rebalance = self.rebalance.unwrap_or(policy.rebalance);
            let Self { desired, observed, plan: previous, now, .. } = &*self;
            let input =
                PlannerInput { scope: &scope, desired, observed, previous, index: &index, policy: &policy, now: *now };
            let decision = plan(&input, &mut loads);
            let planned = decision.applied_to(previous);
            self.audit(&planned);
            let is_empty = decision.is_empty();
            for app in decision.apps {
                let name = app.name.clone();
                self.desired.apps.get_mut(&name).expect("the app").app = app;
            }
            for deploy in decision.deploys {
                let deploys = &mut self.desired.apps.get_mut(&deploy.app).expect("the app").deploys;
                deploys.retain(|other| other.number != deploy.number);
                deploys.extend(Some(deploy).filter(|deploy| !deploy.state.is_final()));
            }
            (self.plan, self.report) = (planned, decision.report);
            if is_empty {
                return;
            }
        }
    }

    fn audit(&self, planned: &Plan) {
        let mut routable = RoutableReleases::default();
        self.desired.apps.values().for_each(|app| routable.add(&app.app, &app.deploys));
        let audited = |machine: &PlacementMachine| AuditedMachine {
            takes_copies: machine.readiness == MachineReadiness::Ready,
            is_lost: machine.readiness == MachineReadiness::Lost,
            is_fenced: self.fenced.contains(machine.name.as_str()),
            usable: (machine.capacity.memory, machine.capacity.cpu),
            protocol: machine.protocol,
        };
        let machines = self.machines.values().map(|machine| (machine.name.clone(), audited(machine))).collect();
        let (observed, previous, now) = (&self.observed, &self.plan, self.now);
        let input = AuditInput { routable: &routable, observed, previous, plan: planned, machines: &machines, now };
        assert_eq!(audit(&input), []);
    }

    /// The machines that are not lost take over their parts; copies begin in `phase`, and routers acknowledge.
    fn agents_act(&mut self, phase: InstancePhase) {
        self.now.0 += 1_000;
        for (name, machine) in &self.machines {
            if machine.readiness == MachineReadiness::Lost {
                continue;
            }
            let part = self.plan.machines.get(&machine_named(name)).cloned().unwrap_or_default();
            let report = Arc::make_mut(self.observed.machines.get_mut(&machine_named(name)).expect("a machine"));
            (report.generation, report.seen) = (part.generation, self.now);
            let runs = |id: &AllocationId| part.instances.get(id).is_some_and(|a| a.goal != InstanceGoal::Stop);
            report.instances.retain(|id, _| runs(id));
            for id in part.instances.keys().filter(|id| runs(id)) {
                self.address += 1;
                let fresh = || reported(phase, Ipv4Addr::from(self.address));
                let instance = report.instances.entry(id.clone()).or_insert_with(fresh);
                if phase == InstancePhase::Ready && instance.restarts == 0 {
                    instance.phase = phase;
                }
            }
            let router = RouterId { machine: machine_named(name), number: 1 };
            let router = self.observed.routers.get_mut(&router).expect("a router");
            (router.generation, router.seen) = (self.plan.routing.revision, self.now);
        }
        self.plan_until_stable();
    }

    /// Lets all components act until the state no longer changes.
    fn rest(&mut self) {
        self.plan_until_stable();
        for _ in 0..60 {
            self.agents_act(InstancePhase::Ready);
        }
    }

    /// The allocations with the goal to run, each with its machine.
    fn running(&self) -> Vec<String> {
        let runs = self.plan.assignments().filter(|(_, _, assigned)| assigned.goal == InstanceGoal::Run);
        let mut running: Vec<String> = runs.map(|(machine, id, _)| format!("{} {machine}", id.short())).collect();
        running.sort();
        running
    }

    /// The allocations that routes lead to.
    fn routed(&self) -> BTreeSet<String> {
        self.plan.endpoints().map(|endpoint| endpoint.allocation.short()).collect()
    }

    /// A deploy of a second release with the roles of the first one has just been built.
    fn deploys_again(&mut self) {
        let app = self.desired.apps.get_mut(&app_named("shop")).expect("the app");
        (app.app.last_release, app.app.last_deploy) = (2, 2);
        let release = release_with(&app.app.name, 2, app.releases[&ReleaseNumber(1)].roles.clone());
        let mut deploy =
            Deploy::new(app.app.name.clone(), DeployNumber(2), release.cause.clone(), "test".into(), false, self.now);
        (deploy.state, deploy.release, deploy.previous) =
            (DeployState::Placing, Some(release.number), Some(ReleaseNumber(1)));
        app.releases.insert(release.number, Arc::new(release));
        app.deploys.push(deploy);
        self.plan_until_stable();
    }

    fn waits(&self) -> Vec<Reason> {
        self.report.waits.get(&app_named("shop")).cloned().unwrap_or_default()
    }

    /// The copy fails on its machine, for the nth time.
    fn fails(&mut self, id: &str, restarts: u32) {
        let id = AllocationId::parse(&format!("shop.v1.{id}")).expect("an id");
        let has = self.observed.machines.values_mut().find(|report| report.instances.contains_key(&id));
        let instance = Arc::make_mut(has.expect("a machine")).instances.get_mut(&id).expect("a copy");
        (instance.phase, instance.restarts) = (InstancePhase::Exited, restarts);
        self.plan_until_stable();
    }
}

fn web(copies: u32) -> (&'static str, Role) {
    ("web", web_role(copies))
}

fn single() -> (&'static str, Role) {
    ("worker", Role { single: true, ..Role::new(RoleCommand::Shell("work".into())) })
}

fn everywhere() -> (&'static str, Role) {
    let mut role = web_role(1);
    role.placement.global = true;
    role.placement
        .labels
        .insert(LabelKey::parse("disk").expect("a key"), [LabelValue::parse("ssd").expect("a value")].into());
    ("web", role)
}

fn database() -> (&'static str, Role) {
    let mut role = Role::new(RoleCommand::Shell("serve".into()));
    role.volumes.insert("data".into(), "/data".into());
    ("db", role)
}

#[test]
fn copies_of_a_lost_machine_are_placed_elsewhere_at_once() {
    let mut scenario = PlacementScenario::new(&["a", "b", "c"], &[web(3)]);
    assert_eq!(scenario.running(), ["web-1 a", "web-2 b", "web-3 c"]);
    scenario.make("b", MachineReadiness::Lost);
    let running = scenario.running();
    assert!(running.contains(&"web-2.2 a".to_owned()) || running.contains(&"web-2.2 c".to_owned()), "{running:?}");
    assert_eq!(running.len(), 3, "the lost copy is not to run: {running:?}");
    assert_eq!(scenario.routed(), ["web-1", "web-3"].map(str::to_owned).into(), "routes leave it at once");
    scenario.rest();
    assert_eq!(scenario.routed(), ["web-1", "web-2.2", "web-3"].map(str::to_owned).into());
}

#[test]
fn a_returning_machine_stops_its_moved_copies() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[web(2)]);
    let address = "10.0.0.7:7001".parse().expect("an address");
    scenario.desired.tunnels.set(&machine_named("b"), &[address]);
    let lost = |scenario: &PlacementScenario| RoutingTable::assemble(&scenario.plan).lost;
    scenario.make("b", MachineReadiness::Lost);
    assert_eq!(lost(&scenario), [machine_named("b")].into(), "routers give up what is under way there");
    scenario.rest();
    let left: Vec<&str> = vec!["web-2"];
    let part = |scenario: &PlacementScenario| -> Vec<String> {
        scenario.plan.machines[&machine_named("b")].instances.keys().map(AllocationId::short).collect()
    };
    assert_eq!(part(&scenario), left, "it can only be told once it is back");
    assert!(scenario.running().iter().all(|copy| copy.ends_with(" a")));
    scenario.make("b", MachineReadiness::Ready);
    assert_eq!(lost(&scenario), [].into());
    scenario.rest();
    assert_eq!(scenario.running().len(), 2);
    let ids: Vec<String> = scenario.plan.assignments().map(|(_, id, _)| id.short()).collect();
    assert!(!ids.contains(&"web-2".to_owned()), "the number is not used again: {ids:?}");
}

#[test]
fn machines_that_have_not_reported_keep_the_addresses_of_all_their_copies() {
    let worker = Role { instances: 3, ..Role::new(RoleCommand::Shell("work".into())) };
    let mut scenario = PlacementScenario::new(&["a", "b"], &[web(4), ("worker", worker)]);
    let before = scenario.plan.routes[&app_named("shop")].clone();
    let named = |role: &str| before.names.as_ref().map_or(0, |names| names.roles[&role_named(role)].len());
    assert_eq!((named("web"), named("worker")), (4, 3));
    let reports = std::mem::take(&mut scenario.observed.machines);
    scenario.plan_until_stable();
    assert_eq!(scenario.plan.routes[&app_named("shop")], before, "the server started");
    for (machine, report) in reports {
        scenario.observed.machines.insert(machine.clone(), report);
        scenario.plan_until_stable();
        assert_eq!(scenario.plan.routes[&app_named("shop")], before, "{machine} reports");
    }
}

#[test]
fn a_copy_with_a_volume_stays_with_its_data() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[database()]);
    assert_eq!(scenario.running(), ["db-1 a"]);
    for readiness in [MachineReadiness::Lost, MachineReadiness::Draining, MachineReadiness::Cordoned] {
        scenario.make("a", readiness);
        assert_eq!(scenario.running(), ["db-1 a"], "{readiness:?}");
        let stays = matches!(scenario.waits().as_slice(), [Reason::DataStays { .. }]);
        assert_eq!(stays, readiness == MachineReadiness::Draining);
    }
    // The data stays where it is even if no copy runs for a while.
    scenario.make("a", MachineReadiness::Ready);
    let scale = |scenario: &mut PlacementScenario, copies| {
        scenario.desired.apps.get_mut(&app_named("shop")).expect("the app").app.scale.insert(role_named("db"), copies);
        scenario.rest();
    };
    scale(&mut scenario, 0);
    assert_eq!(scenario.plan.assignments().count(), 0);
    scenario.make("a", MachineReadiness::Cordoned);
    scale(&mut scenario, 1);
    let refused = scenario.waits().first().map(ToString::to_string).unwrap_or_default();
    assert_eq!(refused, "no machine takes shop.v1.db-1: 1: cordoned; 1: not a, which has the role's data");
    scenario.make("a", MachineReadiness::Ready);
    assert_eq!(scenario.running(), ["db-1.2 a"]);
}

#[test]
fn a_single_copy_leaves_a_lost_machine_once_it_is_fenced() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[single()]);
    assert_eq!(scenario.running(), ["worker-1 a"]);
    scenario.make("a", MachineReadiness::Lost);
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1 a"], "the copy may still run there");
    scenario.fenced.insert("a".to_owned());
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1.2 b"]);
    scenario.fenced.clear();
    scenario.make("a", MachineReadiness::Ready);
    let part = &scenario.plan.machines[&machine_named("a")];
    assert!(part.instances.values().all(|old| old.goal == InstanceGoal::Stop), "{part:?}");
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1.2 b"]);
    assert_eq!(scenario.plan.assignments().count(), 1);
}

#[test]
fn a_single_copy_needs_an_agent_with_fencing() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[single()]);
    assert_eq!(scenario.running(), ["worker-1 a"]);
    for machine in scenario.machines.values_mut() {
        machine.protocol = 2;
    }
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1 a"], "a copy that runs already stays");
    scenario.make("a", MachineReadiness::Lost);
    scenario.fenced.insert("a".to_owned());
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1 a"], "it goes to no other machine");
    let refused = scenario.waits().first().map(ToString::to_string).unwrap_or_default();
    assert!(refused.contains("1: agent too old for a single copy; update the machine"), "{refused}");
    scenario.machines.get_mut("b").expect("a machine").protocol = 3;
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1.2 b"]);
}

#[test]
fn a_machine_that_returns_before_its_fence_keeps_its_single_copy() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[single()]);
    scenario.make("a", MachineReadiness::Lost);
    scenario.agents_act(InstancePhase::Ready);
    scenario.make("a", MachineReadiness::Ready);
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1 a"]);
}

#[test]
fn a_deploy_of_a_single_role_waits_for_the_fence() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[single()]);
    scenario.make("a", MachineReadiness::Lost);
    scenario.deploys_again();
    (0..5).for_each(|_| scenario.agents_act(InstancePhase::Ready));
    assert!(scenario.plan.machines.get(&machine_named("b")).is_none_or(|part| part.instances.is_empty()));
    scenario.fenced.insert("a".to_owned());
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1 b"]);
    assert!(scenario.desired.apps[&app_named("shop")].deploys.is_empty());
}

#[test]
fn a_drain_moves_a_single_copy_stop_first() {
    let mut scenario = PlacementScenario::new(&["a"], &[single()]);
    scenario.make("a", MachineReadiness::Draining);
    assert_eq!(scenario.running(), ["worker-1 a"], "with nowhere to go the copy goes on");
    assert!(matches!(scenario.waits().as_slice(), [Reason::CannotLeave { .. }]), "{:?}", scenario.waits());
    scenario.add("b");
    scenario.plan_until_stable();
    assert_eq!(scenario.running(), [""; 0], "the old copy ends first");
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1.2 b"]);
}

#[test]
fn a_global_role_has_a_copy_on_every_machine_that_fits() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[everywhere()]);
    assert_eq!(scenario.running(), [""; 0], "no machine has the label");
    let label = |scenario: &mut PlacementScenario, name: &str| {
        let labels = &mut scenario.machines.get_mut(name).expect("a machine").labels;
        labels.insert(LabelKey::parse("disk").expect("a key"), LabelValue::parse("ssd").expect("a value"));
        scenario.rest();
    };
    label(&mut scenario, "a");
    assert_eq!(scenario.running(), ["web-1 a"]);
    label(&mut scenario, "b");
    scenario.add("c");
    label(&mut scenario, "c");
    assert_eq!(scenario.running(), ["web-1 a", "web-2 b", "web-3 c"]);

    // A copy ends with its machine, and the others stay where they are.
    scenario.make("b", MachineReadiness::Lost);
    scenario.rest();
    assert_eq!(scenario.running(), ["web-1 a", "web-3 c"]);
    scenario.make("b", MachineReadiness::Ready);
    scenario.rest();
    let running = scenario.running();
    assert_eq!((running.len(), machines(&running)), (3, ["a", "b", "c"].map(str::to_owned).into()), "{running:?}");
    scenario.make("a", MachineReadiness::Draining);
    scenario.rest();
    assert_eq!(machines(&scenario.running()), ["b", "c"].map(str::to_owned).into());
    scenario.make("a", MachineReadiness::Ready);
    scenario.deploys_again();
    scenario.rest();
    assert_eq!(machines(&scenario.running()), ["a", "b", "c"].map(str::to_owned).into());
    assert!(scenario.plan.assignments().all(|(_, id, _)| id.slot.release == ReleaseNumber(2)));
}

#[test]
fn crowded_copies_spread_one_by_one_once_there_is_room() {
    let mut scenario = PlacementScenario::new(&["a"], &[web(4)]);
    scenario.add("b");
    scenario.plan_until_stable();
    assert_eq!(scenario.running().len(), 5, "the new copy starts first: {:?}", scenario.running());
    let mut least = usize::MAX;
    for _ in 0..100 {
        scenario.agents_act(InstancePhase::Ready);
        assert!(scenario.running().len() <= 5, "one copy moves at a time: {:?}", scenario.running());
        least = least.min(scenario.routed().len());
    }
    assert_eq!(least, 4, "at no time serve fewer copies");
    assert_eq!(scenario.running(), ["web-1.2 b", "web-2.2 b", "web-3 a", "web-4 a"]);
    scenario.add("c");
    scenario.rest();
    let counts = ["a", "b", "c"].map(|name| scenario.running().iter().filter(|copy| copy.ends_with(name)).count());
    assert_eq!(counts.iter().max(), Some(&2), "{:?}", scenario.running());
    let before = scenario.running();
    scenario.rest();
    assert_eq!(scenario.running(), before, "no copy moves for its own sake");
}

#[test]
fn the_policy_bounds_the_copies_that_spread_at_once() {
    for (copies, most) in [(0, 6), (1, 7), (2, 8), (9, 9)] {
        let mut scenario = PlacementScenario::new(&["a"], &[web(6)]);
        scenario.rebalance = Some(RebalanceBudget { copies, interval: Seconds(0) });
        scenario.add("b");
        scenario.plan_until_stable();
        let mut running = scenario.running().len();
        for _ in 0..100 {
            scenario.agents_act(InstancePhase::Ready);
            running = running.max(scenario.running().len());
            assert!(scenario.routed().len() >= 6, "{copies}: no fewer copies serve");
        }
        assert_eq!(running, most, "{copies} at a time");
        let on_b = scenario.running().iter().filter(|copy| copy.ends_with(" b")).count();
        assert_eq!(on_b, if copies == 0 { 0 } else { 3 }, "no copy moves and comes back: {:?}", scenario.running());
        assert!(!scenario.running().iter().any(|copy| copy.contains(".3 ")), "{:?}", scenario.running());
    }
}

#[test]
fn copies_spread_once_all_have_been_ready_for_the_interval() {
    let mut scenario = PlacementScenario::new(&["a"], &[web(4)]);
    // The copies became ready at 0.
    let interval = Seconds(u32::try_from(scenario.now.0 / 1000).expect("a time") + 600);
    scenario.rebalance = Some(RebalanceBudget { copies: 1, interval });
    scenario.add("b");
    scenario.plan_until_stable();
    assert!(scenario.running().iter().all(|copy| copy.ends_with(" a")), "{:?}", scenario.running());
    scenario.now = Moment(interval.millis());
    scenario.plan_until_stable();
    assert_eq!(scenario.running().len(), 5, "{:?}", scenario.running());
}

#[test]
fn nothing_spreads_while_a_copy_of_the_role_fails() {
    let mut scenario = PlacementScenario::new(&["a"], &[web(2)]);
    scenario.fails("web-2", 1);
    scenario.add("b");
    scenario.plan_until_stable();
    assert_eq!(scenario.running(), ["web-1 a", "web-2 a"]);
}

/// The machines of copies.
fn machines(running: &[String]) -> BTreeSet<String> {
    running.iter().filter_map(|copy| Some(copy.split_once(' ')?.1.to_owned())).collect()
}

#[test]
fn copies_of_a_removed_machine_start_elsewhere() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[database()]);
    scenario.machines.get_mut("a").expect("a machine").readiness = MachineReadiness::Removed;
    scenario.plan.machines.remove(&machine_named("a"));
    scenario.observed.machines.remove(&machine_named("a"));
    scenario.plan_until_stable();
    assert_eq!(scenario.running(), ["db-1.2 b"]);
}

#[test]
fn a_drain_starts_each_new_copy_first_and_moves_one_at_a_time() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[web(4)]);
    assert_eq!(scenario.running(), ["web-1 a", "web-2 b", "web-3 a", "web-4 b"]);
    scenario.make("a", MachineReadiness::Draining);
    assert_eq!(scenario.running(), ["web-1 a", "web-1.2 b", "web-2 b", "web-3 a", "web-4 b"]);
    assert_eq!(scenario.routed().len(), 4, "what serves goes on");
    scenario.agents_act(InstancePhase::Starting);
    assert_eq!(scenario.running().len(), 5, "no second copy moves before the first is ready");
    let mut least = usize::MAX;
    for _ in 0..60 {
        scenario.agents_act(InstancePhase::Ready);
        least = least.min(scenario.routed().len());
    }
    assert_eq!(scenario.running(), ["web-1.2 b", "web-2 b", "web-3.2 b", "web-4 b"]);
    assert_eq!(least, 4, "at no time serve fewer copies");
    assert!(scenario.plan.machines[&machine_named("a")].instances.is_empty());
}

#[test]
fn a_drain_moves_a_copy_of_each_app_at_once() {
    let mut scenario = PlacementScenario::new(&["a"], &[web(1)]);
    scenario.add_app("blog");
    scenario.add("b");
    scenario.plan_until_stable();
    assert_eq!(scenario.running(), ["web-1 a", "web-1 a"]);
    scenario.make("a", MachineReadiness::Draining);
    assert_eq!(scenario.running(), ["web-1 a", "web-1 a", "web-1.2 b", "web-1.2 b"]);
    scenario.rest();
    assert_eq!(scenario.running(), ["web-1.2 b", "web-1.2 b"]);
}

#[test]
fn a_drain_without_another_machine_reports_the_reason_and_keeps_serving() {
    let mut role = web_role(2);
    role.placement.reserve_memory = Some(Bytes::mebi(600));
    let mut scenario = PlacementScenario::new(&["a", "b"], &[("web", role)]);
    assert_eq!(scenario.running(), ["web-1 a", "web-2 b"]);
    scenario.make("a", MachineReadiness::Draining);
    assert_eq!(scenario.running(), ["web-1 a", "web-2 b"]);
    assert_eq!(scenario.routed().len(), 2);
    let text = scenario.waits().first().map(ToString::to_string).unwrap_or_default();
    assert!(text.starts_with("shop.v1.web-1 stays on a, which is being drained"), "{text}");
    assert!(text.ends_with("1: draining; 1: 176 MiB short of memory"), "{text}");
    scenario.add("c");
    scenario.rest();
    assert_eq!(scenario.running(), ["web-1.2 c", "web-2 b"]);
}

#[test]
fn reservations_are_never_over_committed() {
    let mut role = web_role(5);
    role.placement.reserve_memory = Some(Bytes::mebi(500));
    let scenario = PlacementScenario::new(&["a", "b"], &[("web", role)]);
    assert_eq!(scenario.running().len(), 4);
    let text = scenario.waits().first().map(ToString::to_string).unwrap_or_default();
    assert_eq!(text, "no machine takes shop.v1.web-5: 2: 476 MiB short of memory");
}

#[test]
fn moves_a_repeatedly_failing_copy_to_another_machine() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[web(1)]);
    scenario.fails("web-1", 2);
    assert_eq!(scenario.running(), ["web-1 a"]);
    scenario.fails("web-1", 3);
    assert_eq!(scenario.running(), ["web-1.2 b"]);
    scenario.agents_act(InstancePhase::Ready);
    scenario.rest();
    assert_eq!(scenario.running(), ["web-1.2 b"]);
    // A copy that fails everywhere moves more and more seldom.
    scenario.fails("web-1.2", 5);
    assert_eq!(scenario.running(), ["web-1.2 b"]);
    scenario.fails("web-1.2", 6);
    assert_eq!(scenario.running(), ["web-1.3 a"]);
}

#[test]
fn a_single_copy_that_fails_again_and_again_has_ended_before_another_machine_tries() {
    let mut scenario = PlacementScenario::new(&["a", "b"], &[single()]);
    scenario.fails("worker-1", 2);
    assert_eq!(scenario.running(), ["worker-1 a"]);
    scenario.fails("worker-1", 3);
    assert!(scenario.running().is_empty(), "its agent ends it first: {:?}", scenario.running());
    assert!(matches!(scenario.waits().as_slice(), [Reason::StopFirst { .. }]), "{:?}", scenario.waits());
    let is_reported = |scenario: &PlacementScenario| {
        scenario.observed.machines.values().any(|report| report.instances.keys().any(|id| id.short() == "worker-1"))
    };
    for _ in 0..10 {
        assert!(!is_reported(&scenario) || scenario.plan.assignments().count() == 1, "{:?}", scenario.plan);
        scenario.agents_act(InstancePhase::Ready);
    }
    assert_eq!(scenario.running(), ["worker-1.2 b"]);
    assert_eq!(scenario.plan.assignments().count(), 1);
    scenario.fails("worker-1.2", 5);
    assert_eq!(scenario.running(), ["worker-1.2 b"], "a copy that fails everywhere moves more and more seldom");
    scenario.fails("worker-1.2", 6);
    scenario.rest();
    assert_eq!(scenario.running(), ["worker-1.3 a"]);
    // Back on the machine that it left, where there is no other.
    scenario.make("b", MachineReadiness::Cordoned);
    scenario.fails("worker-1.3", 9);
    assert_eq!(scenario.running(), ["worker-1.3 a"]);
    assert!(matches!(scenario.waits().as_slice(), [Reason::CannotMove { .. }]), "{:?}", scenario.waits());
}

#[test]
fn a_failing_copy_that_no_other_machine_takes_goes_on_with_a_reason() {
    let mut scenario = PlacementScenario::new(&["a", "b", "c"], &[web(1)]);
    scenario.make("b", MachineReadiness::Cordoned);
    scenario.make("c", MachineReadiness::Cordoned);
    scenario.fails("web-1", 2);
    assert_eq!(scenario.waits(), [], "the copy is only restarted");
    scenario.fails("web-1", 3);
    assert_eq!(scenario.running(), ["web-1 a"]);
    let texts: Vec<String> = scenario.waits().iter().map(ToString::to_string).collect();
    let refusal = "2: cordoned; 1: failed there just now";
    assert_eq!(texts, [format!("shop.v1.web-1 fails again and again on a, and no other machine takes it: {refusal}")]);
    scenario.make("c", MachineReadiness::Ready);
    assert_eq!((scenario.running(), scenario.waits()), (vec!["web-1.2 c".to_owned()], Vec::new()));
}

#[test]
fn moves_no_copy_on_a_single_machine() {
    for readiness in [MachineReadiness::Lost, MachineReadiness::Draining, MachineReadiness::Silent] {
        let mut scenario = PlacementScenario::new(&["a"], &[web(3), database(), single()]);
        let before = scenario.running();
        scenario.fails("web-1", 30);
        scenario.fails("worker-1", 30);
        assert_eq!(scenario.waits(), [], "there is no other machine");
        scenario.make("a", readiness);
        assert_eq!(scenario.running(), before, "{readiness:?}");
    }
}

#[test]
fn a_deploy_waits_while_the_machine_with_the_data_is_closed() {
    for readiness in [MachineReadiness::Cordoned, MachineReadiness::Draining] {
        let mut scenario = PlacementScenario::new(&["a", "b"], &[database()]);
        scenario.make("a", readiness);
        scenario.deploys_again();
        (0..5).for_each(|_| scenario.agents_act(InstancePhase::Ready));
        assert_eq!(scenario.running(), ["db-1 a"], "the old copy serves on");
        let refused = scenario.waits().first().map(ToString::to_string).unwrap_or_default();
        let state = if readiness == MachineReadiness::Cordoned { "cordoned" } else { "draining" };
        let expected = format!("no machine takes shop.v2.db-1: 1: {state}; 1: not a, which has the role's data");
        assert_eq!(refused, expected);
        scenario.make("a", MachineReadiness::Ready);
        scenario.rest();
        assert_eq!(scenario.running(), ["db-1 a"]);
        assert!(scenario.plan.assignments().all(|(_, id, _)| id.slot.release == ReleaseNumber(2)));
    }
}

#[test]
fn roles_that_share_a_volume_are_on_one_machine() {
    let (_, role) = database();
    let scenario = PlacementScenario::new(&["a", "b", "c"], &[("db", role.clone()), ("backup", role)]);
    let machines: BTreeSet<String> = scenario.plan.assignments().map(|(machine, _, _)| machine.to_string()).collect();
    assert_eq!((scenario.running().len(), machines.len()), (2, 1), "{:?}", scenario.running());
}
