//! A rename is a deploy of a successor app, which takes over the hosts and the roles of the old app. Both apps run on
//! several machines here; a router acknowledges each change of routes.

mod fixtures;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use fixtures::{app_named, loads, machine_named, release_with, reported, role_named, web_role};
use gantry_model::app::Rename;
use gantry_model::{
    AllocationId, App, AppName, AppRoutes, Deploy, DeployCause, DeployNumber, DeployState, Generation, HostName,
    InstanceGoal, InstancePhase, MachineName, Moment, ObservedCluster, ObservedInstance, Plan, Reason, Release,
    ReleaseNumber, RouterId, RoutingTable,
};
use gantry_plan_audit::{AuditInput, RoutableReleases, audit};
use gantry_planner::{
    ClusterIndex, DesiredApp, DesiredCluster, PlanDecision, PlanScope, PlannerInput, PlannerPolicy, plan,
    plan_everything,
};

fn name(text: &str) -> AppName {
    app_named(text)
}

fn machine(number: u32) -> MachineName {
    machine_named(&format!("m{number}"))
}

fn release(app: &AppName, number: u64, volume: bool) -> Release {
    let mut role = web_role(2);
    if volume {
        role.volumes.insert("data".into(), "/data".into());
    }
    release_with(app, number, [(role_named("web"), role)].into())
}

fn cause() -> DeployCause {
    DeployCause::Config { keys: Vec::new() }
}

/// Several machines and one router that carry out the plan at once.
struct Machines {
    desired: DesiredCluster,
    observed: ObservedCluster,
    plan: Plan,
    policy: PlannerPolicy,
    now: Moment,
    ended: Vec<Deploy>,
    gone: Vec<AppName>,
    /// True if the router takes over routes.
    acknowledging: bool,
}

impl Machines {
    fn new(count: u32) -> Self {
        let mut observed = ObservedCluster::default();
        for number in 1..=count {
            observed.machines.insert(machine(number), Arc::default());
        }
        let policy = PlannerPolicy::new(HostName::parse("localhost").expect("a name"));
        Self {
            desired: DesiredCluster::default(),
            observed,
            plan: Plan::default(),
            policy,
            now: Moment(1_000_000_000),
            ended: Vec::new(),
            gone: Vec::new(),
            acknowledging: true,
        }
    }

    /// Adds an app, or a release to an app, with a deploy of the release.
    fn deploy(&mut self, app: &AppName, release: Release) {
        let new =
            || DesiredApp { app: App::new(app.clone(), self.now), releases: BTreeMap::new(), deploys: Vec::new() };
        let desired = self.desired.apps.entry(app.clone()).or_insert_with(new);
        let number = DeployNumber(release.number.0);
        (desired.app.last_deploy, desired.app.last_release) = (number.0, release.number.0);
        let mut deploy = Deploy::new(app.clone(), number, cause(), "test".into(), false, self.now);
        (deploy.release, deploy.previous) = (Some(release.number), desired.app.current);
        deploy.enter(DeployState::Placing, self.now);
        desired.releases.insert(release.number, release.into());
        desired.deploys.push(deploy);
    }

    /// Plans everything, and checks that planning each app with its partner alone gives the same.
    fn decide(&self) -> PlanDecision {
        let Self { desired, observed, plan: previous, policy, now, .. } = self;
        let decision = plan_everything(desired, observed, previous, policy, *now);
        let index = ClusterIndex::of(previous, observed);
        let all = decision.applied_to(previous);
        let shared = DesiredCluster { apps: BTreeMap::new(), ..desired.clone() };
        for (app, known) in &desired.apps {
            let apps: BTreeSet<AppName> = [app.clone()].into_iter().chain(known.app.renamed().cloned()).collect();
            let of_scope = desired.apps.iter().filter(|(name, _)| apps.contains(*name));
            let of_scope = of_scope.map(|(name, app)| (name.clone(), app.clone())).collect();
            let of_scope = DesiredCluster { apps: of_scope, ..shared.clone() };
            let scope = PlanScope { apps, machines: BTreeSet::new() };
            let input = PlannerInput {
                scope: &scope,
                desired: &of_scope,
                observed,
                previous,
                index: &index,
                policy,
                now: *now,
            };
            let part = plan(&input, &mut loads(previous, observed));
            for (app, routes) in part.routes.iter().flatten() {
                assert!(decision.routes.iter().flatten().any(|(of, same)| of == app && !same.differ(routes)), "{app}");
            }
            assert!(part.apps.iter().all(|app| decision.apps.contains(app)));
            assert!(part.deploys.iter().all(|deploy| decision.deploys.contains(deploy)));
            let alone = part.applied_to(previous);
            let ids = |plan: &Plan| {
                let mut ids: Vec<AllocationId> = plan.assignments_of(app).map(|(_, id, _)| id.clone()).collect();
                ids.sort();
                ids
            };
            assert_eq!(ids(&alone), ids(&all));
        }
        decision
    }

