//! Random histories of a cluster: after each event, the server plans what the events made dirty. Then nothing may be left
//! for a plan of everything to do. The property shows that the dirty sets forget no app and no machine.

use gantry_model::{ClusterPolicy, ExitStatus, PlacementRules, Reason, RolePattern};
use proptest::prelude::*;

use super::*;

const APPS: [&str; 3] = ["blog", "shop", "wiki"];
const MACHINES: [&str; 3] = ["a", "b", "c"];
const ROUTERS: usize = 2;

#[derive(Debug, Clone)]
enum Happening {
    /// A deploy of a new release is placed.
    Deploy(usize),
    /// The number of copies of an app changes.
    Scale(usize, u32),
    /// An app is to go.
    Destroy(usize),
    /// An agent takes over its part, and reports.
    Accept(usize),
    /// An instance of a machine goes on by one phase.
    Advance(usize, usize),
    /// An instance of a machine ends, for the nth time since its last report.
    Crash(usize, usize, u32),
    /// A router takes over the routes.
    Acknowledge(usize),
    /// A router ends.
    RouterGone(usize),
    /// A machine with its agent and its router falls silent, or reports again.
    Silence(usize, bool),
    /// An operator opens, cordons or drains a machine.
    Availability(usize, usize),
    /// The tunnel of a machine's router gets another address, or ends.
    Tunnel(usize, u16),
    /// The server reads its records again.
    Reload,
    /// Time passes, in half seconds.
    Time(u64),
    /// Agents and routers carry out the plan for some seconds.
    CarryOut(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let (app, machine) = (0..APPS.len(), 0..MACHINES.len());
    prop_oneof![
        3 => app.clone().prop_map(Happening::Deploy),
        3 => (app.clone(), 0..4u32).prop_map(|(app, copies)| Happening::Scale(app, copies)),
        1 => app.prop_map(Happening::Destroy),
        10 => machine.clone().prop_map(Happening::Accept),
        14 => (machine.clone(), 0..8usize).prop_map(|(machine, n)| Happening::Advance(machine, n)),
        2 => (machine.clone(), 0..8usize, 1..4u32).prop_map(|(machine, n, times)| Happening::Crash(machine, n, times)),
        8 => (0..ROUTERS).prop_map(Happening::Acknowledge),
        1 => (0..ROUTERS).prop_map(Happening::RouterGone),
        2 => (machine.clone(), any::<bool>()).prop_map(|(machine, silent)| Happening::Silence(machine, silent)),
        2 => (machine.clone(), 0..3usize).prop_map(|(machine, open)| Happening::Availability(machine, open)),
        2 => (machine, 0..3u16).prop_map(|(machine, port)| Happening::Tunnel(machine, port)),
        1 => Just(Happening::Reload),
        5 => (1..24u64).prop_map(Happening::Time),
        8 => (1..20u64).prop_map(Happening::CarryOut),
    ]
}

/// The events that the server takes over before it plans.
fn histories() -> impl Strategy<Value = Vec<Vec<Happening>>> {
    prop::collection::vec(prop::collection::vec(happening(), 1..4), 1..60)
}

/// The roles of an app. The memory of a machine is enough for two copies of `shop`. `blog` has a copy beside a copy of
/// `shop`, and `wiki` has copies apart from `blog`. Global roles: `blog` has a copy on every machine with a copy of `shop`,
/// and `wiki` has one on every machine without, and one on every machine.
fn roles(app: usize) -> BTreeMap<RoleName, Role> {
    let pattern = |text: &str| [RolePattern::parse(text).expect("a pattern")].into();
    let mut main = web_role(2);
    let mut others = BTreeMap::new();
    let mut global = |name: &str, rules: PlacementRules| {
        let placement = PlacementRules { global: true, ..rules };
        others.insert(role_name(name), Role { placement, ..Role::new(RoleCommand::Shell("watch".into())) });
    };
    match APPS[app] {
        "blog" => {
            main.instances = 1;
            main.placement.with = pattern("shop/main");
            global("near", PlacementRules { with: pattern("shop/main"), ..PlacementRules::default() });
        }
        "shop" => main.placement.reserve_memory = Some(Bytes::mebi(300)),
        _ => {
            main.placement.apart_from = pattern("blog/*");
            global("global", PlacementRules::default());
            global("far", PlacementRules { apart_from: pattern("shop/main"), ..PlacementRules::default() });
        }
    }
    others.insert(role_name("main"), main);
    others
}

#[derive(Default)]
struct Agent {
    is_silent: bool,
    report: MachineReport,
}

struct Cluster {
    state: CoreState,
    now: u64,
    /// Apps and machines that the events since the last plan affect.
    dirty: DirtySet,
    agents: Vec<Agent>,
    /// The revision of each router; none if the router is gone.
    routers: Vec<Option<Generation>>,
    /// The next address. No two instances ever have the same.
    address: usize,
}

impl Cluster {
    fn new() -> Self {
        let mut records = RecordIndex::default();
        // Crowded copies spread when a machine comes back, and not whenever there is room.
        let policy = ClusterPolicy { rebalance_copies: Some(0), ..ClusterPolicy::default() };
        records.apply(StoreRecord::Policy(policy).into());
        MACHINES.iter().for_each(|name| records.apply(StoreRecord::Registered(registered(name)).into()));
        APPS.iter().for_each(|name| records.apply(StoreRecord::App(App::new(app_name(name), Moment(START))).into()));
        let state = CoreState::new(records, ClockJumps::default(), Moment(START));
        let agents = MACHINES.iter().map(|_| Agent::default()).collect();
        let routers = vec![Some(Generation(0)); ROUTERS];
        let mut cluster = Self { state, now: START, dirty: DirtySet::everything(), agents, routers, address: 0 };
        cluster.heartbeats();
        cluster.plan_until_stable();
        cluster
    }

