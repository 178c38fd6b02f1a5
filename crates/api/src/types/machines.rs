//! The machines of the cluster.

use std::collections::BTreeMap;

use gantry_model::{
    AllocationId, Bytes, LabelKey, LabelValue, MachineAvailability, MachineId, MachineName, MilliCpu, Moment,
    TunnelAddress,
};
use serde::{Deserialize, Serialize};

use super::CauseCode;

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// The machine's name.
    pub name: MachineName,
    /// The machine's identity.
    pub id: MachineId,
    /// State of the machine.
    pub state: MachineStateInfo,
    /// Processors.
    pub cpu: MilliCpu,
    /// Memory in bytes.
    pub memory: Bytes,
    /// Number of instances that the plan assigns to the machine.
    pub instances: usize,
    /// Release of Gantry that the machine's agent runs.
    pub program: String,
    /// Version of the control protocol between server and agent.
    pub protocol: u32,
    /// When the machine first registered.
    pub registered: Moment,
    /// When the agent last reported; `None` since the server began.
    pub seen: Option<Moment>,
    /// Availability of the machine for copies, as an operator set it.
    #[serde(default)]
    pub availability: AvailabilityInfo,
    /// The operator's reason for the availability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When all copies are expected to have left a machine that is being drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Moment>,
    /// Labels by key.
    #[serde(default)]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Where other machines reach the tunnel of the machine's router.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<TunnelAddress>,
    /// Memory in bytes that the copies on the machine reserve.
    #[serde(default = "none")]
    pub reserved_memory: Bytes,
    /// Copies that cannot leave a machine that is being drained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stays: Vec<StayInfo>,
}

/// A copy that cannot leave a machine that is being drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StayInfo {
    /// The copy.
    pub instance: AllocationId,
    /// Stable code of the cause.
    pub code: CauseCode,
    /// The cause, for people.
    pub text: String,
}

fn none() -> Bytes {
    Bytes(0)
}

/// Change of a machine's labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLabels {
    /// New values by key; null removes a label.
    pub labels: BTreeMap<LabelKey, Option<LabelValue>>,
}

/// Change of whether a machine takes copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeAvailability {
    /// The availability from now on.
    pub availability: AvailabilityInfo,
    /// The reason, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds within which all copies are expected to leave a machine that is being drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u64>,
}

/// Availability of a machine for copies, as an operator set it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AvailabilityInfo {
    /// The machine takes copies.
    #[default]
    Schedulable,
    /// The machine takes no new copies.
    Cordoned,
    /// The machine takes no new copies, and its own move away.
    Draining,
    /// The machine has left the cluster.
    Removed,
}

impl From<&MachineAvailability> for AvailabilityInfo {
    fn from(availability: &MachineAvailability) -> Self {
        match availability {
            MachineAvailability::Schedulable => Self::Schedulable,
            MachineAvailability::Cordoned { .. } => Self::Cordoned,
            MachineAvailability::Draining { .. } => Self::Draining,
            MachineAvailability::Removed => Self::Removed,
        }
    }
}

impl AvailabilityInfo {
    /// The availability's name for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Schedulable => "schedulable",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Removed => "removed",
        }
    }
}

/// State of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineStateInfo {
    /// The agent has registered and not reported yet.
    Joining,
    /// The agent reports.
    Ready,
    /// The agent is silent. The machine may live.
    Suspected,
    /// The machine is silent.
    Lost,
}

impl From<gantry_model::MachineState> for MachineStateInfo {
    fn from(state: gantry_model::MachineState) -> Self {
        match state {
            gantry_model::MachineState::Joining => Self::Joining,
            gantry_model::MachineState::Ready => Self::Ready,
            gantry_model::MachineState::Suspected => Self::Suspected,
            gantry_model::MachineState::Lost => Self::Lost,
        }
    }
}

impl MachineStateInfo {
    /// The state's name for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Suspected => "suspected",
            Self::Lost => "lost",
        }
    }
}
