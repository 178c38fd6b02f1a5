//! Explains faults of an instance.

use gantry_api::types::{CauseCode, Explanation};
use gantry_model::exit_text::{ExitCause, LimitCause, TimesText};
use gantry_model::observed::LIMIT_SHOWN_MILLIS;
use gantry_model::{
    AllocationId, AppName, Assignment, Bytes, ExitStatus, InstanceGoal, InstancePhase, Moment, ObservedInstance,
    TimeSpan,
};

use super::machine::failing_in_place;
use super::{FoundCause, WhyInput, instance_object};
use crate::core::ClusterView;

/// Age in milliseconds up to which an exit is still reported although the instance runs again.
const RECENT_EXIT_MILLIS: u64 = 600_000;

/// Severity of an instance's state, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FaultRank {
    /// The instance ended, cannot start, or is being stopped after failed checks.
    Down,
    /// The last checks failed, but the instance still serves.
    Failing,
    /// The instance is starting.
    Starting,
}

/// An assigned instance with its observed state.
struct AssignedInstance<'a> {
    id: &'a AllocationId,
    assignment: &'a Assignment,
    seen: &'a ObservedInstance,
}

/// Returns the service instances of the current release with the goal to run.
fn assigned_instances<'a>(view: &'a ClusterView, name: &'a AppName) -> impl Iterator<Item = AssignedInstance<'a>> {
    let current = view.records.apps.get(name).and_then(|app| app.current);
    let is_of = move |id: &AllocationId, assignment: &Assignment| {
        let runs = assignment.spec.role.is_service() && assignment.goal == InstanceGoal::Run;
        Some(id.slot.release) == current && runs
    };
    view.records.plan.assignments_of(name).filter(move |(_, id, assignment)| is_of(id, assignment)).filter_map(
        |(machine, id, assignment)| {
            let seen = view.observed.machines.get(machine)?.instances.get(id)?;
            Some(AssignedInstance { id, assignment, seen })
        },
    )
}

/// Returns the worst state among the app's instances, with the number of ready copies.
fn worst_fault(view: &ClusterView, name: &AppName) -> Option<(FaultRank, FoundCause)> {
    let states = assigned_instances(view, name).filter_map(|one| Some((state(view, &one)?, one.id)));
    let ((rank, answer), id) = states.min_by_key(|((rank, _), _)| *rank)?;
    let role_instances = assigned_instances(view, name).filter(|one| one.id.slot.role == id.slot.role);
    let (mut ready, mut all) = (0, 0);
    for one in role_instances {
        all += 1;
        ready += u32::from(one.seen.phase == InstancePhase::Ready);
    }
    let mut answer = answer.of_instance(id);
    if all > 1 {
        answer.evidence.push(format!("{ready} of {all} copies of {} are ready", id.slot.role));
    }
    Some((rank, answer))
}

/// Explains an instance that is down or fails its checks.
pub(super) fn broken_instance(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    worst_fault(view, name).filter(|(rank, _)| *rank < FaultRank::Starting).map(|(_, answer)| answer)
}

/// Explains the worst instance that is not healthy, which may only be starting.
pub(super) fn unready(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    worst_fault(view, name).map(|(_, answer)| answer)
}

/// Explains a minor problem of an instance that serves.
pub(super) fn minor_problems(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    assigned_instances(view, name).find_map(|one| Some(minor_problem(view, one.id, one.seen)?.of_instance(one.id)))
}

/// Explains an instance of the app that does not stop.
pub(super) fn not_stopping(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let instances = view.observed.machines.values().flat_map(|report| &report.instances);
    let mut leaving = instances.filter(|(id, seen)| &id.slot.app == name && seen.phase == InstancePhase::Stopping);
    leaving.find_map(|(id, seen)| {
        let cause = format!("{id} {}", seen.failure.as_ref()?);
        Some(FoundCause::new(CauseCode::InstanceStopping, instance_object(id), cause))
    })
}

/// Explains the last exit of an instance and says how often the instance was restarted.
fn ended_before(id: &AllocationId, seen: &ObservedInstance, exit: &ExitStatus, now: Moment) -> FoundCause {
    let again = match seen.restarts {
        0 => "a restart follows".to_owned(),
        times => format!("restarted {}", TimesText(u64::from(times))),
    };
    let ago = TimeSpan(now.since(exit.at));
    let remedy = exit.limit_remedy().or_else(|| exit.remedy(&id.slot.app));
    FoundCause { remedy, ..ended(id, exit) }.circumstances(format!("that was {ago} ago, {again}"))
}

