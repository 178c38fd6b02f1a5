//! Requests and answers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_model::{
    AppName, BaseName, Deploy, DeployNumber, Digest, FailureRun, Generation, HostName, ImageSettings, InstanceId,
    MachineName, MachinePlan, Moment, NetworkFault, ObservedInstance, Phase, ReleaseNumber, RequestCounts,
    RequestFailure, RoleName, RouterId, Subnet, Table, Traffic,
};
use serde::{Deserialize, Serialize};

use crate::Problem;

/// What a token may do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Scope {
    /// Everything.
    Admin,
    /// Looks, changes nothing, sees no configuration values.
    Read,
    /// Everything with one app but creating and destroying it.
    Deploy {
        /// Which.
        app: AppName,
    },
    /// What a machine's agent and router need.
    Machine {
        /// Which.
        machine: MachineName,
    },
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// What people call it; it stands in the audit trail.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created: Moment,
    /// From then on it is not known any more; none: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

/// A new token: the only time its secret is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// The token.
    pub info: TokenInfo,
    /// What to send as the password or bearer token.
    pub secret: String,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateToken {
    /// What to call it.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// How long it lives, in milliseconds; until it is revoked if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u64>,
}

/// `POST /v1/apps`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateApp {
    /// Its name.
    pub name: AppName,
    /// The base its images are built on.
    #[serde(default)]
    pub base: Option<BaseName>,
    /// The branch that deploys; `main` if none.
    #[serde(default)]
    pub branch: Option<String>,
    /// Host names besides its own.
    #[serde(default)]
    pub hosts: Vec<HostName>,
}

/// An app, as seen from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppInfo {
    /// Its name.
    pub name: AppName,
    /// Where it is reached; none when no role of what serves speaks HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The branch that deploys.
    pub branch: String,
    /// The base it is built on.
    pub base: Option<BaseName>,
    /// Host names besides its own.
    pub hosts: Vec<HostName>,
    /// The release that serves.
    pub current: Option<ReleaseNumber>,
    /// Copies per role, where `scale` said so.
    pub scale: BTreeMap<RoleName, u32>,
    /// The deploy under way.
    pub deploy: Option<Deploy>,
    /// Instances of the current release that are ready, and that are wanted.
    pub ready: u32,
    /// See `ready`.
    pub wanted: u32,
    /// What is to become of its requests.
    pub traffic: Traffic,
    /// What became of those that could not go on at once, at all routers since each began.
    pub requests: RequestCounts,
    /// When it was created.
    pub created: Moment,
}

/// `POST /v1/apps/{app}/traffic`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum ChangeTraffic {
    /// Requests wait until they are resumed.
    Pause,
    /// Those that wait go on.
    Resume,
    /// Every request is answered with 503 and the message; with none they go on.
    Maintenance {
        /// What clients are told.
        message: Option<String>,
    },
    /// The most requests, at each router; what is not named has no limit.
    Limit {
        /// In a second.
        rate: Option<u32>,
        /// At once.
        concurrent: Option<u32>,
    },
    /// The proxies that this app trusts besides those of the cluster; replaces the list.
    TrustedProxies {
        /// Address ranges.
        proxies: Vec<Subnet>,
    },
}

/// `PATCH /v1/cluster/policy`: a field that is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangePolicy {
    /// The proxies that every app trusts; replaces the list.
    pub trusted_proxies: Option<Vec<Subnet>>,
}

/// A release, as seen from outside: its configuration by name alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseInfo {
    /// Its number.
    pub number: ReleaseNumber,
    /// It serves now.
    pub current: bool,
    /// It served once.
    pub good: bool,
    /// The image's manifest.
    pub image: Digest,
    /// The commit.
    pub commit: Option<String>,
    /// The names of its configuration.
    pub config: Vec<String>,
    /// Role to command line.
    pub roles: BTreeMap<RoleName, String>,
    /// When.
    pub created: Moment,
    /// Who.
    pub by: String,
    /// Why.
    pub cause: String,
}

