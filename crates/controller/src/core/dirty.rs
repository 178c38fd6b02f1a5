//! The dirty set: what the planner must look at again.

use std::collections::BTreeSet;

use gantry_model::{AppName, MachineName};

/// Apps and machines affected by events since the last plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DirtySet {
    /// Everything is affected, for example after the records were read again.
    pub(super) everything: bool,
    pub(super) apps: BTreeSet<AppName>,
    pub(super) machines: BTreeSet<MachineName>,
    /// A router reported a revision that was never assigned.
    pub(super) revisions: bool,
}

impl DirtySet {
    /// The set of all apps and machines.
    pub(super) fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another set.
    pub(super) fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.revisions |= other.revisions;
        self.apps.extend(other.apps);
        self.machines.extend(other.machines);
    }
}
