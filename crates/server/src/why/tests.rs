//! Table of faults and the expected first line of the explanation. The states are in the form that agents and routers
//! report.

mod scenario;

use std::sync::Arc;

use gantry_api::types::LogLine;
use gantry_model::{
    DeployState, ExitStatus, FailureRun, InstancePhase, LimitHit, MachineRefusal, Moment, ObservedInstance, OutputLine,
    PlacementRefusal, RefusingMachines, ReleaseNumber, RequestFailure, RoleLimit, Seconds, StopReason,
};
use gantry_records::CodeRecord;

use self::scenario::{AppScenario, NOW, cannot_move, deploy, exited, id, probe, role, run, shop, well};
use super::*;

type Fault = (&'static str, fn(&mut AppScenario), &'static str);

/// Faults: name, change to the healthy app, expected first line.
const FAULTS: &[Fault] = &[
    ("nothing is wrong", |_| {}, "deploy #1 of shop: done (config A); v1 serves"),
    (
        "a copy that no machine takes",
        |scenario| {
            let refusing = |why, machines, short| RefusingMachines { why, machines, short };
            let short = refusing(MachineRefusal::ShortOfMemory, 3, 128 << 20);
            let refusal = PlacementRefusal(vec![short, refusing(MachineRefusal::Cordoned, 2, 0)]);
            scenario.waits = vec![Reason::NoRoom { instance: id("web-3").slot, refusal }];
        },
        "app shop: no machine takes shop.v1.web-3: 3: 128 MiB short of memory; 2: cordoned",
    ),
    (
        "a copy that stays on a machine that is being drained",
        |scenario| {
            let machine = MachineName::parse("m").expect("a name");
            scenario.waits = vec![Reason::DataStays { instance: id("web-1"), machine }];
        },
        "app shop: shop.v1.web-1 stays on m, which is being drained: the data of its volume is there",
    ),
    (
        "a copy that fails and that no other machine takes",
        |scenario| {
            scenario.ended("worker-1", InstancePhase::Exited, 3, exited(Some(3), None));
            scenario.waits = vec![cannot_move("worker-1")];
        },
        "app shop: shop.v1.worker-1 exited with 3 (last output: boom); it must run until Gantry stops it; `gantry logs shop` shows its output; that was 4 s ago, restarted 3 times",
    ),
    (
        "stopped for failed checks",
        |scenario| {
            let probe = probe(Some(503), "status 503 Service Unavailable", "database is gone\n");
            let stopped = Some(StopReason::FailedChecks { times: 2, probe: probe.into() });
            scenario.ended("web-1", InstancePhase::Exited, 0, ExitStatus { stopped, ..exited(Some(0), None) });
        },
        "app shop: shop.v1.web-1 failed its check 2 times in a row and was stopped: GET /up: 503: database is gone; that was 4 s ago, a restart follows",
    ),
    (
        "stopped for failed checks, and ready again",
        |scenario| {
            let stopped =
                Some(StopReason::FailedChecks { times: 3, probe: probe(None, "no answer in 5 s", "").into() });
            scenario.ended("web-1", InstancePhase::Ready, 1, ExitStatus { stopped, ..exited(None, Some(15)) });
        },
        "app shop: shop.v1.web-1 failed its check 3 times in a row and was stopped: GET /up: no answer in 5 s; that was 4 s ago, restarted 1 time",
    ),
    (
        "its stop timeout was exceeded",
        |scenario| {
            let stopped =
                Some(StopReason::FailedChecks { times: 3, probe: probe(None, "no answer in 5 s", "").into() });
            let exit = ExitStatus { stopped, killed_after: Some(Seconds(30)), ..exited(None, Some(9)) };
            scenario.ended("web-1", InstancePhase::Exited, 4, exit);
        },
        "app shop: shop.v1.web-1 failed its check 3 times in a row and was stopped: GET /up: no answer in 5 s; it did not end within 30 s and was killed; that was 4 s ago, restarted 4 times",
    ),
    (
        "the first check failed",
        |scenario| {
            let seen = scenario.instance("web-2");
            (seen.failed_checks, seen.probe) = (1, Some(probe(Some(500), "status 500", "sick: no database\n")));
        },
        "app shop: shop.v1.web-2 serves, but 1 of 3 checks failed: GET /up: 500: sick: no database; after 3 in a row Gantry restarts it",
    ),
    (
        "it listens on another port now",
        |scenario| {
            let seen = scenario.instance("web-2");
            (seen.failed_checks, seen.probe) =
                (2, Some(probe(None, "connection refused: it listens on port 3000", "")));
        },
        "app shop: shop.v1.web-2 serves, but 2 of 3 checks failed: GET /up: connection refused: it listens on port 3000; after 3 in a row Gantry restarts it",
    ),
    (
        "being stopped for failed checks",
        |scenario| {
            let seen = scenario.instance("web-2");
            (seen.phase, seen.failed_checks) = (InstancePhase::Unhealthy, 3);
            seen.probe = Some(probe(Some(500), "status 500", ""));
        },
        "app shop: shop.v1.web-2 failed its check 3 times in a row and is being stopped: GET /up: 500",
    ),
    (
        "a worker crashes again and again while web serves",
        |scenario| scenario.ended("worker-1", InstancePhase::Exited, 7, exited(Some(3), None)),
        "app shop: shop.v1.worker-1 exited with 3 (last output: boom); it must run until Gantry stops it; `gantry logs shop` shows its output; that was 4 s ago, restarted 7 times",
    ),
    (
        "a loop of ends with 0",
        |scenario| scenario.ended("worker-1", InstancePhase::Starting, 2, exited(Some(0), None)),
        "app shop: shop.v1.worker-1 exited with 0; it must run until Gantry stops it, or be a role for jobs alone, with `instances: 0`; `gantry logs shop` shows its output; that was 4 s ago, restarted 2 times",
    ),
    (
        "a crash in native code",
        |scenario| {
            scenario.ended("web-1", InstancePhase::Exited, 0, ExitStatus { tail: Vec::new(), ..exited(None, Some(11)) })
        },
        "app shop: shop.v1.web-1 was killed by signal 11 (SIGSEGV); the program crashed; `gantry logs shop` shows its output; that was 4 s ago, a restart follows",
    ),
    (
        "killed from inside",
        |scenario| {
            scenario.ended("web-1", InstancePhase::Ready, 1, ExitStatus { tail: Vec::new(), ..exited(None, Some(9)) })
        },
        "app shop: shop.v1.web-1 was killed by signal 9 (SIGKILL); Gantry did not send the signal: a process in the container or on the machine did, or the kernel for lack of memory; that was 4 s ago, restarted 1 time",
    ),
    (
        "out of memory",
        |scenario| {
            scenario.ended(
                "web-1",
                InstancePhase::Exited,
                1,
                ExitStatus { out_of_memory: Some(48 << 20), ..exited(None, Some(9)) },
            )
        },
        "app shop: shop.v1.web-1 ran out of memory: its limit is 48M; raise `memory` of the role; that was 4 s ago, restarted 1 time",
    ),
    (
        "a child ran out of memory",
        |scenario| {
            let (since, last) = (Moment(NOW - 90_000), Moment(NOW - 1_000));
            let hit = LimitHit { limit: RoleLimit::Memory(48 << 20), count: 3, since, last };
            scenario.instance("worker-1").limit_hits.push(hit);
        },
        "app shop: shop.v1.worker-1 ran out of memory: its limit is 48M; raise `memory` of the role; 3 times since 90 s ago",
    ),
    (
        "more written than allowed",
        |scenario| {
            scenario.ended(
                "web-1",
                InstancePhase::Exited,
                1,
                ExitStatus { out_of_disk: Some(20 << 20), ..exited(None, Some(9)) },
            )
        },
        "app shop: shop.v1.web-1 wrote more than its limit of 20M to its disk; raise `disk` of the role, or use a volume; that was 4 s ago, restarted 1 time",
    ),
    (
        "a fork bomb at its start ends with 0",
        |scenario| {
            scenario.ended(
                "web-1",
                InstancePhase::Exited,
                1,
                ExitStatus { out_of_processes: Some(64), ..exited(Some(0), None) },
            )
        },
        "app shop: shop.v1.web-1 reached its limit of 64 processes and threads; raise `pids` of the role; that was 4 s ago, restarted 1 time",
    ),
    (
        "no more processes under load",
        |scenario| {
            let (since, last) = (Moment(NOW - 25_000), Moment(NOW - 1_000));
            scenario.instance("web-1").limit_hits.push(LimitHit {
                limit: RoleLimit::Processes(64),
                count: 12,
                since,
                last,
            });
            scenario.fails(RequestFailure::Broken, run(37, Some("web-1"), 502));
        },
        "app shop: 37 of 40 requests failed in the last 3 min: shop.v1.web-1 reached its limit of 64 processes and threads; raise `pids` of the role; shop.v1.web-1 closed the connection before it responded (502)",
    ),
    (
        "connections are reset while the check passes",
        |scenario| scenario.fails(RequestFailure::Broken, run(37, Some("web-1"), 502)),
        "app shop: 37 of 40 requests failed in the last 3 min: shop.v1.web-1 closed the connection before it responded (502); `gantry logs shop` shows its output",
    ),
    (
        "requests die with an instance that crashed",
        |scenario| {
            scenario.ended(
                "web-1",
                InstancePhase::Ready,
                1,
                ExitStatus { at: Moment(NOW - 7_200), ..exited(Some(1), None) },
            );
            scenario.fails(RequestFailure::Broken, run(2, Some("web-1"), 502));
        },
        "app shop: shop.v1.web-1 exited with 1 (last output: boom); it must run until Gantry stops it; `gantry logs shop` shows its output; that was 7 s ago, restarted 1 time",
    ),
    (
        "the app answers 502 itself",
        |scenario| scenario.fails(RequestFailure::ServerError, run(20, Some("web-1"), 502)),
        "app shop: 20 of 40 requests failed in the last 3 min: the application itself returned 502; `gantry logs shop` shows its output",
    ),
    (
        "a healthy app answers 500 now and then",
        |scenario| scenario.fails(RequestFailure::ServerError, run(1, Some("web-1"), 500)),
        "deploy #1 of shop: done (config A); v1 serves",
    ),
    (
        "deadlocked after its start, without a check of a path",
        |scenario| scenario.fails(RequestFailure::Slow, run(5, Some("web-1"), 504)),
        "app shop: 5 of 40 requests failed in the last 3 min: shop.v1.web-1 sent no response within `request_timeout` (504); with `health.path` of the role Gantry finds and restarts a copy that hangs",
    ),
    (
        "deadlocked, and its clients do not wait that long",
        |scenario| scenario.fails(RequestFailure::GivenUp, run(39, Some("web-1"), 0)),
        "app shop: 39 of 40 requests failed in the last 3 min: their clients gave up, because shop.v1.web-1 sent no response for seconds; with `health.path` of the role Gantry finds and restarts a copy that hangs",
    ),
    (
        "failures of the previous release are over",
        |scenario| {
            scenario.app.current = Some(ReleaseNumber(1));
            let mut old = run(37, None, 502);
            old.instance = AllocationId::parse("shop.v9.web-1");
            scenario.fails(RequestFailure::Broken, old);
        },
        "deploy #1 of shop: done (config A); v1 serves",
    ),
    (
        "failures of long ago",
        |scenario| {
            scenario.fails(RequestFailure::Broken, FailureRun { last: Moment(NOW - 200_000), ..run(37, None, 502) })
        },
        "deploy #1 of shop: done (config A); v1 serves",
    ),
    (
        "over a limit",
        |scenario| {
            scenario.app.traffic.rate = Some(5);
            scenario.fails(RequestFailure::Limited, run(12, None, 429));
        },
        "app shop: 12 of 40 requests failed in the last 3 min: they exceeded the app's limit (429): at most 5 requests a second; `gantry limit shop` changes the limit",
    ),
    (
        "scaled to 0",
        |scenario| {
            scenario.app.scale.insert(role("web"), 0);
            scenario.seen.retain(|id, _| id.slot.role != role("web"));
            scenario.fails(RequestFailure::NoInstance, run(3, None, 503));
        },
        "app shop: web is scaled to 0, so no copy runs; `gantry scale shop web=1` starts one",
    ),
    (
        "a worker scaled to 0",
        |scenario| {
            let _ = scenario.app.scale.insert(role("worker"), 0);
        },
        "deploy #1 of shop: done (config A); v1 serves; scaled to 0: worker",
    ),
    (
        "no web role, and its only role scaled to 0",
        |scenario| {
            scenario.roles.retain(|name, _| *name == role("worker"));
            scenario.app.scale.insert(role("worker"), 0);
        },
        "app shop: worker is scaled to 0, so no copy runs; `gantry scale shop worker=1` starts one",
    ),
    (
        "no web role",
        |scenario| scenario.roles.retain(|name, _| *name == role("worker")),
        "deploy #1 of shop: done (config A); v1 runs; none of its roles serves HTTP",
    ),
    (
        "nothing but a release step",
        |scenario| {
            scenario.roles.retain(|name, _| *name == role("release"));
            scenario.seen.clear();
        },
        "deploy #1 of shop: done (config A); v1 is the release; none of its roles keeps running",
    ),
    (
        "a release step that ended well is still there",
        |scenario| {
            scenario.seen.insert(
                id("release-1"),
                ObservedInstance { phase: InstancePhase::Exited, exit: Some(exited(Some(0), None)), ..well() },
            );
        },
        "deploy #1 of shop: done (config A); v1 serves",
    ),
    (
        "maintenance",
        |scenario| {
            scenario.app.traffic.maintenance = Some("back at noon".into());
            scenario.ended("web-1", InstancePhase::Exited, 1, exited(Some(1), None));
        },
        "app shop: in maintenance, clients get the message \"back at noon\"; `gantry maintenance off shop` ends the maintenance",
    ),
    (
        "paused",
        |scenario| scenario.app.traffic.paused = true,
        "app shop: paused, requests wait; `gantry resume shop` releases them",
    ),
    ("being destroyed", |scenario| scenario.app.destroying = true, "app shop: shop is being destroyed"),
    (
        "the agent is dead",
        |scenario| scenario.machine = Some(Moment(NOW - 34_000)),
        "app shop: machine m has been silent for 34 s: its agent does not report, so its instances are neither checked nor restarted; check the output of `gantry up` for errors",
    ),
    (
        "the agent has not come since the server began",
        |scenario| scenario.machine = None,
        "app shop: machine m has not reported; check the output of `gantry up` for errors",
    ),
    (
        "the router is dead",
        |scenario| scenario.router.as_mut().expect("a router").seen = Moment(NOW - 30_000),
        "app shop: no router has reported for 30 s: requests may get no response; check the output of `gantry up` for errors",
    ),
    (
        "an instance cannot be started",
        |scenario| {
            let seen = scenario.instance("web-1");
            (seen.phase, seen.failure) = (InstancePhase::Failed, Some("image sha256:ab is missing".into()));
        },
        "app shop: shop.v1.web-1 could not be started: image sha256:ab is missing",
    ),
    (
        "a process hangs in the kernel",
        |scenario| {
            let seen = scenario.instance("web-1");
            seen.phase = InstancePhase::Failed;
            seen.failure = Some("the previous container cannot be removed; retrying: process 7 does not end".into());
        },
        "app shop: shop.v1.web-1 could not be started: the previous container cannot be removed; retrying: process 7 does not end",
    ),
    (
        "a crash counts more than a copy on its way",
        |scenario| {
            scenario.instance("web-1").phase = InstancePhase::Preparing;
            scenario.ended("web-2", InstancePhase::Exited, 2, exited(Some(1), None));
        },
        "app shop: shop.v1.web-2 exited with 1 (last output: boom); it must run until Gantry stops it; `gantry logs shop` shows its output; that was 4 s ago, restarted 2 times",
    ),
    (
        "a copy on its way",
        |scenario| {
            (scenario.instance("web-1").phase, scenario.instance("web-1").since) =
                (InstancePhase::Preparing, Moment(NOW - 9_000))
        },
        "app shop: shop.v1.web-1 has been preparing for 9 s",
    ),
    (
        "a held deploy that was forgotten",
        |scenario| {
            scenario.deploys.push(deploy(2, DeployState::Held));
            scenario.deploys[1].entered = Moment(0);
            scenario.waits.push(Reason::HeldForPromotion);
        },
        "deploy #2 of shop: held for 66 min: `gantry promote shop` moves the traffic, `gantry abort shop` takes it back; v1 serves",
    ),
    (
        "what serves crashes beside a held deploy",
        |scenario| {
            scenario.deploys.push(deploy(2, DeployState::Held));
            scenario.waits.push(Reason::HeldForPromotion);
            scenario.ended("web-1", InstancePhase::Exited, 2, exited(Some(1), None));
        },
        "app shop: shop.v1.web-1 exited with 1 (last output: boom); it must run until Gantry stops it; `gantry logs shop` shows its output; that was 4 s ago, restarted 2 times",
    ),
    (
        "a compile step that hangs",
        |scenario| {
            scenario.deploys.push(deploy(2, DeployState::Building));
            scenario.waits.push(Reason::BuildRuns);
            let last_output = Some(("resolving".to_owned(), Duration::from_secs(275)));
            let (step, running) = ("Running container/compile".to_owned(), Duration::from_secs(280));
            scenario.build = Some(BuildState { step, running, last_output });
        },
        "deploy #2 of shop: building for 50 min: Running container/compile, for 4 min; its last output, 4 min ago: resolving",
    ),
    (
        "a compile step that prints nothing",
        |scenario| {
            scenario.deploys.push(deploy(2, DeployState::Building));
            scenario.waits.push(Reason::BuildRuns);
            let (step, running) = ("Running container/compile".to_owned(), Duration::from_secs(20));
            scenario.build = Some(BuildState { step, running, last_output: None });
        },
        "deploy #2 of shop: building for 50 min: Running container/compile, for 20 s; no output yet",
    ),
    (
        "a release step that hangs",
        |scenario| {
            scenario.deploys.push(deploy(2, DeployState::Starting));
            scenario.waits.push(Reason::ReleaseStepRuns { instance: id("release-1").slot });
            let last_output = Some(OutputLine { at: Moment(NOW - 90_000), line: "waits for a lock".into() });
            scenario
                .seen
                .insert(id("release-1"), ObservedInstance { phase: InstancePhase::Starting, last_output, ..well() });
        },
        "deploy #2 of shop: starting for 50 min: the release step runs (shop.v1.release-1); its last output, 90 s ago: waits for a lock",
    ),
    (
        "the last deploy failed",
        |scenario| {
            let mut failed = deploy(2, DeployState::Reverted);
            failed.reason = Some(Reason::Aborted);
            scenario.deploys.push(failed);
            scenario.ended("web-1", InstancePhase::Ready, 1, exited(Some(1), None));
        },
        "deploy #2 of shop: reverted: aborted by `gantry abort`; v1 serves",
    ),
    (
        "the machine's disk is full",
        |scenario| scenario.disk = Some(DiskSpace { free: Bytes::mebi(12), reserve: Bytes::mebi(1024) }),
        "app shop: instances serve, but the machine's disk has 12M left, less than the reserve of 1G: builds, pulls and uploads are refused; `gantry status` lists what uses the space",
    ),
    (
        "never deployed",
        |scenario| {
            scenario.deploys.clear();
            scenario.app.current = None;
            scenario.seen.clear();
        },
        "app shop: shop was never deployed; run `git push`, or `gantry deploy shop --image REF`",
    ),
    (
        "never deployed, with uploaded code",
        |scenario| {
            scenario.deploys.clear();
            scenario.app.current = None;
            scenario.seen.clear();
            scenario.codes = vec![CodeRecord { app: shop(), name: role("report"), revisions: Vec::new() }];
        },
        "app shop: shop was never deployed, and has uploaded code for jobs, which needs no deploy; `gantry code ls shop` lists the code",
    ),
];

