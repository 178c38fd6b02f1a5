//! The peer of `crates/planner/tests/bench.rs`: one full plan by the planner of commit cf11495, in the same cluster.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use gantry_model::role::{Command, Role};
use gantry_model::{
    App, AppName, Assignment, Cause, DeployNumber, Digest, Generation, Goal, HostName, InstanceId, InstanceSpec,
    MachineName, Moment, Observed, ObservedInstance, ObservedRouter, Phase, Plan, Release, ReleaseNumber, RoleName,
    RouterId,
};
use gantry_planner::{Desired, DesiredApp, Policy, plan};

const NOW: Moment = Moment(1_000_000_000);
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
    AppName::parse(&format!("app-{number}")).expect("a name")
}

fn web() -> RoleName {
    RoleName::parse("web").expect("a name")
}

fn ready(number: usize) -> ObservedInstance {
    ObservedInstance {
        phase: Phase::Ready,
        since: NOW,
        address: Some(Ipv4Addr::from(0x0a53_0000 + number as u32)),
        restarts: 0,
        exit: None,
        probe: None,
        failure: None,
        warning: None,
    }
}

#[test]
fn plans_everything() {
    let (machines, copies) = (size("MACHINES", 1_000), size("COPIES", 100_000));
    let (mut desired, mut observed, mut previous) = (Desired::default(), Observed::default(), Plan::default());
    for number in 0..copies / COPIES {
        let mut app = App::new(app_name(number), NOW);
        (app.current, app.last_release, app.last_deploy) = (Some(ReleaseNumber(1)), 1, 1);
        let mut role = Role::new(Command::Shell("serve".into()));
        role.instances = COPIES as u32;
        let release = Release {
            app: app_name(number),
            number: ReleaseNumber(1),
            image: Digest::from_hex(&"ab".repeat(32)).expect("a digest"),
            commit: None,
            config: BTreeMap::new(),
            roles: [(web(), role.clone())].into(),
            deploy: DeployNumber(1),
            created: NOW,
            by: "bench".into(),
            cause: Cause::Rollback { to: ReleaseNumber(1) },
        };
        for copy in 0..COPIES {
            let id =
                InstanceId { app: app_name(number), release: ReleaseNumber(1), role: web(), index: copy as u32 + 1 };
            let at = number * COPIES + copy;
            let machine = MachineName::parse(&format!("m{}", at % machines)).expect("a name");
            let spec = InstanceSpec {
                image: release.image.clone(),
                commit: None,
                config: BTreeMap::new(),
                role: role.clone(),
                once: false,
            };
            let part = previous.machines.entry(machine.clone()).or_default();
            part.generation = Generation(1);
            part.instances.insert(id.clone(), Assignment { spec, goal: Goal::Run });
            let report = observed.machines.entry(machine).or_default();
            (report.generation, report.seen) = (Generation(1), NOW);
            report.instances.insert(id, ready(at));
        }
        let releases = [(ReleaseNumber(1), release)].into();
        desired.apps.insert(app_name(number), DesiredApp { app, releases, deploys: Vec::new() });
    }
    for machine in observed.machines.keys() {
        observed.routers.insert(RouterId { machine: machine.clone(), number: 1 }, ObservedRouter::default());
    }
    let policy = Policy::new(HostName::parse("localhost").expect("a name"));
    let begun = processor();
    let decision = plan(&desired, &observed, &previous, &policy, NOW);
    let took = processor() - begun;
    assert_eq!(decision.plan.table.routes.len(), copies / COPIES);
    println!("planner: {} us/full", took.as_micros());
}
