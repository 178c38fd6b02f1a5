//! Events that Gantry itself records: progress of deploys, exits of instances, jumps of the clock.
//!
//! The audit trail is bounded, and people's changes must stay in it. If an instance exits again and again, only its
//! first, second, fourth, eighth … exit becomes an event.

use gantry_model::exit_text::{ExitText, LimitText};
use gantry_model::observed::InstanceChange;
use gantry_model::{
    AllocationId, AppName, AuditAction, Deploy, DeployState, ExitStatus, InstanceGoal, MachineName, Moment,
    ObservedInstance, Reason, RoleLimit, StopReason,
};
use gantry_records::{EventRecord, RecordChange, RecordIndex, StoreRecord};

/// Actor of Gantry's own events.
pub(crate) const GANTRY: &str = "gantry";

/// Maximum number of events from one report.
const EVENTS_OF_REPORT: usize = 20;

/// Numbers the events of Gantry's own actions.
fn numbered(
    records: &RecordIndex,
    now: Moment,
    actions: impl Iterator<Item = (AppName, AuditAction)>,
) -> Vec<RecordChange> {
    let event = |(number, (app, action))| EventRecord::new(number, now, GANTRY, Some(app), action);
    (records.next_event()..).zip(actions).map(|entry| StoreRecord::Event(event(entry)).into()).collect()
}

/// Returns the events for the state transitions of changed deploys.
#[must_use]
pub fn events_of_deploys(records: &RecordIndex, changed: &[Deploy], now: Moment) -> Vec<RecordChange> {
    use DeployState::{Done, Promoting, Reverted, Superseded};
    let before = |deploy: &Deploy| records.deploys.get(&deploy.app)?.get(&deploy.number).map(|known| known.state);
    let is_news = |deploy: &&Deploy| {
        matches!(deploy.state, Promoting | Done | Reverted | Superseded) && before(deploy) != Some(deploy.state)
    };
    let actions = changed.iter().filter(is_news).map(|deploy| {
        let action = AuditAction::DeployProgressed {
            deploy: deploy.number,
            release: deploy.release,
            state: deploy.state,
            outcome: deploy.outcome(),
            served_millis: deploy.served_before_revert(),
            reason: deploy.reason.as_ref().map(ToString::to_string),
            failure: deploy.reason.as_ref().map(Reason::failure),
        };
        (deploy.app.clone(), action)
    });
    numbered(records, now, actions)
}

/// Returns the events of a machine's report, given what changed since the report before. A machine's first report has no
/// events, because its news may be old.
#[must_use]
pub fn events_of_report(
    records: &RecordIndex,
    machine: &MachineName,
    changes: &[InstanceChange<'_>],
    now: Moment,
) -> Vec<RecordChange> {
    let is_to_run = |id: &AllocationId| {
        let assigned = records.plan.machines.get(machine).and_then(|part| part.instances.get(id));
        assigned.is_some_and(|assignment| assignment.goal == InstanceGoal::Run && assignment.spec.role.is_service())
    };
    let news = changes.iter().filter_map(|(id, before, seen)| Some((*id, phase_change(*before, (*seen)?)?)));
    let news = news.filter(|(id, _)| is_to_run(id)).take(EVENTS_OF_REPORT);
    let actions = news.map(|(id, news)| (id.slot.app.clone(), news.action(id)));
    numbered(records, now, actions)
}

/// News of an instance.
enum InstanceNews<'a> {
    Exited(&'a ExitStatus),
    ReachedLimit(RoleLimit),
}

impl InstanceNews<'_> {
    fn action(&self, id: &AllocationId) -> AuditAction {
        let instance = id.clone();
        match *self {
            Self::Exited(exit) => {
                let (news, exit) = (ExitText(exit).to_string(), Some(exit.into()));
                AuditAction::InstanceReported { instance, news, exit, limit: None }
            }
            Self::ReachedLimit(limit) => {
                let news = LimitText(limit).to_string();
                AuditAction::InstanceReported { instance, news, exit: None, limit: Some(limit) }
            }
        }
    }
}

/// Returns the event of an instance's change, if the change is worth an event.
fn phase_change<'a>(before: Option<&ObservedInstance>, seen: &'a ObservedInstance) -> Option<InstanceNews<'a>> {
    let before = before?;
    let ended = seen.exit.as_ref().filter(|exit| before.exit.as_ref() != Some(exit));
    let ended = ended.filter(|exit| exit.stopped != Some(StopReason::Planned) && (seen.restarts + 1).is_power_of_two());
    let hit = seen.limit_hits.iter().find(|hit| before.limit_hits.iter().all(|known| known.limit != hit.limit));
    ended.map(InstanceNews::Exited).or_else(|| hit.map(|hit| InstanceNews::ReachedLimit(hit.limit)))
}
