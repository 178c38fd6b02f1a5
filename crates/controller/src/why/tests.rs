//! Table of faults and the expected first line of the explanation. The states are in the form that agents and routers
//! report.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{
    App, Assignment, Bytes, Cause, Command, Deploy, DeployNumber, DeployState, Digest, Exit, FailureRun, Goal,
    InstanceSpec, Limit, LimitHit, MachineName, Observed, ObservedInstance, ObservedMachine, ObservedRouter, Phase,
    Probe, Reason, Release, ReleaseNumber, RequestFailure, Role, RoleName, RouterId, Said, Seconds, Stop,
};
use gantry_model::{InstanceId, Moment};

use super::*;
use crate::mirror::{Mirror, Record};

/// Time of all explanations in milliseconds: a little over an hour after the start.
const NOW: u64 = 4_000_000;

/// A healthy app for a test to break: two web copies, a worker, a release step, and a finished first deploy.
struct Scene {
    app: App,
    deploys: Vec<Deploy>,
    roles: BTreeMap<RoleName, Role>,
    seen: BTreeMap<InstanceId, ObservedInstance>,
    router: Option<ObservedRouter>,
    machine: Option<Moment>,
    waits: Vec<Reason>,
    build: Option<BuildState>,
    disk: Option<Disk>,
}

fn shop() -> AppName {
    AppName::parse("shop").expect("a name")
}

fn id(short: &str) -> InstanceId {
    InstanceId::parse(&format!("shop.v1.{short}")).expect("an id")
}

fn role(name: &str) -> RoleName {
    RoleName::parse(name).expect("a role")
}

fn well() -> ObservedInstance {
    ObservedInstance {
        phase: Phase::Ready,
        since: Moment(NOW - 3_000_000),
        address: None,
        restarts: 0,
        exit: None,
        probe: None,
        failure: None,
        warning: None,
        started: Some(Moment(NOW - 3_000_000)),
        failed_checks: 0,
        limit_hits: Vec::new(),
        said: None,
    }
}

fn deploy(number: u64, state: DeployState) -> Deploy {
    let cause = Cause::Config { keys: vec!["A".into()] };
    let mut deploy = Deploy::new(shop(), DeployNumber(number), cause, "test".into(), false, Moment(NOW - 3_500_000));
    deploy.enter(state, Moment(NOW - 3_000_000));
    deploy.release = Some(ReleaseNumber(number));
    deploy
}

fn exited(code: Option<i32>, signal: Option<i32>) -> Exit {
    Exit { code, signal, at: Moment(NOW - 4_000), tail: vec!["boom".into()], ..Exit::default() }
}

fn probe(status: Option<u16>, outcome: &str, body: &str) -> Probe {
    Probe {
        target: "GET http://10.83.0.5:8080/up".into(),
        outcome: outcome.into(),
        body: body.into(),
        at: Moment(NOW),
        check: "GET /up".into(),
        status,
        remedy: None,
    }
}

fn run(count: u64, instance: Option<&str>, status: u16) -> FailureRun {
    let (since, last) = (Moment(NOW - 180_000), Moment(NOW - 7_000));
    FailureRun { count, of: 40, since, last, status, instance: instance.map(id) }
}

impl Scene {
    fn new() -> Self {
        let mut app = App::new(shop(), Moment(0));
        app.current = Some(ReleaseNumber(1));
        let roles: BTreeMap<RoleName, Role> =
            ["web", "worker", "release"].map(|name| (role(name), Role::new(Command::Shell("serve".into())))).into();
        Self {
            app,
            deploys: vec![deploy(1, DeployState::Done)],
            roles,
            seen: ["web-1", "web-2", "worker-1"].map(|short| (id(short), well())).into(),
            router: Some(ObservedRouter { seen: Moment(NOW - 500), ..ObservedRouter::default() }),
            machine: Some(Moment(NOW - 500)),
            waits: Vec::new(),
            build: None,
            disk: None,
        }
    }

    fn instance(&mut self, short: &str) -> &mut ObservedInstance {
        self.seen.get_mut(&id(short)).expect("an instance")
    }

    fn ended(&mut self, short: &str, phase: Phase, restarts: u32, exit: Exit) {
        let seen = self.instance(short);
        (seen.phase, seen.restarts, seen.exit) = (phase, restarts, Some(exit));
    }

