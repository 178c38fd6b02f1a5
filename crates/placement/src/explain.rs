//! Reasons for which no machine takes a copy.

use std::collections::BTreeMap;

use gantry_model::{MachineName, MachineRefusal, PlacementRefusal, RefusingMachines, RolePattern};

use crate::bits::MachineBits;
use crate::demand::{PinnedMachine, PlacedRole, PlacementDemand};
use crate::index::PlacementIndex;
use crate::machine::MachineReadiness;
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
            let covered = index.roles.covered(pattern).flat_map(|(_, copies)| copies.machines.keys().copied());
            (pattern, covered.collect())
        };
        Self {
            with: demand.with.iter().map(near).collect(),
            conflicts: index.roles.conflicts(demand).collect(),
            copies: index.roles.copies(&demand.role).filter(|_| demand.one_per_machine),
        }
    }

    /// Reason why the roles on a machine do not allow the copy.
    fn refuse(&self, machine: usize) -> Option<MachineRefusal> {
        if let Some((pattern, _)) = self.with.iter().find(|(_, machines)| !machines.contains(machine)) {
            return Some(MachineRefusal::LacksNeighbour { pattern: (*pattern).clone() });
        }
        let has = |copies: &RoleCopies| copies.machines.contains_key(&machine);
        if let Some((role, _)) = self.conflicts.iter().find(|(_, copies)| has(copies)) {
            return Some(MachineRefusal::Conflict { app: role.app.clone(), role: role.role.clone() });
        }
        self.copies.filter(|copies| has(copies)).map(|_| MachineRefusal::HasCopy)
    }
}

impl PlacementIndex {
    /// Returns the reason of each machine that does not take a copy, counted.
    #[must_use]
    pub fn explain(&self, demand: &PlacementDemand) -> PlacementRefusal {
        let neighbours = Neighbours::of(self, demand);
        let mut reasons: BTreeMap<MachineRefusal, (u32, u64)> = BTreeMap::new();
        let present = |number: &usize| self.machines[*number].machine.readiness != MachineReadiness::Removed;
        for number in (0..self.machines.len()).filter(present) {
            if let Some((reason, short)) = self.refuse(demand, number, &neighbours) {
                let (machines, least) = reasons.entry(reason).or_insert((0, u64::MAX));
                (*machines, *least) = (*machines + 1, short.min(*least));
            }
        }
        let refusing = |(why, (machines, short))| RefusingMachines { why, machines, short };
        let mut refusing: Vec<RefusingMachines> = reasons.into_iter().map(refusing).collect();
        refusing.sort_by_key(|refusing| std::cmp::Reverse(refusing.machines));
        PlacementRefusal(refusing)
    }

    /// The machines on which a copy belongs that runs on every machine. A machine without room counts.
    #[must_use]
    pub fn machines_for(&self, demand: &PlacementDemand) -> Vec<&MachineName> {
        use MachineRefusal::{HasCopy, ShortOfCpu, ShortOfMemory};
        let neighbours = Neighbours::of(self, demand);
        let fits = |number: &usize| match self.refuse(demand, *number, &neighbours) {
            None => self.machines[*number].machine.readiness != MachineReadiness::Removed,
            Some((reason, _)) => matches!(reason, HasCopy | ShortOfMemory | ShortOfCpu),
        };
        (0..self.machines.len()).filter(fits).map(|number| &self.machines[number].machine.name).collect()
    }

    /// Reason why a machine does not take a copy, and how much it is short of; none if it takes the copy.
    fn refuse(
        &self,
        demand: &PlacementDemand,
        number: usize,
        neighbours: &Neighbours<'_>,
    ) -> Option<(MachineRefusal, u64)> {
        let load = &self.machines[number];
        let name = &load.machine.name;
        let refused = load.machine.refuses(&demand.shape).or_else(|| not_pinned(demand, name));
        let failed = || demand.avoided.contains(name).then_some(MachineRefusal::Failed);
        if let Some(reason) = refused.or_else(failed).or_else(|| neighbours.refuse(number)) {
            return Some((reason, 0));
        }
        let (free, demanded) = (load.free().amounts(), demand.shape.resources.amounts());
        let shorts = [MachineRefusal::ShortOfMemory, MachineRefusal::ShortOfCpu];
        let short = |(kind, reason): (usize, MachineRefusal)| {
            (demanded[kind] > free[kind]).then(|| (reason, demanded[kind] - free[kind]))
        };
        shorts.into_iter().enumerate().find_map(short)
    }
}

/// Reason why a demand that is pinned to another machine does not go to this one.
fn not_pinned(demand: &PlacementDemand, name: &MachineName) -> Option<MachineRefusal> {
    let other = demand.pinned.iter().find(|pinned| pinned.machine() != name)?;
    Some(match other {
        PinnedMachine::Named(machine) => MachineRefusal::NotNamed { machine: machine.clone() },
        PinnedMachine::HasData(machine) => MachineRefusal::DataElsewhere { machine: machine.clone() },
    })
}
