//! Faults of a machine's network, as its agent detects them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Moment;

/// A kind of traffic that Gantry needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkFlow {
    /// DNS queries from containers to the machine's name server.
    Names,
    /// Requests and health checks from the router and the agent to containers.
    Requests,
    /// Packets from containers to other machines.
    Outside,
    /// Packets between containers.
    Between,
}

impl fmt::Display for NetworkFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Names => "containers' DNS queries are dropped",
            Self::Requests => "requests and health checks to containers are dropped",
            Self::Outside => "traffic from containers to other machines is dropped",
            Self::Between => "traffic between containers is dropped",
        })
    }
}

/// A part of a machine's network that Gantry creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPart {
    /// The bridge device, and its state (up).
    Bridge,
    /// The bridge's address.
    Address,
    /// The route to the bridge's network.
    Route,
    /// The containers' ports on the bridge.
    Ports,
    /// The nftables table.
    Rules,
    /// IP forwarding in the kernel.
    Forwarding,
}

/// A fault of a machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkFault {
    /// Another firewall drops traffic that Gantry needs.
    Dropped {
        /// The dropped traffic.
        flow: NetworkFlow,
        /// The chain that drops the traffic.
        chain: String,
        /// The rule that drops the traffic, or the chain's policy.
        by: String,
        /// The command that repairs the fault.
        remedy: String,
    },
    /// Another program removed a part, and the agent created the part again.
    Repaired {
        /// Kind of the part.
        part: NetworkPart,
        /// Name of the part.
        name: String,
        /// When the agent last repaired the part, by the machine's clock.
        at: Moment,
        /// Number of times that the agent repaired the part since the agent started.
        times: u32,
    },
    /// A part is missing, and the agent cannot create it.
    Broken {
        /// Kind of the part.
        part: NetworkPart,
        /// Name of the part.
        name: String,
        /// The error that the system returned.
        why: String,
    },
    /// Another network of the machine overlaps with the containers' network.
    Overlaps {
        /// The device of the other network.
        device: String,
        /// The other network.
        network: String,
    },
}

impl NetworkFault {
    /// Reports whether the fault affects containers at this moment.
    #[must_use]
    pub fn is_acute(&self) -> bool {
        matches!(self, Self::Dropped { .. } | Self::Broken { .. })
    }
}

impl fmt::Display for NetworkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped { flow, chain, by, remedy } => {
                write!(f, "{flow} by {by}, in chain {chain}; to fix it: {remedy}")
            }
            Self::Repaired { part, name, times, .. } => {
                let missing = part.missing();
                write!(f, "{name} {missing}; Gantry repaired it ({times} times so far)")
            }
            Self::Broken { part, name, why } => {
                let missing = part.missing();
                write!(f, "{name} {missing}; Gantry cannot repair it: {why}")
            }
            Self::Overlaps { device, network } => write!(
                f,
                "the network {network} of device {device} overlaps with the containers' network, so containers cannot reach it; \
                 choose another network with --network"
            ),
        }
    }
}

impl NetworkPart {
    fn missing(self) -> &'static str {
        match self {
            Self::Bridge => "was gone or down",
            Self::Address => "had lost its address",
            Self::Route => "had lost its route",
            Self::Ports => "had lost containers",
            Self::Rules => "was gone or changed",
            Self::Forwarding => "was off",
        }
    }
}