/// An instance, as seen from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// Which.
    pub id: InstanceId,
    /// Where.
    pub machine: MachineName,
    /// What is to become of it: `run`, `retire` or `stop`.
    pub goal: String,
    /// Where it is; none until its machine has said.
    pub phase: Option<Phase>,
    /// When it was last started; until then, when it came to its phase.
    pub since: Option<Moment>,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// How often it was started again.
    pub restarts: u32,
    /// What is wrong with it, or was lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `POST /v1/apps/{app}/deploys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartDeploy {
    /// What to deploy.
    pub what: What,
    /// Stop before promotion.
    #[serde(default)]
    pub hold: bool,
}

/// What to deploy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum What {
    /// An image in this registry.
    Image {
        /// `shop:1.2` or `shop@sha256:…`, in this registry.
        reference: String,
        /// What it was called where it was pulled from; for the ledger.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<String>,
        /// What is new of how images from elsewhere run; kept for later images of the app.
        #[serde(default, skip_serializing_if = "ImageSettings::is_empty")]
        settings: ImageSettings,
    },
    /// A release again; the last good one before the current if none is named.
    Rollback {
        /// Which.
        to: Option<ReleaseNumber>,
    },
}

/// `PATCH /v1/apps/{app}/config`: a value sets, none unsets. Becomes a release.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ChangeConfig {
    /// By name.
    pub changes: BTreeMap<String, Option<String>>,
}

/// `PUT /v1/apps/{app}/scale`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ChangeScale {
    /// Copies per role.
    pub roles: BTreeMap<RoleName, u32>,
}

/// `PUT /v1/apps/{app}/base`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeBase {
    /// What the next push is built on, unless the repository names another.
    pub base: BaseName,
}

/// `PATCH /v1/apps/{app}/hosts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeHosts {
    /// Host names that lead to the app from now on.
    #[serde(default)]
    pub add: Vec<HostName>,
    /// Host names that no longer do.
    #[serde(default)]
    pub remove: Vec<HostName>,
}

/// `PUT /v1/apps/{app}/branch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeBranch {
    /// The only branch whose pushes deploy.
    pub branch: String,
}

/// A deploy that was accepted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Accepted {
    /// Its number; `follow` it.
    pub deploy: DeployNumber,
}

/// One event of following a deploy: `GET /v1/apps/{app}/deploys/{number}/follow`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Progress {
    /// A line to show.
    Line {
        /// The text.
        text: String,
    },
    /// It is over, held until it is promoted or aborted, or serves and is watched. The last.
    End {
        /// How it stands.
        deploy: std::boxed::Box<Deploy>,
        /// Where the app is reached, or the release that is held; none when no role of it speaks HTTP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
}

/// `GET /v1/…/why`: one causal answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked about.
    pub subject: String,
    /// The answer.
    pub headline: String,
    /// What it rests on.
    pub evidence: Vec<String>,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Gantry's version.
    pub version: String,
    /// Where the store is.
    pub store: String,
    /// Machines and how long they have been silent, in milliseconds.
    pub machines: BTreeMap<MachineName, u64>,
    /// What is wrong with the networks of machines; a machine whose network is well is not in it.
    #[serde(default)]
    pub network: BTreeMap<MachineName, Vec<NetworkFault>>,
    /// Routers: the table each has, and how long it has been silent.
    pub routers: BTreeMap<RouterId, (Generation, u64)>,
    /// The newest table.
    pub table: Generation,
    /// Apps.
    pub apps: Vec<AppInfo>,
    /// Bytes by kind.
    pub space: BTreeMap<String, u64>,
    /// What is wrong with the machine or the store, and what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One line of the audit trail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one each.
    pub number: u64,
    /// When.
    pub at: Moment,
    /// Who: the name of a token, or `gantry`.
    pub by: String,
    /// The app it is about, if any.
    pub app: Option<AppName>,
    /// What was done.
    pub what: String,
}

