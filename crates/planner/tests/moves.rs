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
        let mut world = Self {
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
        machines.iter().for_each(|name| world.add(name));
        world.rest();
        world
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
        self.settle();
    }

    /// Plans until nothing changes, and audits each step.
    fn settle(&mut self) {
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
        self.settle();
    }

    /// Lets all components act until the state no longer changes.
    fn rest(&mut self) {
        self.settle();
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
        self.settle();
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
        self.settle();
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
    let mut world = PlacementScenario::new(&["a", "b", "c"], &[web(3)]);
    assert_eq!(world.running(), ["web-1 a", "web-2 b", "web-3 c"]);
    world.make("b", MachineReadiness::Lost);
    let running = world.running();
    assert!(running.contains(&"web-2.2 a".to_owned()) || running.contains(&"web-2.2 c".to_owned()), "{running:?}");
    assert_eq!(running.len(), 3, "the lost copy is not to run: {running:?}");
    assert_eq!(world.routed(), ["web-1", "web-3"].map(str::to_owned).into(), "routes leave it at once");
    world.rest();
    assert_eq!(world.routed(), ["web-1", "web-2.2", "web-3"].map(str::to_owned).into());
}

#[test]
fn a_returning_machine_stops_its_moved_copies() {
    let mut world = PlacementScenario::new(&["a", "b"], &[web(2)]);
    let address = "10.0.0.7:7001".parse().expect("an address");
    world.desired.tunnels.set(&machine_named("b"), &[address]);
    let lost = |world: &PlacementScenario| RoutingTable::assemble(&world.plan).lost;
    world.make("b", MachineReadiness::Lost);
    assert_eq!(lost(&world), [machine_named("b")].into(), "routers give up what is under way there");
    world.rest();
    let left: Vec<&str> = vec!["web-2"];
    let part = |world: &PlacementScenario| -> Vec<String> {
        world.plan.machines[&machine_named("b")].instances.keys().map(AllocationId::short).collect()
    };
    assert_eq!(part(&world), left, "it can only be told once it is back");
    assert!(world.running().iter().all(|copy| copy.ends_with(" a")));
    world.make("b", MachineReadiness::Ready);
    assert_eq!(lost(&world), [].into());
    world.rest();
    assert_eq!(world.running().len(), 2);
    let ids: Vec<String> = world.plan.assignments().map(|(_, id, _)| id.short()).collect();
    assert!(!ids.contains(&"web-2".to_owned()), "the number is not used again: {ids:?}");
}

#[test]
fn a_copy_with_a_volume_stays_with_its_data() {
    let mut world = PlacementScenario::new(&["a", "b"], &[database()]);
    assert_eq!(world.running(), ["db-1 a"]);
    for readiness in [MachineReadiness::Lost, MachineReadiness::Draining, MachineReadiness::Cordoned] {
        world.make("a", readiness);
        assert_eq!(world.running(), ["db-1 a"], "{readiness:?}");
        let stays = matches!(world.waits().as_slice(), [Reason::DataStays { .. }]);
        assert_eq!(stays, readiness == MachineReadiness::Draining);
    }
    // The data stays where it is even if no copy runs for a while.
    world.make("a", MachineReadiness::Ready);
    let scale = |world: &mut PlacementScenario, copies| {
        world.desired.apps.get_mut(&app_named("shop")).expect("the app").app.scale.insert(role_named("db"), copies);
        world.rest();
    };
    scale(&mut world, 0);
    assert_eq!(world.plan.assignments().count(), 0);
    world.make("a", MachineReadiness::Cordoned);
    scale(&mut world, 1);
    let refused = world.waits().first().map(ToString::to_string).unwrap_or_default();
    assert_eq!(refused, "no machine takes shop.v1.db-1: 1: cordoned; 1: not a, which has the role's data");
    world.make("a", MachineReadiness::Ready);
    assert_eq!(world.running(), ["db-1.2 a"]);
}

