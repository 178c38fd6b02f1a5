//! The index over machines, copies and shapes. A change costs one comparison for each shape; a decision without relations
//! to other roles looks at few machines.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{MachineName, PlacementRefusal};

use crate::bits::MachineBits;
use crate::demand::{DemandShape, PlacementDemand};
use crate::machine::{MachineReadiness, PlacementMachine};
use crate::resources::Resources;
use crate::roles::PlacedRoles;

/// Number of classes of fullness.
pub(crate) const CLASSES: usize = 64;

/// Maximum number of shapes with an index of their own. Beyond, all indexes are made again when they are needed.
const SHAPES_MAX: usize = 1_000;

/// A machine and its load.
#[derive(Debug, Clone)]
pub(crate) struct MachineLoad {
    pub(crate) machine: PlacementMachine,
    usable: Resources,
    used: Resources,
    /// Number of copies.
    pub(crate) copies: u32,
    class: usize,
}

impl MachineLoad {
    /// Resources that copies may still use.
    pub(crate) fn free(&self) -> Resources {
        self.usable.minus(self.used)
    }

    fn fits(&self, shape: &DemandShape) -> bool {
        self.free().fits(shape.resources)
    }

    /// The shares of the capacity that would be free beside a demand.
    pub(crate) fn shares_left(&self, demand: Resources) -> [f64; 2] {
        let (left, usable) = (self.free().minus(demand).amounts(), self.usable.amounts());
        std::array::from_fn(|kind| if usable[kind] == 0 { 0.0 } else { left[kind] as f64 / usable[kind] as f64 })
    }

    /// The class of fullness: the share of the resource that is used most.
    fn class_now(&self) -> usize {
        let (used, usable) = (self.used.amounts(), self.usable.amounts());
        let class = |kind: usize| match usable[kind] {
            0 => 0,
            usable => u128::from(used[kind]) * (CLASSES as u128 - 1) / u128::from(usable),
        };
        let highest = (0..2).map(class).max().unwrap_or_default();
        usize::try_from(highest).unwrap_or(CLASSES).min(CLASSES - 1)
    }
}

/// The machines that take a shape.
#[derive(Debug, Clone, Default)]
struct ShapeIndex {
    /// Machines with the right state, architecture and labels.
    eligible: MachineBits,
    /// The eligible machines with enough resources.
    fitting: MachineBits,
}

/// Machines with their loads, and where copies of each role are.
#[derive(Debug, Clone, Default)]
pub struct PlacementIndex {
    pub(crate) machines: Vec<MachineLoad>,
    numbers: BTreeMap<MachineName, usize>,
    pub(crate) roles: PlacedRoles,
    /// The machines of each class of fullness.
    pub(crate) classes: Vec<MachineBits>,
    /// The machines by their number of copies.
    by_copies: BTreeSet<(u32, usize)>,
    shapes: BTreeMap<DemandShape, ShapeIndex>,
}

impl PlacementIndex {
    /// Adds a machine, or changes a machine without a change of its copies.
    pub fn put_machine(&mut self, machine: PlacementMachine) {
        self.classes.resize(CLASSES, MachineBits::default());
        let usable = machine.usable();
        let number = match self.numbers.get(&machine.name) {
            Some(number) => {
                let load = &mut self.machines[*number];
                (load.machine, load.usable) = (machine, usable);
                *number
            }
            None => {
                let number = self.machines.len();
                self.numbers.insert(machine.name.clone(), number);
                self.machines.push(MachineLoad { machine, usable, used: Resources::default(), copies: 0, class: 0 });
                number
            }
        };
        for (shape, index) in &mut self.shapes {
            index.eligible.set(number, self.machines[number].machine.is_eligible(shape));
        }
        self.load_changed(number);
    }

    /// Number of machines that have not left the cluster.
    #[must_use]
    pub fn present(&self) -> usize {
        self.machines.iter().filter(|load| load.machine.readiness != MachineReadiness::Removed).count()
    }

