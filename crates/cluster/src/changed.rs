//! The parts that an event changed.

use std::collections::BTreeSet;

use gantry_model::MachineName;

/// Parts that an event changed. The server wakes the receivers of these parts, and no others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChangedParts {
    /// Machines whose part of the plan changed.
    pub machines: BTreeSet<MachineName>,
    /// Routes of any app.
    pub routes: bool,
    /// Records of apps or deploys.
    pub deploys: bool,
    /// The cluster policy.
    pub policy: bool,
    /// The machines that belong to the cluster.
    pub members: bool,
}

impl ChangedParts {
    /// Adds other parts.
    pub fn merge(&mut self, other: Self) {
        self.machines.extend(other.machines);
        self.routes |= other.routes;
        self.deploys |= other.deploys;
        self.policy |= other.policy;
        self.members |= other.members;
    }
}
