//! The roles that have copies, where these copies are, and which roles must be apart.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::RolePattern;

use crate::demand::{PlacedRole, PlacementDemand};

/// A role with copies.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoleCopies {
    /// Number of copies by machine.
    pub(crate) machines: BTreeMap<usize, u32>,
    /// Number of copies with each rule: copies of two releases may have different rules.
    apart_from: BTreeMap<RolePattern, u32>,
}

/// All roles with copies.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlacedRoles {
    roles: BTreeMap<PlacedRole, RoleCopies>,
    /// Roles with copies that must be apart from others.
    exclusive: BTreeSet<PlacedRole>,
}

impl PlacedRoles {
    /// Adds a copy on a machine.
    pub(crate) fn add(&mut self, machine: usize, demand: &PlacementDemand) {
        if !self.roles.contains_key(&demand.role) {
            self.roles.insert(demand.role.clone(), RoleCopies::default());
        }
        let Some(copies) = self.roles.get_mut(&demand.role) else { return };
        *copies.machines.entry(machine).or_default() += 1;
        for pattern in &demand.apart_from {
            *copies.apart_from.entry(pattern.clone()).or_default() += 1;
        }
        if !demand.apart_from.is_empty() {
            self.exclusive.insert(demand.role.clone());
        }
    }

    /// Removes a copy from a machine.
    pub(crate) fn remove(&mut self, machine: usize, demand: &PlacementDemand) {
        let Some(copies) = self.roles.get_mut(&demand.role) else { return };
        decrement(&mut copies.machines, &machine);
        demand.apart_from.iter().for_each(|pattern| decrement(&mut copies.apart_from, pattern));
        if copies.apart_from.is_empty() && !demand.apart_from.is_empty() {
            self.exclusive.remove(&demand.role);
        }
        if copies.machines.is_empty() {
            self.roles.remove(&demand.role);
        }
    }

    /// The copies of a role.
    pub(crate) fn copies(&self, role: &PlacedRole) -> Option<&RoleCopies> {
        self.roles.get(role)
    }

    /// The roles with copies that a pattern covers.
    pub(crate) fn covered<'a>(
        &'a self,
        pattern: &'a RolePattern,
    ) -> impl Iterator<Item = (&'a PlacedRole, &'a RoleCopies)> {
        self.roles.iter().filter(|(role, _)| role.is_covered_by(pattern))
    }

    /// The roles that must be apart from a copy: by the copy's rules, or by the rules of those roles. A role is never
    /// apart from itself: the rule "one per machine" covers that case.
    pub(crate) fn conflicts<'a>(
        &'a self,
        demand: &'a PlacementDemand,
    ) -> impl Iterator<Item = (&'a PlacedRole, &'a RoleCopies)> {
        let own = demand.apart_from.iter().flat_map(|pattern| self.covered(pattern));
        let theirs = self.exclusive.iter().filter_map(|role| self.roles.get_key_value(role));
        let theirs =
            theirs.filter(|(_, copies)| copies.apart_from.keys().any(|pattern| demand.role.is_covered_by(pattern)));
        own.chain(theirs).filter(|(role, _)| !role.is_same_role(&demand.role))
    }
}

/// Takes one from a count, and removes a count of zero.
fn decrement<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