    fn fails(&mut self, kind: RequestFailure, run: FailureRun) {
        let router = self.router.as_mut().expect("a router");
        router.failures.entry(shop()).or_default().insert(kind, run);
    }

    fn view(&self) -> View {
        let digest = || Digest::from_hex(&"ab".repeat(32)).expect("a digest");
        let machine = MachineName::parse("m").expect("a name");
        let mut mirror = Mirror::default();
        mirror.apply(Record::App(self.app.clone()).into());
        self.deploys.iter().for_each(|deploy| mirror.apply(Record::Deploy(deploy.clone()).into()));
        let release = Release {
            app: shop(),
            number: ReleaseNumber(1),
            image: digest(),
            commit: None,
            config: BTreeMap::new(),
            roles: self.roles.clone(),
            deploy: DeployNumber(1),
            created: Moment(0),
            by: "test".into(),
            cause: Cause::Config { keys: Vec::new() },
        };
        mirror.apply(Record::Release(release).into());
        let plan = Arc::make_mut(&mut mirror.plan);
        let part = plan.machines.entry(machine.clone()).or_default();
        for id in self.seen.keys() {
            let role = Role::new(Command::Shell("serve".into()));
            let once = id.role.is_release_step();
            let spec = InstanceSpec { image: digest(), commit: None, config: BTreeMap::new(), role, once };
            part.instances.insert(id.clone(), Assignment { spec, goal: Goal::Run });
        }
        let mut observed = Observed::default();
        if let Some(seen) = self.machine {
            let report = ObservedMachine { instances: self.seen.clone(), seen, ..ObservedMachine::default() };
            observed.machines.insert(machine.clone(), report);
        }
        if let Some(router) = &self.router {
            observed.routers.insert(RouterId { machine, number: 1 }, router.clone());
        }
        let report = gantry_planner::Report { waits: [(shop(), self.waits.clone())].into() };
        View {
            mirror: Arc::new(mirror),
            observed: Arc::new(observed),
            report: Arc::new(report),
            now: Moment(NOW),
            jumps: Arc::default(),
        }
    }

    fn first_line(&self) -> String {
        let view = self.view();
        let answer = app(&Facts { view: &view, build: self.build.clone(), disk: self.disk }, &shop());
        format!("{}: {}", answer.subject, answer.headline)
    }

    fn of(&self, short: &str) -> String {
        let view = self.view();
        let facts = Facts { view: &view, build: None, disk: None };
        instance(&facts, &id(short)).expect("an answer").headline
    }
}

type Fault = (&'static str, fn(&mut Scene), &'static str);

