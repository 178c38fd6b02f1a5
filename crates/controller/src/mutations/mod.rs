//! Mutations: decisions on every change that a person or a build asks for. A mutation is a pure function of the records
//! and returns the changes to write. Mutations do not plan; the planner runs once the changes are written.

mod apps;
mod builds;
mod config;
mod deploys;
mod observations;
mod rename;
mod running;
#[cfg(test)]
mod tests;

use gantry_api::Problem;
use gantry_api::types::Event;
use gantry_model::app::Rename;
use gantry_model::clock::{ClockJump, TOLERANCE};
use gantry_model::{App, AppName, Deploy, DeployState, Moment};
use gantry_planner::PlanDecision;

use crate::records::{RecordChange, RecordIndex, StoreRecord};

pub(crate) use apps::{change_base, change_branch, change_hosts, create_app, destroy_app, remove_base};
pub(crate) use builds::{Made, build_failed, release_made};
pub(crate) use config::{Requested, change_config, requested_config};
pub(crate) use deploys::{AncestorQuestion, PushBase, check_history, order, rollback_target, start_deploy};
pub(crate) use observations::events_of_report;
pub(crate) use rename::{DecidedRename, begin_rename, decided_renames, finish_rename, undo_rename};
pub(crate) use running::{change_policy, change_scale, change_traffic};

/// The changes to write and a value for the caller, or a refusal.
type Changes<T> = Result<(Vec<RecordChange>, T), Problem>;

/// Returns an app, unless the app is missing or being destroyed.
pub(crate) fn app<'a>(records: &'a RecordIndex, name: &AppName) -> Result<&'a App, Problem> {
    match records.apps.get(name) {
        Some(app) if app.destroying => Err(Problem::conflict(format!("app {name} is being destroyed"))),
        Some(app) => Ok(app),
        None => Err(Problem::missing(format!("there is no app {name}")).hint("`gantry app ls` lists them")),
    }
}

/// Returns an app that may be changed: [`app`], unless the app is being renamed.
pub(crate) fn changeable<'a>(records: &'a RecordIndex, name: &AppName) -> Result<&'a App, Problem> {
    let app = app(records, name)?;
    let what = match &app.rename {
        Some(Rename::To { name: to }) => format!("{name} is being renamed to {to}"),
        Some(Rename::From { name: from }) => format!("{from} is being renamed to {name}"),
        None => return Ok(app),
    };
    Err(Problem::conflict(what).hint("try again once the rename is over; `gantry events` says when"))
}

/// Returns a new event for the audit trail.
pub(crate) fn event(records: &RecordIndex, now: Moment, by: &str, app: Option<&AppName>, what: String) -> RecordChange {
    StoreRecord::Event(Event { number: records.next_event(), at: now, by: by.to_owned(), app: app.cloned(), what })
        .into()
}

/// Age up to which a finished deploy's stamps follow a jump of the wall clock, in milliseconds. Decisions right after a
/// deploy read its stamps.
const LATELY: u64 = 60_000;

/// Moves all stamps from which durations are counted by a jump of the wall clock, so that no duration changes. Also
/// adds an event about the jump. `now` is the wall clock's time after the jump.
pub(crate) fn clock_jumped(records: &RecordIndex, jump: ClockJump, now: Moment) -> Vec<RecordChange> {
    let before = now.moved(jump.by.saturating_neg());
    let counts = |deploy: &&Deploy| !deploy.state.is_final() || before.since(deploy.entered) < LATELY;
    let deploys = records.deploys.values().flat_map(|deploys| deploys.values()).map(AsRef::as_ref).filter(counts);
    let deploys = deploys.map(|deploy| {
        let mut moved = deploy.clone();
        moved.move_stamps(jump.by);
        StoreRecord::Deploy(moved).into()
    });
    let machines = records.plan.machines.iter().filter_map(|(machine, part)| {
        let mut moved = part.clone();
        moved.move_stamps(jump.by);
        (moved != *part).then(|| StoreRecord::Machine(machine.clone(), moved).into())
    });
    let told = event(records, now, "gantry", None, format!("{jump}; deploys and leases count the time by themselves"));
    deploys.chain(machines).chain([told]).collect()
}

/// Detects that the clock went back while no server ran: the newest event lies in the future.
pub(crate) fn clock_went_back(records: &RecordIndex, now: Moment) -> Option<ClockJump> {
    let newest = records.events.values().next_back()?.at;
    let ahead = newest.since(now);
    let by = i64::try_from(ahead).ok()?.saturating_neg();
    (ahead >= TOLERANCE).then_some(ClockJump { at: now, by, suspended: 0 })
}

/// Returns the events for the deploy transitions in a planner's decision.
pub(crate) fn events_of(records: &RecordIndex, decision: &PlanDecision, now: Moment) -> Vec<RecordChange> {
    let told = |state: DeployState| {
        matches!(state, DeployState::Promoting | DeployState::Done | DeployState::Reverted | DeployState::Superseded)
    };
    let before = |deploy: &Deploy| records.deploys.get(&deploy.app)?.get(&deploy.number).map(|known| known.state);
    let entered = |deploy: &&Deploy| told(deploy.state) && before(deploy) != Some(deploy.state);
    let lines = decision.deploys.iter().filter(entered).map(|deploy| {
        let why = deploy.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let release = deploy.release.map(|release| format!(" ({release})")).unwrap_or_default();
        (deploy, format!("deploy {}{release} {}{why}", deploy.number, deploy.outcome()))
    });
    (records.next_event()..)
        .zip(lines)
        .map(|(number, (deploy, what))| {
            let event = Event { number, at: now, by: "gantry".to_owned(), app: Some(deploy.app.clone()), what };
            StoreRecord::Event(event).into()
        })
        .collect()
}