/// Explains an exit, without the instance's name.
fn ended(id: &AllocationId, exit: &ExitStatus) -> FoundCause {
    let cause = FoundCause::new(exit.into(), instance_object(id), ExitCause(exit).to_string());
    FoundCause { remedy: exit.limit_remedy(), ..cause }.evidence(exit.tail.clone())
}

/// Longest time in milliseconds from an instance's exit to its last failed request, for the exit to count as the
/// cause.
const CAUSED_BY_EXIT_MILLIS: u64 = 5_000;

/// Explains the exit of an instance, if the exit caused the failed request at `failed`.
pub(super) fn ended_lately(view: &ClusterView, id: &AllocationId, failed: Moment) -> Option<FoundCause> {
    let seen = view.observed.machines.values().find_map(|report| report.instances.get(id))?;
    let exit = seen.exit.as_ref().filter(|exit| failed.since(exit.at) <= CAUSED_BY_EXIT_MILLIS)?;
    Some(ended_before(id, seen, exit, view.now).of_instance(id))
}

/// Describes the fault of an instance with the goal to run, without the instance's name. Returns none for a ready
/// instance that passes its checks.
fn state(view: &ClusterView, one: &AssignedInstance<'_>) -> Option<(FaultRank, FoundCause)> {
    let AssignedInstance { assignment, seen, id } = one;
    let found = |code, cause| FoundCause::new(code, instance_object(id), cause);
    let body = || seen.probe.iter().flat_map(|probe| probe.body.lines().map(str::to_owned)).collect();
    let attempts = assignment.spec.role.health.attempts;
    Some(match (seen.phase, &seen.exit, &seen.probe) {
        (InstancePhase::Exited, Some(exit), _) => (FaultRank::Down, ended_before(id, seen, exit, view.now)),
        (InstancePhase::Failed, _, _) => {
            let why = seen.failure.as_deref().unwrap_or("its machine reported no cause");
            (FaultRank::Down, found(CauseCode::InstanceNotStarted, format!("could not be started: {why}")))
        }
        (InstancePhase::Unhealthy, _, Some(probe)) => {
            let times = TimesText(u64::from(seen.failed_checks.max(1)));
            let cause = format!("failed its check {times} in a row and is being stopped: {}", probe.brief());
            (FaultRank::Down, found(CauseCode::InstanceUnhealthy, cause).evidence(body()))
        }
        (InstancePhase::Preparing | InstancePhase::Starting, Some(exit), _) if seen.restarts > 0 => {
            (FaultRank::Down, ended_before(id, seen, exit, view.now))
        }
        (InstancePhase::Ready, _, Some(probe)) if seen.failed_checks > 0 => {
            let failed = format!("{} of {attempts} checks failed: {}", seen.failed_checks, probe.brief());
            let then = format!("after {attempts} in a row Gantry restarts it");
            let cause = found(CauseCode::ChecksFail, format!("serves, but {failed}"));
            (FaultRank::Failing, cause.circumstances(then).evidence(body()))
        }
        (InstancePhase::Ready, _, _) => return None,
        (InstancePhase::Starting, _, Some(probe)) => {
            let cause = format!("is not ready: {}: {}", probe.target, probe.outcome);
            let cause = FoundCause { remedy: probe.remedy.clone(), ..found(CauseCode::InstanceStarting, cause) };
            (FaultRank::Starting, cause.evidence(body()))
        }
        (phase, _, _) => {
            let failure =
                seen.failure.clone().filter(|_| matches!(phase, InstancePhase::Stopping | InstancePhase::Preparing));
            let unpacking = match seen.unpacked {
                0 => String::new(),
                bytes => format!(": its machine fetches and unpacks the image, {} so far", Bytes(bytes)),
            };
            let since = || format!("has been {} for {}{unpacking}", phase.word(), TimeSpan(view.now.since(seen.since)));
            let stops = matches!(phase, InstancePhase::Stopping);
            let code = if stops { CauseCode::InstanceStopping } else { CauseCode::InstanceStarting };
            (FaultRank::Starting, found(code, failure.unwrap_or_else(since)))
        }
    })
}

