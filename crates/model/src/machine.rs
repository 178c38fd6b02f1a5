//! Machines: identity, state, and the facts that the cluster knows of each.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::observed::SILENCE_MILLIS;
use crate::{
    Architecture, Bytes, LabelKey, LabelValue, MachineAvailability, MachineName, MachineSubnet, MilliCpu, Moment,
    TunnelAddress,
};

/// Identity of a machine, 32 hex digits. The agent makes the id once and keeps it in its data folder, so that two
/// machines with one name are told apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);

/// The text is no machine id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid machine id: expected 32 lower-case hex digits")]
pub struct MachineIdError;

impl MachineId {
    /// Creates an id from random bytes.
    #[must_use]
    pub fn from_random(bytes: u128) -> Self {
        Self(format!("{bytes:032x}"))
    }

    /// The first eight digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for MachineId {
    type Err = MachineIdError;
    fn from_str(text: &str) -> Result<Self, MachineIdError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for MachineId {
    type Error = MachineIdError;
    fn try_from(text: String) -> Result<Self, MachineIdError> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 32 && text.bytes().all(digit) { Ok(Self(text)) } else { Err(MachineIdError) }
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.0
    }
}

/// Capacity of a machine for workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineCapacity {
    /// Processors.
    pub cpu: MilliCpu,
    /// Memory.
    pub memory: Bytes,
}

/// A machine, as its agent registered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The machine's identity.
    pub id: MachineId,
    /// The machine's name, unique in the cluster.
    pub name: MachineName,
    /// Capacity of the machine for workloads.
    pub capacity: MachineCapacity,
    /// Release of Gantry that the agent runs.
    pub program: String,
    /// Version of the control protocol that server and agent agreed on.
    pub protocol: u32,
    /// When the machine first registered.
    pub registered: Moment,
    /// Addresses of the tunnel of the machine's router, the preferred address first; empty on the only machine of a
    /// cloud.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<TunnelAddress>,
    /// The network of the machine's containers; `None` on a machine of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<MachineSubnet>,
    /// Architecture of the processor, if the agent names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Labels that an operator gave the machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// The operator's decision about copies on the machine.
    #[serde(default)]
    pub availability: MachineAvailability,
}

/// Role of a machine in its cluster. A join token has one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinRole {
    /// A machine that runs workloads.
    Agent,
    /// A machine that also runs a server.
    Server,
}

/// The text is no join role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid role: a machine joins as `agent` or `server`")]
pub struct JoinRoleError;

impl fmt::Display for JoinRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Agent => "agent",
            Self::Server => "server",
        })
    }
}

impl std::str::FromStr for JoinRole {
    type Err = JoinRoleError;
    fn from_str(text: &str) -> Result<Self, JoinRoleError> {
        match text {
            "agent" => Ok(Self::Agent),
            "server" => Ok(Self::Server),
            _ => Err(JoinRoleError),
        }
    }
}

/// State of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// The agent has registered and not reported yet.
    Joining,
    /// The agent reports.
    Ready,
    /// The agent is silent. The machine may live.
    Suspected,
    /// Agent and router are silent.
    Lost,
}

impl MachineState {
    /// The state of a machine that last reported at `seen`, at the time `now` of a server that began at `began`.
    #[must_use]
    pub fn of(seen: Option<Moment>, began: Moment, now: Moment) -> Self {
        match seen {
            Some(seen) if now.since(seen) <= SILENCE_MILLIS => Self::Ready,
            None if now.since(began) <= SILENCE_MILLIS => Self::Joining,
            _ => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_parses_to_its_own_text() {
        let id = MachineId::from_random(0x2a);
        assert_eq!((id.to_string().as_str(), id.short()), ("0000000000000000000000000000002a", "00000000"));
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "2a", &"A".repeat(32), &"g".repeat(32), &"a".repeat(33), "../../../../../../../../etc/pass"] {
            assert_eq!(bad.parse::<MachineId>(), Err(MachineIdError), "{bad}");
        }
    }

    #[test]
    fn a_silent_machine_is_lost() {
        let (began, now) = (Moment(1_000_000), Moment(1_050_000));
        for (seen, began, state) in [
            (Some(Moment(1_049_000)), began, MachineState::Ready),
            (Some(Moment(1_040_000)), began, MachineState::Ready),
            (Some(Moment(1_039_999)), began, MachineState::Lost),
            (None, Moment(1_045_000), MachineState::Joining),
            (None, began, MachineState::Lost),
        ] {
            assert_eq!(MachineState::of(seen, began, now), state, "{seen:?}");
        }
    }
}