#[test]
fn a_single_copy_leaves_a_lost_machine_once_it_is_fenced() {
    let mut world = PlacementScenario::new(&["a", "b"], &[single()]);
    assert_eq!(world.running(), ["worker-1 a"]);
    world.make("a", MachineReadiness::Lost);
    world.rest();
    assert_eq!(world.running(), ["worker-1 a"], "the copy may still run there");
    world.fenced.insert("a".to_owned());
    world.rest();
    assert_eq!(world.running(), ["worker-1.2 b"]);
    world.fenced.clear();
    world.make("a", MachineReadiness::Ready);
    let part = &world.plan.machines[&machine_named("a")];
    assert!(part.instances.values().all(|old| old.goal == InstanceGoal::Stop), "{part:?}");
    world.rest();
    assert_eq!(world.running(), ["worker-1.2 b"]);
    assert_eq!(world.plan.assignments().count(), 1);
}

#[test]
fn a_single_copy_needs_an_agent_with_fencing() {
    let mut world = PlacementScenario::new(&["a", "b"], &[single()]);
    assert_eq!(world.running(), ["worker-1 a"]);
    for machine in world.machines.values_mut() {
        machine.protocol = 2;
    }
    world.rest();
    assert_eq!(world.running(), ["worker-1 a"], "a copy that runs already stays");
    world.make("a", MachineReadiness::Lost);
    world.fenced.insert("a".to_owned());
    world.rest();
    assert_eq!(world.running(), ["worker-1 a"], "it goes to no other machine");
    let refused = world.waits().first().map(ToString::to_string).unwrap_or_default();
    assert!(refused.contains("1: agent too old for a single copy; update the machine"), "{refused}");
    world.machines.get_mut("b").expect("a machine").protocol = 3;
    world.rest();
    assert_eq!(world.running(), ["worker-1.2 b"]);
}

#[test]
fn a_machine_that_returns_before_its_fence_keeps_its_single_copy() {
    let mut world = PlacementScenario::new(&["a", "b"], &[single()]);
    world.make("a", MachineReadiness::Lost);
    world.agents_act(InstancePhase::Ready);
    world.make("a", MachineReadiness::Ready);
    world.rest();
    assert_eq!(world.running(), ["worker-1 a"]);
}

#[test]
fn a_deploy_of_a_single_role_waits_for_the_fence() {
    let mut world = PlacementScenario::new(&["a", "b"], &[single()]);
    world.make("a", MachineReadiness::Lost);
    world.deploys_again();
    (0..5).for_each(|_| world.agents_act(InstancePhase::Ready));
    assert!(world.plan.machines.get(&machine_named("b")).is_none_or(|part| part.instances.is_empty()));
    world.fenced.insert("a".to_owned());
    world.rest();
    assert_eq!(world.running(), ["worker-1 b"]);
    assert!(world.desired.apps[&app_named("shop")].deploys.is_empty());
}

#[test]
fn a_drain_moves_a_single_copy_stop_first() {
    let mut world = PlacementScenario::new(&["a"], &[single()]);
    world.make("a", MachineReadiness::Draining);
    assert_eq!(world.running(), ["worker-1 a"], "with nowhere to go the copy goes on");
    assert!(matches!(world.waits().as_slice(), [Reason::CannotLeave { .. }]), "{:?}", world.waits());
    world.add("b");
    world.settle();
    assert_eq!(world.running(), [""; 0], "the old copy ends first");
    world.rest();
    assert_eq!(world.running(), ["worker-1.2 b"]);
}

#[test]
fn a_global_role_has_a_copy_on_every_machine_that_fits() {
    let mut world = PlacementScenario::new(&["a", "b"], &[everywhere()]);
    assert_eq!(world.running(), [""; 0], "no machine has the label");
    let label = |world: &mut PlacementScenario, name: &str| {
        let labels = &mut world.machines.get_mut(name).expect("a machine").labels;
        labels.insert(LabelKey::parse("disk").expect("a key"), LabelValue::parse("ssd").expect("a value"));
        world.rest();
    };
    label(&mut world, "a");
    assert_eq!(world.running(), ["web-1 a"]);
    label(&mut world, "b");
    world.add("c");
    label(&mut world, "c");
    assert_eq!(world.running(), ["web-1 a", "web-2 b", "web-3 c"]);

    // A copy ends with its machine, and the others stay where they are.
    world.make("b", MachineReadiness::Lost);
    world.rest();
    assert_eq!(world.running(), ["web-1 a", "web-3 c"]);
    world.make("b", MachineReadiness::Ready);
    world.rest();
    let running = world.running();
    assert_eq!((running.len(), machines(&running)), (3, ["a", "b", "c"].map(str::to_owned).into()), "{running:?}");
    world.make("a", MachineReadiness::Draining);
    world.rest();
    assert_eq!(machines(&world.running()), ["b", "c"].map(str::to_owned).into());
    world.make("a", MachineReadiness::Ready);
    world.deploys_again();
    world.rest();
    assert_eq!(machines(&world.running()), ["a", "b", "c"].map(str::to_owned).into());
    assert!(world.plan.assignments().all(|(_, id, _)| id.slot.release == ReleaseNumber(2)));
}

