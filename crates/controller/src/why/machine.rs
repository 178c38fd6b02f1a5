//! Explains faults of the machine that an app runs on.

use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{AppName, Span};

use super::{Answer, Disk, current, has_web};
use crate::core::View;

const LOOK_AT_UP: &str = "what `gantry up` prints says what keeps it";

/// Reports that no router has sent a report, so requests may get no response.
pub(super) fn silent_router(view: &View, name: &AppName) -> Option<Answer> {
    let (observed, now) = (&view.observed, view.now);
    let heard = observed.routers_unheard(now) || observed.live_routers(now).next().is_some();
    if heard || !current(view, name).is_some_and(has_web) {
        return None;
    }
    let last = observed.routers.values().map(|router| router.seen).max().unwrap_or(observed.began);
    let silent = Span(now.since(last));
    Some(Answer::new(format!("no router has reported for {silent}: requests may get no answer; {LOOK_AT_UP}")))
}

/// Reports that the agent of a machine with the app is silent, so the state of its instances is unknown.
pub(super) fn silent_agent(view: &View, name: &AppName) -> Option<Answer> {
    let current = view.mirror.apps.get(name)?.current?;
    let mut used = view.mirror.plan.assignments().filter(|(_, id, _)| &id.app == name && id.release == current);
    used.find_map(|(machine, _, _)| match view.observed.machines.get(machine) {
        None => Some(Answer::new(format!("machine {machine} has not reported; {LOOK_AT_UP}"))),
        Some(report) if view.now.since(report.seen) > SILENCE_MILLIS => {
            let silent = Span(view.now.since(report.seen));
            Some(Answer::new(format!(
                "machine {machine} has been silent for {silent}: its agent does not report, so what runs there is \
                 neither checked nor started again; {LOOK_AT_UP}"
            )))
        }
        Some(_) => None,
    })
}

/// Reports that the disk has less free space than the reserve.
pub(super) fn full_disk(disk: Disk) -> Option<Answer> {
    let Disk { free, reserve } = disk;
    (free < reserve).then(|| {
        Answer::new(format!(
            "it serves, but the machine's disk has {free} left, less than the {reserve} of --reserve: builds, pulls and \
             uploads are refused; `gantry status` tells what takes the space"
        ))
    })
}
