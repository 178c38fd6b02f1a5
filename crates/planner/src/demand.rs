//! The instances that an app's releases ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{App, ExitStatus, HostName, InstancePhase, InstanceSpec, Release, Role, RoleName, Slot};

use crate::input::{PlanningInput, ReportedState};

/// Every slot of the planned apps whose instance must run.
pub(crate) type WantedSlots = BTreeMap<Slot, Arc<InstanceSpec>>;

/// Number of copies of a role.
pub(crate) fn copies(app: &App, name: &RoleName, role: &Role) -> u32 {
    let asked = app.scale.get(name).copied().unwrap_or(role.instances);
    if role.stop_first() { asked.min(1) } else { asked }
}

/// Slots of a role's copies.
fn slots_of_role(app: &App, release: &Release, name: &RoleName, role: &Role) -> impl Iterator<Item = Slot> + use<> {
    let slot = Slot { app: app.name.clone(), release: release.number, role: name.clone(), index: 0 };
    (1..=copies(app, name, role)).map(move |index| Slot { index, ..slot.clone() })
}

/// Slots of every service instance of a release.
pub(crate) fn slots_of(app: &App, release: &Release) -> Vec<Slot> {
    release.services().flat_map(|(name, role)| slots_of_role(app, release, name, role)).collect()
}

/// Every service instance of a release, except of the roles that `excepted` names. Copies of a role share their spec.
pub(crate) fn wanted_of(
    app: &App,
    release: &Release,
    domain: &HostName,
    excepted: impl Fn(&RoleName) -> bool,
) -> WantedSlots {
    let roles = release.services().filter(|(name, _)| !excepted(name));
    let copies = roles.flat_map(|(name, role)| {
        let spec = Arc::new(spec(app, release, role, domain));
        slots_of_role(app, release, name, role).map(move |slot| (slot, Arc::clone(&spec)))
    });
    copies.collect()
}

/// The spec of a role's copies.
pub(crate) fn spec(app: &App, release: &Release, role: &Role, domain: &HostName) -> InstanceSpec {
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
        volumes_of: app.volumes_of.clone(),
    }
}

/// Slot of a release's release step, if the release has one.
pub(crate) fn release_step(release: &Release) -> Option<Slot> {
    let (role, _) = release.release_step()?;
    Some(Slot { app: release.app.clone(), release: release.number, role: role.clone(), index: 1 })
}

/// Reports whether the release step succeeded, or the release has none.
pub(crate) fn release_step_done(release: &Release, input: &PlanningInput<'_>) -> bool {
    release_step(release).is_none_or(|slot| match input.seen(&slot) {
        ReportedState::Here(instance) => {
            instance.phase == InstancePhase::Exited && instance.exit.as_ref().is_some_and(ExitStatus::success)
        }
        _ => false,
    })
}