#[test]
fn crowded_copies_spread_one_by_one_once_there_is_room() {
    let mut world = PlacementScenario::new(&["a"], &[web(4)]);
    world.add("b");
    world.settle();
    assert_eq!(world.running().len(), 5, "the new copy starts first: {:?}", world.running());
    let mut least = usize::MAX;
    for _ in 0..100 {
        world.agents_act(InstancePhase::Ready);
        assert!(world.running().len() <= 5, "one copy moves at a time: {:?}", world.running());
        least = least.min(world.routed().len());
    }
    assert_eq!(least, 4, "at no time serve fewer copies");
    assert_eq!(world.running(), ["web-1.2 b", "web-2.2 b", "web-3 a", "web-4 a"]);
    world.add("c");
    world.rest();
    let counts = ["a", "b", "c"].map(|name| world.running().iter().filter(|copy| copy.ends_with(name)).count());
    assert_eq!(counts.iter().max(), Some(&2), "{:?}", world.running());
    let before = world.running();
    world.rest();
    assert_eq!(world.running(), before, "no copy moves for its own sake");
}

#[test]
fn the_policy_bounds_the_copies_that_spread_at_once() {
    for (copies, most) in [(0, 6), (1, 7), (2, 8), (9, 9)] {
        let mut world = PlacementScenario::new(&["a"], &[web(6)]);
        world.rebalance = Some(RebalanceBudget { copies, interval: Seconds(0) });
        world.add("b");
        world.settle();
        let mut running = world.running().len();
        for _ in 0..100 {
            world.agents_act(InstancePhase::Ready);
            running = running.max(world.running().len());
            assert!(world.routed().len() >= 6, "{copies}: no fewer copies serve");
        }
        assert_eq!(running, most, "{copies} at a time");
        let on_b = world.running().iter().filter(|copy| copy.ends_with(" b")).count();
        assert_eq!(on_b, if copies == 0 { 0 } else { 3 }, "no copy moves and comes back: {:?}", world.running());
        assert!(!world.running().iter().any(|copy| copy.contains(".3 ")), "{:?}", world.running());
    }
}

#[test]
fn copies_spread_once_all_have_been_ready_for_the_interval() {
    let mut world = PlacementScenario::new(&["a"], &[web(4)]);
    // The copies became ready at 0.
    let interval = Seconds(u32::try_from(world.now.0 / 1000).expect("a time") + 600);
    world.rebalance = Some(RebalanceBudget { copies: 1, interval });
    world.add("b");
    world.settle();
    assert!(world.running().iter().all(|copy| copy.ends_with(" a")), "{:?}", world.running());
    world.now = Moment(interval.millis());
    world.settle();
    assert_eq!(world.running().len(), 5, "{:?}", world.running());
}

#[test]
fn nothing_spreads_while_a_copy_of_the_role_fails() {
    let mut world = PlacementScenario::new(&["a"], &[web(2)]);
    world.fails("web-2", 1);
    world.add("b");
    world.settle();
    assert_eq!(world.running(), ["web-1 a", "web-2 a"]);
}

/// The machines of copies.
fn machines(running: &[String]) -> BTreeSet<String> {
    running.iter().filter_map(|copy| Some(copy.split_once(' ')?.1.to_owned())).collect()
}

#[test]
fn copies_of_a_removed_machine_start_elsewhere() {
    let mut world = PlacementScenario::new(&["a", "b"], &[database()]);
    world.machines.get_mut("a").expect("a machine").readiness = MachineReadiness::Removed;
    world.plan.machines.remove(&machine_named("a"));
    world.observed.machines.remove(&machine_named("a"));
    world.settle();
    assert_eq!(world.running(), ["db-1.2 b"]);
}

