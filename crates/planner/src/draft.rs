//! The machines' parts of the plan while they are planned: a copy of each part that changes, and the previous part of
//! every other machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::{
    AllocationId, AllocationNumbers, AppName, Assignment, InstanceGoal, InstanceSpec, MachineName, MachinePlan,
    PlacementRefusal, Slot,
};
use gantry_placement::PlacementDemand;

use crate::input::PlanningInput;
use crate::loads::MachineLoads;

/// The parts under way.
pub(crate) struct DraftParts<'a> {
    input: &'a PlanningInput<'a>,
    parts: BTreeMap<MachineName, MachinePlan>,
    /// The numbers of allocations that this pass places.
    numbers: BTreeMap<AppName, AllocationNumbers>,
    /// Machines that got an instance of an app in this pass.
    placed: BTreeMap<AppName, BTreeSet<MachineName>>,
    /// The loads of the machines, with the copies of this pass.
    pub(crate) loads: &'a mut MachineLoads,
    /// The copies of this pass, to be taken out of the loads at its end: the plan may not be written.
    added: Vec<(MachineName, PlacementDemand)>,
}

impl<'a> DraftParts<'a> {
    pub(crate) fn new(input: &'a PlanningInput<'a>, loads: &'a mut MachineLoads) -> Self {
        let (parts, numbers, placed) = Default::default();
        Self { input, parts, numbers, placed, loads, added: Vec::new() }
    }

    fn part(&self, machine: &MachineName) -> Option<&MachinePlan> {
        self.parts.get(machine).or_else(|| self.input.previous.machines.get(machine).map(AsRef::as_ref))
    }

    fn edit(&mut self, machine: &MachineName) -> &mut MachinePlan {
        let previous = &self.input.previous.machines;
        let copy = || previous.get(machine).map(|part| (**part).clone()).unwrap_or_default();
        self.parts.entry(machine.clone()).or_insert_with(copy)
    }

    /// The machines with assignments of an app, in order.
    fn machines_of(&self, app: &AppName) -> BTreeSet<&MachineName> {
        self.input.index.assigned_to(app).chain(self.placed.get(app).into_iter().flatten()).collect()
    }

    /// The assignments of an app, in the order of the machines.
    pub(crate) fn of_app<'s>(&'s self, app: &'s AppName) -> Vec<(&'s MachineName, &'s AllocationId, &'s Assignment)> {
        let parts = self.machines_of(app).into_iter().filter_map(|machine| Some((machine, self.part(machine)?)));
        parts.flat_map(|(machine, part)| part.of_app(app).map(move |(id, assigned)| (machine, id, assigned))).collect()
    }

    /// Sets the goal of an assigned instance.
    pub(crate) fn set_goal(&mut self, machine: &MachineName, id: &AllocationId, goal: InstanceGoal) {
        if let Some(assignment) = self.edit(machine).instances.get_mut(id) {
            assignment.goal = goal;
        }
    }

    /// Removes an instance.
    pub(crate) fn remove(&mut self, machine: &MachineName, id: &AllocationId) {
        self.edit(machine).instances.remove(id);
    }

    /// Places a slot on the machine that fits best, as a new allocation. No instance is removed before all are placed.
    ///
    /// # Errors
    /// When no machine takes the copy.
    pub(crate) fn place(
        &mut self,
        slot: &Slot,
        spec: &Arc<InstanceSpec>,
        demand: PlacementDemand,
    ) -> Result<AllocationId, PlacementRefusal> {
        let machine = self.loads.index.place(&demand)?;
        let id = self.number(slot);
        self.placed.entry(slot.app.clone()).or_default().insert(machine.clone());
        let assignment = Assignment { spec: Arc::clone(spec), goal: InstanceGoal::Run };
        self.edit(&machine).instances.insert(id.clone(), assignment);
        self.added.push((machine, demand));
        Ok(id)
    }

    /// The machine of an allocation.
    pub(crate) fn machine_of(&self, id: &AllocationId) -> Option<&MachineName> {
        let has = |machine: &&MachineName| self.part(machine).is_some_and(|part| part.instances.contains_key(id));
        self.machines_of(&id.slot.app).into_iter().find(has)
    }

    /// Returns the next allocation of a slot, and records its number.
    fn number(&mut self, slot: &Slot) -> AllocationId {
        let id = slot.numbered(self.input.highest_number(slot).saturating_add(1));
        let recorded = || self.input.previous.numbers.get(&slot.app).map(|numbers| (**numbers).clone());
        self.numbers.entry(slot.app.clone()).or_insert_with(|| recorded().unwrap_or_default()).record(&id);
        id
    }

    /// Returns the numbers that this pass has recorded, and the parts that differ from the previous plan, with new
    /// generations. `machines` are machines whose reports are news.
    pub(crate) fn finish<'m>(
        mut self,
        machines: impl IntoIterator<Item = &'m MachineName>,
    ) -> (BTreeMap<AppName, Arc<AllocationNumbers>>, BTreeMap<MachineName, Arc<MachinePlan>>) {
        for (machine, demand) in std::mem::take(&mut self.added) {
            self.loads.index.vacate(&machine, &demand);
        }
        for machine in machines {
            // A machine that reports has a part, if only an empty one, and the part's generation is not below the report's.
            let Some(report) = self.input.observed.machines.get(machine) else { continue };
            let planned = self.input.previous.machines.get(machine).map(|part| part.generation);
            if planned.is_none_or(|planned| report.generation > planned) {
                self.edit(machine);
            }
        }
        let numbered = |(machine, mut part): (MachineName, MachinePlan)| {
            let before = self.input.previous.machines.get(&machine);
            let is_changed = before.is_none_or(|before| before.instances != part.instances);
            if is_changed {
                part.generation = part.generation.next();
            }
            // After a restore, the records are older than the last part that an agent received. Agents accept only newer
            // generations.
            let acknowledged =
                self.input.observed.machines.get(&machine).map(|report| report.generation).unwrap_or_default();
            let is_behind = acknowledged > before.map(|before| before.generation).unwrap_or_default();
            if is_behind {
                part.generation = acknowledged.next();
            }
            (is_changed || is_behind).then(|| (machine, Arc::new(part)))
        };
        let numbers = self.numbers.into_iter().map(|(app, numbers)| (app, Arc::new(numbers))).collect();
        (numbers, self.parts.into_iter().filter_map(numbered).collect())
    }
}
