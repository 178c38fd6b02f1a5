//! Measurement for `benches/planner`: planning in a cluster of 1,000 machines and 100,000 copies. Reports are made up.

#![expect(clippy::disallowed_methods, reason = "a bench reads its sizes and its processor time")]

mod fixtures;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use fixtures::{app_named, loads, machine_named, release_with, reported, role_named, web_role};
use gantry_model::{
    AllocationId, App, AppName, Assignment, Deploy, DeployCause, DeployNumber, DeployState, Generation, HostName,
    InstanceGoal, InstancePhase, InstanceSpec, MachineName, MachinePlan, Moment, ObservedCluster, ObservedInstance,
    ObservedRouter, Plan, Release, ReleaseConfig, ReleaseNumber, RoleName, RouterId, Slot,
};
use gantry_planner::{
    ClusterIndex, DesiredApp, DesiredCluster, MachineLoads, PlanDecision, PlanScope, PlannerInput, PlannerPolicy, plan,
    plan_everything,
};

const NOW: Moment = Moment(1_000_000_000);

/// Copies of each app.
const COPIES: usize = 4;

fn size(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Processor time of this thread.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("readable");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

fn app_name(number: usize) -> AppName {
    app_named(&format!("app-{number}"))
}

fn machine_name(number: usize) -> MachineName {
    machine_named(&format!("m{number}"))
}

fn web() -> RoleName {
    role_named("web")
}

fn release(app: usize, number: u64) -> Release {
    let role = web_role(u32::try_from(COPIES).expect("small"));
    release_with(&app_name(app), number, [(web(), role)].into())
}

fn ready(number: usize) -> ObservedInstance {
    reported(InstancePhase::Ready, Ipv4Addr::from(0x0a53_0000 + u32::try_from(number).expect("small")))
}

struct Cluster {
    apps: BTreeMap<AppName, DesiredApp>,
    observed: ObservedCluster,
    plan: Plan,
    index: ClusterIndex,
    loads: MachineLoads,
    policy: PlannerPolicy,
    now: Moment,
    /// Processor time that the planner took.
    took: Duration,
}

impl Cluster {
    fn new(machines: usize, copies: usize) -> Self {
        let mut apps = BTreeMap::new();
        let mut parts: BTreeMap<MachineName, MachinePlan> = BTreeMap::new();
        let mut observed = ObservedCluster::default();
        for number in 0..copies / COPIES {
            let mut app = App::new(app_name(number), NOW);
            (app.current, app.last_release, app.last_deploy) = (Some(ReleaseNumber(1)), 1, 1);
            let release = release(number, 1);
            let spec = Arc::new(InstanceSpec {
                image: release.image.clone(),
                commit: None,
                config: ReleaseConfig::default(),
                role: release.roles[&web()].clone(),
                volumes_of: None,
            });
            for copy in 0..COPIES {
                let index = u32::try_from(copy + 1).expect("small");
                let id = Slot { app: app_name(number), release: ReleaseNumber(1), role: web(), index }.numbered(1);
                let at = number * COPIES + copy;
                let machine = machine_name(at % machines);
                let part = parts.entry(machine.clone()).or_default();
                part.instances.insert(id.clone(), Assignment { spec: Arc::clone(&spec), goal: InstanceGoal::Run });
                let report = Arc::make_mut(observed.machines.entry(machine).or_default());
                report.instances.insert(id, ready(at));
            }
            let releases = [(ReleaseNumber(1), Arc::new(release))].into();
            apps.insert(app_name(number), DesiredApp { app, releases, deploys: Vec::new() });
        }
        let mut plan = Plan::default();
        for (machine, mut part) in parts {
            part.generation = Generation(1);
            plan.machines.insert(machine, Arc::new(part));
        }
        for (machine, report) in &mut observed.machines {
            (Arc::make_mut(report).generation, Arc::make_mut(report).seen) = (Generation(1), NOW);
            observed.routers.insert(RouterId { machine: machine.clone(), number: 1 }, ObservedRouter::default());
        }
        let index = ClusterIndex::of(&plan, &observed);
        let loads = loads(&plan, &observed);
        let policy = PlannerPolicy::new(HostName::parse("localhost").expect("a name"));
        Self { apps, observed, plan, index, loads, policy, now: NOW, took: Duration::ZERO }
    }

    fn plan_all(&mut self) -> PlanDecision {
        let desired = DesiredCluster { apps: self.apps.clone(), ..DesiredCluster::default() };
        let begun = processor();
        let decision = plan_everything(&desired, &self.observed, &self.plan, &self.policy, self.now);
        self.took += processor() - begun;
        decision
    }

    /// Plans until nothing changes; returns the number of passes.
    fn plan_until_stable(&mut self, app: &AppName, mut machines: BTreeSet<MachineName>) -> usize {
        for pass in 1.. {
            let begun = processor();
            let scope = PlanScope { apps: [app.clone()].into(), machines: std::mem::take(&mut machines) };
            let apps = [(app.clone(), self.apps[app].clone())].into();
            let desired = DesiredCluster { apps, ..DesiredCluster::default() };
            let (observed, previous, index, policy) = (&self.observed, &self.plan, &self.index, &self.policy);
            let input =
                PlannerInput { scope: &scope, desired: &desired, observed, previous, index, policy, now: self.now };
            let decision = plan(&input, &mut self.loads);
            self.took += processor() - begun;
            if decision.is_empty() {
                return pass;
            }
            self.commit(decision);
            assert!(pass < 20, "the planner does not come to rest");
        }
        unreachable!("the loop returns")
    }

    fn commit(&mut self, decision: PlanDecision) {
        for (machine, part) in decision.machines {
            let before = self.plan.machines.insert(machine.clone(), Arc::clone(&part));
            self.loads.assigned(&machine, &before.clone().unwrap_or_default(), &part);
            let before = before.iter().flat_map(|part| part.instances.keys());
            self.index.assigned(&machine, before, part.instances.keys());
        }
        self.plan.numbers.extend(decision.numbers);
        decision.routing.into_iter().for_each(|head| self.plan.put_routing(head));
        decision.routes.into_iter().flatten().for_each(|(app, routes)| self.plan.put_routes(app, routes));
        for app in decision.apps {
            let known = self.apps.get_mut(&app.name).expect("there");
            known.app = app;
        }
        for deploy in decision.deploys {
            let deploys = &mut self.apps.get_mut(&deploy.app).expect("there").deploys;
            deploys.retain(|known| known.number != deploy.number);
            if !deploy.state.is_final() {
                deploys.push(deploy);
            }
        }
    }

    fn routers_acknowledge(&mut self) {
        for router in self.observed.routers.values_mut() {
            (router.generation, router.seen) = (self.plan.routing.revision, self.now);
        }
    }

    /// The machines of an app run what their parts say.
    fn agents_act(&mut self, app: &AppName) -> BTreeSet<MachineName> {
        let machines: BTreeSet<MachineName> = self
            .plan
            .machines
            .iter()
            .filter(|(_, part)| part.of_app(app).next().is_some())
            .map(|(m, _)| m.clone())
            .collect();
        for machine in &machines {
            let part = Arc::clone(&self.plan.machines[machine]);
            let report = Arc::make_mut(self.observed.machines.get_mut(machine).expect("there"));
            let before: Vec<AllocationId> = report.instances.keys().cloned().collect();
            report.generation = part.generation;
            report.instances.retain(|id, _| part.instances.get(id).is_some_and(|a| a.goal != InstanceGoal::Stop));
            for (id, _) in part.of_app(app).filter(|(_, assigned)| assigned.goal != InstanceGoal::Stop) {
                let place = usize::try_from(id.slot.release.0 * 100 + u64::from(id.slot.index)).expect("small");
                report.instances.entry(id.clone()).or_insert_with(|| ready(place));
            }
            self.index.reported(machine, &before, report.instances.keys());
        }
        machines
    }
}

#[test]
#[ignore = "a measurement; benches/planner runs it"]
fn plans_only_changed_apps() {
    let (machines, copies) = (size("MACHINES", 1_000), size("COPIES", 100_000));
    let mut cluster = Cluster::new(machines, copies);
    let first = cluster.plan_all();
    cluster.commit(first);
    cluster.routers_acknowledge();
    cluster.took = Duration::ZERO;
    assert!(cluster.plan_all().is_empty(), "the cluster is at rest");
    let full = cluster.took;

    // A copy of each app fails its checks.
    let apps = (copies / COPIES).min(1_000);
    cluster.took = Duration::ZERO;
    for app in (0..apps).map(app_name) {
        let id = Slot { app: app.clone(), release: ReleaseNumber(1), role: web(), index: 1 }.numbered(1);
        let (machine, _) = cluster.plan.assignment(&id).expect("there");
        let machine = machine.clone();
        let report = Arc::make_mut(cluster.observed.machines.get_mut(&machine).expect("there"));
        report.instances.get_mut(&id).expect("there").phase = InstancePhase::Unhealthy;
        let revision = cluster.plan.routing.revision;
        cluster.plan_until_stable(&app, BTreeSet::new());
        assert!(cluster.plan.routing.revision > revision, "its route changed");
    }
    let change = cluster.took / u32::try_from(apps).expect("small");

    let deploys = 20;
    let mut steps = 0;
    cluster.took = Duration::ZERO;
    for number in (copies / COPIES).saturating_sub(deploys)..copies / COPIES {
        let app = app_name(number);
        let mut deploy = Deploy::new(
            app.clone(),
            DeployNumber(2),
            DeployCause::Config { keys: Vec::new() },
            "bench".into(),
            false,
            cluster.now,
        );
        (deploy.release, deploy.previous) = (Some(ReleaseNumber(2)), Some(ReleaseNumber(1)));
        deploy.enter(DeployState::Placing, cluster.now);
        let desired = cluster.apps.get_mut(&app).expect("there");
        desired.releases.insert(ReleaseNumber(2), Arc::new(release(number, 2)));
        desired.deploys.push(deploy);
        steps += cluster.plan_until_stable(&app, BTreeSet::new());
        while !cluster.apps[&app].deploys.is_empty() || cluster.plan.assignments_of(&app).count() > COPIES {
            let machines = cluster.agents_act(&app);
            cluster.routers_acknowledge();
            steps += cluster.plan_until_stable(&app, machines);
            cluster.now.0 += 1_000;
        }
        assert_eq!(cluster.apps[&app].app.current, Some(ReleaseNumber(2)));
    }
    let deploy = cluster.took / u32::try_from(deploys).expect("small");
    println!(
        "planner: {} us/full, {} us/change, {} us/deploy, {} passes/deploy",
        full.as_micros(),
        change.as_nanos() as f64 / 1e3,
        deploy.as_micros(),
        steps / deploys
    );
}
