//! The parts that an event changed.

use std::collections::BTreeSet;

use gantry_model::{AppName, MachineName};

/// Parts that an event changed. The server wakes the receivers of these parts, and no others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChangedParts {
    /// Machines whose part of the plan changed.
    pub machines: BTreeSet<MachineName>,
    /// Routes of any app.
    pub routes: bool,
    /// Apps with a change of their record, of a release or of a deploy.
    pub apps: BTreeSet<AppName>,
    /// The records of all apps were read again.
    pub all_apps: bool,
    /// Apps with other routes, or with other reasons to wait.
    pub statuses: BTreeSet<AppName>,
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
        self.apps.extend(other.apps);
        self.all_apps |= other.all_apps;
        self.statuses.extend(other.statuses);
        self.policy |= other.policy;
        self.members |= other.members;
    }
}
