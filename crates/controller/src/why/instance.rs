//! Explains faults of an instance.

use std::sync::Arc;

use gantry_api::types::Explanation;
use gantry_model::observed::LIMIT_TOLD_MILLIS;
use gantry_model::reason::{ExitText, LimitText, Times};
use gantry_model::{AppName, Assignment, Exit, Goal, InstanceId, Moment, ObservedInstance, Phase, Span};

use super::{Answer, Facts};
use crate::core::View;

/// Age in milliseconds up to which an exit is still reported although the instance runs again.
const RECENT: u64 = 600_000;

/// Severity of an instance's state, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The instance ended, cannot start, or is being stopped after failed checks.
    Down,
    /// The last checks failed, but the instance still serves.
    Failing,
    /// The instance is starting.
    Starting,
}

/// An assigned instance with its observed state.
struct Wanted<'a> {
    id: &'a InstanceId,
    assignment: &'a Assignment,
    seen: &'a ObservedInstance,
}

/// Returns the service instances of the current release with the goal to run.
fn wanted<'a>(view: &'a View, name: &'a AppName) -> impl Iterator<Item = Wanted<'a>> {
    let current = view.mirror.apps.get(name).and_then(|app| app.current);
    let is_of = move |id: &InstanceId, goal| {
        &id.app == name && Some(id.release) == current && id.role.is_service() && goal == Goal::Run
    };
    view.mirror.plan.assignments().filter(move |(_, id, assignment)| is_of(id, assignment.goal)).filter_map(
        |(machine, id, assignment)| {
            let seen = view.observed.machines.get(machine)?.instances.get(id)?;
            Some(Wanted { id, assignment, seen })
        },
    )
}

/// Returns the worst state among the app's instances, with the number of ready copies.
fn worst(view: &View, name: &AppName) -> Option<(Rank, Answer)> {
    let states = wanted(view, name).filter_map(|one| Some((state(view, &one)?, one.id)));
    let ((rank, answer), id) = states.min_by_key(|((rank, _), _)| *rank)?;
    let fellows = wanted(view, name).filter(|one| one.id.role == id.role);
    let (mut ready, mut all) = (0, 0);
    for one in fellows {
        all += 1;
        ready += u32::from(one.seen.phase == Phase::Ready);
    }
    let mut answer = Answer { headline: format!("{id} {}", answer.headline), ..answer };
    if all > 1 {
        answer.evidence.push(format!("{ready} of {all} copies of {} are ready", id.role));
    }
    Some((rank, answer))
}

/// Explains an instance that is down or fails its checks.
pub(super) fn broken(view: &View, name: &AppName) -> Option<Answer> {
    worst(view, name).filter(|(rank, _)| *rank < Rank::Starting).map(|(_, answer)| answer)
}

/// Explains the worst instance that is not healthy, which may only be starting.
pub(super) fn unready(view: &View, name: &AppName) -> Option<Answer> {
    worst(view, name).map(|(_, answer)| answer)
}

/// Explains a minor problem of an instance that serves.
pub(super) fn worrying(view: &View, name: &AppName) -> Option<Answer> {
    wanted(view, name).find_map(|one| {
        let answer = worry(view, one.seen)?;
        Some(Answer { headline: format!("{} {}", one.id, answer.headline), ..answer })
    })
}

/// Explains an instance of the app that does not stop.
pub(super) fn lingering(view: &View, name: &AppName) -> Option<Answer> {
    let instances = view.observed.machines.values().flat_map(|report| &report.instances);
    let mut leaving = instances.filter(|(id, seen)| &id.app == name && seen.phase == Phase::Stopping);
    leaving.find_map(|(id, seen)| Some(Answer::new(format!("{id} {}", seen.failure.as_ref()?))))
}

/// Explains the last exit of an instance and says how often the instance was restarted.
fn ended_before(seen: &ObservedInstance, exit: &Exit, now: Moment) -> Answer {
    let remedy = exit.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    let again = match seen.restarts {
        0 => "it is about to be started again".to_owned(),
        times => format!("started again {}", Times(u64::from(times))),
    };
    let ago = Span(now.since(exit.at));
    Answer { headline: format!("{}{remedy}; that was {ago} ago, {again}", ExitText(exit)), evidence: exit.tail.clone() }
}

/// Longest time in milliseconds from an instance's exit to its last failed request, for the exit to count as the
/// cause.
const WITH_ITS_END: u64 = 5_000;

/// Explains the exit of an instance, if the exit caused the failed request at `failed`.
pub(super) fn ended_lately(view: &View, id: &InstanceId, failed: Moment) -> Option<Answer> {
    let seen = view.observed.machines.values().find_map(|report| report.instances.get(id))?;
    let exit = seen.exit.as_ref().filter(|exit| failed.since(exit.at) <= WITH_ITS_END)?;
    let answer = ended_before(seen, exit, view.now);
    Some(Answer { headline: format!("{id} {}", answer.headline), ..answer })
}

