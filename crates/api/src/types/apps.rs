//! Apps and their instances.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use gantry_model::{
    AllocationId, AppName, BaseName, HostName, InstanceGoal, InstancePhase, MachineName, Moment, ReleaseNumber,
    RequestCounts, RoleName, Subnet, TrafficPolicy,
};
use serde::{Deserialize, Serialize};

use super::{CauseCode, DeployInfo};

/// Body of `POST /v1/apps`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateApp {
    /// Name of the app.
    pub name: AppName,
    /// Base image of the app's builds.
    #[serde(default)]
    pub base: Option<BaseName>,
    /// Branch whose pushes deploy; `main` if `None`.
    #[serde(default)]
    pub branch: Option<String>,
    /// Host names in addition to the app's default host name.
    #[serde(default)]
    pub hosts: Vec<HostName>,
}

/// An app, as shown by the public API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppInfo {
    /// Name of the app.
    pub name: AppName,
    /// URL of the app; `None` if no role of the current release speaks HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Branch whose pushes deploy.
    pub branch: String,
    /// Base image of the app's builds.
    pub base: Option<BaseName>,
    /// Host names in addition to the app's default host name.
    pub hosts: Vec<HostName>,
    /// The release that serves requests.
    pub current: Option<ReleaseNumber>,
    /// Copies per role, for roles with a count from `scale`.
    pub scale: BTreeMap<RoleName, u32>,
    /// The deploy in progress.
    pub deploy: Option<DeployInfo>,
    /// Number of ready instances of the current release.
    pub ready: u32,
    /// Number of desired instances of the current release.
    pub wanted: u32,
    /// Traffic policy: pause, maintenance, rate and concurrency limits.
    pub traffic: TrafficInfo,
    /// Counts of queued, refused and rate-limited requests: a sum over all routers, since the start of each router.
    pub requests: RequestCountsInfo,
    /// Time of creation.
    pub created: Moment,
}

/// Body of `POST /v1/apps/{app}/traffic`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum ChangeTraffic {
    /// Queues requests until `Resume`.
    Pause,
    /// Releases the queued requests.
    Resume,
    /// Answers every request with 503 and the message. Without a message, requests reach the app again.
    Maintenance {
        /// The message for clients.
        message: Option<String>,
    },
    /// Limits requests at each router; `None` removes a limit.
    Limit {
        /// Requests per second.
        rate: Option<u32>,
        /// Concurrent requests.
        concurrent: Option<u32>,
    },
    /// Replaces the list of proxies that this app trusts in addition to the cluster's proxies.
    TrustedProxies {
        /// Address ranges of the proxies.
        proxies: Vec<Subnet>,
    },
}

/// An instance, as shown by the public API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// Id of the instance.
    pub id: AllocationId,
    /// The machine that the plan assigns the instance to.
    pub machine: MachineName,
    /// Desired state.
    pub goal: GoalInfo,
    /// Phase of the instance; `None` until the machine reports the instance.
    pub phase: Option<PhaseInfo>,
    /// Time of the last start; before the first start, the time at which the phase began.
    pub since: Option<Moment>,
    /// Address of the instance.
    pub address: Option<IpAddr>,
    /// Number of restarts.
    pub restarts: u32,
    /// A current or recent problem of the instance, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Stable code of the problem that `note` describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<CauseCode>,
}

/// Body of `PATCH /v1/apps/{app}/config`. The change becomes a new release.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct ChangeConfig {
    /// Value by name; `None` unsets the name.
    pub changes: BTreeMap<String, Option<String>>,
}

/// Names the values without their contents, which may be secret.
impl fmt::Debug for ChangeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeConfig").field("changes", &self.changes.keys()).finish()
    }
}

/// Body of `PUT /v1/apps/{app}/scale`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ChangeScale {
    /// Copies per role.
    pub roles: BTreeMap<RoleName, u32>,
}

/// Body of `PUT /v1/apps/{app}/base`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeBase {
    /// Base image of the next push, unless the repository names another base image.
    pub base: BaseName,
}

