//! The status of the cluster.

use std::collections::BTreeMap;

use gantry_model::{Digest, Generation, MachineName, Moment, NetworkFault, RouterId};
use serde::{Deserialize, Serialize};

use super::AppInfo;

/// Response of `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Version of Gantry.
    pub version: String,
    /// Location of the store: the path of a file, or the endpoints of etcd.
    pub store: String,
    /// Machines by name.
    pub machines: BTreeMap<MachineName, MachineStatus>,
    /// Routers by machine and number.
    pub routers: BTreeMap<RouterId, RouterStatus>,
    /// Revision of the newest routes.
    pub routes: Generation,
    /// All apps.
    pub apps: Vec<AppInfo>,
    /// Disk usage of the server, in bytes per kind of data.
    pub space: BTreeMap<String, u64>,
    /// Servers of the cluster; none with a store in a file, which one server has for itself.
    #[serde(default)]
    pub servers: Vec<ServerInfo>,
    /// Problems of the machine or the store.
    #[serde(default)]
    pub warnings: Vec<StatusWarning>,
}

/// A server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Name of the server.
    pub name: String,
    /// Address at which other servers reach it.
    pub address: String,
    /// True for the server that leads.
    pub leads: bool,
    /// True if the server was heard of in the last seconds.
    pub lives: bool,
}

/// Body of `POST /v1/cluster/blobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindBlobs {
    /// Digests of the blobs.
    pub digests: Vec<Digest>,
}

/// The servers, and which of the wanted blobs each has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPlaces {
    /// Servers by name.
    pub servers: BTreeMap<String, ServerBlobs>,
}

/// Blobs of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerBlobs {
    /// The wanted blobs that the server has.
    pub has: Vec<Digest>,
    /// Reason why the server was not asked, or did not answer, as the rest of a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<String>,
    /// Kind of that reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<ServerSilence>,
}

/// Kind of the reason why nothing is known of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerSilence {
    /// The server is away, and was not asked.
    Away,
    /// The server was asked, and did not answer.
    NoAnswer,
    /// A kind that a newer server knows.
    #[serde(other)]
    Unknown,
}

impl ServerBlobs {
    /// The blobs of a server that answered.
    #[must_use]
    pub fn of(has: Vec<Digest>) -> Self {
        Self { has, silent: None, silence: None }
    }

    /// A server of whose blobs nothing is known.
    #[must_use]
    pub fn unknown(silence: ServerSilence, reason: String) -> Self {
        Self { has: Vec::new(), silent: Some(reason), silence: Some(silence) }
    }
}

/// Status of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Milliseconds since the last report.
    pub silent_millis: u64,
    /// Milliseconds by which the machine's clock is ahead of the leading server's; negative if it is behind. Absent if the
    /// clocks differ by a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_millis: Option<i64>,
    /// Faults of the machine's network.
    #[serde(default)]
    pub network: Vec<FaultInfo>,
}

/// Status of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Revision of the routes that the router serves.
    pub routes: Generation,
    /// Milliseconds since the last report.
    pub silent_millis: u64,
}

/// A fault of a machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultInfo {
    /// Kind of the fault.
    pub kind: FaultKind,
    /// True if the fault affects containers at this moment.
    pub acute: bool,
    /// Time of the last repair, by the machine's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<Moment>,
    /// The fault and its remedy, for people.
    pub text: String,
}

/// Kind of a network fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Another firewall drops traffic that Gantry needs.
    Dropped,
    /// Another program removed a part, and the agent created the part again.
    Repaired,
    /// A part is missing, and the agent cannot create it.
    Broken,
    /// Another network of the machine overlaps with the containers' network.
    Overlaps,
    /// A kind that a newer server knows.
    #[serde(other)]
    Unknown,
}

impl From<&NetworkFault> for FaultInfo {
    fn from(fault: &NetworkFault) -> Self {
        let (kind, repaired) = match fault {
            NetworkFault::Dropped { .. } => (FaultKind::Dropped, None),
            NetworkFault::Repaired { at, .. } => (FaultKind::Repaired, Some(*at)),
            NetworkFault::Broken { .. } => (FaultKind::Broken, None),
            NetworkFault::Overlaps { .. } => (FaultKind::Overlaps, None),
        };
        Self { kind, acute: fault.is_acute(), repaired, text: fault.to_string() }
    }
}

/// A problem of the machine or the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusWarning {
    /// Kind of the problem.
    pub kind: WarningKind,
    /// The problem and its remedy, for people.
    pub text: String,
}

/// Kind of a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// The wall clock jumped.
    ClockJumped,
    /// The clock of a machine differs from the server's.
    ClockOff,
    /// The disk of the data folder takes no writes.
    DiskReadOnly,
    /// A member of the store is away or full.
    StoreDegraded,
    /// A server is away.
    ServerAway,
    /// The cluster policy overrules settings of the server.
    SettingsOverruled,
    /// A kind that a newer server knows.
    #[serde(other)]
    Unknown,
}