/// Describes a minor problem of a ready instance, without the instance's name.
fn minor_problem(view: &ClusterView, id: &AllocationId, seen: &ObservedInstance) -> Option<FoundCause> {
    if seen.phase != InstancePhase::Ready {
        return None;
    }
    let recent = |exit: &&ExitStatus| seen.restarts > 0 && view.now.since(exit.at) < RECENT_EXIT_MILLIS;
    if let Some(exit) = seen.exit.as_ref().filter(recent) {
        return Some(ended_before(id, seen, exit, view.now));
    }
    if let Some(hit) = seen.limit_hits.iter().find(|hit| view.now.since(hit.last) <= LIMIT_SHOWN_MILLIS) {
        let (since, times) = (TimeSpan(view.now.since(hit.since)), TimesText(hit.count));
        let cause = LimitCause(hit.limit).to_string();
        let cause = FoundCause::new(CauseCode::InstanceOverLimit, instance_object(id), cause);
        return Some(cause.remedy(hit.limit.remedy()).circumstances(format!("{times} since {since} ago")));
    }
    let warning = seen.warning.clone()?;
    Some(FoundCause::new(CauseCode::InstanceWarning, instance_object(id), warning))
}

/// Returns the problem that `gantry ps` shows beside an instance: its code, and the text for people.
pub(crate) fn instance_problem(
    view: &ClusterView,
    id: &AllocationId,
    assignment: &Assignment,
    seen: &ObservedInstance,
) -> Option<(CauseCode, String)> {
    let answer = describe(view, &AssignedInstance { id, assignment, seen })?;
    (seen.phase != InstancePhase::Ready || seen.failed_checks > 0 || !seen.limit_hits.is_empty() || seen.restarts > 0)
        .then(|| (answer.code, answer.headline()))
}

/// Describes the notable state of an instance with any goal.
fn describe(view: &ClusterView, one: &AssignedInstance<'_>) -> Option<FoundCause> {
    let found = |code, cause| FoundCause::new(code, instance_object(one.id), cause);
    match (!one.assignment.spec.role.is_service(), &one.seen.exit, one.seen.phase, one.assignment.goal) {
        (true, Some(exit), InstancePhase::Exited, _) if exit.success() => {
            Some(found(CauseCode::StepSucceeded, "succeeded".to_owned()))
        }
        (true, Some(exit), InstancePhase::Exited, _) => Some(ended(one.id, exit)),
        (true, _, InstancePhase::Ready | InstancePhase::Starting, _) => one.seen.last_output.as_ref().map(|output| {
            let age = TimeSpan(view.now.since(output.at));
            found(CauseCode::InstanceRuns, format!("runs; its last output, {age} ago: {}", output.line))
        }),
        (_, _, _, InstanceGoal::Stop) => {
            one.seen.failure.clone().map(|failure| found(CauseCode::InstanceStopping, failure))
        }
        _ => state(view, one).map(|(_, answer)| answer).or_else(|| minor_problem(view, one.id, one.seen)),
    }
}

/// Explains an instance.
pub(crate) fn instance(facts: &WhyInput<'_>, id: &AllocationId) -> Option<Explanation> {
    let view = facts.view;
    let (machine, id, assignment) = view.records.plan.nearest(id)?;
    let subject = format!("instance {id}");
    let seen = view.observed.machines.get(machine).and_then(|report| report.instances.get(id));
    let Some(seen) = seen else {
        let cause = format!("machine {machine} has not reported this instance yet");
        let cause = FoundCause::new(CauseCode::InstanceUnreported, instance_object(id), cause);
        return Some(cause.with_subject(&subject));
    };
    if let Some(mut answer) = describe(view, &AssignedInstance { id, assignment, seen }) {
        let failing = failing_in_place(view, &id.slot.app).filter(|(failing, _)| *failing == id);
        answer.evidence.extend(failing.map(|(_, line)| line));
        return Some(answer.with_subject(&subject));
    }
    let since = TimeSpan(view.now.since(seen.since));
    let leaving = match assignment.goal {
        InstanceGoal::Run => "",
        InstanceGoal::Retire { .. } => "; it gets no new requests, because another release serves",
        InstanceGoal::Stop => "; it is being stopped",
    };
    let cause = format!("{} for {since} on {machine}{leaving}", seen.phase.word());
    Some(FoundCause::new(CauseCode::InstanceRuns, instance_object(id), cause).with_subject(&subject))
}
