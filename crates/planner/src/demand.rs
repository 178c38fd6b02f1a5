//! The instances that an app's releases ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{App, ExitStatus, HostName, InstanceId, InstancePhase, InstanceSpec, Release, Role, RoleName};

use crate::input::{PlanningInput, ReportedState};

/// Every instance of the planned apps that must run.
pub(crate) type WantedInstances = BTreeMap<InstanceId, Arc<InstanceSpec>>;

/// Number of copies of a role.
pub(crate) fn copies(app: &App, name: &RoleName, role: &Role) -> u32 {
    let asked = app.scale.get(name).copied().unwrap_or(role.instances);
    if role.stop_first() { asked.min(1) } else { asked }
}

/// The service roles of a release.
fn services(release: &Release) -> impl Iterator<Item = (&RoleName, &Role)> {
    release.roles.iter().filter(|(name, _)| name.is_service())
}

/// Ids of a role's copies.
fn ids_of_role(app: &App, release: &Release, name: &RoleName, role: &Role) -> impl Iterator<Item = InstanceId> + use<> {
    let id = InstanceId { app: app.name.clone(), release: release.number, role: name.clone(), index: 0 };
    (1..=copies(app, name, role)).map(move |index| InstanceId { index, ..id.clone() })
}

/// Ids of every service instance of a release.
pub(crate) fn ids_of(app: &App, release: &Release) -> Vec<InstanceId> {
    services(release).flat_map(|(name, role)| ids_of_role(app, release, name, role)).collect()
}

/// Every service instance of a release, except of the roles that `excepted` names. Copies of a role share their spec.
pub(crate) fn wanted_of(
    app: &App,
    release: &Release,
    domain: &HostName,
    excepted: impl Fn(&RoleName) -> bool,
) -> WantedInstances {
    let roles = services(release).filter(|(name, _)| !excepted(name));
    let copies = roles.flat_map(|(name, role)| {
        let spec = Arc::new(spec(app, release, role, domain, false));
        ids_of_role(app, release, name, role).map(move |id| (id, Arc::clone(&spec)))
    });
    copies.collect()
}

/// The spec of a role's copies.
pub(crate) fn spec(app: &App, release: &Release, role: &Role, domain: &HostName, once: bool) -> InstanceSpec {
    let mut role = role.clone();
    if role.health.path.is_some() {
        // An application may refuse a host name other than its own.
        role.health.host.get_or_insert_with(|| format!("{}.{domain}", app.name));
    }
    InstanceSpec {
        image: release.image.clone(),
        commit: release.commit.clone(),
        config: release.config.clone(),
        role,
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
