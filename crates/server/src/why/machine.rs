//! Explains faults of the machine that an app runs on.

use gantry_api::types::{CauseCode, CauseObject, ObjectKind};
use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{AllocationId, AppName, InstanceGoal, Reason, Release, TimeSpan};

use super::{DiskSpace, FoundCause, app_object, current, instance_object, machine_object};
use crate::core::ClusterView;

const CHECK_UP: &str = "check the output of `gantry up` for errors";

/// Reports that no router has sent a report, so requests may get no response.
pub(super) fn silent_router(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let (observed, now) = (&view.observed, view.now);
    let routers_report = observed.awaits_routers(now) || observed.live_routers(now).next().is_some();
    if routers_report || !current(view, name).is_some_and(Release::speaks_http) {
        return None;
    }
    let last = observed.routers.values().map(|router| router.seen).max().unwrap_or(observed.began);
    let silent = TimeSpan(now.since(last));
    let cause = format!("no router has reported for {silent}: requests may get no response");
    Some(FoundCause::new(CauseCode::NoRouter, cluster(), cause).remedy(CHECK_UP))
}

/// Reports that the agent of a machine with the app is silent, so the state of its instances is unknown.
pub(super) fn silent_agent(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let current = view.records.apps.get(name)?.current?;
    let is_used = |id: &AllocationId, goal| id.slot.release == current && goal == InstanceGoal::Run;
    let placed = view.records.plan.assignments_of(name);
    let mut used = placed.filter(|(_, id, assignment)| is_used(id, assignment.goal));
    let is_silent = |machine, cause| {
        Some(FoundCause::new(CauseCode::MachineSilent, machine_object(machine), cause).remedy(CHECK_UP))
    };
    used.find_map(|(machine, _, _)| match view.observed.machines.get(machine) {
        None => is_silent(machine, format!("machine {machine} has not reported")),
        Some(report) if view.now.since(report.seen) > SILENCE_MILLIS => {
            let silent = TimeSpan(view.now.since(report.seen));
            let cause = format!(
                "machine {machine} has been silent for {silent}: its agent does not report, so its instances \
                 are neither checked nor restarted"
            );
            is_silent(machine, cause)
        }
        Some(_) => None,
    })
}

/// Reports a copy that no machine takes.
pub(super) fn without_room(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    waits_for(view, name, |reason| matches!(reason, Reason::NoRoom { .. }))
}

/// Reports a copy that should leave its machine and cannot.
pub(super) fn unmoved(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let is_such = |reason: &Reason| {
        matches!(reason, Reason::CannotLeave { .. } | Reason::CannotMove { .. } | Reason::DataStays { .. })
    };
    waits_for(view, name, is_such)
}

/// Returns a line, with the code of the cause, for each copy of an app that fails again and again and that no other machine
/// takes.
pub(super) fn failing_in_place<'a>(
    view: &'a ClusterView,
    app: &AppName,
) -> impl Iterator<Item = (&'a AllocationId, String)> {
    let waits = view.report.waits.get(app).into_iter().flatten();
    waits.filter_map(|reason| match reason {
        Reason::CannotMove { instance, .. } => {
            let code = CauseCode::from(reason).name().unwrap_or_default();
            Some((instance, format!("{reason} [{code}]")))
        }
        _ => None,
    })
}

fn waits_for(view: &ClusterView, name: &AppName, is_wanted: impl Fn(&Reason) -> bool) -> Option<FoundCause> {
    let reason = view.report.waits.get(name)?.iter().find(|reason| is_wanted(reason))?;
    let object = match reason {
        Reason::CannotLeave { instance, .. }
        | Reason::CannotMove { instance, .. }
        | Reason::DataStays { instance, .. } => instance_object(instance),
        _ => app_object(name),
    };
    Some(FoundCause::of_reason(object, reason))
}

/// Reports that the disk has less free space than the reserve.
pub(super) fn full_disk(disk: DiskSpace) -> Option<FoundCause> {
    let DiskSpace { free, reserve } = disk;
    (free < reserve).then(|| {
        let cause = format!(
            "instances serve, but the machine's disk has {free} left, less than the reserve of {reserve}: builds, pulls and \
             uploads are refused"
        );
        FoundCause::new(CauseCode::DiskFull, cluster(), cause).remedy("`gantry status` lists what uses the space")
    })
}

fn cluster() -> CauseObject {
    CauseObject::new(ObjectKind::Cluster, "")
}