#[test]
fn a_drain_starts_each_new_copy_first_and_moves_one_at_a_time() {
    let mut world = PlacementScenario::new(&["a", "b"], &[web(4)]);
    assert_eq!(world.running(), ["web-1 a", "web-2 b", "web-3 a", "web-4 b"]);
    world.make("a", MachineReadiness::Draining);
    assert_eq!(world.running(), ["web-1 a", "web-1.2 b", "web-2 b", "web-3 a", "web-4 b"]);
    assert_eq!(world.routed().len(), 4, "what serves goes on");
    world.agents_act(InstancePhase::Starting);
    assert_eq!(world.running().len(), 5, "no second copy moves before the first is ready");
    let mut least = usize::MAX;
    for _ in 0..60 {
        world.agents_act(InstancePhase::Ready);
        least = least.min(world.routed().len());
    }
    assert_eq!(world.running(), ["web-1.2 b", "web-2 b", "web-3.2 b", "web-4 b"]);
    assert_eq!(least, 4, "at no time serve fewer copies");
    assert!(world.plan.machines[&machine_named("a")].instances.is_empty());
}

#[test]
fn a_drain_moves_a_copy_of_each_app_at_once() {
    let mut world = PlacementScenario::new(&["a"], &[web(1)]);
    world.add_app("blog");
    world.add("b");
    world.settle();
    assert_eq!(world.running(), ["web-1 a", "web-1 a"]);
    world.make("a", MachineReadiness::Draining);
    assert_eq!(world.running(), ["web-1 a", "web-1 a", "web-1.2 b", "web-1.2 b"]);
    world.rest();
    assert_eq!(world.running(), ["web-1.2 b", "web-1.2 b"]);
}

#[test]
fn a_drain_without_another_machine_reports_the_reason_and_keeps_serving() {
    let mut role = web_role(2);
    role.placement.reserve_memory = Some(Bytes::mebi(600));
    let mut world = PlacementScenario::new(&["a", "b"], &[("web", role)]);
    assert_eq!(world.running(), ["web-1 a", "web-2 b"]);
    world.make("a", MachineReadiness::Draining);
    assert_eq!(world.running(), ["web-1 a", "web-2 b"]);
    assert_eq!(world.routed().len(), 2);
    let text = world.waits().first().map(ToString::to_string).unwrap_or_default();
    assert!(text.starts_with("shop.v1.web-1 stays on a, which is being drained"), "{text}");
    assert!(text.ends_with("1: draining; 1: 176 MiB short of memory"), "{text}");
    world.add("c");
    world.rest();
    assert_eq!(world.running(), ["web-1.2 c", "web-2 b"]);
}

#[test]
fn reservations_are_never_over_committed() {
    let mut role = web_role(5);
    role.placement.reserve_memory = Some(Bytes::mebi(500));
    let world = PlacementScenario::new(&["a", "b"], &[("web", role)]);
    assert_eq!(world.running().len(), 4);
    let text = world.waits().first().map(ToString::to_string).unwrap_or_default();
    assert_eq!(text, "no machine takes shop.v1.web-5: 2: 476 MiB short of memory");
}

#[test]
fn moves_a_repeatedly_failing_copy_to_another_machine() {
    let mut world = PlacementScenario::new(&["a", "b"], &[web(1)]);
    world.fails("web-1", 2);
    assert_eq!(world.running(), ["web-1 a"]);
    world.fails("web-1", 3);
    assert_eq!(world.running(), ["web-1.2 b"]);
    world.agents_act(InstancePhase::Ready);
    world.rest();
    assert_eq!(world.running(), ["web-1.2 b"]);
    // A copy that fails everywhere moves more and more seldom.
    world.fails("web-1.2", 5);
    assert_eq!(world.running(), ["web-1.2 b"]);
    world.fails("web-1.2", 6);
    assert_eq!(world.running(), ["web-1.3 a"]);
}