    /// A machine.
    #[must_use]
    pub fn machine(&self, machine: &MachineName) -> Option<&PlacementMachine> {
        Some(&self.machines[self.number(machine)?].machine)
    }

    /// Returns the readiness of a machine for new copies; none for an unknown machine.
    #[must_use]
    pub fn readiness(&self, machine: &MachineName) -> Option<MachineReadiness> {
        self.machine(machine).map(|machine| machine.readiness)
    }

    /// Resources of a machine that copies may still use.
    #[must_use]
    pub fn free(&self, machine: &MachineName) -> Option<Resources> {
        self.numbers.get(machine).map(|number| self.machines[*number].free())
    }

    /// Takes over a copy that runs on a machine already, whether the copy fits or not.
    pub fn occupy(&mut self, machine: &MachineName, demand: &PlacementDemand) {
        if let Some(number) = self.numbers.get(machine).copied() {
            self.add(number, demand);
        }
    }

    /// Removes a copy from a machine.
    pub fn vacate(&mut self, machine: &MachineName, demand: &PlacementDemand) {
        let Some(number) = self.numbers.get(machine).copied() else { return };
        let load = &mut self.machines[number];
        load.used = load.used.minus(demand.shape.resources);
        self.by_copies.remove(&(load.copies, number));
        load.copies = load.copies.saturating_sub(1);
        self.roles.remove(number, demand);
        self.load_changed(number);
    }

    /// Chooses a machine for a copy and places the copy there.
    ///
    /// # Errors
    /// When no machine takes the copy.
    pub fn place(&mut self, demand: &PlacementDemand) -> Result<MachineName, PlacementRefusal> {
        let number = self.choose(demand).ok_or_else(|| self.explain(demand))?;
        self.add(number, demand);
        Ok(self.machines[number].machine.name.clone())
    }

    fn add(&mut self, number: usize, demand: &PlacementDemand) {
        let load = &mut self.machines[number];
        load.used = load.used.plus(demand.shape.resources);
        self.by_copies.remove(&(load.copies, number));
        load.copies += 1;
        self.roles.add(number, demand);
        self.load_changed(number);
    }

    /// Follows the change of a machine's load or state.
    fn load_changed(&mut self, number: usize) {
        let load = &mut self.machines[number];
        let class = load.class_now();
        self.classes[load.class].set(number, false);
        self.classes[class].set(number, true);
        load.class = class;
        self.by_copies.insert((load.copies, number));
        for (shape, index) in &mut self.shapes {
            let fits = index.eligible.contains(number) && load.fits(shape);
            index.fitting.set(number, fits);
        }
    }

    /// Makes the index of a shape, if the shape has none.
    pub(crate) fn index_shape(&mut self, shape: &DemandShape) {
        if self.shapes.contains_key(shape) {
            return;
        }
        if self.shapes.len() >= SHAPES_MAX {
            self.shapes.clear();
        }
        let mut index = ShapeIndex::default();
        for (number, load) in self.machines.iter().enumerate() {
            let is_eligible = load.machine.is_eligible(shape);
            index.eligible.set(number, is_eligible);
            index.fitting.set(number, is_eligible && load.fits(shape));
        }
        self.shapes.insert(shape.clone(), index);
    }

    /// The machines that take a shape, if the shape has an index.
    pub(crate) fn fitting(&self, shape: &DemandShape) -> Option<&MachineBits> {
        self.shapes.get(shape).map(|index| &index.fitting)
    }

    /// The machines in the order of their numbers of copies.
    pub(crate) fn fewest_copies(&self) -> impl Iterator<Item = usize> {
        self.by_copies.iter().map(|(_, machine)| *machine)
    }

    /// Number of a machine.
    pub(crate) fn number(&self, machine: &MachineName) -> Option<usize> {
        self.numbers.get(machine).copied()
    }
}