/// Faults: name, change to the healthy app, expected first line.
const FAULTS: &[Fault] = &[
    ("nothing is wrong", |_| {}, "deploy #1 of shop: done (config A); v1 serves"),
    (
        "stopped for failed checks",
        |scene| {
            let probe = probe(Some(503), "status 503 Service Unavailable", "database is gone\n");
            let stopped = Some(Stop::FailedChecks { times: 2, probe: probe.into() });
            scene.ended("web-1", Phase::Exited, 0, Exit { stopped, ..exited(Some(0), None) });
        },
        "app shop: shop.v1.web-1 failed its check 2 times in a row and was stopped: GET /up: 503: database is gone; that was 4 s ago, it is about to be started again",
    ),
    (
        "stopped for failed checks, and ready again",
        |scene| {
            let stopped = Some(Stop::FailedChecks { times: 3, probe: probe(None, "no answer in 5 s", "").into() });
            scene.ended("web-1", Phase::Ready, 1, Exit { stopped, ..exited(None, Some(15)) });
        },
        "app shop: shop.v1.web-1 failed its check 3 times in a row and was stopped: GET /up: no answer in 5 s; that was 4 s ago, started again 1 time",
    ),
    (
        "its stop timeout was exceeded",
        |scene| {
            let stopped = Some(Stop::FailedChecks { times: 3, probe: probe(None, "no answer in 5 s", "").into() });
            let exit = Exit { stopped, killed_after: Some(Seconds(30)), ..exited(None, Some(9)) };
            scene.ended("web-1", Phase::Exited, 4, exit);
        },
        "app shop: shop.v1.web-1 failed its check 3 times in a row and was stopped: GET /up: no answer in 5 s; it did not end within 30 s and was killed; that was 4 s ago, started again 4 times",
    ),
    (
        "the first check failed",
        |scene| {
            let seen = scene.instance("web-2");
            (seen.failed_checks, seen.probe) = (1, Some(probe(Some(500), "status 500", "sick: no database\n")));
        },
        "app shop: shop.v1.web-2 serves, but 1 of 3 checks failed: GET /up: 500: sick: no database; after 3 in a row it is stopped and started again",
    ),
    (
        "it listens on another port now",
        |scene| {
            let seen = scene.instance("web-2");
            (seen.failed_checks, seen.probe) =
                (2, Some(probe(None, "connection refused: it listens on port 3000", "")));
        },
        "app shop: shop.v1.web-2 serves, but 2 of 3 checks failed: GET /up: connection refused: it listens on port 3000; after 3 in a row it is stopped and started again",
    ),
    (
        "being stopped for failed checks",
        |scene| {
            let seen = scene.instance("web-2");
            (seen.phase, seen.failed_checks) = (Phase::Unhealthy, 3);
            seen.probe = Some(probe(Some(500), "status 500", ""));
        },
        "app shop: shop.v1.web-2 failed its check 3 times in a row and is being stopped: GET /up: 500",
    ),
    (
        "a worker crashes again and again while web serves",
        |scene| scene.ended("worker-1", Phase::Exited, 7, exited(Some(3), None)),
        "app shop: shop.v1.worker-1 exited with 3 (last output: boom); it has to run until it is told to end; `gantry logs` has all that it said; that was 4 s ago, started again 7 times",
    ),
    (
        "a loop of ends with 0",
        |scene| scene.ended("worker-1", Phase::Starting, 2, exited(Some(0), None)),
        "app shop: shop.v1.worker-1 exited with 0; it has to run until it is told to end; `gantry logs` has all that it said; that was 4 s ago, started again 2 times",
    ),
    (
        "a crash in native code",
        |scene| scene.ended("web-1", Phase::Exited, 0, Exit { tail: Vec::new(), ..exited(None, Some(11)) }),
        "app shop: shop.v1.web-1 was ended by signal 11 (SIGSEGV); the program itself crashed; `gantry logs` has all that it said; that was 4 s ago, it is about to be started again",
    ),
    (
        "killed from inside",
        |scene| scene.ended("web-1", Phase::Ready, 1, Exit { tail: Vec::new(), ..exited(None, Some(9)) }),
        "app shop: shop.v1.web-1 was ended by signal 9 (SIGKILL); Gantry did not send it: a process of the container or the machine did, or the kernel for want of memory; that was 4 s ago, started again 1 time",
    ),
    (
        "out of memory",
        |scene| scene.ended("web-1", Phase::Exited, 1, Exit { out_of_memory: Some(48 << 20), ..exited(None, Some(9)) }),
        "app shop: shop.v1.web-1 ran out of memory: its limit is 48M; raise `memory` of the role; that was 4 s ago, started again 1 time",
    ),
    (
        "a child ran out of memory",
        |scene| {
            let (since, last) = (Moment(NOW - 90_000), Moment(NOW - 1_000));
            let hit = LimitHit { limit: Limit::Memory(48 << 20), count: 3, since, last };
            scene.instance("worker-1").limit_hits.push(hit);
        },
        "app shop: shop.v1.worker-1 ran out of memory: its limit is 48M; raise `memory` of the role; 3 times since 90 s ago",
    ),
    (
        "more written than allowed",
        |scene| scene.ended("web-1", Phase::Exited, 1, Exit { out_of_disk: Some(20 << 20), ..exited(None, Some(9)) }),
        "app shop: shop.v1.web-1 wrote more than its limit of 20M to its disk; raise `disk` of the role, or use a volume; that was 4 s ago, started again 1 time",
    ),
    (
        "a fork bomb at its start ends with 0",
        |scene| scene.ended("web-1", Phase::Exited, 1, Exit { out_of_processes: Some(64), ..exited(Some(0), None) }),
        "app shop: shop.v1.web-1 reached its limit of 64 processes and threads; raise `pids` of the role; that was 4 s ago, started again 1 time",
    ),
    (
        "no more processes under load",
        |scene| {
            let (since, last) = (Moment(NOW - 25_000), Moment(NOW - 1_000));
            scene.instance("web-1").limit_hits.push(LimitHit { limit: Limit::Processes(64), count: 12, since, last });
            scene.fails(RequestFailure::Broken, run(37, Some("web-1"), 502));
        },
        "app shop: 37 of 40 requests failed since 3 min ago: shop.v1.web-1 reached its limit of 64 processes and threads; raise `pids` of the role; shop.v1.web-1 closed the connection before it answered (502)",
    ),
    (
        "connections are reset while the check passes",
        |scene| scene.fails(RequestFailure::Broken, run(37, Some("web-1"), 502)),
        "app shop: 37 of 40 requests failed since 3 min ago: shop.v1.web-1 closed the connection before it answered (502); `gantry logs shop` has what it said",
    ),
    (
        "requests die with an instance that crashed",
        |scene| {
            scene.ended("web-1", Phase::Ready, 1, Exit { at: Moment(NOW - 7_200), ..exited(Some(1), None) });
            scene.fails(RequestFailure::Broken, run(2, Some("web-1"), 502));
        },
        "app shop: shop.v1.web-1 exited with 1 (last output: boom); it has to run until it is told to end; `gantry logs` has all that it said; that was 7 s ago, started again 1 time",
    ),
    (
        "the app answers 502 itself",
        |scene| scene.fails(RequestFailure::ServerError, run(20, Some("web-1"), 502)),
        "app shop: 20 of 40 requests failed since 3 min ago: the application itself answered 502; `gantry logs shop` has what it said",
    ),
    (
        "a healthy app answers 500 now and then",
        |scene| scene.fails(RequestFailure::ServerError, run(1, Some("web-1"), 500)),
        "deploy #1 of shop: done (config A); v1 serves",
    ),
    (
        "deadlocked after its start, without a check of a path",
        |scene| scene.fails(RequestFailure::Slow, run(5, Some("web-1"), 504)),
        "app shop: 5 of 40 requests failed since 3 min ago: shop.v1.web-1 began no answer within `request_timeout` (504); `health.path` of the role lets a copy that hangs be found and started again",
    ),
    (
        "deadlocked, and its clients do not wait that long",
        |scene| scene.fails(RequestFailure::GivenUp, run(39, Some("web-1"), 0)),
        "app shop: 39 of 40 requests failed since 3 min ago: their clients went away, for shop.v1.web-1 gave no answer for seconds; `health.path` of the role lets a copy that hangs be found and started again",
    ),
    (
        "failures of the release before are over",
        |scene| {
            scene.app.current = Some(ReleaseNumber(1));
            let mut old = run(37, None, 502);
            old.instance = InstanceId::parse("shop.v9.web-1");
            scene.fails(RequestFailure::Broken, old);
        },
        "deploy #1 of shop: done (config A); v1 serves",
    ),
    (
        "failures of long ago",
        |scene| scene.fails(RequestFailure::Broken, FailureRun { last: Moment(NOW - 200_000), ..run(37, None, 502) }),
        "deploy #1 of shop: done (config A); v1 serves",
    ),
    (
        "over a limit",
        |scene| {
            scene.app.traffic.rate = Some(5);
            scene.fails(RequestFailure::Limited, run(12, None, 429));
        },
        "app shop: 12 of 40 requests failed since 3 min ago: they were over its limit (429): at most 5 requests a second; `gantry limit shop` sets it",
    ),
    (
        "scaled to 0",
        |scene| {
            scene.app.scale.insert(role("web"), 0);
            scene.seen.retain(|id, _| id.role != role("web"));
            scene.fails(RequestFailure::NoInstance, run(3, None, 503));
        },
        "app shop: web is scaled to 0, no copy of it runs; `gantry scale shop web=1` starts one",
    ),
    (
        "a worker scaled to 0",
        |scene| {
            let _ = scene.app.scale.insert(role("worker"), 0);
        },
        "deploy #1 of shop: done (config A); v1 serves; scaled to 0: worker",
    ),
    (
        "no web role",
        |scene| scene.roles.retain(|name, _| *name == role("worker")),
        "deploy #1 of shop: done (config A); v1 runs; no role of it serves HTTP",
    ),
    (
        "nothing but a release step",
        |scene| {
            scene.roles.retain(|name, _| *name == role("release"));
            scene.seen.clear();
        },
        "deploy #1 of shop: done (config A); v1 is the release; no role of it runs on",
    ),
    (
        "a release step that ended well is still there",
        |scene| {
            scene.seen.insert(
                id("release-1"),
                ObservedInstance { phase: Phase::Exited, exit: Some(exited(Some(0), None)), ..well() },
            );
        },
        "deploy #1 of shop: done (config A); v1 serves",
    ),
    (
        "maintenance",
        |scene| {
            scene.app.traffic.maintenance = Some("back at noon".into());
            scene.ended("web-1", Phase::Exited, 1, exited(Some(1), None));
        },
        "app shop: in maintenance, clients are told \"back at noon\"; `gantry maintenance off shop` ends it",
    ),
    (
        "paused",
        |scene| scene.app.traffic.paused = true,
        "app shop: paused, its requests wait; `gantry resume shop` lets them go on",
    ),
    ("being destroyed", |scene| scene.app.destroying = true, "app shop: shop is being destroyed"),
    (
        "the agent is dead",
        |scene| scene.machine = Some(Moment(NOW - 34_000)),
        "app shop: machine m has been silent for 34 s: its agent does not report, so what runs there is neither checked nor started again; what `gantry up` prints says what keeps it",
    ),
    (
        "the agent has not come since the server began",
        |scene| scene.machine = None,
        "app shop: machine m has not reported; what `gantry up` prints says what keeps it",
    ),
    (
        "the router is dead",
        |scene| scene.router.as_mut().expect("a router").seen = Moment(NOW - 30_000),
        "app shop: no router has reported for 30 s: requests may get no answer; what `gantry up` prints says what keeps it",
    ),
    (
        "an instance cannot be started",
        |scene| {
            let seen = scene.instance("web-1");
            (seen.phase, seen.failure) = (Phase::Failed, Some("image sha256:ab is missing".into()));
        },
        "app shop: shop.v1.web-1 could not be started: image sha256:ab is missing",
    ),
    (
        "a process hangs in the kernel",
        |scene| {
            let seen = scene.instance("web-1");
            seen.phase = Phase::Failed;
            seen.failure = Some("what ran before cannot be removed, and is tried again: process 7 does not end".into());
        },
        "app shop: shop.v1.web-1 could not be started: what ran before cannot be removed, and is tried again: process 7 does not end",
    ),
    (
        "a crash counts more than a copy on its way",
        |scene| {
            scene.instance("web-1").phase = Phase::Preparing;
            scene.ended("web-2", Phase::Exited, 2, exited(Some(1), None));
        },
        "app shop: shop.v1.web-2 exited with 1 (last output: boom); it has to run until it is told to end; `gantry logs` has all that it said; that was 4 s ago, started again 2 times",
    ),
    (
        "a copy on its way",
        |scene| {
            (scene.instance("web-1").phase, scene.instance("web-1").since) = (Phase::Preparing, Moment(NOW - 9_000))
        },
        "app shop: shop.v1.web-1 is preparing for 9 s",
    ),
    (
        "a held deploy that was forgotten",
        |scene| {
            scene.deploys.push(deploy(2, DeployState::Held));
            scene.deploys[1].entered = Moment(0);
            scene.waits.push(Reason::HeldForPromotion);
        },
        "deploy #2 of shop: held for 66 min: `gantry promote shop` moves the traffic, `gantry abort shop` takes it back; v1 serves",
    ),
    (
        "what serves crashes beside a held deploy",
        |scene| {
            scene.deploys.push(deploy(2, DeployState::Held));
            scene.waits.push(Reason::HeldForPromotion);
            scene.ended("web-1", Phase::Exited, 2, exited(Some(1), None));
        },
        "app shop: shop.v1.web-1 exited with 1 (last output: boom); it has to run until it is told to end; `gantry logs` has all that it said; that was 4 s ago, started again 2 times",
    ),
    (
        "a compile step that hangs",
        |scene| {
            scene.deploys.push(deploy(2, DeployState::Building));
            scene.waits.push(Reason::BuildRuns);
            let said = Some(("resolving".to_owned(), Duration::from_secs(275)));
            let (step, running) = ("Running container/compile".to_owned(), Duration::from_secs(280));
            scene.build = Some(BuildState { step, running, said });
        },
        "deploy #2 of shop: building for 50 min: Running container/compile, for 4 min; its last output, 4 min ago: resolving",
    ),
    (
        "a compile step that prints nothing",
        |scene| {
            scene.deploys.push(deploy(2, DeployState::Building));
            scene.waits.push(Reason::BuildRuns);
            let (step, running) = ("Running container/compile".to_owned(), Duration::from_secs(20));
            scene.build = Some(BuildState { step, running, said: None });
        },
        "deploy #2 of shop: building for 50 min: Running container/compile, for 20 s; it has printed nothing",
    ),
    (
        "a release step that hangs",
        |scene| {
            scene.deploys.push(deploy(2, DeployState::Starting));
            scene.waits.push(Reason::ReleaseStepRuns { instance: id("release-1") });
            let said = Some(Said { at: Moment(NOW - 90_000), line: "waits for a lock".into() });
            scene.seen.insert(id("release-1"), ObservedInstance { phase: Phase::Starting, said, ..well() });
        },
        "deploy #2 of shop: starting for 50 min: the release step runs (shop.v1.release-1); its last output, 90 s ago: waits for a lock",
    ),
    (
        "the last deploy failed",
        |scene| {
            let mut failed = deploy(2, DeployState::Reverted);
            failed.reason = Some(Reason::Aborted);
            scene.deploys.push(failed);
            scene.ended("web-1", Phase::Ready, 1, exited(Some(1), None));
        },
        "deploy #2 of shop: reverted: aborted by `gantry abort`; v1 serves",
    ),
    (
        "the machine's disk is full",
        |scene| scene.disk = Some(Disk { free: Bytes::mebi(12), reserve: Bytes::mebi(1024) }),
        "app shop: it serves, but the machine's disk has 12M left, less than the 1G of --reserve: builds, pulls and uploads are refused; `gantry status` tells what takes the space",
    ),
    (
        "never deployed",
        |scene| {
            scene.deploys.clear();
            scene.app.current = None;
            scene.seen.clear();
        },
        "app shop: shop was never deployed; push to it, or `gantry deploy shop --image REF`",
    ),
];

