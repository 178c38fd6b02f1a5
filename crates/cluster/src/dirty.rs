//! The dirty set: what the planner must look at again.

use std::collections::BTreeSet;

use gantry_model::{AppName, MachineName};

/// Apps and machines affected by events since the last plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirtySet {
    /// Everything is affected, for example after the records were read again.
    pub everything: bool,
    /// The affected apps.
    pub apps: BTreeSet<AppName>,
    /// The affected machines.
    pub machines: BTreeSet<MachineName>,
    /// A router reported a revision that was never assigned.
    pub revisions: bool,
}

impl DirtySet {
    /// The set of all apps and machines.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Reports whether nothing is affected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another set.
    pub fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.revisions |= other.revisions;
        self.apps.extend(other.apps);
        self.machines.extend(other.machines);
    }
}
