//! Events from machine reports: exits of instances, and limits that instances reached.
//!
//! The audit trail is bounded, and people's changes must stay in it. If an instance exits again and again, only its
//! first, second, fourth, eighth … exit becomes an event.

use gantry_api::types::{Event, MachineReport};
use gantry_model::reason::{ExitText, LimitText};
use gantry_model::{InstanceGoal, InstanceId, Moment, ObservedInstance, ObservedMachine, StopReason};

use crate::records::{RecordChange, RecordIndex, StoreRecord};

/// Most events from one report.
const EVENTS_OF_REPORT: usize = 20;

/// Returns the events of a report, given the report before. A machine's first report has no events, because its news
/// may be old.
pub(crate) fn events_of_report(
    records: &RecordIndex,
    before: Option<&ObservedMachine>,
    report: &MachineReport,
    now: Moment,
) -> Vec<RecordChange> {
    let Some(before) = before else { return Vec::new() };
    let is_to_run = |id: &InstanceId| {
        let mut assigned = records.plan.assignments().filter(|(_, other, _)| *other == id);
        assigned.any(|(_, _, assignment)| assignment.goal == InstanceGoal::Run && !assignment.spec.once)
    };
    let news = report.instances.iter().filter_map(|(id, seen)| {
        let what = news(before.instances.get(id), seen)?;
        Some((id, format!("{id} {what}")))
    });
    let news = news.filter(|(id, _)| is_to_run(id)).take(EVENTS_OF_REPORT);
    (records.next_event()..)
        .zip(news)
        .map(|(number, (id, what))| {
            let by = "gantry".to_owned();
            StoreRecord::Event(Event { number, at: now, by, app: Some(id.app.clone()), what }).into()
        })
        .collect()
}

/// Describes the news of an instance in words.
fn news(before: Option<&ObservedInstance>, seen: &ObservedInstance) -> Option<String> {
    let before = before?;
    let ended = seen.exit.as_ref().filter(|exit| before.exit.as_ref() != Some(exit));
    let ended = ended.filter(|exit| exit.stopped != Some(StopReason::Planned) && (seen.restarts + 1).is_power_of_two());
    let hit = seen.limit_hits.iter().find(|hit| before.limit_hits.iter().all(|known| known.limit != hit.limit));
    ended.map(|exit| ExitText(exit).to_string()).or_else(|| hit.map(|hit| LimitText(hit.limit).to_string()))
}
