//! Messages of joining a cluster, and of renewing a certificate. Both go over TLS in which the machine proves its key.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_api::samples::Sample;
use gantry_model::{JoinRole, LabelKey, LabelValue, MachineId, MachineName, MachineSubnet};
use serde::{Deserialize, Serialize};

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

fn machine() -> MachineName {
    MachineName::parse("m2").unwrap_or_else(|_| unreachable!("m2 is a name"))
}

impl Sample for JoinCall {
    fn sample() -> Self {
        Self {
            token: "gantry-join-agent-…".to_owned(),
            role: JoinRole::Agent,
            machine: machine(),
            id: MachineId::from_random(0x1b4e),
            advertise: Some("10.0.0.2".to_owned()),
            port: 7000,
            labels: BTreeMap::new(),
        }
    }
}

impl Sample for JoinReply {
    fn sample() -> Self {
        let subnet = MachineSubnet::containing(Ipv4Addr::new(10, 83, 1, 0), 24);
        Self {
            chain: "-----BEGIN CERTIFICATE-----…".to_owned(),
            ca: "-----BEGIN CERTIFICATE-----…".to_owned(),
            subnet: subnet.unwrap_or_else(|| unreachable!("10.83.1.0/24 is a network")),
            advertise: "10.0.0.2".to_owned(),
            servers: vec!["10.0.0.1:7000".to_owned()],
            store: None,
        }
    }
}

impl Sample for RenewCall {
    fn sample() -> Self {
        Self { machine: machine() }
    }
}

impl Sample for RenewReply {
    fn sample() -> Self {
        let JoinReply { chain, ca, .. } = JoinReply::sample();
        Self { chain, ca }
    }
}