/// Body of `PATCH /v1/apps/{app}/hosts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeHosts {
    /// Host names to route to the app.
    #[serde(default)]
    pub add: Vec<HostName>,
    /// Host names to stop routing to the app.
    #[serde(default)]
    pub remove: Vec<HostName>,
}

/// Body of `PUT /v1/apps/{app}/branch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeBranch {
    /// The only branch whose pushes deploy.
    pub branch: String,
}

/// Body of `POST /v1/apps/{app}/rename`. The response is the deploy under the new name, or null if nothing runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenameApp {
    /// The new name.
    pub name: AppName,
}

/// Desired state of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoalInfo {
    /// The instance runs.
    Run,
    /// The instance finishes its requests.
    Retire,
    /// The instance stops.
    Stop,
    /// A goal that a newer server knows.
    #[serde(other)]
    Unknown,
}

impl From<InstanceGoal> for GoalInfo {
    fn from(goal: InstanceGoal) -> Self {
        match goal {
            InstanceGoal::Run => Self::Run,
            InstanceGoal::Retire { .. } => Self::Retire,
            InstanceGoal::Stop => Self::Stop,
        }
    }
}

impl fmt::Display for GoalInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Run => "run",
            Self::Retire => "retire",
            Self::Stop => "stop",
            Self::Unknown => "unknown",
        })
    }
}

/// Phase of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseInfo {
    /// The machine fetches and unpacks the image.
    Preparing,
    /// The process runs and is not ready.
    Starting,
    /// The instance serves.
    Ready,
    /// The instance was ready, and its checks fail.
    Unhealthy,
    /// The process ended.
    Exited,
    /// The machine cannot start the instance.
    Failed,
    /// The instance is being stopped.
    Stopping,
    /// A phase that a newer server knows.
    #[serde(other)]
    Unknown,
}

impl From<InstancePhase> for PhaseInfo {
    fn from(phase: InstancePhase) -> Self {
        match phase {
            InstancePhase::Preparing => Self::Preparing,
            InstancePhase::Starting => Self::Starting,
            InstancePhase::Ready => Self::Ready,
            InstancePhase::Unhealthy => Self::Unhealthy,
            InstancePhase::Exited => Self::Exited,
            InstancePhase::Failed => Self::Failed,
            InstancePhase::Stopping => Self::Stopping,
        }
    }
}

impl fmt::Display for PhaseInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
            Self::Unknown => "unknown",
        })
    }
}

/// Traffic policy of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficInfo {
    /// True if requests wait.
    pub paused: bool,
    /// Message with which all requests are refused.
    pub maintenance: Option<String>,
    /// Maximum number of requests per second, at each router.
    pub rate: Option<u32>,
    /// Maximum number of concurrent requests, at each router.
    pub concurrent: Option<u32>,
    /// Proxies that the app trusts in addition to the cluster's.
    pub trusted_proxies: Vec<Subnet>,
    /// The policy, for people.
    pub text: String,
}

impl From<&TrafficPolicy> for TrafficInfo {
    fn from(policy: &TrafficPolicy) -> Self {
        let TrafficPolicy { paused, maintenance, rate, concurrent, trusted_proxies } = policy.clone();
        let trusted_proxies = trusted_proxies.iter().copied().collect();
        Self { paused, maintenance, rate, concurrent, trusted_proxies, text: policy.to_string() }
    }
}

/// Outcomes of an app's requests, since the start of each router.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCountsInfo {
    /// Requests that wait now.
    pub waiting: u64,
    /// Requests that waited and then reached an instance.
    pub held: u64,
    /// Requests whose wait timed out, or that met a full queue.
    pub refused: u64,
    /// Requests over a limit.
    pub limited: u64,
}

impl From<RequestCounts> for RequestCountsInfo {
    fn from(counts: RequestCounts) -> Self {
        let RequestCounts { waiting, held, refused, limited } = counts;
        Self { waiting, held, refused, limited }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_leaves_out_configuration_values() {
        let changes = [("PASSWORD".to_owned(), Some("config-secret".to_owned()))].into();
        let shown = format!("{:?}", ChangeConfig { changes });
        assert!(shown.contains("PASSWORD") && !shown.contains("config-secret"), "{shown}");
    }
}
