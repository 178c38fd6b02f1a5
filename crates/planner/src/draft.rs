//! The machines' parts of the plan while they are planned: a copy of each part that changes, and the previous part of
//! every other machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::{AppName, Assignment, InstanceGoal, InstanceId, InstanceSpec, MachineName, MachinePlan};

use crate::input::PlanningInput;

/// The parts under way.
pub(crate) struct DraftParts<'a> {
    input: &'a PlanningInput<'a>,
    parts: BTreeMap<MachineName, MachinePlan>,
    /// Machines that got an instance of an app in this pass.
    placed: BTreeMap<AppName, BTreeSet<MachineName>>,
    /// Every machine with its number of instances, once an instance is placed.
    sizes: Vec<(usize, MachineName)>,
}

impl<'a> DraftParts<'a> {
    pub(crate) fn new(input: &'a PlanningInput<'a>) -> Self {
        Self { input, parts: BTreeMap::new(), placed: BTreeMap::new(), sizes: Vec::new() }
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
    pub(crate) fn of_app<'s>(&'s self, app: &'s AppName) -> Vec<(&'s MachineName, &'s InstanceId, &'s Assignment)> {
        let parts = self.machines_of(app).into_iter().filter_map(|machine| Some((machine, self.part(machine)?)));
        parts.flat_map(|(machine, part)| part.of_app(app).map(move |(id, assigned)| (machine, id, assigned))).collect()
    }

    /// Sets the goal of an assigned instance.
    pub(crate) fn set_goal(&mut self, machine: &MachineName, id: &InstanceId, goal: InstanceGoal) {
        if let Some(assignment) = self.edit(machine).instances.get_mut(id) {
            assignment.goal = goal;
        }
    }

    /// Removes an instance.
    pub(crate) fn remove(&mut self, machine: &MachineName, id: &InstanceId) {
        self.edit(machine).instances.remove(id);
    }

    /// Places an instance on the machine with the fewest instances. Does nothing without any machine. No instance is
    /// removed before all are placed.
    pub(crate) fn place(&mut self, id: InstanceId, spec: Arc<InstanceSpec>) {
        if self.sizes.is_empty() {
            let PlanningInput { previous, observed, .. } = self.input;
            let planned = previous.machines.iter().map(|(machine, part)| (part.instances.len(), machine.clone()));
            let empty = observed.machines.keys().filter(|machine| !previous.machines.contains_key(*machine));
            self.sizes = planned.chain(empty.map(|machine| (0, machine.clone()))).collect();
        }
        let Some((size, machine)) = self.sizes.iter_mut().min() else { return };
        *size += 1;
        let machine = machine.clone();
        self.placed.entry(id.app.clone()).or_default().insert(machine.clone());
        self.edit(&machine).instances.insert(id, Assignment { spec, goal: InstanceGoal::Run });
    }

    /// Returns the parts that differ from the previous plan, with new generations. `machines` are machines whose reports
    /// are news.
    pub(crate) fn finish<'m>(
        mut self,
        machines: impl IntoIterator<Item = &'m MachineName>,
    ) -> BTreeMap<MachineName, Arc<MachinePlan>> {
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
            let heard = self.input.observed.machines.get(&machine).map(|report| report.generation).unwrap_or_default();
            let is_behind = heard > before.map(|before| before.generation).unwrap_or_default();
            if is_behind {
                part.generation = heard.next();
            }
            (is_changed || is_behind).then(|| (machine, Arc::new(part)))
        };
        self.parts.into_iter().filter_map(numbered).collect()
    }
}
