//! Apps and instances whose next step depends on time: deadlines of deploys, and drains of retired instances.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{AllocationId, AppName, InstanceGoal, MachineName, MachinePlan};

use gantry_records::RecordIndex;

/// Deadlines and timeouts in progress. Without one, a tick plans nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Apps with an open deploy, and apps that are being destroyed.
    busy: BTreeSet<AppName>,
    /// Retired instances: out of the routes, and finishing their requests.
    retiring: BTreeMap<MachineName, BTreeSet<AllocationId>>,
}

impl Activity {
    /// Derives the activity from all records.
    pub(crate) fn of(records: &RecordIndex) -> Self {
        let mut activity = Self::default();
        records.apps.keys().for_each(|app| activity.follow_app(records, app));
        records.plan.machines.iter().for_each(|(machine, part)| activity.follow_machine(machine, part));
        activity
    }

    /// Takes over a change of an app or of its deploys.
    pub(crate) fn follow_app(&mut self, records: &RecordIndex, app: &AppName) {
        let destroying = records.apps.get(app).is_some_and(|app| app.destroying);
        if destroying || records.open_deploys(app).next().is_some() {
            self.busy.insert(app.clone());
        } else {
            self.busy.remove(app);
        }
    }

    /// Takes over a change of a machine's part of the plan.
    pub(crate) fn follow_machine(&mut self, machine: &MachineName, part: &MachinePlan) {
        let retires = |goal| matches!(goal, InstanceGoal::Retire { .. });
        let ids: BTreeSet<AllocationId> =
            part.instances.iter().filter(|(_, a)| retires(a.goal)).map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            self.retiring.remove(machine);
        } else {
            self.retiring.insert(machine.clone(), ids);
        }
    }

    /// Returns whether the requests of an instance decide when the instance may stop.
    pub(crate) fn is_retiring(&self, id: &AllocationId) -> bool {
        self.retiring.values().any(|ids| ids.contains(id))
    }

    /// Returns the apps for which the passing of time matters.
    pub(crate) fn apps(&self) -> BTreeSet<AppName> {
        let retiring = self.retiring.values().flatten().map(|id| &id.slot.app);
        self.busy.iter().chain(retiring).cloned().collect()
    }
}
