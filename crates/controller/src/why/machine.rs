//! Explains faults of the machine that an app runs on.

use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{AppName, Release, TimeSpan};

use super::{DiskSpace, FoundCause, current};
use crate::core::ClusterView;

const CHECK_UP: &str = "check the output of `gantry up` for errors";

/// Reports that no router has sent a report, so requests may get no response.
pub(super) fn silent_router(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let (observed, now) = (&view.observed, view.now);
    let heard = observed.awaits_routers(now) || observed.live_routers(now).next().is_some();
    if heard || !current(view, name).is_some_and(Release::speaks_http) {
        return None;
    }
    let last = observed.routers.values().map(|router| router.seen).max().unwrap_or(observed.began);
    let silent = TimeSpan(now.since(last));
    Some(FoundCause::new(format!("no router has reported for {silent}: requests may get no response; {CHECK_UP}")))
}

/// Reports that the agent of a machine with the app is silent, so the state of its instances is unknown.
pub(super) fn silent_agent(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let current = view.records.apps.get(name)?.current?;
    let mut used = view.records.plan.assignments_of(name).filter(|(_, id, _)| id.slot.release == current);
    used.find_map(|(machine, _, _)| match view.observed.machines.get(machine) {
        None => Some(FoundCause::new(format!("machine {machine} has not reported; {CHECK_UP}"))),
        Some(report) if view.now.since(report.seen) > SILENCE_MILLIS => {
            let silent = TimeSpan(view.now.since(report.seen));
            Some(FoundCause::new(format!(
                "machine {machine} has been silent for {silent}: its agent does not report, so its instances \
                 are neither checked nor restarted; {CHECK_UP}"
            )))
        }
        Some(_) => None,
    })
}

/// Reports that the disk has less free space than the reserve.
pub(super) fn full_disk(disk: DiskSpace) -> Option<FoundCause> {
    let DiskSpace { free, reserve } = disk;
    (free < reserve).then(|| {
        FoundCause::new(format!(
            "instances serve, but the machine's disk has {free} left, less than the reserve of {reserve}: builds, pulls and \
             uploads are refused; `gantry status` lists what uses the space"
        ))
    })
}
