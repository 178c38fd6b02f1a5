//! The instances that an app's releases ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::{
    App, ExitStatus, HostName, InstanceGoal, InstancePhase, InstanceSpec, MachineName, Release, Role, RoleName, Slot,
};
use gantry_placement::MachineReadiness;

use crate::input::{PlacedAllocation, PlanningInput, ReportedState};
use crate::loads::{MachineLoads, demand};

/// Every slot of the planned apps whose instance must run.
pub(crate) type DesiredSlots = BTreeMap<Slot, Arc<InstanceSpec>>;

/// Number of copies of a role.
pub(crate) fn copies(app: &App, name: &RoleName, role: &Role) -> u32 {
    let asked = app.scale.get(name).copied().unwrap_or(role.instances);
    if role.stop_first() { asked.min(1) } else { asked }
}

/// Everything that decides how many copies a role has.
#[derive(Clone, Copy)]
pub(crate) struct CopyCount<'c, 'a> {
    pub(crate) input: &'c PlanningInput<'a>,
    pub(crate) loads: &'c MachineLoads,
}

impl CopyCount<'_, '_> {
    /// Slots of a role's copies.
    fn slots_of_role(self, app: &App, release: &Release, name: &RoleName, role: &Role) -> Vec<Slot> {
        let slot = Slot { app: app.name.clone(), release: release.number, role: name.clone(), index: 0 };
        let indices = match copies(app, name, role) {
            1.. if role.placement.global => self.global_indices(&slot, role),
            copies => (1..=copies).collect(),
        };
        indices.into_iter().map(|index| Slot { index, ..slot.clone() }).collect()
    }

    /// Indices of the copies of a role with one copy on every machine that fits: those that stay on their machines, and a
    /// free one for each machine without a copy.
    fn global_indices(self, of: &Slot, role: &Role) -> Vec<u32> {
        use MachineReadiness::{Draining, Lost, Removed};
        let placed = || self.input.allocations_of_role(of);
        let stays = |placed: &PlacedAllocation<'_>| {
            let is_closed = matches!(self.input.index.readiness(placed.machine), Draining | Lost | Removed);
            placed.assignment.goal != InstanceGoal::Stop && !is_closed
        };
        let staying = || placed().filter(stays);
        let machines: BTreeSet<&MachineName> = staying().map(|placed| placed.machine).collect();
        let used: BTreeSet<u32> = placed().map(|placed| placed.id.slot.index).collect();
        let open = self.loads.index.machines_for(&demand(of, role));
        let missing = open.into_iter().filter(|machine| !machines.contains(machine)).count();
        let free = (1..).filter(|index| !used.contains(index)).take(missing);
        staying().map(|placed| placed.id.slot.index).chain(free).collect()
    }

    /// Slots of every service instance of a release.
    pub(crate) fn slots_of(self, app: &App, release: &Release) -> Vec<Slot> {
        release.services().flat_map(|(name, role)| self.slots_of_role(app, release, name, role)).collect()
    }
}

/// Every service instance of a release, except of the roles that `excepted` names. Copies of a role share their spec.
pub(crate) fn slots_of_release(
    app: &App,
    release: &Release,
    domain: &HostName,
    excepted: impl Fn(&RoleName) -> bool,
    count: CopyCount<'_, '_>,
) -> DesiredSlots {
    let roles = release.services().filter(|(name, _)| !excepted(name));
    let copies = roles.flat_map(|(name, role)| {
        let spec = Arc::new(spec(app, release, role, domain));
        count.slots_of_role(app, release, name, role).into_iter().map(move |slot| (slot, Arc::clone(&spec)))
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
    release_step(release).is_none_or(|slot| match input.reported_state(&slot) {
        ReportedState::Here(instance) => {
            instance.phase == InstancePhase::Exited && instance.exit.as_ref().is_some_and(ExitStatus::success)
        }
        _ => false,
    })
}
