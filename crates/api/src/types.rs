//! Request and response types.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use gantry_model::{
    AllocationId, AppName, AuditAction, BaseName, Deploy, DeployNumber, Digest, Generation, HostName, ImageSettings,
    InstancePhase, MachineName, Moment, NetworkFault, ReleaseNumber, RequestCounts, RoleName, RouterId, Subnet,
    TrafficPolicy, VolumeName,
};
use serde::{Deserialize, Serialize};

pub use gantry_model::Scope;

use crate::Problem;
use crate::volumes::VolumeRequest;

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Name of the token in lists and in the audit trail.
    pub name: String,
    /// Permissions of the token.
    pub scope: Scope,
    /// Time of creation.
    pub created: Moment,
    /// Time of expiry; `None` if the token is valid until an administrator revokes the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

/// A new token. Only this response ever contains the secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// The token.
    pub info: TokenInfo,
    /// The secret, for use as the password or bearer token.
    pub secret: String,
}

/// Body of `POST /v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateToken {
    /// Name of the token.
    pub name: String,
    /// Permissions of the token.
    pub scope: Scope,
    /// Lifetime in milliseconds; `None` if the token is valid until an administrator revokes the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u64>,
}

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
    pub deploy: Option<Deploy>,
    /// Number of ready instances of the current release.
    pub ready: u32,
    /// Number of desired instances of the current release.
    pub wanted: u32,
    /// Traffic policy: pause, maintenance, rate and concurrency limits.
    pub traffic: TrafficPolicy,
    /// Counts of queued, refused and rate-limited requests: a sum over all routers, since the start of each router.
    pub requests: RequestCounts,
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

/// A release, as shown by the public API. Configuration appears by name only, without values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseInfo {
    /// Number of the release.
    pub number: ReleaseNumber,
    /// True if this release serves requests now.
    pub current: bool,
    /// True if the release's deploy completed.
    pub good: bool,
    /// Manifest of the image.
    pub image: Digest,
    /// Commit of the source.
    pub commit: Option<String>,
    /// Names of the configuration values.
    pub config: Vec<String>,
    /// Command line of each role.
    pub roles: BTreeMap<RoleName, String>,
    /// Time of creation.
    pub created: Moment,
    /// Name of the token that created the release.
    pub by: String,
    /// Reason for the release.
    pub cause: String,
}

/// An instance, as shown by the public API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// Id of the instance.
    pub id: AllocationId,
    /// The machine that the plan assigns the instance to.
    pub machine: MachineName,
    /// Desired state: `run`, `retire` or `stop`.
    pub goal: String,
    /// Phase of the instance; `None` until the machine reports the instance.
    pub phase: Option<InstancePhase>,
    /// Time of the last start; before the first start, the time at which the phase began.
    pub since: Option<Moment>,
    /// Address of the instance.
    pub address: Option<Ipv4Addr>,
    /// Number of restarts.
    pub restarts: u32,
    /// A current or recent problem of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Body of `POST /v1/apps/{app}/deploys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartDeploy {
    /// Source of the deploy.
    #[serde(alias = "what")]
    pub source: DeploySource,
    /// True if the deploy stops before promotion.
    #[serde(default)]
    pub hold: bool,
}

/// Source of a deploy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeploySource {
    /// An image in this registry.
    Image {
        /// Reference of the image: `shop:1.2` or `shop@sha256:…`.
        reference: String,
        /// Reference of the image in the registry that the image was pulled from; for the release's record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<String>,
        /// Changes to the settings of foreign images. The app keeps the settings for later images.
        #[serde(default, skip_serializing_if = "ImageSettings::is_empty")]
        settings: ImageSettings,
    },
    /// An earlier release.
    Rollback {
        /// The release; if `None`, the last good release before the current release.
        to: Option<ReleaseNumber>,
    },
}

/// Body of `PATCH /v1/apps/{app}/config`. The change becomes a new release.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ChangeConfig {
    /// Value by name; `None` unsets the name.
    pub changes: BTreeMap<String, Option<String>>,
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

/// An accepted deploy.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct AcceptedDeploy {
    /// Number of the deploy, for `GET /v1/apps/{app}/deploys/{number}/follow`.
    pub deploy: DeployNumber,
}

/// An event while a client follows a deploy: `GET /v1/apps/{app}/deploys/{number}/follow`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeployProgress {
    /// A line of output.
    Line {
        /// Text of the line.
        text: String,
    },
    /// The last event. The deploy has ended, is held until a promotion or an abort, or is in its bake time.
    End {
        /// State of the deploy.
        deploy: std::boxed::Box<Deploy>,
        /// URL of the app or of the held release; `None` if no role of the release speaks HTTP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
}

/// Response of `GET /v1/…/why`: the cause of a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The object of the question.
    pub subject: String,
    /// The cause, in one sentence.
    pub headline: String,
    /// The facts behind the headline.
    pub evidence: Vec<String>,
}