/// Describes the fault of an instance with the goal to run, without the instance's name. Returns none for a ready
/// instance that passes its checks.
fn state(view: &View, one: &Wanted<'_>) -> Option<(Rank, Answer)> {
    let Wanted { assignment, seen, .. } = one;
    let body = || seen.probe.iter().flat_map(|probe| probe.body.lines().map(str::to_owned)).collect();
    let attempts = assignment.spec.role.health.attempts;
    Some(match (seen.phase, &seen.exit, &seen.probe) {
        (Phase::Exited, Some(exit), _) => (Rank::Down, ended_before(seen, exit, view.now)),
        (Phase::Failed, _, _) => {
            let why = seen.failure.as_deref().unwrap_or("its machine did not say why");
            (Rank::Down, Answer::new(format!("could not be started: {why}")))
        }
        (Phase::Unhealthy, _, Some(probe)) => {
            let times = Times(u64::from(seen.failed_checks.max(1)));
            let headline = format!("failed its check {times} in a row and is being stopped: {}", probe.brief());
            (Rank::Down, Answer { headline, evidence: body() })
        }
        (Phase::Preparing | Phase::Starting, Some(exit), _) if seen.restarts > 0 => {
            (Rank::Down, ended_before(seen, exit, view.now))
        }
        (Phase::Ready, _, Some(probe)) if seen.failed_checks > 0 => {
            let failed = format!("{} of {attempts} checks failed: {}", seen.failed_checks, probe.brief());
            let then = format!("after {attempts} in a row it is stopped and started again");
            (Rank::Failing, Answer { headline: format!("serves, but {failed}; {then}"), evidence: body() })
        }
        (Phase::Ready, _, _) => return None,
        (Phase::Starting, _, Some(probe)) => {
            let remedy = probe.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
            let headline = format!("is not ready: {}: {}{remedy}", probe.target, probe.outcome);
            (Rank::Starting, Answer { headline, evidence: body() })
        }
        (phase, _, _) => {
            let failure = seen.failure.clone().filter(|_| phase == Phase::Stopping);
            let since = || format!("is {} for {}", phase.word(), Span(view.now.since(seen.since)));
            (Rank::Starting, Answer::new(failure.unwrap_or_else(since)))
        }
    })
}

/// Describes a minor problem of a ready instance, without the instance's name.
fn worry(view: &View, seen: &ObservedInstance) -> Option<Answer> {
    if seen.phase != Phase::Ready {
        return None;
    }
    let recent = |exit: &&Exit| seen.restarts > 0 && view.now.since(exit.at) < RECENT;
    if let Some(exit) = seen.exit.as_ref().filter(recent) {
        return Some(ended_before(seen, exit, view.now));
    }
    if let Some(hit) = seen.limit_hits.iter().find(|hit| view.now.since(hit.last) <= LIMIT_TOLD_MILLIS) {
        let (since, times) = (Span(view.now.since(hit.since)), Times(hit.count));
        return Some(Answer::new(format!("{}; {times} since {since} ago", LimitText(hit.limit))));
    }
    seen.warning.clone().map(Answer::new)
}

/// Returns the note that `gantry ps` shows beside an instance.
pub(crate) fn note(view: &View, id: &InstanceId, assignment: &Assignment, seen: &ObservedInstance) -> Option<String> {
    let answer = told(view, &Wanted { id, assignment, seen })?;
    (seen.phase != Phase::Ready || seen.failed_checks > 0 || !seen.limit_hits.is_empty() || seen.restarts > 0)
        .then_some(answer.headline)
}

/// Describes the notable state of an instance with any goal.
fn told(view: &View, one: &Wanted<'_>) -> Option<Answer> {
    match (one.assignment.spec.once, &one.seen.exit, one.seen.phase, one.assignment.goal) {
        (true, Some(exit), Phase::Exited, _) if exit.success() => Some(Answer::new("ended well".to_owned())),
        (true, Some(exit), Phase::Exited, _) => {
            Some(Answer { headline: ExitText(exit).to_string(), evidence: exit.tail.clone() })
        }
        (true, _, Phase::Ready | Phase::Starting, _) => {
            let said = one.seen.said.as_ref();
            let said =
                said.map(|said| format!("its last output, {} ago: {}", Span(view.now.since(said.at)), said.line));
            said.map(|said| Answer::new(format!("runs; {said}")))
        }
        (_, _, _, Goal::Stop) => one.seen.failure.clone().map(Answer::new),
        _ => state(view, one).map(|(_, answer)| answer).or_else(|| worry(view, one.seen)),
    }
}

/// Explains an instance.
pub(crate) fn instance(facts: &Facts<'_>, id: &InstanceId) -> Option<Explanation> {
    let view = facts.view;
    let subject = format!("instance {id}");
    let plan = Arc::clone(&view.mirror.plan);
    let (machine, _, assignment) = plan.assignments().find(|(_, other, _)| *other == id)?;
    let seen = view.observed.machines.get(machine).and_then(|report| report.instances.get(id));
    let Some(seen) = seen else {
        return Some(Answer::new(format!("machine {machine} has not told of it yet")).about(&subject));
    };
    if let Some(answer) = told(view, &Wanted { id, assignment, seen }) {
        return Some(answer.about(&subject));
    }
    let since = Span(view.now.since(seen.since));
    let leaving = match assignment.goal {
        Goal::Run => "",
        Goal::Retire { .. } => "; it gets no new requests, for another release serves",
        Goal::Stop => "; it is being stopped",
    };
    Some(Answer::new(format!("{} for {since} on {machine}{leaving}", seen.phase.word())).about(&subject))
}