#[test]
fn the_first_line_names_the_true_cause_of_each_fault() {
    let wrong: Vec<String> = FAULTS
        .iter()
        .filter_map(|(name, breaks, expected)| {
            let mut scenario = AppScenario::new();
            breaks(&mut scenario);
            let found = scenario.first_line();
            (found != *expected).then(|| format!("{name}:\n  {found}\n  {expected}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn describes_the_state_of_one_instance() {
    let mut scenario = AppScenario::new();
    assert_eq!(scenario.of("web-1"), "ready for 50 min on m");
    scenario.seen.insert(
        id("release-1"),
        ObservedInstance { phase: InstancePhase::Exited, exit: Some(exited(Some(0), None)), ..well() },
    );
    assert_eq!(scenario.of("release-1"), "succeeded");
    scenario.ended("release-1", InstancePhase::Exited, 0, exited(Some(2), None));
    assert_eq!(scenario.of("release-1"), "exited with 2 (last output: boom)");
    let last_output = Some(OutputLine { at: Moment(NOW - 9_000), line: "waits".into() });
    scenario.seen.insert(id("release-1"), ObservedInstance { phase: InstancePhase::Starting, last_output, ..well() });
    assert_eq!(scenario.of("release-1"), "runs; its last output, 9 s ago: waits");
    let seen = scenario.instance("web-2");
    (seen.failed_checks, seen.probe) = (1, Some(probe(Some(500), "status 500", "sick\n")));
    let told = "serves, but 1 of 3 checks failed: GET /up: 500: sick; after 3 in a row Gantry restarts it";
    assert_eq!(scenario.of("web-2"), told);
    let view = scenario.view();
    let plan = Arc::clone(&view.records.plan);
    let (_, _, assignment) = plan.assignments().find(|(_, other, _)| **other == id("web-2")).expect("planned");
    let seen = &scenario.seen[&id("web-2")];
    let problem = instance_problem(&view, &id("web-2"), assignment, seen);
    assert_eq!(problem, Some((CauseCode::ChecksFail, told.to_owned())));
    assert_eq!(instance_problem(&view, &id("web-2"), assignment, &well()), None);
}

#[test]
fn reports_a_present_fault_together_with_the_open_deploy() {
    let mut scenario = AppScenario::new();
    scenario.deploys.push(deploy(2, DeployState::Held));
    scenario.waits.push(Reason::HeldForPromotion);
    scenario.ended("web-1", InstancePhase::Exited, 2, exited(Some(1), None));
    let view = scenario.view();
    let answer = app(&WhyInput { view: &view, build: None, disk: None }, &shop());
    assert_eq!(answer.evidence[0], "boom");
    assert_eq!(answer.evidence[1], "1 of 2 copies of web are ready");
    assert!(answer.evidence[2].starts_with("deploy #2 of shop: held for 50 min"), "{:?}", answer.evidence);
}

#[test]
fn reports_that_no_other_machine_takes_a_failing_copy() {
    let mut scenario = AppScenario::new();
    scenario.ended("web-1", InstancePhase::Exited, 3, exited(Some(1), None));
    scenario.waits = vec![cannot_move("web-1")];
    let cause = "shop.v1.web-1 fails again and again on m, and no other machine takes it: 2: cordoned; \
                 1: failed there just now";
    let line = format!("{cause} [cannot_move]");
    assert_eq!(scenario.explained().evidence, ["boom", "1 of 2 copies of web are ready", line.as_str()]);
    let view = scenario.view();
    let of = |short| instance(&WhyInput { view: &view, build: None, disk: None }, &id(short)).expect("an answer");
    assert_eq!((of("web-1").evidence, of("web-2").evidence), (vec!["boom".to_owned(), line], Vec::new()));

    // Between the reports of two machines the reason may outlast the failure.
    let mut scenario = AppScenario::new();
    scenario.waits = vec![cannot_move("web-1")];
    let found = scenario.explained();
    assert_eq!((found.code, found.object.name.as_str()), (CauseCode::CannotMove, "shop.v1.web-1"));
    assert_eq!(found.cause, cause);
}

#[test]
fn json_errors_have_code_object_and_remedy() {
    let object = |kind, name: &str| CauseObject { kind, name: name.to_owned() };
    let well = AppScenario::new();
    let done = well.explained();
    assert_eq!((done.code, done.object, done.remedy), (CauseCode::DeployDone, object(ObjectKind::Deploy, "1"), None));

    let mut scenario = AppScenario::new();
    scenario.ended(
        "web-1",
        InstancePhase::Exited,
        0,
        ExitStatus { out_of_memory: Some(64 << 20), ..exited(None, Some(9)) },
    );
    let full = scenario.explained();
    assert_eq!((full.code, full.object), (CauseCode::InstanceOverLimit, object(ObjectKind::Instance, "shop.v1.web-1")));
    assert_eq!(full.cause, "shop.v1.web-1 ran out of memory: its limit is 64M");
    assert_eq!(full.remedy.as_deref(), Some("raise `memory` of the role"));

    let mut scenario = AppScenario::new();
    scenario.app.scale.insert(role("web"), 0);
    let none = scenario.explained();
    assert_eq!((none.code, none.object), (CauseCode::ScaledToZero, object(ObjectKind::Role, "web")));
    assert_eq!(none.remedy.as_deref(), Some("`gantry scale shop web=1` starts one"));

    let mut scenario = AppScenario::new();
    scenario.deploys.push(deploy(2, DeployState::Held));
    scenario.waits = vec![Reason::HeldForPromotion];
    let held = scenario.explained();
    assert_eq!((held.code, held.object), (CauseCode::HeldForPromotion, object(ObjectKind::Deploy, "2")));
    assert!(held.remedy.is_some_and(|remedy| remedy.contains("`gantry promote shop`")), "{}", held.headline);
}

#[test]
fn error_responses_need_the_output_of_their_instance() {
    let mut scenario = AppScenario::new();
    let needed = |scenario: &AppScenario| needed_output(&scenario.view(), &shop(), &scenario.explained());
    assert_eq!(needed(&scenario), None, "nothing fails");
    scenario.fails(RequestFailure::ServerError, run(20, Some("web-1"), 500));
    let output = needed(&scenario).expect("output is needed");
    assert_eq!(output.machine, MachineName::parse("m").expect("a name"));
    let query = output.of_log();
    assert!(query.includes(&id("web-1")) && !query.includes(&id("worker-1")) && !query.follow);

    let line =
        |short, at, error, text: &str| LogLine { at: Moment(at), instance: id(short), error, text: text.to_owned() };
    // The failures began 180 s ago.
    let mut lines = vec![
        line("web-1", NOW - 900_000, true, "an old warning"),
        line("web-1", NOW - 100_000, false, "GET /up 200"),
        line("web-2", NOW - 90_000, true, "another copy"),
    ];
    assert_eq!(output.evidence(&lines), ["the last output of shop.v1.web-1:", "an old warning", "GET /up 200"]);
    let errors =
        (0..9).map(|number| line("web-1", NOW - 80_000 + number, true, &format!("  no table {number}\u{1b}[0m")));
    lines.extend(errors);
    lines.push(line("web-1", NOW - 70_000, false, "GET /up 200"));
    let shown = output.evidence(&lines);
    assert_eq!((shown.len(), shown[0].as_str()), (6, "the last error output of shop.v1.web-1:"));
    assert_eq!((shown[1].as_str(), shown[5].as_str()), ("no table 4[0m", "no table 8[0m"));
    assert_eq!(output.evidence(&[]), Vec::<String>::new());

    // Without the instance in the plan, no machine has the output.
    scenario.seen.remove(&id("web-1"));
    assert_eq!(needed(&scenario), None);
    // A cause that the reports explain needs no output.
    let mut scenario = AppScenario::new();
    scenario.fails(RequestFailure::Broken, run(5, Some("web-1"), 502));
    assert_eq!(needed(&scenario), None);
}
