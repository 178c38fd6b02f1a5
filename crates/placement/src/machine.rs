//! Machines as placement sees them.

use std::collections::BTreeMap;

use gantry_model::{Architecture, LabelKey, LabelValue, MachineName, MachineRefusal};

use crate::demand::DemandShape;
use crate::resources::Resources;

/// Readiness of a machine for new copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MachineReadiness {
    /// The machine takes new copies.
    #[default]
    Ready,
    /// The machine has not reported yet.
    Joining,
    /// The machine does not report at the moment.
    Silent,
    /// An operator wants no new copies there.
    Cordoned,
    /// An operator wants all copies to leave.
    Draining,
    /// The machine is lost.
    Lost,
    /// The machine has left the cluster.
    Removed,
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
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Version of the control protocol that the machine's agent speaks; 0 if unknown.
    pub protocol: u32,
    /// Readiness for new copies.
    pub readiness: MachineReadiness,
}

impl PlacementMachine {
    /// The part of the capacity for copies.
    pub(crate) fn usable(&self) -> Resources {
        self.capacity.minus(self.reserve)
    }

    /// Reports whether the machine takes a shape as long as its state, labels and architecture stay.
    pub(crate) fn is_eligible(&self, shape: &DemandShape) -> bool {
        self.readiness != MachineReadiness::Removed && self.refuses(shape).is_none()
    }

    /// Returns why the machine never takes a shape in its present state; none if it may.
    pub(crate) fn refuses(&self, shape: &DemandShape) -> Option<MachineRefusal> {
        match self.readiness {
            MachineReadiness::Ready | MachineReadiness::Removed => {}
            MachineReadiness::Joining => return Some(MachineRefusal::Joining),
            MachineReadiness::Silent => return Some(MachineRefusal::Silent),
            MachineReadiness::Cordoned => return Some(MachineRefusal::Cordoned),
            MachineReadiness::Draining => return Some(MachineRefusal::Draining),
            MachineReadiness::Lost => return Some(MachineRefusal::Lost),
        }
        if self.protocol < shape.protocol {
            return Some(MachineRefusal::OldAgent);
        }
        if shape.architecture.is_some() && shape.architecture != self.architecture {
            return Some(MachineRefusal::OtherArchitecture);
        }
        let lacks = |(key, values): &(&LabelKey, &std::collections::BTreeSet<LabelValue>)| {
            self.labels.get(*key).is_none_or(|value| !values.contains(value))
        };
        shape.labels.iter().find(lacks).map(|(key, _)| MachineRefusal::WrongLabel { key: key.clone() })
    }
}
