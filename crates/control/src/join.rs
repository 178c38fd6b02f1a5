//! Messages of joining a cluster, and of renewing a certificate. Both go over TLS in which the machine proves its key.

use std::collections::BTreeMap;

use gantry_model::{JoinRole, LabelKey, LabelValue, MachineId, MachineName, MachineSubnet};
use serde::{Deserialize, Serialize};

/// Path of a request to join.
pub const JOIN_PATH: &str = "/internal/v1/join";

/// Path of a request for a new certificate.
pub const RENEW_PATH: &str = "/internal/v1/renew";

/// A machine's request to join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCall {
    /// The join token.
    pub token: String,
    /// Role of the machine in the cluster.
    pub role: JoinRole,
    /// Name of the machine.
    pub machine: MachineName,
    /// Id of the machine.
    pub id: MachineId,
    /// Host name or IP address by which other machines reach this one; the address of the connection by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Port of the machine's server.
    pub port: u16,
    /// Labels of the machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
}

impl std::fmt::Debug for JoinCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinCall").field("machine", &self.machine).field("role", &self.role).finish_non_exhaustive()
    }
}

/// The response to a machine that joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// The machine's certificate and the authority's, PEM.
    pub chain: String,
    /// The authority's certificate, PEM.
    pub ca: String,
    /// The network of the machine's containers.
    pub subnet: MachineSubnet,
    /// Host name or IP address by which other machines reach this one.
    pub advertise: String,
    /// Addresses of the servers, each `host:port`.
    pub servers: Vec<String>,
    /// Address of the store, for a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

/// A request for a new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewCall {
    /// Name of the machine.
    pub machine: MachineName,
}

/// A new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewReply {
    /// The machine's certificate and the authority's, PEM.
    pub chain: String,
    /// The authority's certificate, PEM.
    pub ca: String,
}
