//! Explains failing requests from the counts of the routers. An app may fail requests while its checks pass.

use gantry_api::types::CauseCode;
use gantry_model::exit_text::LimitCause;
use gantry_model::{AppName, FailureRun, Moment, RequestFailure, TimeSpan};

use super::{FoundCause, app_object, deploy, instance, instance_object};
use crate::core::ClusterView;

/// Age in milliseconds after which a run of failures is no longer reported.
const REPORTED_MILLIS: u64 = 120_000;

/// Failures reported at any count, because a healthy app never causes them.
const ALWAYS: [RequestFailure; 3] = [RequestFailure::Broken, RequestFailure::Cut, RequestFailure::Slow];

/// Failures that a healthy app causes too, with the percentage of requests from which such failures are reported.
const TOLERATED_FAILURES: [(RequestFailure, u64); 2] =
    [(RequestFailure::ServerError, 10), (RequestFailure::GivenUp, 50)];

/// Reports requests that reached an instance and failed.
pub(super) fn failing_requests(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let always = ALWAYS.iter().filter_map(|kind| Some((*kind, run(view, name, *kind)?)));
    let tolerated = TOLERATED_FAILURES.iter().filter_map(|(kind, percent)| {
        let run = run(view, name, *kind)?;
        (run.count * 100 >= run.of * percent).then_some((*kind, run))
    });
    let (kind, run) = always.chain(tolerated).max_by_key(|(_, run)| run.count)?;
    let answer = describe(view, name, kind, &run);
    // When an instance ends, its open requests fail; the end of the instance is the cause.
    match run.instance.as_ref().and_then(|id| instance::ended_lately(view, id, run.last)) {
        Some(mut cause) => {
            cause.evidence.push(answer.headline());
            Some(cause)
        }
        None => Some(answer),
    }
}

/// Reports requests that no instance accepted in time.
pub(super) fn unserved(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    describe_run(view, name, RequestFailure::NoInstance)
}

/// Reports requests refused by a rate or concurrency limit.
pub(super) fn limited(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    describe_run(view, name, RequestFailure::Limited)
}

fn describe_run(view: &ClusterView, name: &AppName, kind: RequestFailure) -> Option<FoundCause> {
    run(view, name, kind).map(|run| describe(view, name, kind, &run))
}

/// Merges the current runs of one kind of failure over all routers. Ignores runs that are over, and runs of a release
/// that no longer serves.
pub(super) fn run(view: &ClusterView, name: &AppName, kind: RequestFailure) -> Option<FailureRun> {
    let current = view.records.apps.get(name)?.current;
    let since = deploy::last_deploy(view, name).map_or(Moment(0), |deploy| deploy.entered);
    let of_now = |run: &&FailureRun| match &run.instance {
        Some(instance) => Some(instance.slot.release) == current,
        None => run.last >= since,
    };
    let recent = |run: &&FailureRun| view.now.since(run.last) <= REPORTED_MILLIS;
    let runs = view.observed.routers.values().filter_map(|router| router.failures.get(name)?.get(&kind));
    runs.filter(of_now).filter(recent).cloned().reduce(|one, other| FailureRun {
        count: one.count + other.count,
        of: one.of + other.of,
        since: one.since.min(other.since),
        ..if one.last > other.last { one } else { other }
    })
}

fn describe(view: &ClusterView, name: &AppName, kind: RequestFailure, run: &FailureRun) -> FoundCause {
    let instance = run.instance.as_ref().map_or_else(|| "the instance".to_owned(), ToString::to_string);
    let logs = format!("`gantry logs {name}` shows its output");
    let hangs = "with `health.path` of the role Gantry finds and restarts a copy that hangs";
    let (what, remedy) = match kind {
        RequestFailure::Broken => (format!("{instance} closed the connection before it responded (502)"), logs),
        RequestFailure::Cut => (format!("the response of {instance} ended early"), logs),
        RequestFailure::Slow => {
            (format!("{instance} sent no response within `request_timeout` (504)"), hangs.to_owned())
        }
        RequestFailure::GivenUp => {
            (format!("their clients gave up, because {instance} sent no response for seconds"), hangs.to_owned())
        }
        RequestFailure::ServerError => (format!("the application itself returned {}", run.status), logs),
        RequestFailure::NoInstance => {
            ("no instance accepted them in time (503)".to_owned(), format!("`gantry ps {name}` shows the instances"))
        }
        RequestFailure::Limited => {
            let limits = view.records.apps.get(name).map(|app| app.traffic.to_string()).unwrap_or_default();
            (
                format!("they exceeded the app's limit (429): {limits}"),
                format!("`gantry limit {name}` changes the limit"),
            )
        }
    };
    let counts =
        format!("{} of {} requests failed in the last {}", run.count, run.of, TimeSpan(view.now.since(run.since)));
    // If the instance reached a limit meanwhile, the limit is the root cause.
    let limit = run.instance.as_ref().and_then(|id| {
        let seen = view.observed.machines.values().find_map(|report| report.instances.get(id))?;
        seen.limit_hits.iter().find(|hit| run.last.since(hit.last) <= REPORTED_MILLIS).map(|hit| hit.limit)
    });
    let object = run.instance.as_ref().map_or_else(|| app_object(name), instance_object);
    let cause = match limit {
        Some(limit) => {
            let cause = format!("{counts}: {instance} {}", LimitCause(limit));
            let cause = FoundCause::new(CauseCode::InstanceOverLimit, object, cause);
            cause.remedy(limit.remedy()).circumstances(what)
        }
        None => FoundCause::new(kind.into(), object, format!("{counts}: {what}")).remedy(remedy),
    };
    let last = format!("the last failure was {} ago; the checks pass", TimeSpan(view.now.since(run.last)));
    cause.evidence(vec![last])
}