/// Response of `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Version of Gantry.
    pub version: String,
    /// Location of the store: the path of a file, or the endpoints of etcd.
    pub store: String,
    /// Milliseconds since the last report of each machine.
    pub machines: BTreeMap<MachineName, u64>,
    /// Network faults of machines. The map leaves out machines without a fault.
    #[serde(default)]
    pub network: BTreeMap<MachineName, Vec<NetworkFault>>,
    /// For each router, the generation of its routing table and the milliseconds since its last report.
    pub routers: BTreeMap<RouterId, (Generation, u64)>,
    /// Generation of the newest routing table.
    pub table: Generation,
    /// All apps.
    pub apps: Vec<AppInfo>,
    /// Disk usage of the server, in bytes per kind of data.
    pub space: BTreeMap<String, u64>,
    /// Problems of the machine or the store, each with its remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An event of the audit trail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Number of the event. Consecutive events have consecutive numbers.
    pub number: u64,
    /// Time of the event.
    pub at: Moment,
    /// The actor: the name of a token, or `gantry`.
    pub by: String,
    /// The app, if the event is about an app.
    pub app: Option<AppName>,
    /// Description of the action, for people.
    pub what: String,
    /// The action, for programs; `None` for an event that an older version recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<AuditAction>,
}

/// A base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseInfo {
    /// Name of the base image.
    pub name: BaseName,
    /// Manifest of the image.
    pub image: Digest,
    /// Sources of the base image, such as `bookworm with 8 packages`.
    pub from: String,
    /// Time of creation.
    pub created: Moment,
}

/// Body of `POST /v1/apps/{app}/pull` and `/v1/bases/{name}/pull`, which copy an image of another registry into this
/// registry.
#[derive(Clone, Serialize, Deserialize)]
pub struct PullImage {
    /// Reference of the image: `registry.example/team/shop:1.2`.
    pub reference: String,
    /// User name at the other registry, if the registry wants a login. Gantry uses the credentials once and does not
    /// store them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password or token at the other registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// A progress event while the server makes a base image or pulls an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ImageProgress {
    /// A line of output.
    Line {
        /// Text of the line.
        text: String,
    },
    /// The last event: the base image is complete.
    Base {
        /// The base image.
        base: BaseInfo,
    },
    /// The last event: the image is complete.
    Image {
        /// Reference of the image in this registry: `shop@sha256:…`.
        reference: String,
    },
    /// The last event: the operation failed.
    Failed {
        /// Cause of the failure.
        problem: Problem,
    },
}

/// Body of `POST /v1/apps/{app}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartExec {
    /// The instance as `web-1` or by its full name; the first running instance by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// True if the process gets a terminal.
    #[serde(default)]
    pub terminal: bool,
}

/// Body of `POST /v1/apps/{app}/run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRun {
    /// Program and arguments.
    pub command: Vec<String>,
    /// True if the process gets a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Volumes of the container, each with its path. Without a path, the volume is where the release's role has it.
    #[serde(default)]
    pub volumes: BTreeMap<VolumeName, Option<String>>,
}

/// Kind of a session that the server asks an agent to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SessionKind {
    /// A process in a running instance.
    Exec {
        /// The instance.
        instance: AllocationId,
        /// Program and arguments.
        command: Vec<String>,
        /// True if the process gets a terminal.
        terminal: bool,
    },
    /// A new container with the image and configuration of a release.
    Run {
        /// The app that the release belongs to.
        app: AppName,
        /// Number of the release, part of the container's name.
        release: ReleaseNumber,
        /// Specification of the container.
        spec: std::boxed::Box<gantry_model::InstanceSpec>,
        /// The volumes among those of the specification that no other container may have at the same time.
        #[serde(default)]
        alone: BTreeSet<String>,
        /// Program and arguments.
        command: Vec<String>,
        /// True if the process gets a terminal.
        terminal: bool,
    },
    /// The log of an app.
    Logs(LogQuery),
    /// Work on volumes.
    Volumes {
        /// The work.
        request: VolumeRequest,
    },
    /// A build. The agent sends [`crate::builds::BuildEvent`]s.
    Build(crate::builds::BuildOrder),
    /// The making of a base image. The agent sends [`crate::builds::BuildEvent`]s.
    Base(crate::builds::BaseOrder),
    /// The disk usage of the machine. The agent sends a map of bytes by kind of data, as JSON.
    Space,
    /// A change to the build caches of the machine.
    Cache(crate::builds::CacheOrder),
}

/// Filter of log lines.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogQuery {
    /// The app.
    pub app: Option<AppName>,
    /// Only lines of this role.
    #[serde(default)]
    pub role: Option<RoleName>,
    /// Only the newest lines, up to this number.
    #[serde(default)]
    pub lines: Option<usize>,
    /// Only lines since this time.
    #[serde(default)]
    pub since: Option<Moment>,
    /// Only lines with this text.
    #[serde(default)]
    pub grep: Option<String>,
    /// True to follow new lines.
    #[serde(default)]
    pub follow: bool,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Time of the line.
    pub at: Moment,
    /// The instance that wrote the line.
    pub instance: AllocationId,
    /// True if the line came from standard error.
    pub error: bool,
    /// Text of the line.
    pub text: String,
}

/// A request to an agent: open a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Id of the session.
    pub id: String,
    /// Kind of the session.
    #[serde(rename = "what")]
    pub kind: SessionKind,
}