    fn apply(&mut self, event: CoreEvent) {
        let effects = self.state.apply(event, Moment(self.now));
        self.dirty.merge(effects.dirty);
    }

    fn commit(&mut self, records: impl IntoIterator<Item = StoreRecord>) {
        self.apply(CoreEvent::Committed(records.into_iter().map(RecordChange::from).collect()));
    }

    fn report(&mut self, machine: usize) {
        if !self.agents[machine].is_silent {
            self.apply(CoreEvent::Machine(machine_name(MACHINES[machine]), self.agents[machine].report.clone()));
        }
    }

    fn route(&mut self, number: usize, gone: bool) {
        if let Some(revision) = self.routers[number]
            && !self.agents[number].is_silent
        {
            let report = RouterReport { gone, ..router(revision.0, &[]) };
            self.apply(CoreEvent::Router(machine_name(MACHINES[number]), report));
        }
    }

    fn heartbeats(&mut self) {
        (0..MACHINES.len()).for_each(|machine| self.report(machine));
        (0..ROUTERS).for_each(|number| self.route(number, false));
    }

    /// Plans what is dirty until nothing changes. Then a plan of everything must change nothing either.
    fn plan_until_stable(&mut self) {
        self.apply(CoreEvent::Tick);
        let now = Moment(self.now);
        let mut steps = 0;
        while let Some(step) = self.state.plan(&std::mem::take(&mut self.dirty), now) {
            self.apply(CoreEvent::Planned { apps: step.apps, report: step.report });
            if !step.groups.is_empty() {
                self.apply(CoreEvent::Committed(step.groups.concat()));
            }
            steps += 1;
            assert!(steps < 60, "the planner does not come to rest");
        }
        let left = self.state.plan(&DirtySet::everything(), now).expect("dirty").groups;
        assert!(left.is_empty(), "the dirty sets forgot something: {left:?}");
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Deploy(app) => self.deploy(app),
            Happening::Scale(app, copies) => self.change(app, |app| {
                app.scale.insert(role_name("main"), copies);
            }),
            Happening::Destroy(app) => self.change(app, |app| app.destroying = true),
            Happening::Accept(machine) => self.accept(machine),
            Happening::Advance(machine, n) => self.advance(machine, n),
            Happening::Crash(machine, n, times) => self.crash(machine, n, times),
            Happening::Acknowledge(number) => {
                self.routers[number] = Some(self.state.view().records.plan.routing.revision);
                self.route(number, false);
            }
            Happening::RouterGone(number) => {
                self.route(number, true);
                self.routers[number] = None;
            }
            Happening::Silence(machine, is_silent) => {
                self.agents[machine].is_silent = is_silent;
                self.report(machine);
            }
            Happening::Availability(machine, open) => {
                let availability = match open {
                    0 => MachineAvailability::Schedulable,
                    1 => MachineAvailability::Cordoned { reason: None },
                    _ => MachineAvailability::Draining { reason: None, deadline: None },
                };
                self.register(machine, |machine| machine.availability = availability);
            }
            Happening::Tunnel(machine, port) => {
                let address = |port: u16| format!("10.0.0.7:{port}").parse().expect("an address");
                let addresses = (port > 0).then(|| address(7_000 + port)).into_iter().collect();
                self.register(machine, |machine| machine.addresses = addresses);
            }
            Happening::Reload => {
                let records = (*self.state.view().records).clone();
                self.apply(CoreEvent::Loaded(Box::new(records)));
            }
            Happening::Time(halves) => {
                for _ in 0..halves {
                    self.now += 500;
                    self.heartbeats();
                    self.plan_until_stable();
                }
            }
            Happening::CarryOut(seconds) => (0..seconds).for_each(|_| self.carry_out()),
        }
    }

