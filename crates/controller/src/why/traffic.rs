//! Explains failing requests from the counts of the routers. An app may fail requests while its checks pass.

use gantry_model::reason::LimitText;
use gantry_model::{AppName, FailureRun, Moment, RequestFailure, Span};

use super::{Answer, deploy, instance};
use crate::core::View;

/// Age in milliseconds after which a run of failures is no longer reported.
const TOLD_MILLIS: u64 = 120_000;

/// Failures reported at any count, because a healthy app never causes them.
const ALWAYS: [RequestFailure; 3] = [RequestFailure::Broken, RequestFailure::Cut, RequestFailure::Slow];

/// Failures that a healthy app causes too, with the percentage of requests from which such failures are reported.
const TOLERATED: [(RequestFailure, u64); 2] = [(RequestFailure::ServerError, 10), (RequestFailure::GivenUp, 50)];

/// Reports requests that reached an instance and failed.
pub(super) fn failing(view: &View, name: &AppName) -> Option<Answer> {
    let always = ALWAYS.iter().filter_map(|kind| Some((*kind, run(view, name, *kind)?)));
    let tolerated = TOLERATED.iter().filter_map(|(kind, percent)| {
        let run = run(view, name, *kind)?;
        (run.count * 100 >= run.of * percent).then_some((*kind, run))
    });
    let (kind, run) = always.chain(tolerated).max_by_key(|(_, run)| run.count)?;
    let answer = told(view, name, kind, &run);
    // When an instance ends, its open requests fail; the end of the instance is the cause.
    match run.instance.as_ref().and_then(|id| instance::ended_lately(view, id, run.last)) {
        Some(mut cause) => {
            cause.evidence.push(answer.headline);
            Some(cause)
        }
        None => Some(answer),
    }
}

/// Reports requests that no instance accepted in time.
pub(super) fn unserved(view: &View, name: &AppName) -> Option<Answer> {
    told_of(view, name, RequestFailure::NoInstance)
}

/// Reports requests refused by a rate or concurrency limit.
pub(super) fn limited(view: &View, name: &AppName) -> Option<Answer> {
    told_of(view, name, RequestFailure::Limited)
}

fn told_of(view: &View, name: &AppName, kind: RequestFailure) -> Option<Answer> {
    run(view, name, kind).map(|run| told(view, name, kind, &run))
}

/// Merges the current runs of one kind of failure over all routers. Ignores runs that are over, and runs of a release
/// that no longer serves.
fn run(view: &View, name: &AppName, kind: RequestFailure) -> Option<FailureRun> {
    let current = view.mirror.apps.get(name)?.current;
    let since = deploy::last(view, name).map_or(Moment(0), |deploy| deploy.entered);
    let of_now = |run: &&FailureRun| match &run.instance {
        Some(instance) => Some(instance.release) == current,
        None => run.last >= since,
    };
    let recent = |run: &&FailureRun| view.now.since(run.last) <= TOLD_MILLIS;
    let runs = view.observed.routers.values().filter_map(|router| router.failures.get(name)?.get(&kind));
    runs.filter(of_now).filter(recent).cloned().reduce(|one, other| FailureRun {
        count: one.count + other.count,
        of: one.of + other.of,
        since: one.since.min(other.since),
        ..if one.last > other.last { one } else { other }
    })
}

fn told(view: &View, name: &AppName, kind: RequestFailure, run: &FailureRun) -> Answer {
    let instance = run.instance.as_ref().map_or_else(|| "the instance".to_owned(), ToString::to_string);
    let logs = format!("`gantry logs {name}` has what it said");
    let hangs = "`health.path` of the role lets a copy that hangs be found and started again";
    let (what, remedy) = match kind {
        RequestFailure::Broken => (format!("{instance} closed the connection before it answered (502)"), logs),
        RequestFailure::Cut => (format!("the answer of {instance} broke off"), logs),
        RequestFailure::Slow => {
            (format!("{instance} began no answer within `request_timeout` (504)"), hangs.to_owned())
        }
        RequestFailure::GivenUp => {
            (format!("their clients went away, for {instance} gave no answer for seconds"), hangs.to_owned())
        }
        RequestFailure::ServerError => (format!("the application itself answered {}", run.status), logs),
        RequestFailure::NoInstance => {
            ("no instance took them in time (503)".to_owned(), format!("`gantry ps {name}` shows the instances"))
        }
        RequestFailure::Limited => {
            let limits = view.mirror.apps.get(name).map(|app| app.traffic.to_string()).unwrap_or_default();
            (format!("they were over its limit (429): {limits}"), format!("`gantry limit {name}` sets it"))
        }
    };
    let counts = format!("{} of {} requests failed since {} ago", run.count, run.of, Span(view.now.since(run.since)));
    // If the instance reached a limit meanwhile, the limit is the root cause.
    let limit = run.instance.as_ref().and_then(|id| {
        let seen = view.observed.machines.values().find_map(|report| report.instances.get(id))?;
        seen.limit_hits.iter().find(|hit| run.last.since(hit.last) <= TOLD_MILLIS).map(|hit| LimitText(hit.limit))
    });
    let headline = match limit {
        Some(limit) => format!("{counts}: {instance} {limit}; {what}"),
        None => format!("{counts}: {what}; {remedy}"),
    };
    let last = format!("the last of them {} ago; the checks pass", Span(view.now.since(run.last)));
    Answer { headline, evidence: vec![last] }
}
