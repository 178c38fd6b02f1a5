//! Machines as placement sees them.

use std::collections::BTreeMap;

use gantry_model::MachineName;

use crate::demand::DemandShape;
use crate::refusal::MachineRefusal;
use crate::resources::Resources;

/// A processor's architecture, as images name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Architecture(pub String);

/// Whether a machine takes new copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MachineReadiness {
    /// The machine takes new copies.
    #[default]
    Ready,
    /// The machine has not reported yet.
    Joining,
    /// An operator wants no new copies there.
    Cordoned,
    /// An operator wants all copies to leave.
    Draining,
    /// The machine no longer reports.
    Lost,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementMachine {
    /// Name of the machine.
    pub name: MachineName,
    /// Everything that the machine has.
    pub capacity: Resources,
    /// The part of the capacity that the system keeps.
    pub reserve: Resources,
    /// The architecture of its processor; none if unknown.
    pub architecture: Option<Architecture>,
    /// Labels by key.
    pub labels: BTreeMap<String, String>,
    /// Whether the machine takes new copies.
    pub readiness: MachineReadiness,
}

impl PlacementMachine {
    /// The part of the capacity for copies.
    pub(crate) fn usable(&self) -> Resources {
        self.capacity.minus(self.reserve)
    }

    /// Returns why the machine never takes a shape in its present state; none if it may.
    pub(crate) fn refuses(&self, shape: &DemandShape) -> Option<MachineRefusal> {
        match self.readiness {
            MachineReadiness::Ready => {}
            MachineReadiness::Joining => return Some(MachineRefusal::Joining),
            MachineReadiness::Cordoned => return Some(MachineRefusal::Cordoned),
            MachineReadiness::Draining => return Some(MachineRefusal::Draining),
            MachineReadiness::Lost => return Some(MachineRefusal::Lost),
        }
        if shape.architecture.is_some() && shape.architecture != self.architecture {
            return Some(MachineRefusal::OtherArchitecture);
        }
        let lacks = |key: &&String| self.labels.get(*key).is_none_or(|value| !shape.labels[*key].contains(value));
        shape.labels.keys().find(lacks).map(|key| MachineRefusal::WrongLabel { key: key.clone() })
    }
}