    fn carry_out(&mut self) {
        for machine in 0..MACHINES.len() {
            self.accept(machine);
            (0..self.agents[machine].report.instances.len()).rev().for_each(|n| self.advance(machine, n));
        }
        (0..ROUTERS).for_each(|number| self.happen(&Happening::Acknowledge(number)));
        self.happen(&Happening::Time(2));
    }

    fn deploy(&mut self, app: usize) {
        let (records, name) = (self.state.view().records, app_name(APPS[app]));
        let Some(known) = records.apps.get(&name) else { return };
        if !known.destroying && records.open_deploys(&name).next().is_none() {
            let release = release_of(APPS[app], known.last_release + 1, roles(app));
            self.commit(deploy_of(&records, release, self.now));
        }
    }

    fn change(&mut self, app: usize, change: impl FnOnce(&mut App)) {
        let records = self.state.view().records;
        if let Some(known) = records.apps.get(&app_name(APPS[app])) {
            let mut app = (**known).clone();
            change(&mut app);
            self.commit([StoreRecord::App(app)]);
        }
    }

    fn register(&mut self, machine: usize, change: impl FnOnce(&mut Machine)) {
        let mut machine = (*self.state.view().records.machines[&machine_name(MACHINES[machine])]).clone();
        change(&mut machine);
        self.commit([StoreRecord::Registered(machine)]);
    }

    fn accept(&mut self, machine: usize) {
        let part = self.state.view().records.plan.machines.get(&machine_name(MACHINES[machine])).cloned();
        let (part, agent) = (part.unwrap_or_default(), &mut self.agents[machine]);
        if agent.is_silent {
            return;
        }
        agent.report.generation = part.generation;
        let stops = |id: &AllocationId| part.instances.get(id).is_none_or(|a| a.goal == InstanceGoal::Stop);
        for id in part.instances.keys().filter(|id| !stops(id)) {
            let new = || ObservedInstance::new(InstancePhase::Preparing, Moment(START));
            agent.report.instances.entry(id.clone()).or_insert_with(new);
        }
        // A stopping instance needs time.
        for (_, instance) in agent.report.instances.iter_mut().filter(|(id, _)| stops(id)) {
            instance.phase = InstancePhase::Stopping;
        }
        self.report(machine);
    }

    fn advance(&mut self, machine: usize, n: usize) {
        self.address += 1;
        let address = address(self.address);
        let instances = &mut self.agents[machine].report.instances;
        let Some(id) = instances.keys().nth(n % instances.len().max(1)).cloned() else { return };
        let Some(instance) = instances.get_mut(&id) else { return };
        match instance.phase {
            InstancePhase::Stopping => drop(instances.remove(&id)),
            InstancePhase::Preparing => (instance.phase, instance.address) = (InstancePhase::Starting, Some(address)),
            _ => instance.phase = InstancePhase::Ready,
        }
        self.report(machine);
    }

    /// An instance that has failed three times is tried elsewhere once there is a machine.
    fn crash(&mut self, machine: usize, n: usize, times: u32) {
        let exit = ExitStatus { code: Some(1), at: Moment(self.now), ..ExitStatus::default() };
        let instances = &mut self.agents[machine].report.instances;
        let count = instances.len().max(1);
        if let Some(instance) = instances.values_mut().nth(n % count)
            && instance.phase == InstancePhase::Ready
        {
            (instance.phase, instance.exit) = (InstancePhase::Exited, Some(exit));
            instance.restarts += times;
        }
        self.report(machine);
    }
}

proptest! {
    #[test]
    fn a_plan_of_the_dirty_set_leaves_nothing_for_a_plan_of_everything(history in histories()) {
        let mut cluster = Cluster::new();
        for happenings in &history {
            happenings.iter().for_each(|happening| cluster.happen(happening));
            cluster.plan_until_stable();
        }
    }
}

/// Runs a cluster until a deploy of each of the named apps is over.
fn deployed(apps: &[usize]) -> Cluster {
    let mut cluster = Cluster::new();
    for app in apps {
        cluster.happen(&Happening::Deploy(*app));
        cluster.plan_until_stable();
        rest(&mut cluster);
    }
    cluster
}

/// Lets agents and routers carry out the plan until all deploys are over.
fn rest(cluster: &mut Cluster) {
    let is_open = |cluster: &Cluster| {
        let records = cluster.state.view().records;
        APPS.iter().any(|app| records.open_deploys(&app_name(app)).next().is_some())
    };
    for _ in 0..400 {
        cluster.carry_out();
        if !is_open(cluster) {
            return;
        }
    }
    panic!("a deploy does not end: {:?}", cluster.state.view().records.deploys);
}

