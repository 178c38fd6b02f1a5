//! Why no machine takes a copy.

use gantry_model::MachineName;

use crate::bits::MachineBits;
use crate::demand::{PlacedRole, PlacementDemand, RolePattern};
use crate::index::PlacementIndex;
use crate::refusal::{MachineRefusal, PlacementRefusal};
use crate::roles::RoleCopies;

/// The roles that matter to a demand, looked up once for all machines.
struct Neighbours<'a> {
    /// For each role that the copy must be with, the machines that have it.
    with: Vec<(&'a RolePattern, MachineBits)>,
    conflicts: Vec<(&'a PlacedRole, &'a RoleCopies)>,
    /// The other copies, if only one may run on a machine.
    copies: Option<&'a RoleCopies>,
}

impl<'a> Neighbours<'a> {
    fn of(index: &'a PlacementIndex, demand: &'a PlacementDemand) -> Self {
        let near = |pattern: &'a RolePattern| {
            let mut machines = MachineBits::default();
            let covered = index.roles.covered(pattern).flat_map(|(_, copies)| copies.machines.keys());
            covered.for_each(|machine| machines.set(*machine, true));
            (pattern, machines)
        };
        Self {
            with: demand.with.iter().map(near).collect(),
            conflicts: index.roles.conflicts(demand).collect(),
            copies: index.roles.copies(&demand.role).filter(|_| demand.one_per_machine),
        }
    }

    /// Why the roles on a machine do not allow the copy.
    fn refuse(&self, machine: usize) -> Option<MachineRefusal> {
        if let Some((pattern, _)) = self.with.iter().find(|(_, machines)| !machines.contains(machine)) {
            return Some(MachineRefusal::LacksNeighbour { pattern: pattern.to_string() });
        }
        let has = |copies: &RoleCopies| copies.machines.contains_key(&machine);
        if let Some((role, _)) = self.conflicts.iter().find(|(_, copies)| has(copies)) {
            return Some(MachineRefusal::Conflict { role: format!("{}/{}", role.app, role.role) });
        }
        self.copies.filter(|copies| has(copies)).map(|_| MachineRefusal::HasCopy)
    }
}

impl PlacementIndex {
    /// Returns the reason of each machine that does not take a copy.
    #[must_use]
    pub fn explain(&self, demand: &PlacementDemand) -> PlacementRefusal {
        let neighbours = Neighbours::of(self, demand);
        let mut refusal = PlacementRefusal::default();
        for number in 0..self.machines.len() {
            if let Some((reason, short)) = self.refuse(demand, number, &neighbours) {
                refusal.add(reason, short);
            }
        }
        refusal
    }

    /// Why a machine does not take a copy, and how much it is short of; none if it takes the copy.
    fn refuse(
        &self,
        demand: &PlacementDemand,
        number: usize,
        neighbours: &Neighbours<'_>,
    ) -> Option<(MachineRefusal, u64)> {
        let load = &self.machines[number];
        let is_elsewhere = |machine: &MachineName| *machine != load.machine.name;
        let pinned = || demand.pinned.as_ref().filter(|machine| is_elsewhere(machine));
        let taken = || load.taken_port(&demand.shape).map(|port| MachineRefusal::PortTaken { port });
        let refused = load.machine.refuses(&demand.shape);
        let refused = refused.or_else(|| pinned().map(|_| MachineRefusal::PinnedElsewhere));
        if let Some(reason) = refused.or_else(|| neighbours.refuse(number)).or_else(taken) {
            return Some((reason, 0));
        }
        let (free, wanted) = (load.free().amounts(), demand.shape.resources.amounts());
        let shorts = [MachineRefusal::ShortOfMemory, MachineRefusal::ShortOfCpu, MachineRefusal::ShortOfDisk];
        let short = |(kind, reason): (usize, MachineRefusal)| {
            (wanted[kind] > free[kind]).then(|| (reason, wanted[kind] - free[kind]))
        };
        shorts.into_iter().enumerate().find_map(short)
    }
}
