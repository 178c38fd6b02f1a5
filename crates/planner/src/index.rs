//! The index over the plan and the reports: which machines have instances of an app. The server's core keeps the index up
//! to date, so that planning one app looks at that app's machines alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use gantry_model::{AllocationId, AppName, MachineName, ObservedCluster, Plan};
use gantry_placement::MachineReadiness;

/// The machines of each app, by plan and by report, and the machines that are not ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterIndex {
    assigned: AppMachines,
    reported: AppMachines,
    unready: BTreeMap<MachineName, MachineReadiness>,
    /// Lost machines that have ended their single copies.
    fenced: BTreeSet<MachineName>,
}

type AppMachines = BTreeMap<AppName, BTreeSet<MachineName>>;

impl ClusterIndex {
    /// Builds the index.
    #[must_use]
    pub fn of(plan: &Plan, observed: &ObservedCluster) -> Self {
        let mut index = Self::default();
        for (machine, part) in &plan.machines {
            index.assigned(machine, [], part.instances.keys());
        }
        for (machine, report) in &observed.machines {
            index.reported(machine, [], report.instances.keys());
        }
        index
    }

    /// Takes over a changed part of a machine: the sorted instances before and after.
    pub fn assigned<'a>(
        &mut self,
        machine: &MachineName,
        before: impl IntoIterator<Item = &'a AllocationId>,
        after: impl IntoIterator<Item = &'a AllocationId>,
    ) {
        replace(&mut self.assigned, machine, &apps_of(before), &apps_of(after));
    }

    /// Takes over a machine's report: the sorted instances before and after.
    pub fn reported<'a>(
        &mut self,
        machine: &MachineName,
        before: impl IntoIterator<Item = &'a AllocationId>,
        after: impl IntoIterator<Item = &'a AllocationId>,
    ) {
        replace(&mut self.reported, machine, &apps_of(before), &apps_of(after));
    }

    /// Updates whether a machine takes new copies.
    pub fn machine_is(&mut self, machine: &MachineName, readiness: MachineReadiness) {
        match readiness {
            MachineReadiness::Ready => drop(self.unready.remove(machine)),
            _ => drop(self.unready.insert(machine.clone(), readiness)),
        }
    }

    /// Takes over whether a machine is lost and has ended its single copies.
    pub fn machine_is_fenced(&mut self, machine: &MachineName, is_fenced: bool) {
        match is_fenced {
            true => drop(self.fenced.insert(machine.clone())),
            false => drop(self.fenced.remove(machine)),
        }
    }

    /// Reports whether a machine is lost and has ended its single copies.
    #[must_use]
    pub fn is_fenced(&self, machine: &MachineName) -> bool {
        self.fenced.contains(machine)
    }

    /// Returns the readiness of a machine for new copies.
    #[must_use]
    pub fn readiness(&self, machine: &MachineName) -> MachineReadiness {
        self.unready.get(machine).copied().unwrap_or_default()
    }

    /// The lost machines.
    pub(crate) fn lost(&self) -> impl Iterator<Item = &MachineName> {
        let is_lost = |(_, readiness): &(&MachineName, &MachineReadiness)| **readiness == MachineReadiness::Lost;
        self.unready.iter().filter(is_lost).map(|(machine, _)| machine)
    }

    /// The machines with assigned instances of an app.
    pub(crate) fn assigned_to(&self, app: &AppName) -> impl Iterator<Item = &MachineName> {
        self.assigned.get(app).into_iter().flatten()
    }

    /// The machines that report instances of an app.
    pub(crate) fn reported_by(&self, app: &AppName) -> impl Iterator<Item = &MachineName> {
        self.reported.get(app).into_iter().flatten()
    }

    /// The app with assigned instances after another, or the first.
    #[must_use]
    pub fn assigned_app_after(&self, app: Option<&AppName>) -> Option<&AppName> {
        let begin: Bound<&AppName> = app.map_or(Bound::Unbounded, Bound::Excluded);
        let end: Bound<&AppName> = Bound::Unbounded;
        self.assigned.range::<AppName, _>((begin, end)).next().map(|(app, _)| app)
    }

    /// Number of apps with assigned instances.
    #[must_use]
    pub fn assigned_count(&self) -> usize {
        self.assigned.len()
    }

    /// All apps with assigned instances.
    pub fn assigned_apps(&self) -> impl Iterator<Item = &AppName> {
        self.assigned.keys()
    }
}

/// The apps of sorted instances, each once.
fn apps_of<'a>(ids: impl IntoIterator<Item = &'a AllocationId>) -> Vec<&'a AppName> {
    let mut apps: Vec<&AppName> = ids.into_iter().map(|id| &id.slot.app).collect();
    apps.dedup();
    apps
}

fn replace(index: &mut AppMachines, machine: &MachineName, before: &[&AppName], after: &[&AppName]) {
    if before == after {
        return;
    }
    for app in before.iter().filter(|app| after.binary_search(app).is_err()) {
        if let Some(machines) = index.get_mut(*app) {
            machines.remove(machine);
            if machines.is_empty() {
                index.remove(*app);
            }
        }
    }
    for app in after.iter().filter(|app| before.binary_search(app).is_err()) {
        index.entry((*app).clone()).or_default().insert(machine.clone());
    }
}
