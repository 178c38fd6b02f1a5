//! The rules of the cluster that agents and routers obey.

use gantry_model::{Bytes, ClusterPolicy, HostName, Seconds};
use serde::{Deserialize, Serialize};

/// The rules for a peer. A field that the sender does not know has its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerPolicy {
    /// Domain of the apps.
    pub domain: HostName,
    /// Maximum number of builds at the same time on a machine.
    pub builds: u16,
    /// Interval of garbage collection.
    pub collect_every: Seconds,
    /// Minimum age of garbage.
    pub collect_grace: Seconds,
    /// Free disk space that images and volumes must leave.
    pub reserve: Bytes,
    /// Time for which the logs of an app stay after its last instance left the machine.
    pub log_retention: Seconds,
    /// Logs of removed instances that each app keeps on the machine.
    pub logs_kept: u32,
}

impl Default for PeerPolicy {
    fn default() -> Self {
        Self::from(&ClusterPolicy::default())
    }
}

impl From<&ClusterPolicy> for PeerPolicy {
    fn from(policy: &ClusterPolicy) -> Self {
        Self {
            domain: policy.domain(),
            builds: policy.builds(),
            collect_every: policy.collect_every(),
            collect_grace: policy.collect_grace(),
            reserve: policy.reserve(),
            log_retention: policy.log_retention(),
            logs_kept: policy.logs_kept(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerMessage;

    #[test]
    fn reads_rules_that_lack_or_add_fields() {
        let lean = r#"{"type":"policy","builds":7}"#;
        let expected = PeerPolicy { builds: 7, ..PeerPolicy::default() };
        let read = |text: &str| serde_json::from_str::<ServerMessage>(text).expect("read");
        assert_eq!(read(lean), ServerMessage::Policy(expected.clone()));
        assert_eq!(read(r#"{"type":"policy","builds":7,"jobs":3}"#), ServerMessage::Policy(expected));
    }
}
