//! Each invariant is broken once, in a plan that is otherwise valid, and the audit must name exactly that violation.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::role::AppProtocol;
use gantry_model::{
    AllocationId, AllocationNumbers, App, AppName, AppNames, AppRoutes, Assignment, Bytes, Deploy, DeployCause,
    DeployNumber, Digest, Endpoint, Generation, HostName, InstanceGoal, InstanceSpec, MachineAddress, MachineName,
    MachinePlan, MilliCpu, Moment, ObservedCluster, ObservedMachine, ObservedRouter, Plan, ReleaseConfig,
    ReleaseNumber, RequestTimeouts, Role, RoleCommand, RoleName, Route, RouterId, Slot, TrafficPolicy, TrustedProxies,
};
use gantry_plan_audit::{AuditInput, AuditedMachine, RoutableReleases, Violation, audit};

const NOW: Moment = Moment(1_000_000_000);

fn app() -> AppName {
    AppName::parse("shop").expect("a name")
}

fn machine(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

fn host() -> HostName {
    HostName::parse("shop.localhost").expect("a name")
}

fn copy(release: u64, index: u32) -> AllocationId {
    let role = RoleName::parse("web").expect("a name");
    Slot { app: app(), release: ReleaseNumber(release), role, index }.numbered(1)
}

fn address(id: &AllocationId) -> Ipv4Addr {
    Ipv4Addr::new(10, 83, u8::try_from(id.slot.release.0).expect("small"), u8::try_from(id.slot.index).expect("small"))
}

fn assignment(goal: InstanceGoal) -> Assignment {
    let spec = InstanceSpec {
        image: Digest::from_hex(&"ab".repeat(32)).expect("a digest"),
        commit: None,
        config: ReleaseConfig::default(),
        role: Role::new(RoleCommand::Shell("serve".into())),
        volumes_of: None,
    };
    Assignment { spec: spec.into(), goal }
}

fn endpoint(id: &AllocationId) -> Endpoint {
    let at = MachineAddress::new(machine("m"), address(id));
    Endpoint { allocation: id.clone(), at, port: 80, protocol: AppProtocol::Http1 }
}

/// A cluster with one machine, one router and an app with two routed copies of release 1.
struct Case {
    routable: RoutableReleases,
    observed: ObservedCluster,
    previous: Plan,
    plan: Plan,
    machines: BTreeMap<MachineName, AuditedMachine>,
}

impl Case {
    fn new() -> Self {
        let ids = [copy(1, 1), copy(1, 2)];
        let mut plan = Plan::default();
        let part = Arc::make_mut(plan.machines.entry(machine("m")).or_default());
        part.generation = Generation(3);
        part.instances = ids.iter().map(|id| (id.clone(), assignment(InstanceGoal::Run))).collect();
        let route = Route {
            app: app(),
            release: ReleaseNumber(1),
            held: false,
            endpoints: ids.iter().map(endpoint).collect(),
            traffic: TrafficPolicy::default(),
            timeouts: RequestTimeouts::default(),
        };
        let routes = AppRoutes { revision: Generation(5), routes: [(host(), route)].into(), ..AppRoutes::default() };
        plan.put_routes(self::app(), routes.into());
        let numbers = ids.iter().map(|id| (id.slot.clone(), 1)).collect();
        plan.numbers.insert(self::app(), AllocationNumbers(numbers).into());
        let mut app = App::new(app(), Moment(0));
        app.current = Some(ReleaseNumber(1));
        let mut routable = RoutableReleases::default();
        routable.add(&app, []);
        let mut observed = ObservedCluster::default();
        observed.machines.insert(machine("m"), ObservedMachine { seen: NOW, ..ObservedMachine::default() }.into());
        let router = ObservedRouter { generation: Generation(5), seen: NOW, ..ObservedRouter::default() };
        observed.routers.insert(RouterId { machine: machine("m"), number: 1 }, router);
        Self { routable, observed, previous: plan.clone(), plan, machines: BTreeMap::new() }
    }

    fn audit(&self) -> Vec<Violation> {
        let Self { routable, observed, previous, plan, machines } = self;
        audit(&AuditInput { routable, observed, previous, plan, machines, now: NOW })
    }

    /// Sets a goal in the new plan, and gives the part its next number.
    fn set_goal(&mut self, id: &AllocationId, goal: InstanceGoal) {
        let part = self.part();
        part.instances.insert(id.clone(), assignment(goal));
        part.generation = part.generation.next();
        self.numbers().record(id);
    }

    /// The numbers of the app's allocations in the new plan.
    fn numbers(&mut self) -> &mut AllocationNumbers {
        Arc::make_mut(self.plan.numbers.entry(app()).or_default())
    }

    /// The machine's part in the new plan.
    fn part(&mut self) -> &mut MachinePlan {
        Arc::make_mut(self.plan.machines.get_mut(&machine("m")).expect("a part"))
    }

    /// The app's routes in a plan.
    fn routes(plan: &mut Plan) -> &mut AppRoutes {
        Arc::make_mut(plan.routes.get_mut(&app()).expect("routes"))
    }

    /// Gives the app's routes in the new plan a revision.
    fn set_revision(&mut self, revision: u64) {
        Self::routes(&mut self.plan).revision = Generation(revision);
        self.plan.routing.revision = Generation(revision);
    }

    /// Removes an instance from the routes of the new plan, and gives the routes their next number.
    fn unroute(&mut self, id: &AllocationId) {
        let route = Self::routes(&mut self.plan).routes.get_mut(&host()).expect("a route");
        route.endpoints.retain(|endpoint| endpoint.allocation != *id);
        self.set_revision(self.plan.routing.revision.0 + 1);
    }

    /// Makes the new plan the previous plan.
    fn accept(&mut self) {
        self.previous = self.plan.clone();
    }

    fn router(&mut self) -> &mut ObservedRouter {
        self.observed.routers.values_mut().next().expect("a router")
    }
}

fn retired_in(generation: u64) -> InstanceGoal {
    InstanceGoal::Retire { removed_in: Generation(generation), since: NOW }
}

#[test]
fn an_unchanged_plan_has_no_violation() {
    assert_eq!(Case::new().audit(), []);
}

#[test]
fn a_retirement_that_every_router_acknowledged_may_end() {
    let mut case = Case::new();
    case.unroute(&copy(1, 2));
    case.set_goal(&copy(1, 2), retired_in(6));
    assert_eq!(case.audit(), []);
    case.accept();
    case.router().generation = Generation(6);
    case.set_goal(&copy(1, 2), InstanceGoal::Stop);
    assert_eq!(case.audit(), []);
    case.accept();
    case.part().instances.remove(&copy(1, 2));
    assert_eq!(case.audit(), [Violation::PartNotRenumbered]);
    case.part().generation.0 += 1;
    assert_eq!(case.audit(), []);
}

#[test]
fn a_route_must_not_lead_to_a_missing_or_retired_instance() {
    for goal in [None, Some(retired_in(5))] {
        let mut case = Case::new();
        let part = case.part();
        part.generation = part.generation.next();
        match goal {
            Some(goal) => drop(part.instances.insert(copy(1, 2), assignment(goal))),
            None => drop(part.instances.remove(&copy(1, 2))),
        }
        assert_eq!(case.audit(), [Violation::RoutedButNotRunning(copy(1, 2))], "{goal:?}");
    }
}

#[test]
fn a_routed_instance_must_not_stop_at_once() {
    let mut case = Case::new();
    case.unroute(&copy(1, 2));
    case.set_goal(&copy(1, 2), InstanceGoal::Stop);
    assert_eq!(case.audit(), [Violation::StoppedBeforeAcknowledged(copy(1, 2))]);
}

#[test]
fn an_instance_that_left_the_routes_must_not_stop_before_every_router_knows() {
    let mut case = Case::new();
    case.unroute(&copy(1, 2));
    case.accept();
    case.set_goal(&copy(1, 2), InstanceGoal::Stop);
    assert_eq!(case.audit(), [Violation::StoppedBeforeAcknowledged(copy(1, 2))]);
    case.router().generation = Generation(6);
    assert_eq!(case.audit(), []);
    // The router of another machine is not known yet.
    case.observed.began = NOW;
    assert_eq!(case.audit(), []);
    case.previous.machines.insert(machine("n"), Arc::default());
    assert_eq!(case.audit(), [Violation::StoppedBeforeAcknowledged(copy(1, 2))]);
}

#[test]
fn an_instance_with_a_name_must_not_stop_at_once() {
    // Another machine may have the same address for something else.
    for (named, of, violations) in [(true, "m", 1), (true, "n", 0), (false, "m", 0)] {
        let mut case = Case::new();
        case.unroute(&copy(1, 2));
        case.accept();
        case.router().generation = Generation(6);
        let id = copy(1, 2);
        let report = Arc::make_mut(case.observed.machines.get_mut(&machine("m")).expect("a machine"));
        report.instances.insert(id.clone(), reported(address(&id)));
        if named {
            let role = RoleName::parse("web").expect("a name");
            let at = MachineAddress::new(machine(of), address(&id));
            let names = Some(AppNames { roles: [(role, vec![at])].into(), ..AppNames::default() });
            Case::routes(&mut case.previous).names.clone_from(&names);
            Case::routes(&mut case.plan).names = names;
        }
        case.set_goal(&id, InstanceGoal::Stop);
        assert_eq!(case.audit().len(), violations, "named: {named} on {of}, {:?}", case.audit());
    }
}

fn reported(address: Ipv4Addr) -> gantry_model::ObservedInstance {
    let seen = gantry_model::ObservedInstance::new(gantry_model::InstancePhase::Ready, NOW);
    gantry_model::ObservedInstance { address: Some(address), ..seen }
}

#[test]
fn a_retired_instance_must_not_stop_before_every_live_router_has_the_table() {
    // A router that is silent for longer than 10 s is not live. While no router has reported, none is known.
    for (generation, silent, known, allowed) in [
        (6, 0, true, true),
        (5, 0, true, false),
        (5, 10_001, true, true),
        (5, 10_000, true, false),
        (6, 0, false, false),
    ] {
        let mut case = Case::new();
        case.unroute(&copy(1, 2));
        case.set_goal(&copy(1, 2), retired_in(6));
        case.accept();
        case.router().generation = Generation(generation);
        case.router().seen = Moment(NOW.0 - silent);
        if !known {
            case.observed.routers.clear();
            case.observed.began = NOW;
        }
        case.set_goal(&copy(1, 2), InstanceGoal::Stop);
        let violations = case.audit();
        assert_eq!(violations.is_empty(), allowed, "{generation} {silent} {known}: {violations:?}");
    }
}

#[test]
fn a_single_writer_must_not_have_two_copies() {
    let mut case = Case::new();
    let part = case.part();
    for assignment in part.instances.values_mut() {
        Arc::make_mut(&mut assignment.spec).role.volumes.insert("data".into(), "/data".into());
    }
    part.generation = part.generation.next();
    assert_eq!(case.audit(), [Violation::TwoWriters(copy(1, 1), copy(1, 2))]);
}

#[test]
fn changed_routes_need_a_new_revision() {
    for (revision, changed, allowed) in [(6, true, true), (5, true, false), (4, false, false), (6, false, true)] {
        let mut case = Case::new();
        if changed {
            case.unroute(&copy(1, 2));
        }
        case.set_revision(revision);
        assert_eq!(case.audit().is_empty(), allowed, "{revision} {changed}: {:?}", case.audit());
        assert!(case.audit().iter().all(|found| *found == Violation::RoutesNotRenumbered));
    }
}

#[test]
fn a_change_of_shared_routing_needs_a_new_revision() {
    for (revision, allowed) in [(6, true), (5, false)] {
        let mut case = Case::new();
        case.plan.routing.trusted_proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a range")]);
        case.plan.routing.revision = Generation(revision);
        assert_eq!(case.audit().is_empty(), allowed, "{revision}");
        let mut case = Case::new();
        case.plan.routing.tunnels.set(&machine("m"), &["10.0.0.7:7001".parse().expect("an address")]);
        case.plan.routing.revision = Generation(revision);
        assert_eq!(case.audit().is_empty(), allowed, "{revision}");
        let mut case = Case::new();
        case.plan.routing.lost.insert(machine("far"));
        case.plan.routing.revision = Generation(revision);
        assert_eq!(case.audit().is_empty(), allowed, "{revision}");
    }
}

#[test]
fn two_changes_of_routes_must_not_have_one_revision() {
    for (revision, violations) in [(6, vec![Violation::RevisionUsedTwice]), (7, vec![])] {
        let mut case = Case::new();
        case.unroute(&copy(1, 2));
        let names = Some(AppNames::default());
        let routes = AppRoutes { revision: Generation(revision), names, ..AppRoutes::default() };
        case.plan.put_routes(AppName::parse("blog").expect("a name"), routes.into());
        assert_eq!(case.audit(), violations, "{revision}");
    }
}

#[test]
fn an_acknowledgement_of_lost_records_does_not_count() {
    for (floor, allowed) in [(6, true), (7, false)] {
        let mut case = Case::new();
        case.unroute(&copy(1, 2));
        case.set_goal(&copy(1, 2), retired_in(6));
        case.plan.routing.floor = Generation(floor);
        case.accept();
        case.router().generation = Generation(6);
        case.set_goal(&copy(1, 2), InstanceGoal::Stop);
        assert_eq!(case.audit().is_empty(), allowed, "{floor}");
    }
}

#[test]
fn a_retired_instance_that_routes_name_again_must_not_stop() {
    let mut case = Case::new();
    let part = Arc::make_mut(case.previous.machines.get_mut(&machine("m")).expect("a part"));
    part.instances.insert(copy(1, 2), assignment(retired_in(5)));
    case.unroute(&copy(1, 2));
    case.set_goal(&copy(1, 2), InstanceGoal::Stop);
    assert_eq!(case.audit(), [Violation::StoppedBeforeAcknowledged(copy(1, 2))]);
}

#[test]
fn a_changed_part_needs_a_higher_generation() {
    for (generation, changed, allowed) in [(4, true, true), (3, true, false), (2, false, false), (4, false, true)] {
        let mut case = Case::new();
        if changed {
            case.set_goal(&copy(2, 1), InstanceGoal::Run);
        }
        case.part().generation = Generation(generation);
        let expected = if allowed { vec![] } else { vec![Violation::PartNotRenumbered] };
        assert_eq!(case.audit(), expected, "{generation} {changed}");
    }
}

#[test]
fn a_new_allocation_needs_a_new_and_recorded_number() {
    let of_number = |number| AllocationId { number, ..copy(1, 3) };
    for (used, number, recorded, violations) in [
        (0, 1, true, vec![]),
        (2, 3, true, vec![]),
        (2, 7, true, vec![]),
        (2, 2, true, vec![Violation::NumberUsedTwice(of_number(2))]),
        (2, 1, true, vec![Violation::NumberUsedTwice(of_number(1))]),
        (2, 3, false, vec![Violation::NumberNotRecorded(of_number(3))]),
    ] {
        let mut case = Case::new();
        case.numbers().record(&of_number(used));
        case.accept();
        case.set_goal(&of_number(number), InstanceGoal::Run);
        if !recorded {
            case.plan.numbers.clone_from(&case.previous.numbers);
        }
        assert_eq!(case.audit(), violations, "{used} {number}");
    }
}

#[test]
fn a_single_copy_may_be_placed_again_once_its_machine_is_fenced() {
    for (fenced, allowed) in [(false, false), (true, true)] {
        let mut case = Case::new();
        case.unroute(&copy(1, 1));
        case.set_goal(&copy(1, 1), InstanceGoal::Stop);
        case.previous = case.plan.clone();
        case.unroute(&copy(1, 2));
        case.part().instances.remove(&copy(1, 2));
        let gone = case.plan.machines[&machine("m")].instances.clone();
        case.previous
            .machines
            .insert(machine("m"), Arc::new(MachinePlan { instances: gone, ..MachinePlan::default() }));
        let again = AllocationId { number: 2, ..copy(1, 1) };
        case.set_goal(&again, InstanceGoal::Run);
        for assignment in case.part().instances.values_mut() {
            Arc::make_mut(&mut assignment.spec).role.single = true;
        }
        case.machines.insert(
            machine("m"),
            AuditedMachine { takes_copies: true, is_fenced: fenced, ..AuditedMachine::default() },
        );
        let violations = case.audit();
        let twice = violations.iter().any(|violation| matches!(violation, Violation::TwoWriters(..)));
        assert_eq!(!twice, allowed, "{violations:?}");
    }
}

#[test]
fn two_placements_of_a_single_writer_must_not_exist_at_once() {
    let mut case = Case::new();
    let moved = AllocationId { number: 2, ..copy(1, 1) };
    case.set_goal(&moved, InstanceGoal::Run);
    case.unroute(&copy(1, 2));
    case.part().instances.remove(&copy(1, 2));
    assert_eq!(case.audit(), []);
    for assignment in case.part().instances.values_mut() {
        Arc::make_mut(&mut assignment.spec).role.volumes.insert("data".into(), "/data".into());
    }
    assert_eq!(case.audit(), [Violation::TwoWriters(copy(1, 1), moved)]);
}

#[test]
fn two_machines_must_not_have_the_same_allocation() {
    let mut case = Case::new();
    let part = case.plan.machines[&machine("m")].clone();
    case.plan.machines.insert(machine("n"), part);
    assert_eq!(case.audit(), [copy(1, 1), copy(1, 2)].map(Violation::AssignedTwice));
}

#[test]
fn a_route_must_lead_to_the_current_release_or_to_one_of_a_deploy() {
    let mut case = Case::new();
    case.set_goal(&copy(2, 1), InstanceGoal::Run);
    let route = Case::routes(&mut case.plan).routes.get_mut(&host()).expect("a route");
    route.endpoints.push(endpoint(&copy(2, 1)));
    case.set_revision(6);
    assert_eq!(case.audit(), [Violation::WrongRelease(copy(2, 1))]);
    let cause = DeployCause::Config { keys: Vec::new() };
    let mut deploy = Deploy::new(app(), DeployNumber(2), cause, "test".into(), false, NOW);
    deploy.release = Some(ReleaseNumber(2));
    case.routable.add(&App::new(app(), Moment(0)), [&deploy]);
    assert_eq!(case.audit(), []);
}

/// Adds a copy that reserves memory to the machine's part of the new plan.
fn add_reserving(case: &mut Case, memory: Bytes) -> AllocationId {
    let id = copy(1, 3);
    let mut added = assignment(InstanceGoal::Run);
    Arc::make_mut(&mut added.spec).role.placement.reserve_memory = Some(memory);
    let part = case.part();
    part.instances.insert(id.clone(), added);
    part.generation = part.generation.next();
    case.numbers().record(&id);
    id
}

#[test]
fn a_route_to_a_lost_machine() {
    let mut case = Case::new();
    case.machines.insert(machine("m"), AuditedMachine { is_lost: true, ..AuditedMachine::default() });
    let found = [copy(1, 1), copy(1, 2)].map(Violation::RoutedToLostMachine);
    assert_eq!(case.audit(), found);
}

#[test]
fn a_copy_on_a_machine_that_accepts_no_copies() {
    let mut case = Case::new();
    case.machines.insert(machine("m"), AuditedMachine::default());
    assert_eq!(case.audit(), [], "copies that are there may stay");
    let id = add_reserving(&mut case, Bytes(0));
    assert_eq!(case.audit(), [Violation::PlacedOnClosedMachine(id)]);
}

#[test]
fn a_single_copy_on_an_agent_without_fencing() {
    for (protocol, single, is_allowed) in [(2, true, false), (2, false, true), (3, true, true)] {
        let mut case = Case::new();
        let open = AuditedMachine { takes_copies: true, usable: (100, 0), protocol, ..AuditedMachine::default() };
        case.machines.insert(machine("m"), open);
        let id = add_reserving(&mut case, Bytes(1));
        let added = case.part().instances.get_mut(&id).expect("the copy");
        Arc::make_mut(&mut added.spec).role.single = single;
        let found = case.audit().contains(&Violation::PlacedOnOldAgent(id));
        assert_eq!(!found, is_allowed, "version {protocol}, single {single}");
    }
}

#[test]
fn more_reservations_than_a_machine_has() {
    for (memory, found) in [(100, vec![]), (101, vec![Violation::Overcommitted(machine("m"))])] {
        let mut case = Case::new();
        let open = AuditedMachine { takes_copies: true, usable: (100, 0), ..AuditedMachine::default() };
        case.machines.insert(machine("m"), open);
        add_reserving(&mut case, Bytes(memory));
        assert_eq!(case.audit(), found, "{memory}");
    }
}

#[test]
fn a_reservation_of_one_resource_where_another_is_short() {
    let over = || vec![Violation::Overcommitted(machine("m"))];
    for (memory, cpu, found) in [(0, 0, vec![]), (100, 0, vec![]), (101, 0, over()), (0, 1, over()), (100, 1, over())] {
        let mut case = Case::new();
        let open = AuditedMachine { takes_copies: true, usable: (100, 0), ..AuditedMachine::default() };
        case.machines.insert(machine("m"), open);
        let reserve = |assigned: &mut Assignment, cpu| {
            Arc::make_mut(&mut assigned.spec).role.placement.reserve_cpu = Some(MilliCpu(cpu));
        };
        case.part().instances.values_mut().for_each(|assigned| reserve(assigned, 10));
        let id = add_reserving(&mut case, Bytes(memory));
        reserve(case.part().instances.get_mut(&id).expect("the copy"), cpu);
        assert_eq!(case.audit(), found, "{memory} bytes, {cpu} thousandths");
    }
}