#[test]
fn a_single_copy_that_fails_again_and_again_has_ended_before_another_machine_tries() {
    let mut world = PlacementScenario::new(&["a", "b"], &[single()]);
    world.fails("worker-1", 2);
    assert_eq!(world.running(), ["worker-1 a"]);
    world.fails("worker-1", 3);
    assert!(world.running().is_empty(), "its agent ends it first: {:?}", world.running());
    assert!(matches!(world.waits().as_slice(), [Reason::StopFirst { .. }]), "{:?}", world.waits());
    let is_reported = |world: &PlacementScenario| {
        world.observed.machines.values().any(|report| report.instances.keys().any(|id| id.short() == "worker-1"))
    };
    for _ in 0..10 {
        assert!(!is_reported(&world) || world.plan.assignments().count() == 1, "{:?}", world.plan);
        world.agents_act(InstancePhase::Ready);
    }
    assert_eq!(world.running(), ["worker-1.2 b"]);
    assert_eq!(world.plan.assignments().count(), 1);
    world.fails("worker-1.2", 5);
    assert_eq!(world.running(), ["worker-1.2 b"], "a copy that fails everywhere moves more and more seldom");
    world.fails("worker-1.2", 6);
    world.rest();
    assert_eq!(world.running(), ["worker-1.3 a"]);
    // Back on the machine that it left, where there is no other.
    world.make("b", MachineReadiness::Cordoned);
    world.fails("worker-1.3", 9);
    assert_eq!(world.running(), ["worker-1.3 a"]);
    assert!(matches!(world.waits().as_slice(), [Reason::CannotMove { .. }]), "{:?}", world.waits());
}

#[test]
fn a_failing_copy_that_no_other_machine_takes_goes_on_with_a_reason() {
    let mut world = PlacementScenario::new(&["a", "b", "c"], &[web(1)]);
    world.make("b", MachineReadiness::Cordoned);
    world.make("c", MachineReadiness::Cordoned);
    world.fails("web-1", 2);
    assert_eq!(world.waits(), [], "the copy is only restarted");
    world.fails("web-1", 3);
    assert_eq!(world.running(), ["web-1 a"]);
    let texts: Vec<String> = world.waits().iter().map(ToString::to_string).collect();
    let refusal = "2: cordoned; 1: failed there just now";
    assert_eq!(texts, [format!("shop.v1.web-1 fails again and again on a, and no other machine takes it: {refusal}")]);
    world.make("c", MachineReadiness::Ready);
    assert_eq!((world.running(), world.waits()), (vec!["web-1.2 c".to_owned()], Vec::new()));
}

#[test]
fn moves_no_copy_on_a_single_machine() {
    for readiness in [MachineReadiness::Lost, MachineReadiness::Draining, MachineReadiness::Silent] {
        let mut world = PlacementScenario::new(&["a"], &[web(3), database(), single()]);
        let before = world.running();
        world.fails("web-1", 30);
        world.fails("worker-1", 30);
        assert_eq!(world.waits(), [], "there is no other machine");
        world.make("a", readiness);
        assert_eq!(world.running(), before, "{readiness:?}");
    }
}

#[test]
fn a_deploy_waits_while_the_machine_with_the_data_is_closed() {
    for readiness in [MachineReadiness::Cordoned, MachineReadiness::Draining] {
        let mut world = PlacementScenario::new(&["a", "b"], &[database()]);
        world.make("a", readiness);
        world.deploys_again();
        (0..5).for_each(|_| world.agents_act(InstancePhase::Ready));
        assert_eq!(world.running(), ["db-1 a"], "the old copy serves on");
        let refused = world.waits().first().map(ToString::to_string).unwrap_or_default();
        let state = if readiness == MachineReadiness::Cordoned { "cordoned" } else { "draining" };
        let expected = format!("no machine takes shop.v2.db-1: 1: {state}; 1: not a, which has the role's data");
        assert_eq!(refused, expected);
        world.make("a", MachineReadiness::Ready);
        world.rest();
        assert_eq!(world.running(), ["db-1 a"]);
        assert!(world.plan.assignments().all(|(_, id, _)| id.slot.release == ReleaseNumber(2)));
    }
}

#[test]
fn roles_that_share_a_volume_are_on_one_machine() {
    let (_, role) = database();
    let world = PlacementScenario::new(&["a", "b", "c"], &[("db", role.clone()), ("backup", role)]);
    let machines: BTreeSet<String> = world.plan.assignments().map(|(machine, _, _)| machine.to_string()).collect();
    assert_eq!((world.running().len(), machines.len()), (2, 1), "{:?}", world.running());
}
