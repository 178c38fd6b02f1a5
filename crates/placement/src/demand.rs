//! Demand of one copy of a role on its machine.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{
    AppName, Architecture, LabelKey, LabelValue, MachineName, PlacementRules, ReleaseNumber, RoleName, RolePattern,
};

use crate::resources::Resources;

/// A role of a release. Copies of two releases are no copies of each other: during a deploy, both may be on one machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacedRole {
    /// The app.
    pub app: AppName,
    /// The role.
    pub role: RoleName,
    /// The release.
    pub release: ReleaseNumber,
}

impl PlacedRole {
    /// Reports whether both are the same role, perhaps of two releases.
    pub(crate) fn is_same_role(&self, other: &Self) -> bool {
        self.app == other.app && self.role == other.role
    }

    /// Reports whether a pattern covers the role.
    pub(crate) fn is_covered_by(&self, pattern: &RolePattern) -> bool {
        pattern.covers(&self.app, &self.role)
    }
}

/// The part of a demand that concerns a machine alone. Roles of one shape share an index.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DemandShape {
    /// Memory and processor time that the copy reserves.
    pub resources: Resources,
    /// The processor's architecture, if the role runs on one only.
    pub architecture: Option<Architecture>,
    /// For each key, the values of which the machine's label must have one.
    pub labels: BTreeMap<LabelKey, BTreeSet<LabelValue>>,
    /// The oldest version of the control protocol with which the machine's agent keeps the role's promises.
    pub protocol: u32,
}

/// Places of the copies of a role relative to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CopySpread {
    /// On as many machines as possible.
    #[default]
    Machines,
    /// On as many values of a label as possible, and there on as many machines as possible. Machines without the label
    /// share one value.
    Label(LabelKey),
}

/// The only machine for a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinnedMachine {
    /// The role names the machine.
    Named(MachineName),
    /// The machine has the data of the role's volume.
    HasData(MachineName),
}

impl PinnedMachine {
    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &MachineName {
        match self {
            Self::Named(machine) | Self::HasData(machine) => machine,
        }
    }
}

/// Demand of one copy of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementDemand {
    /// The role.
    pub role: PlacedRole,
    /// Demands on the machine alone.
    pub shape: DemandShape,
    /// A copy of each of these must run on the machine already.
    pub with: BTreeSet<RolePattern>,
    /// None of these may run on the machine. The rule is symmetric: neither may this copy come later, nor the others.
    pub apart_from: BTreeSet<RolePattern>,
    /// At most one copy of the role runs on a machine.
    pub one_per_machine: bool,
    /// The only machines for the copy; none allows all.
    pub pinned: Vec<PinnedMachine>,
    /// Machines on which the copy failed just now.
    pub avoided: BTreeSet<MachineName>,
    /// Rule by which copies of the role spread.
    pub spread: CopySpread,
}

impl PlacementDemand {
    /// Creates the demand of a role without constraints.
    #[must_use]
    pub fn new(role: PlacedRole, resources: Resources) -> Self {
        let shape = DemandShape { resources, ..DemandShape::default() };
        let (with, apart_from, pinned, avoided) = Default::default();
        Self { role, shape, with, apart_from, one_per_machine: false, pinned, avoided, spread: CopySpread::Machines }
    }

    /// Creates the demand of a role with the role's rules.
    #[must_use]
    pub fn of_rules(role: PlacedRole, rules: &PlacementRules) -> Self {
        let resources = Resources {
            memory: rules.reserve_memory.map_or(0, |bytes| bytes.0),
            cpu: rules.reserve_cpu.map_or(0, |cpu| u64::from(cpu.0)),
        };
        let (architecture, labels) = (rules.architecture.clone(), rules.labels.clone());
        let shape = DemandShape { resources, architecture, labels, protocol: 0 };
        Self {
            role,
            shape,
            with: rules.with.clone(),
            apart_from: rules.apart_from.clone(),
            one_per_machine: rules.one_per_machine || rules.global,
            pinned: rules.machine.clone().map(PinnedMachine::Named).into_iter().collect(),
            avoided: BTreeSet::new(),
            spread: rules.spread.clone().map_or(CopySpread::Machines, CopySpread::Label),
        }
    }
}
