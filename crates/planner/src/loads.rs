//! The loads of the machines: what the plan assigns to each, as placement sees it. The server's core keeps the loads up to
//! date, so that placing a copy looks at few machines and at no other copy.

use gantry_model::observed::differences;
use gantry_model::{MachineName, MachinePlan, PlacementRefusal, Plan, Role, Slot};
use gantry_placement::{
    MachineReadiness, PinnedMachine, PlacedRole, PlacementDemand, PlacementIndex, PlacementMachine, Resources,
};

use crate::DesiredApp;

/// The machines with their loads.
#[derive(Debug, Clone, Default)]
pub struct MachineLoads {
    pub(crate) index: PlacementIndex,
}

impl MachineLoads {
    /// Builds the loads of machines from a plan.
    #[must_use]
    pub fn of(machines: impl IntoIterator<Item = PlacementMachine>, plan: &Plan) -> Self {
        let mut loads = Self::default();
        machines.into_iter().for_each(|machine| loads.put_machine(machine));
        let empty = MachinePlan::default();
        plan.machines.iter().for_each(|(machine, part)| loads.assigned(machine, &empty, part));
        loads
    }

    /// Takes over a machine that is new or changed.
    pub fn put_machine(&mut self, machine: PlacementMachine) {
        self.index.put_machine(machine);
    }

    /// Updates the loads with a changed part of a machine.
    pub fn assigned(&mut self, machine: &MachineName, before: &MachinePlan, after: &MachinePlan) {
        if self.index.machine(machine).is_none() {
            self.put_machine(unregistered(machine.clone(), MachineReadiness::Joining));
        }
        differences(&before.instances, &after.instances, |id, old, new| {
            // Most differences are of goals alone.
            if let (Some(old), Some(new)) = (old, new)
                && old.spec.role.placement == new.spec.role.placement
            {
                return;
            }
            if let Some(old) = old {
                self.index.vacate(machine, &demand(&id.slot, &old.spec.role));
            }
            if let Some(new) = new {
                self.index.occupy(machine, &demand(&id.slot, &new.spec.role));
            }
        });
    }

    /// The machines that have the data of a role's volumes: those of the last copies, of the app or of the app before its
    /// rename. The data of a removed machine is gone.
    pub(crate) fn data(&self, role: &Role, apps: [Option<&DesiredApp>; 2]) -> Vec<PinnedMachine> {
        let is_there = |machine: &&MachineName| {
            self.readiness(machine).is_some_and(|readiness| readiness != MachineReadiness::Removed)
        };
        let known = |volume: &String| {
            let mut machines = apps.into_iter().flatten().filter_map(|app| app.app.data.get(volume));
            machines.find(is_there).cloned()
        };
        role.volumes.keys().filter_map(known).map(PinnedMachine::HasData).collect()
    }

    /// Reason why no machine takes a copy; none if a machine does.
    pub(crate) fn refusal(&self, demand: &PlacementDemand) -> Option<PlacementRefusal> {
        let refusal = self.index.explain(demand);
        (refusal.machines() as usize == self.index.present()).then_some(refusal)
    }

    /// Returns the readiness of a machine for new copies; none for an unknown machine.
    #[must_use]
    pub fn readiness(&self, machine: &MachineName) -> Option<MachineReadiness> {
        self.index.readiness(machine)
    }
}

/// A machine without a record: its capacity is unknown, so it takes copies without a reservation only.
#[must_use]
pub fn unregistered(name: MachineName, readiness: MachineReadiness) -> PlacementMachine {
    let (capacity, reserve) = (Resources::default(), Resources::default());
    PlacementMachine { name, capacity, reserve, architecture: None, labels: Default::default(), protocol: 0, readiness }
}

/// Demand of a copy on its machine, by the rules of its role.
pub(crate) fn demand(slot: &Slot, settings: &Role) -> PlacementDemand {
    let role = PlacedRole { app: slot.app.clone(), role: slot.role.clone(), release: slot.release };
    let mut demand = PlacementDemand::of_rules(role, &settings.placement);
    demand.shape.protocol = settings.needed_protocol();
    demand
}
