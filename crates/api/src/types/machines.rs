//! The machines of the cluster.

use gantry_model::{Bytes, MachineId, MachineName, MilliCpu, Moment};
use serde::{Deserialize, Serialize};

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
}

/// State of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineStateInfo {
    /// The agent has registered and not reported yet.
    Joining,
    /// The agent reports.
    Ready,
    /// The agent is silent.
    Lost,
}

impl From<gantry_model::MachineState> for MachineStateInfo {
    fn from(state: gantry_model::MachineState) -> Self {
        match state {
            gantry_model::MachineState::Joining => Self::Joining,
            gantry_model::MachineState::Ready => Self::Ready,
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
            Self::Lost => "lost",
        }
    }
}
