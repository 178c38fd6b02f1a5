//! Scope and inputs of a planning pass.

use std::collections::BTreeSet;

use gantry_model::{AppName, MachineName, Moment, ObservedCluster, Plan};

use crate::desired::DesiredCluster;
use crate::index::ClusterIndex;
use crate::policy::PlannerPolicy;

/// Scope of a planning pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanScope {
    /// The apps, including apps that have instances or routes and no record. Both apps of a rename are in the scope, or
    /// none.
    pub apps: BTreeSet<AppName>,
    /// Machines whose reports are news.
    pub machines: BTreeSet<MachineName>,
}

/// Inputs of a planning pass.
#[derive(Debug, Clone, Copy)]
pub struct PlannerInput<'a> {
    /// The apps and machines to plan.
    pub scope: &'a PlanScope,
    /// The apps of the scope that have a record.
    pub desired: &'a DesiredCluster,
    /// The latest reports.
    pub observed: &'a ObservedCluster,
    /// The previous plan.
    pub previous: &'a Plan,
    /// The index over `previous` and `observed`.
    pub index: &'a ClusterIndex,
    /// Policy of the cluster.
    pub policy: &'a PlannerPolicy,
    /// The present moment.
    pub now: Moment,
}
