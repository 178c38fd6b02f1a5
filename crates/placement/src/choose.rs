//! The choice of a machine. Copies of a role spread; otherwise the fullest machines come first, so that others stay empty.

use std::collections::BTreeMap;

use crate::bits::MachineBits;
use crate::demand::{CopySpread, PlacementDemand};
use crate::index::{CLASSES, PlacementIndex};

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

    /// The fitting machines that the other roles on them allow; none if the demand has no relation to other roles.
    fn related(&self, demand: &PlacementDemand, fitting: &MachineBits) -> Option<MachineBits> {
        let mut allowed: Option<MachineBits> = None;
        if let Some(machine) = &demand.pinned {
            let number = self.number(machine).filter(|number| fitting.contains(*number));
            let mut only = MachineBits::default();
            number.into_iter().for_each(|number| only.set(number, true));
            allowed = Some(only);
        }
        for pattern in &demand.with {
            let mut near = MachineBits::default();
            for (_, copies) in self.roles.covered(pattern) {
                let machines = copies.machines.keys().filter(|machine| fitting.contains(**machine));
                machines.for_each(|machine| near.set(*machine, true));
            }
            allowed = Some(match allowed {
                Some(before) => before.common(&near).fold(MachineBits::default(), |mut both, machine| {
                    both.set(machine, true);
                    both
                }),
                None => near,
            });
        }
        for (_, copies) in self.roles.conflicts(demand) {
            let allowed = allowed.get_or_insert_with(|| fitting.clone());
            copies.machines.keys().for_each(|machine| allowed.set(*machine, false));
        }
        if let Some(copies) = self.roles.copies(&demand.role).filter(|_| demand.one_per_machine) {
            let allowed = allowed.get_or_insert_with(|| fitting.clone());
            copies.machines.keys().for_each(|machine| allowed.set(*machine, false));
        }
        allowed
    }

    /// The best of the allowed machines.
    fn best(&self, demand: &PlacementDemand, allowed: &MachineBits) -> Option<usize> {
        let copies = self.roles.copies(&demand.role).map(|copies| &copies.machines);
        let has_copy = |machine: &usize| copies.is_some_and(|copies| copies.contains_key(machine));
        if demand.spread == CopySpread::Machines && allowed.count() > COMPARED_MAX {
            for class in (0..CLASSES).rev() {
                let without = self.classes[class].common(allowed).filter(|machine| !has_copy(machine));
                let best = without.take(CHOICES).min_by(|one, two| self.compare(demand, *one, *two));
                if best.is_some() {
                    return best;
                }
            }
        }
        let by_label = self.copies_by_label(demand);
        let crowd = |machine: usize| {
            let label = self.label(demand, machine).and_then(|value| by_label.get(value)).copied().unwrap_or_default();
            (label, copies.and_then(|copies| copies.get(&machine)).copied().unwrap_or_default())
        };
        allowed.iter().min_by(|one, two| crowd(*one).cmp(&crowd(*two)).then_with(|| self.compare(demand, *one, *two)))
    }

    /// Orders two machines: first the one that the copy leaves less of. Squares favour a machine whose resources run out
    /// together.
    fn compare(&self, demand: &PlacementDemand, one: usize, two: usize) -> std::cmp::Ordering {
        let left = |machine: usize| {
            let shares = self.machines[machine].shares_left(demand.shape.resources);
            shares.iter().map(|share| share * share).sum::<f64>()
        };
        left(one).total_cmp(&left(two)).then(one.cmp(&two))
    }

    /// The value of the label over which the copies of a role spread.
    fn label(&self, demand: &PlacementDemand, machine: usize) -> Option<&String> {
        match &demand.spread {
            CopySpread::Machines => None,
            CopySpread::Label(key) => self.machines[machine].machine.labels.get(key),
        }
    }

    /// The number of copies of a role for each value of the label over which they spread.
    fn copies_by_label(&self, demand: &PlacementDemand) -> BTreeMap<&String, u32> {
        let mut by_label = BTreeMap::new();
        for (machine, count) in self.roles.copies(&demand.role).into_iter().flat_map(|copies| &copies.machines) {
            if let Some(value) = self.label(demand, *machine) {
                *by_label.entry(value).or_default() += count;
            }
        }
        by_label
    }
}