    /// Plans until nothing changes, with an audit of each pass; returns the groups of routes that changed.
    fn plan_until_stable(&mut self) -> Vec<Vec<AppName>> {
        let mut groups = Vec::new();
        for pass in 0.. {
            assert!(pass < 50, "the planner does not come to rest");
            let decision = self.decide();
            self.gone.clone_from(&decision.gone);
            let changes = PlanDecision { gone: Vec::new(), ..decision.clone() };
            if changes.is_empty() {
                return groups;
            }
            groups.extend(decision.routes.iter().map(|group| group.iter().map(|(app, _)| app.clone()).collect()));
            let planned = decision.applied_to(&self.plan);
            for app in decision.apps {
                let known = self.desired.apps.get_mut(&app.name).expect("the app");
                known.app = app;
            }
            for deploy in decision.deploys {
                let deploys = &mut self.desired.apps.get_mut(&deploy.app).expect("the app").deploys;
                deploys.retain(|known| known.number != deploy.number);
                if deploy.state.is_final() { self.ended.push(deploy) } else { deploys.push(deploy) }
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
        }
        groups
    }

    /// Every machine runs what its part says, and the router takes over the routes.
    fn act(&mut self) {
        self.now.0 += 1_000;
        for (number, (machine, report)) in self.observed.machines.iter_mut().enumerate() {
            let report = Arc::make_mut(report);
            report.seen = self.now;
            let Some(part) = self.plan.machines.get(machine) else { continue };
            report.generation = part.generation;
            let runs = part.instances.iter().filter(|(_, assigned)| assigned.goal != InstanceGoal::Stop);
            report.instances = runs.map(|(id, _)| (id.clone(), ready(id, number))).collect();
        }
        let router = self.observed.routers.entry(RouterId { machine: machine(1), number: 1 }).or_default();
        router.seen = self.now;
        if self.acknowledging {
            router.generation = self.plan.routing.revision;
        }
    }

    /// Runs until all deploys have ended and nothing leaves any more.
    fn rest(&mut self) {
        for _ in 0..100 {
            self.plan_until_stable();
            self.act();
        }
        assert!(self.desired.apps.values().all(|app| app.deploys.is_empty()), "{:?}", self.desired.apps);
    }

    fn runs(&self, app: &AppName) -> Vec<AllocationId> {
        self.plan.assignments_of(app).map(|(_, id, _)| id.clone()).collect()
    }

    /// The app that a host leads to, with the number of its endpoints.
    fn route(&self, host: &str) -> Option<(AppName, usize)> {
        let table = RoutingTable::assemble(&self.plan);
        let route = table.routes.get(&HostName::parse(host).expect("a host"))?;
        Some((route.app.clone(), route.endpoints.len()))
    }
}

/// A goal that can be compared without its revision.
fn goal(goal: InstanceGoal) -> u8 {
    match goal {
        InstanceGoal::Run => 0,
        InstanceGoal::Retire { .. } => 1,
        InstanceGoal::Stop => 2,
    }
}

fn ready(id: &AllocationId, machine: usize) -> ObservedInstance {
    let third = u8::try_from(machine).expect("small");
    let last = id.slot.release.0 * 10 + u64::from(id.slot.index) + if id.slot.app == name("new") { 100 } else { 0 };
    reported(InstancePhase::Ready, Ipv4Addr::new(10, 83, third, u8::try_from(last).expect("small")))
}

/// An app `old` that serves, and its successor `new` with a deploy that has begun.
fn renaming(volume: bool) -> Machines {
    let mut machines = Machines::new(3);
    let (old, new) = (name("old"), name("new"));
    machines.act();
    machines.deploy(&old, release(&old, 1, volume));
    machines.rest();
    machines.deploy(&new, release(&new, 1, volume));
    machines.desired.apps.get_mut(&old).expect("there").app.rename = Some(Rename::To { name: new.clone() });
    let successor = machines.desired.apps.get_mut(&new).expect("there");
    successor.app.rename = Some(Rename::From { name: old.clone() });
    // The successor has a release number of its own, as admission gives it.
    machines
}

#[test]
fn the_hosts_move_to_the_successor_in_one_group() {
    let mut machines = renaming(false);
    let mut moved = Vec::new();
    for _ in 0..100 {
        for group in machines.plan_until_stable() {
            let before = [&group[0], group.last().expect("not empty")];
            if before[0] != before[1] {
                moved.push(group.clone());
            }
        }
        // At no time is a host without a route, whichever app has it.
        let (app, endpoints) = machines.route("old.localhost").expect("a route");
        assert!(endpoints > 0, "{app}");
        machines.act();
    }
    assert_eq!(moved, [vec![name("new"), name("old")]], "both apps change once together");
    assert_eq!(machines.route("old.localhost"), Some((name("new"), 2)));
    assert_eq!(machines.route("new.localhost"), Some((name("new"), 2)));
    assert_eq!(machines.ended.last().map(|deploy| deploy.state), Some(DeployState::Done));
}

#[test]
fn the_old_app_stops_only_after_the_routers_have_the_routes_of_the_successor() {
    let mut machines = renaming(false);
    machines.plan_until_stable();
    machines.act();
    machines.acknowledging = false;
    for _ in 0..20 {
        machines.plan_until_stable();
        machines.act();
    }
    assert_eq!(machines.desired.apps[&name("new")].deploys[0].state, DeployState::Promoting);
    machines.desired.apps.get_mut(&name("old")).expect("there").app.destroying = true;
    for _ in 0..20 {
        machines.plan_until_stable();
        machines.act();
    }
    let goals = |machines: &Machines| -> Vec<u8> {
        machines.plan.assignments_of(&name("old")).map(|(_, _, assigned)| goal(assigned.goal)).collect()
    };
    assert_eq!(goals(&machines), [1, 1], "retired, and not stopped");
    machines.acknowledging = true;
    machines.rest();
    assert_eq!(machines.runs(&name("old")), []);
    assert_eq!(machines.gone, [name("old")], "its records can go");
    assert_eq!(machines.route("old.localhost"), Some((name("new"), 2)), "the record of the old app is still there");
}

#[test]
fn a_role_with_a_volume_leaves_the_old_app_before_the_successor_starts() {
    let mut machines = renaming(true);
    // The copies have one release number; the successor's number makes them different.
    let new = name("new");
    let successor = machines.desired.apps.get_mut(&new).expect("there");
    successor.releases = [(ReleaseNumber(2), Arc::new(release(&new, 2, true)))].into();
    successor.deploys[0].release = Some(ReleaseNumber(2));
    successor.app.last_release = 2;
    let mut waited = false;
    for _ in 0..100 {
        machines.plan_until_stable();
        let (old, new) = (machines.runs(&name("old")), machines.runs(&new));
        assert!(old.is_empty() || new.is_empty(), "two writers: {old:?} {new:?}");
        let waits = machines.decide().report.waits;
        waited |= waits.get(&name("new")).is_some_and(|reasons| {
            reasons
                .iter()
                .any(|reason| matches!(reason, Reason::StopFirst { instance, .. } if instance.slot.app == name("old")))
        });
        machines.act();
    }
    assert!(waited, "the successor says what it waits for");
    assert_eq!(machines.runs(&new).len(), 1);
    assert_eq!(machines.runs(&name("old")), []);
}

#[test]
fn deploys_of_different_apps_do_not_wait_for_each_other() {
    let mut machines = Machines::new(3);
    machines.act();
    let (one, two) = (name("one"), name("two"));
    for app in [&one, &two] {
        machines.deploy(app, release(app, 1, false));
    }
    machines.rest();
    machines.deploy(&one, release(&one, 2, false));
    for _ in 0..5 {
        machines.plan_until_stable();
        machines.act();
    }
    let revision = machines.plan.routes[&one].revision;
    let others = machines.plan.routes[&two].clone();
    // A second deploy promotes while the first bakes; the router never has the second's routes.
    machines.acknowledging = false;
    machines.deploy(&two, release(&two, 2, false));
    for _ in 0..40 {
        machines.plan_until_stable();
        machines.act();
    }
    assert!(machines.plan.routes[&two].revision > others.revision, "the second waits for its own routes");
    assert_eq!(machines.desired.apps[&two].deploys[0].state, DeployState::Promoting);
    assert_eq!(machines.plan.routes[&one].revision, revision);
    assert!(machines.desired.apps[&one].deploys.is_empty(), "the first is done");
    assert!(machines.runs(&one).iter().all(|id| id.slot.release == ReleaseNumber(2)));
}

#[test]
fn copies_are_spread_over_the_machines() {
    let mut machines = Machines::new(3);
    machines.act();
    for number in 0..6 {
        let app = name(&format!("app-{number}"));
        machines.deploy(&app, release(&app, 1, false));
    }
    machines.rest();
    let sizes: Vec<usize> = machines.plan.machines.values().map(|part| part.instances.len()).collect();
    assert_eq!(sizes, [4, 4, 4]);
    assert!(machines.plan.machines.values().all(|part| part.generation > Generation(0)));
}

#[test]
fn a_written_retirement_whose_routes_were_lost_gets_the_next_revision() {
    let mut machines = Machines::new(1);
    machines.act();
    let (one, two) = (name("one"), name("two"));
    for app in [&one, &two] {
        machines.deploy(app, release(app, 1, false));
    }
    machines.rest();
    // The part retires a copy of `one` for a revision that another app gets.
    let lost = machines.plan.routing.revision.next();
    machines.desired.apps.get_mut(&one).expect("there").app.scale.insert(role_named("web"), 1);
    let decision = machines.decide();
    machines.plan.machines = decision.applied_to(&machines.plan).machines;
    machines.desired.apps.get_mut(&two).expect("there").app.traffic.rate = Some(1);
    let removed_in = |machines: &Machines| {
        let goals = machines.plan.assignments_of(&one).map(|(_, _, assigned)| assigned.goal);
        let mut revisions = goals.filter_map(|goal| match goal {
            InstanceGoal::Retire { removed_in, .. } => Some(removed_in),
            _ => None,
        });
        revisions.next()
    };
    assert_eq!(removed_in(&machines), Some(lost));
    let routes = AppRoutes { revision: lost, ..(*machines.plan.routes[&two]).clone() };
    machines.plan.put_routes(two.clone(), routes.into());
    machines.plan_until_stable();
    let retired = removed_in(&machines).expect("still there");
    assert_eq!(retired, machines.plan.routes[&one].revision);
    assert!(retired > lost, "an acknowledgement of {lost} says nothing about the routes of {one}");
}

#[test]
fn an_acknowledgement_of_lost_records_does_not_count() {
    let mut machines = Machines::new(1);
    machines.act();
    let app = name("one");
    machines.deploy(&app, release(&app, 1, false));
    machines.rest();
    machines.acknowledging = false;
    machines.desired.apps.get_mut(&app).expect("there").app.scale.insert(role_named("web"), 1);
    machines.plan_until_stable();
    // The records come from a backup: the router has routes of the time after it, which name the retired copy.
    let lost = Generation(machines.plan.routing.revision.0 + 30);
    machines.observed.routers.values_mut().for_each(|router| router.generation = lost);
    for _ in 0..60 {
        machines.plan_until_stable();
        machines.act();
    }
    assert_eq!(machines.plan.routing.floor, lost.next());
    assert_eq!(machines.runs(&app).len(), 2, "the copy may still get requests");
    machines.acknowledging = true;
    machines.rest();
    assert_eq!(machines.runs(&app).len(), 1);
}
