//! The choice of a machine. Copies of a role spread. Otherwise a copy with a reservation goes to the fullest machine, so
//! that others stay empty, and a copy without one to the machine with the fewest copies.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use gantry_model::{LabelValue, MachineName};

use crate::bits::MachineBits;
use crate::demand::{CopySpread, PlacementDemand};
use crate::index::{CLASSES, PlacementIndex};
use crate::resources::Resources;

/// Number of machines of which the best is taken, once the fullest class has any.
const CHOICES: usize = 16;

/// Up to this number of machines, all are compared.
const COMPARED_MAX: usize = 64;

impl PlacementIndex {
    /// Chooses the machine for a copy.
    pub(crate) fn choose(&mut self, demand: &PlacementDemand) -> Option<usize> {
        self.index_shape(&demand.shape);
        let fitting = self.fitting(&demand.shape)?;
        match self.related(demand, fitting) {
            Some(allowed) => self.best(demand, &allowed),
            None => self.best(demand, fitting),
        }
    }

    /// The machine with the most copies of a role, if one of them would have fewer beside it on another machine: the other
    /// machine has at least two copies less, or its value of the spread label has.
    pub fn crowded(&mut self, demand: &PlacementDemand) -> Option<MachineName> {
        let best = self.choose(demand)?;
        let copies = &self.roles.copies(&demand.role)?.machines;
        let crowd = self.crowd(demand);
        let worst = copies.keys().copied().max_by_key(|machine| (crowd(*machine), Reverse(*machine)))?;
        let (from, to) = (crowd(worst), crowd(best));
        let is_less = match self.label(demand, worst) == self.label(demand, best) {
            true => to.1 + 1 < from.1,
            false => to.0 + 1 < from.0,
        };
        is_less.then(|| self.machines[worst].machine.name.clone())
    }

    /// The fitting machines that the demand names and the other roles on them allow; none if the demand names no machine
    /// and no role.
    fn related(&self, demand: &PlacementDemand, fitting: &MachineBits) -> Option<MachineBits> {
        let mut allowed: Option<MachineBits> = None;
        for pinned in &demand.pinned {
            let number = self.number(pinned.machine());
            allowed =
                Some(number.into_iter().collect::<MachineBits>().common(allowed.as_ref().unwrap_or(fitting)).collect());
        }
        for pattern in &demand.with {
            let near = self.roles.covered(pattern).flat_map(|(_, copies)| copies.machines.keys().copied());
            allowed = Some(near.collect::<MachineBits>().common(allowed.as_ref().unwrap_or(fitting)).collect());
        }
        let conflicting = self.roles.conflicts(demand).flat_map(|(_, copies)| copies.machines.keys().copied());
        let own = self.roles.copies(&demand.role).filter(|_| demand.one_per_machine);
        let own = own.into_iter().flat_map(|copies| copies.machines.keys().copied());
        let avoided = demand.avoided.iter().filter_map(|machine| self.number(machine));
        for machine in conflicting.chain(own).chain(avoided) {
            allowed.get_or_insert_with(|| fitting.clone()).set(machine, false);
        }
        allowed
    }

    /// The best of the allowed machines.
    fn best(&self, demand: &PlacementDemand, allowed: &MachineBits) -> Option<usize> {
        let copies = self.roles.copies(&demand.role).map(|copies| &copies.machines);
        if demand.spread == CopySpread::Machines && allowed.count() > COMPARED_MAX {
            let has_copy = |machine: usize| copies.is_some_and(|copies| copies.contains_key(&machine));
            let found = if demand.shape.resources == Resources::default() {
                self.fewest_copies().find(|machine| allowed.contains(*machine) && !has_copy(*machine))
            } else {
                self.fullest(demand, allowed, has_copy)
            };
            if found.is_some() {
                return found;
            }
        }
        let crowd = self.crowd(demand);
        allowed.iter().min_by(|one, two| crowd(*one).cmp(&crowd(*two)).then_with(|| self.compare(demand, *one, *two)))
    }

    /// The best of some machines in the fullest class that has a machine without a copy of the role.
    fn fullest(
        &self,
        demand: &PlacementDemand,
        allowed: &MachineBits,
        has_copy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        (0..CLASSES).rev().find_map(|class| {
            let without = self.classes[class].common(allowed).filter(|machine| !has_copy(*machine));
            without.take(CHOICES).min_by(|one, two| self.compare(demand, *one, *two))
        })
    }

    /// Orders two machines. With a reservation, the machine that the copy leaves less of comes first: squares favour a
    /// machine whose resources run out together. Without one, the machine with fewer copies comes first.
    fn compare(&self, demand: &PlacementDemand, one: usize, two: usize) -> std::cmp::Ordering {
        let resources = demand.shape.resources;
        if resources == Resources::default() {
            return (self.machines[one].copies, one).cmp(&(self.machines[two].copies, two));
        }
        let left = |machine: usize| {
            let shares = self.machines[machine].shares_left(resources);
            shares.iter().map(|share| share * share).sum::<f64>()
        };
        left(one).total_cmp(&left(two)).then(one.cmp(&two))
    }

    /// Returns the number of copies of a role beside which a copy on a machine would be: those with the machine's value of
    /// the spread label, and those on the machine.
    fn crowd<'a>(&'a self, demand: &'a PlacementDemand) -> impl Fn(usize) -> (u32, u32) + 'a {
        let copies = self.roles.copies(&demand.role).map(|copies| &copies.machines);
        let by_label = self.copies_by_label(demand);
        move |machine| {
            let of_label = by_label.get(&self.label(demand, machine)).copied().unwrap_or_default();
            (of_label, copies.and_then(|copies| copies.get(&machine)).copied().unwrap_or_default())
        }
    }

    /// The value of the label over which the copies of a role spread. Machines without the label share one value.
    fn label(&self, demand: &PlacementDemand, machine: usize) -> Option<&LabelValue> {
        match &demand.spread {
            CopySpread::Machines => None,
            CopySpread::Label(key) => self.machines[machine].machine.labels.get(key),
        }
    }

    /// The number of copies of a role for each value of the label over which they spread.
    fn copies_by_label(&self, demand: &PlacementDemand) -> BTreeMap<Option<&LabelValue>, u32> {
        let mut by_label = BTreeMap::new();
        if demand.spread == CopySpread::Machines {
            return by_label;
        }
        for (machine, count) in self.roles.copies(&demand.role).into_iter().flat_map(|copies| &copies.machines) {
            *by_label.entry(self.label(demand, *machine)).or_default() += count;
        }
        by_label
    }
}
