//! What is wrong with a machine's network, as its agent sees it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Moment;

/// A kind of traffic that Gantry needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// From containers to the machine's name server.
    Names,
    /// From the router and the checks to containers.
    Requests,
    /// From containers to other machines.
    Outside,
    /// From container to container.
    Between,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Names => "containers' questions for names are dropped",
            Self::Requests => "requests and checks to containers are dropped",
            Self::Outside => "what containers send to other machines is dropped",
            Self::Between => "what containers send to each other is dropped",
        })
    }
}

/// A part of a machine's network that Gantry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPart {
    /// The bridge, and that it is up.
    Bridge,
    /// The bridge's address.
    Address,
    /// The route to the bridge's network.
    Route,
    /// Containers' places on the bridge.
    Ports,
    /// The table in nftables.
    Rules,
    /// The kernel's forwarding.
    Forwarding,
}

/// What is wrong with a machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkFault {
    /// Another firewall drops what must pass.
    Dropped {
        /// What is dropped.
        flow: Flow,
        /// The chain that drops it.
        chain: String,
        /// Its policy, or a rule.
        by: String,
        /// The command that mends it.
        remedy: String,
    },
    /// Somebody took a part away, and the agent made it again.
    Repaired {
        /// The part.
        part: NetworkPart,
        /// Its name.
        name: String,
        /// When it was last made again, by the machine's clock.
        at: Moment,
        /// How often, since the agent began.
        times: u32,
    },
    /// A part is missing, and cannot be made again.
    Broken {
        /// The part.
        part: NetworkPart,
        /// Its name.
        name: String,
        /// What the system said.
        why: String,
    },
    /// Another network of the machine's has addresses of this one.
    Overlaps {
        /// The device that the other network is on.
        device: String,
        /// The other network.
        network: String,
    },
}

impl NetworkFault {
    /// Containers are without something now.
    #[must_use]
    pub fn is_acute(&self) -> bool {
        matches!(self, Self::Dropped { .. } | Self::Broken { .. })
    }
}

impl fmt::Display for NetworkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped { flow, chain, by, remedy } => {
                write!(f, "{flow} by {by}, in chain {chain}; mend it: {remedy}")
            }
            Self::Repaired { part, name, times, .. } => {
                let missing = part.missing();
                write!(f, "{name} {missing}, and Gantry put that right ({times} times so far)")
            }
            Self::Broken { part, name, why } => {
                let missing = part.missing();
                write!(f, "{name} {missing}, and Gantry cannot put that right: {why}")
            }
            Self::Overlaps { device, network } => write!(
                f,
                "the network {network} of device {device} overlaps with containers' network: they do not reach it; choose \
                 another with --network"
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
