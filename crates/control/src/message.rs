//! The messages of the protocol. A reader ignores fields and messages that it does not know.

use gantry_model::{Architecture, MachineCapacity, MachineId, MachineSubnet, Moment, TunnelAddress};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::jobs::{JobOrders, JobsReport};
use crate::layers::{LayerOrders, LayersReport};
use crate::policy::PeerPolicy;
use crate::update::Update;
use crate::version::{ProtocolRange, ProtocolVersion};

/// An agent's description of its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// The machine's identity.
    pub id: MachineId,
    /// Capacity of the machine for workloads.
    pub capacity: MachineCapacity,
    /// Addresses of the tunnel of the machine's router, each `host:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<TunnelAddress>,
    /// The network of the machine's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<MachineSubnet>,
    /// Architecture of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
}

/// First message of an agent or a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions that the peer speaks.
    pub versions: ProtocolRange,
    /// The peer's release of Gantry, for people.
    #[serde(default)]
    pub program: String,
    /// Revision of the part that the peer has; `None` without a part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// An agent's machine; `None` from routers, and from agents of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineFacts>,
    /// Number of a router on its machine; 0 for an agent.
    #[serde(default)]
    pub number: u64,
}

/// First message of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The agreed version.
    pub version: ProtocolVersion,
    /// Length of the peer's lease in milliseconds. Each message of the peer renews the lease. A peer whose lease has
    /// ended counts as lost.
    pub lease_millis: u64,
}

/// A message of an agent or a router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PeerMessage {
    /// The first message.
    Hello(Hello),
    /// A change of the peer's report.
    Update(Update),
    /// Nothing changed. The message renews the lease.
    Alive,
    /// The peer asks for a lease for its copies of roles with `single: true`.
    Lease {
        /// Time of the request since the peer's machine booted, in milliseconds.
        asked: u64,
    },
    /// The peer's wall clock at this message.
    Clock {
        /// The time.
        now: Moment,
    },
    /// The jobs on the peer's machine.
    Jobs(JobsReport),
    /// The layers that the peer's machine has and wants. Sent since version 3.
    Layers(LayersReport),
    /// The peer cannot apply the last update and needs the complete part.
    Resend,
    /// The peer has ended its work: its lease ends.
    Leaving,
    /// A message of a newer version.
    #[serde(other)]
    Unknown,
}

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The first message.
    Welcome(Welcome),
    /// The server refuses the peer: no common version, or a token that is no longer valid.
    Refused {
        /// The reason, for people.
        reason: String,
    },
    /// The rules of the cluster, after the welcome and after each change.
    Policy(PeerPolicy),
    /// A change of the peer's part.
    Update(Update),
    /// The peer's lease for its copies of roles with `single: true`.
    Lease {
        /// The time of the peer's request. The lease is over `millis` later.
        asked: u64,
        /// Length of the lease in milliseconds.
        millis: u64,
        /// Revision of the part that goes with the lease. An older part says nothing about which copies may run.
        revision: u64,
    },
    /// The server cannot apply the last update and needs the complete report.
    Resend,
    /// A session for the agent to open.
    Session {
        /// The request; [`crate::sessions::SessionRequest::read`] reads it.
        request: Value,
    },
    /// Orders about container jobs.
    Jobs(JobOrders),
    /// The sources of the layers that the peer wants. Sent since version 3.
    Layers(LayerOrders),
    /// A message of a newer version.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn reads_messages_that_lack_or_add_fields() {
        let lean = json!({"type": "hello", "versions": {"oldest": 1, "newest": 2}});
        let versions = ProtocolRange { oldest: ProtocolVersion(1), newest: ProtocolVersion(2) };
        let hello = Hello { versions, program: String::new(), revision: None, machine: None, number: 0 };
        assert_eq!(from_value::<PeerMessage>(lean).expect("read"), PeerMessage::Hello(hello.clone()));
        let rich = json!({"type": "hello", "versions": {"oldest": 1, "newest": 2, "preview": 3}, "zone": "b"});
        assert_eq!(from_value::<PeerMessage>(rich).expect("read"), PeerMessage::Hello(hello));
        let welcome = json!({"type": "welcome", "version": 1, "lease_millis": 5000, "zones": ["a"]});
        let expected = Welcome { version: ProtocolVersion(1), lease_millis: 5000 };
        assert_eq!(from_value::<ServerMessage>(welcome).expect("read"), ServerMessage::Welcome(expected));
    }

    #[test]
    fn passes_over_messages_of_a_newer_version() {
        let news = || json!({"type": "weather", "rain": {"tomorrow": true}});
        assert_eq!(from_value::<PeerMessage>(news()).expect("read"), PeerMessage::Unknown);
        assert_eq!(from_value::<ServerMessage>(news()).expect("read"), ServerMessage::Unknown);
    }
}