/// The number of copies of a role, written `app/role`.
fn copies(cluster: &Cluster, role: &str) -> usize {
    let view = cluster.state.view();
    let (app, role) = role.split_once('/').expect("an app and a role");
    let (app, role) = (app_name(app), role_name(role));
    view.records.plan.assignments_of(&app).filter(|(_, id, _)| id.slot.role == role).count()
}

#[test]
fn a_copy_that_waits_for_a_neighbour_is_placed_when_the_neighbour_comes() {
    let (blog, shop) = (0, 1);
    let mut cluster = deployed(&[shop, blog]);
    assert_eq!((copies(&cluster, "blog/main"), copies(&cluster, "shop/main")), (1, 2));
    cluster.happen(&Happening::Scale(blog, 0));
    cluster.happen(&Happening::Scale(shop, 0));
    cluster.plan_until_stable();
    cluster.happen(&Happening::CarryOut(60));
    assert_eq!((copies(&cluster, "blog/main"), copies(&cluster, "shop/main")), (0, 0));
    // The step that places the copy of `shop` refuses the one of `blog`, which comes first.
    cluster.happen(&Happening::Scale(blog, 1));
    cluster.happen(&Happening::Scale(shop, 1));
    cluster.plan_until_stable();
    assert_eq!((copies(&cluster, "blog/main"), copies(&cluster, "shop/main")), (1, 1));
}

#[test]
fn a_failing_copy_that_no_machine_took_moves_when_a_machine_opens() {
    let shop = 1;
    let mut cluster = deployed(&[shop]);
    let second_allocations = |cluster: &Cluster| {
        let (plan, name) = (cluster.state.view().records.plan.clone(), app_name("shop"));
        let placed = plan.assignments_of(&name).filter(|(_, id, _)| id.number == 2);
        placed.map(|(machine, _, _)| machine.to_string()).collect::<Vec<_>>()
    };
    [1, 2].iter().for_each(|machine| cluster.happen(&Happening::Availability(*machine, 1)));
    cluster.happen(&Happening::Crash(0, 0, 3));
    cluster.plan_until_stable();
    let waits = cluster.state.view().report.waits[&app_name("shop")].clone();
    assert!(matches!(waits.as_slice(), [Reason::CannotMove { .. }]), "{waits:?}");
    assert_eq!(second_allocations(&cluster), [""; 0]);
    cluster.happen(&Happening::Availability(2, 0));
    cluster.plan_until_stable();
    assert_eq!(second_allocations(&cluster), ["c"]);
}

#[test]
fn a_global_role_gets_a_copy_where_its_neighbour_comes() {
    let (blog, shop) = (0, 1);
    let mut cluster = deployed(&[shop, blog]);
    assert_eq!((copies(&cluster, "shop/main"), copies(&cluster, "blog/near")), (2, 2));
    cluster.happen(&Happening::Scale(shop, 3));
    cluster.plan_until_stable();
    assert_eq!((copies(&cluster, "shop/main"), copies(&cluster, "blog/near")), (3, 3));
}

#[test]
fn a_global_role_gets_a_copy_where_its_conflict_goes() {
    let (shop, wiki) = (1, 2);
    let mut cluster = deployed(&[shop, wiki]);
    assert_eq!((copies(&cluster, "shop/main"), copies(&cluster, "wiki/far")), (2, 1));
    cluster.happen(&Happening::Scale(shop, 0));
    cluster.happen(&Happening::CarryOut(60));
    assert_eq!((copies(&cluster, "shop/main"), copies(&cluster, "wiki/far")), (0, 3));
}

#[test]
fn a_new_tunnel_reaches_the_routers_and_plans_only_the_apps_of_its_machine() {
    let (shop, a) = (1, 0);
    let mut cluster = deployed(&[shop]);
    let head = |cluster: &Cluster| cluster.state.view().records.plan.routing.clone();
    for (port, tunnels) in [(1, 1), (2, 1), (0, 0)] {
        let before = head(&cluster);
        cluster.happen(&Happening::Tunnel(a, port));
        let expected = DirtySet {
            apps: [app_name("shop")].into(),
            machines: [machine_name(MACHINES[a])].into(),
            ..DirtySet::default()
        };
        assert_eq!(cluster.dirty, expected, "blog and wiki have no copy there");
        cluster.plan_until_stable();
        let after = head(&cluster);
        assert_eq!(after.revision, before.revision.next(), "the routes of no app change");
        assert_eq!(after.tunnels.machines().len(), tunnels);
        assert_ne!(after.tunnels, before.tunnels);
    }
}