/// A base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseInfo {
    /// Its name.
    pub name: BaseName,
    /// The image's manifest.
    pub image: Digest,
    /// What it was made from.
    pub from: String,
    /// When.
    pub created: Moment,
}

/// `POST /v1/apps/{app}/pull` and `/v1/bases/{name}/pull`: an image of another registry into this one.
#[derive(Clone, Serialize, Deserialize)]
pub struct PullImage {
    /// `registry.example/team/shop:1.2`.
    pub reference: String,
    /// Who asks there, if it must be said. Used once and not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// With what password or token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// What comes while a base is made or an image is pulled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Making {
    /// A line to show.
    Line {
        /// The line.
        text: String,
    },
    /// The last one: there is the base.
    Base {
        /// The base.
        base: BaseInfo,
    },
    /// The last one: there is the image.
    Image {
        /// What to call it in this registry: `shop@sha256:…`.
        reference: String,
    },
    /// The last one: it failed.
    Failed {
        /// Why.
        problem: Problem,
    },
}

/// `POST /internal/v1/machines/{machine}/observed`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineReport {
    /// The plan it has taken on.
    pub generation: Generation,
    /// Every instance on it.
    pub instances: BTreeMap<InstanceId, ObservedInstance>,
    /// What is wrong with its network.
    #[serde(default)]
    pub network: Vec<NetworkFault>,
}

/// `POST /internal/v1/routers/{machine}/observed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterReport {
    /// Which of the machine's routers.
    pub number: u64,
    /// It has ended its last connection and says no more.
    pub gone: bool,
    /// The table it routes by.
    pub generation: Generation,
    /// Requests under way.
    pub active: BTreeMap<InstanceId, u64>,
    /// What became of requests that could not go on at once.
    #[serde(default)]
    pub counts: BTreeMap<AppName, RequestCounts>,
    /// The newest run of failed requests of each kind.
    #[serde(default)]
    pub failures: BTreeMap<AppName, BTreeMap<RequestFailure, FailureRun>>,
}

/// `GET /internal/v1/machines/{machine}/plan?after=`: none when nothing newer came in time.
pub type PlanAnswer = Option<MachinePlan>;

/// `GET /internal/v1/routers/{machine}/table?after=`.
pub type TableAnswer = Option<Table>;

/// What an agent is asked to open a session for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SessionKind {
    /// A process in a running instance.
    Exec {
        /// Which.
        instance: InstanceId,
        /// Program and arguments.
        command: Vec<String>,
        /// With a terminal.
        terminal: bool,
    },
    /// A container of its own with a release's image and configuration.
    Run {
        /// Whose image and configuration.
        app: AppName,
        /// Names it.
        release: ReleaseNumber,
        /// What it is made of.
        spec: std::boxed::Box<gantry_model::InstanceSpec>,
        /// Program and arguments.
        command: Vec<String>,
        /// With a terminal.
        terminal: bool,
    },
    /// An app's log.
    Logs(LogQuery),
}

/// Which lines of the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogQuery {
    /// Whose.
    pub app: Option<AppName>,
    /// Only of this role.
    #[serde(default)]
    pub role: Option<RoleName>,
    /// At most so many of the newest.
    #[serde(default)]
    pub lines: Option<usize>,
    /// Not older than this.
    #[serde(default)]
    pub since: Option<Moment>,
    /// Only lines with this text.
    #[serde(default)]
    pub grep: Option<String>,
    /// Go on with what comes.
    #[serde(default)]
    pub follow: bool,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub at: Moment,
    /// Which instance.
    pub instance: InstanceId,
    /// It came from standard error.
    pub error: bool,
    /// What.
    pub text: String,
}

/// A session that an agent is to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Its number.
    pub id: String,
    /// What for.
    pub what: SessionKind,
}