#[test]
fn the_first_line_tells_the_true_cause_of_each_fault() {
    let wrong: Vec<String> = FAULTS
        .iter()
        .filter_map(|(name, breaks, wanted)| {
            let mut scene = Scene::new();
            breaks(&mut scene);
            let found = scene.first_line();
            (found != *wanted).then(|| format!("{name}:\n  {found}\n  {wanted}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_instance_tells_its_own_state() {
    let mut scene = Scene::new();
    assert_eq!(scene.of("web-1"), "ready for 50 min on m");
    scene.seen.insert(
        id("release-1"),
        ObservedInstance { phase: Phase::Exited, exit: Some(exited(Some(0), None)), ..well() },
    );
    assert_eq!(scene.of("release-1"), "ended well");
    scene.ended("release-1", Phase::Exited, 0, exited(Some(2), None));
    assert_eq!(scene.of("release-1"), "exited with 2 (last output: boom)");
    let said = Some(Said { at: Moment(NOW - 9_000), line: "waits".into() });
    scene.seen.insert(id("release-1"), ObservedInstance { phase: Phase::Starting, said, ..well() });
    assert_eq!(scene.of("release-1"), "runs; its last output, 9 s ago: waits");
    let seen = scene.instance("web-2");
    (seen.failed_checks, seen.probe) = (1, Some(probe(Some(500), "status 500", "sick\n")));
    let told = "serves, but 1 of 3 checks failed: GET /up: 500: sick; after 3 in a row it is stopped and started again";
    assert_eq!(scene.of("web-2"), told);
    let view = scene.view();
    let plan = Arc::clone(&view.mirror.plan);
    let (_, _, assignment) = plan.assignments().find(|(_, other, _)| **other == id("web-2")).expect("planned");
    let seen = &scene.seen[&id("web-2")];
    assert_eq!(note(&view, &id("web-2"), assignment, seen).as_deref(), Some(told));
    assert_eq!(note(&view, &id("web-2"), assignment, &well()), None);
}

#[test]
fn what_is_wrong_now_is_told_with_the_deploy_under_way() {
    let mut scene = Scene::new();
    scene.deploys.push(deploy(2, DeployState::Held));
    scene.waits.push(Reason::HeldForPromotion);
    scene.ended("web-1", Phase::Exited, 2, exited(Some(1), None));
    let view = scene.view();
    let answer = app(&Facts { view: &view, build: None, disk: None }, &shop());
    assert_eq!(answer.evidence[0], "boom");
    assert_eq!(answer.evidence[1], "1 of 2 copies of web are ready");
    assert!(answer.evidence[2].starts_with("deploy #2 of shop: held for 50 min"), "{:?}", answer.evidence);
}
