//! The instances that an app's releases ask for.

use std::collections::BTreeMap;

use gantry_model::{
    App, ExitStatus, InstanceId, InstancePhase, InstanceSpec, MachineName, MachinePlan, Release, Role, RoleName,
};

use crate::input::{PlanningInput, ReportedState};

pub(crate) type MachinePlans = BTreeMap<MachineName, MachinePlan>;
/// Every instance that must run, of every app.
pub(crate) type WantedInstances = BTreeMap<InstanceId, InstanceSpec>;

/// Number of copies of a role.
pub(crate) fn copies(app: &App, name: &RoleName, role: &Role) -> u32 {
    let asked = app.scale.get(name).copied().unwrap_or(role.instances);
    if role.stop_first() { asked.min(1) } else { asked }
}

/// Every service instance of a release.
pub(crate) fn wanted_of<'a>(
    app: &'a App,
    release: &'a Release,
) -> impl Iterator<Item = (InstanceId, InstanceSpec)> + 'a {
    release.roles.iter().filter(|(name, _)| name.is_service()).flat_map(move |(name, role)| {
        (1..=copies(app, name, role)).map(move |index| {
            let id = InstanceId { app: app.name.clone(), release: release.number, role: name.clone(), index };
            (id, spec(app, release, role, false))
        })
    })
}

pub(crate) fn spec(app: &App, release: &Release, role: &Role, once: bool) -> InstanceSpec {
    InstanceSpec {
        image: release.image.clone(),
        commit: release.commit.clone(),
        config: release.config.clone(),
        role: role.clone(),
        once,
        volumes_of: app.volumes_of.clone(),
    }
}

/// Id of a release's release step, if the release has one.
pub(crate) fn release_step(release: &Release) -> Option<InstanceId> {
    let role = release.roles.keys().find(|role| role.is_release_step())?;
    Some(InstanceId { app: release.app.clone(), release: release.number, role: role.clone(), index: 1 })
}

/// Reports whether the release step succeeded, or the release has none.
pub(crate) fn release_step_done(release: &Release, input: &PlanningInput<'_>) -> bool {
    release_step(release).is_none_or(|id| match input.seen(&id) {
        ReportedState::Here(instance) => {
            instance.phase == InstancePhase::Exited && instance.exit.as_ref().is_some_and(ExitStatus::success)
        }
        _ => false,
    })
}
