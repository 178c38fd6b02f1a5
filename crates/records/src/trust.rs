//! Records of trust: the cluster's authority, join tokens, and the machines that have joined.

use std::collections::BTreeMap;

use gantry_model::{JoinRole, LabelKey, LabelValue, MachineId, MachineName, MachineSubnet, Moment};
use serde::{Deserialize, Serialize};

use crate::RecordError;

/// The authority that signs the machines' certificates.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PEM. The key is printed nowhere.
    pub key: String,
}

impl AuthorityRecord {
    /// Parses the value of [`AUTHORITY_KEY`].
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn parse(value: &[u8]) -> Result<Self, RecordError> {
        serde_json::from_slice(value).map_err(|error| RecordError::new(AUTHORITY_KEY, error))
    }
}

impl std::fmt::Debug for AuthorityRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthorityRecord(..)")
    }
}

/// A join token. The record's key has the hash of the secret, and no record has the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenRecord {
    /// Role of the machine in the cluster.
    pub role: JoinRole,
    /// Time of creation.
    pub created: Moment,
    /// Time of expiry.
    pub expires: Moment,
    /// The machine that has used the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<TokenUse>,
}

/// The use of a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// Id of the machine.
    pub machine: MachineId,
    /// Hash of the machine's key.
    pub key: String,
}

/// A machine that has joined the cluster. Without this record no certificate of the machine counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Name of the machine.
    pub machine: MachineName,
    /// Id of the machine.
    pub id: MachineId,
    /// Role of the machine in the cluster.
    pub role: JoinRole,
    /// Hash of the machine's key.
    pub key: String,
    /// The network of the machine's containers.
    pub subnet: MachineSubnet,
    /// Host name or IP address by which other machines reach this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Address of the machine's server, `host:port`; `None` for an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Labels that the machine gets when it registers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// When the machine joined.
    pub joined: Moment,
}

/// Key of the authority.
pub const AUTHORITY_KEY: &str = "trust/authority";

/// Returns the key of a join token.
#[must_use]
pub fn join_token_key(hash: &str) -> String {
    format!("join-tokens/{hash}")
}

/// Returns the key of a member.
#[must_use]
pub fn member_key(machine: &MachineName) -> String {
    format!("members/{machine}")
}
