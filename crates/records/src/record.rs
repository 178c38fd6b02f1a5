//! The records, their keys, and their form in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{
    AllocationNumbers, App, AppName, AppRoutes, AuditAction, BaseName, ClusterId, ClusterPolicy, Deploy, DeployNumber,
    Digest, DigestError, Machine, MachineName, MachinePlan, Moment, Release, ReleaseConfig, ReleaseNumber, Role,
    RoleName, RoutingHead, Scope,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::stored::{self, Configs};
use crate::trust::{AUTHORITY_KEY, AuthorityRecord, JoinTokenRecord, MemberRecord, join_token_key, member_key};
use crate::{CodeRecord, DestroyedApp, EARLIER_EVENT_KEYS, EVENT_KEYS, GitPacks, code_key, destroyed_key};

/// Result of a build, kept so that each commit is built once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The app.
    pub app: AppName,
    /// The built commit.
    pub commit: String,
    /// Base image of the build. The same commit on another base is another build.
    pub base: Digest,
    /// The built image.
    pub image: Digest,
    /// The roles that the commit declares.
    pub roles: BTreeMap<RoleName, Role>,
}

/// A base: an image that apps are built on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// Name of the base.
    pub name: BaseName,
    /// Manifest of the image.
    pub image: Digest,
    /// Sources of the image, such as `bookworm with 8 packages`.
    pub from: String,
    /// Time of creation.
    pub created: Moment,
    /// True if the base was made by the recipe of the stack of the same name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stack: bool,
}

/// A token. The store has the hash of the secret as the record's key, and nowhere the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Name of the token.
    pub name: String,
    /// Permissions of the token.
    pub scope: Scope,
    /// Time of creation.
    pub created: Moment,
    /// Time of expiry; `None` for a token without an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
    /// Machine of the server that has the secret in a file. None for a token that a person made, and for a token of an
    /// earlier version until its server starts again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<MachineName>,
}

/// An event of the audit trail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Number of the event. Consecutive events have consecutive numbers.
    pub number: u64,
    /// Time of the event.
    pub at: Moment,
    /// The actor: the name of a token, or `gantry`.
    pub by: String,
    /// The app, if the event is about an app.
    pub app: Option<AppName>,
    /// The action as text, rendered when the event was recorded. Older versions recorded the text alone.
    pub what: String,
    /// The action; `None` for an event of an older version, or of a newer version with an action that this version does
    /// not know.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_action")]
    pub action: Option<AuditAction>,
}

impl EventRecord {
    /// Creates an event and renders its text.
    #[must_use]
    pub fn new(number: u64, at: Moment, by: &str, app: Option<AppName>, action: AuditAction) -> Self {
        Self { number, at, by: by.to_owned(), app, what: action.to_string(), action: Some(action) }
    }
}

/// Reads an action, or `None` for an action of a newer version: the trail must not keep a server from starting.
fn known_action<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AuditAction>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// A pushed manifest. Its repository keeps the manifest by digest, tagged or not, until no record references it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushedManifest {
    /// Time of the latest push.
    pub at: Moment,
    /// Image to which the manifest refers. The manifest is kept as long as this image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
}

/// A record of the store.
#[derive(Debug, Clone)]
pub enum StoreRecord {
    /// An app.
    App(App),
    /// The last numbers of a destroyed app.
    Destroyed(DestroyedApp),
    /// A release.
    Release(Release),
    /// A configuration that releases and specs name by its digest.
    Config(ReleaseConfig),
    /// A deploy.
    Deploy(Deploy),
    /// The result of a build.
    Build(BuildRecord),
    /// The packs of an app's repository.
    Packs(AppName, GitPacks),
    /// A base.
    Base(BaseRecord),
    /// An uploaded code.
    Code(CodeRecord),
    /// A tag in the registry.
    Tag {
        /// Repository of the tag.
        repository: String,
        /// The tag.
        tag: String,
        /// The manifest that the tag names.
        digest: Digest,
    },
    /// A manifest in the registry.
    Manifest {
        /// Repository of the manifest.
        repository: String,
        /// Digest of the manifest.
        digest: Digest,
        /// The manifest's record.
        pushed: PushedManifest,
    },
    /// A token.
    Token {
        /// Hash of the token's secret.
        hash: String,
        /// The token's record.
        token: TokenRecord,
    },
    /// An event of the audit trail.
    Event(EventRecord),
    /// Identity of the cluster.
    Cluster(ClusterId),
    /// Rules that hold for all apps.
    Policy(ClusterPolicy),
    /// The numbers of an app's allocations.
    Numbers(AppName, Arc<AllocationNumbers>),
    /// The routes of an app.
    Routes(AppName, Arc<AppRoutes>),
    /// The part that the routes of all apps share.
    Routing(RoutingHead),
    /// A machine that has registered.
    Registered(Machine),
    /// A machine's part of the plan.
    Machine(MachineName, Arc<MachinePlan>),
    /// The authority that signs the machines' certificates.
    Authority(AuthorityRecord),
    /// A join token.
    JoinToken {
        /// Hash of the token's secret.
        hash: String,
        /// The token's record.
        token: JoinTokenRecord,
    },
    /// A machine that has joined.
    Member(MemberRecord),
}

/// A change of one record.
#[derive(Debug, Clone)]
pub enum RecordChange {
    /// A new or changed record.
    Put(Box<StoreRecord>),
    /// Removal of the record under a key.
    Remove(String),
}

impl From<StoreRecord> for RecordChange {
    fn from(record: StoreRecord) -> Self {
        Self::Put(Box::new(record))
    }
}

impl RecordChange {
    /// Returns the key, and the value to store; `None` removes the record.
    ///
    /// # Errors
    /// When the record cannot be serialized.
    pub fn entry(&self) -> Result<(String, Option<Vec<u8>>), RecordError> {
        match self {
            Self::Put(record) => {
                let key = record.key();
                let value = record.value().map_err(|error| RecordError::new(&key, error))?;
                Ok((key, Some(value)))
            }
            Self::Remove(key) => Ok((key.clone(), None)),
        }
    }
}

fn event_key(number: u64) -> String {
    format!("events/{:05}", number % EVENT_KEYS)
}

/// Keys that an event's record may have: today's, and the key of an earlier version.
#[must_use]
pub fn event_keys(number: u64) -> [String; 2] {
    [event_key(number), format!("events/{:04}", number % EARLIER_EVENT_KEYS)]
}

impl StoreRecord {
    /// Returns the record's key in the store.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::App(app) => format!("apps/{}", app.name),
            Self::Destroyed(destroyed) => destroyed_key(&destroyed.app),
            Self::Config(config) => config_key(config.digest()),
            Self::Release(release) => release_key(&release.app, release.number),
            Self::Deploy(deploy) => deploy_key(&deploy.app, deploy.number),
            Self::Build(build) => build_key(&build.app, &build.commit),
            Self::Packs(app, _) => packs_key(app),
            Self::Base(base) => base_key(&base.name),
            Self::Code(code) => code_key(&code.app, &code.name),
            Self::Tag { repository, tag, .. } => tag_key(repository, tag),
            Self::Manifest { repository, digest, .. } => manifest_key(repository, digest),
            Self::Token { hash, .. } => token_key(hash),
            Self::Event(event) => event_key(event.number),
            Self::Cluster(_) => CLUSTER_ID_KEY.to_owned(),
            Self::Policy(_) => "cluster/policy".to_owned(),
            Self::Numbers(app, _) => numbers_key(app),
            Self::Routes(app, _) => routes_key(app),
            Self::Routing(_) => "plan/routing".to_owned(),
            Self::Registered(machine) => format!("machines/{}", machine.name),
            Self::Machine(machine, _) => part_key(machine),
            Self::Authority(_) => AUTHORITY_KEY.to_owned(),
            Self::JoinToken { hash, .. } => join_token_key(hash),
            Self::Member(member) => member_key(&member.machine),
        }
    }

    fn value(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::App(record) => serde_json::to_vec(record),
            Self::Destroyed(record) => serde_json::to_vec(record),
            Self::Release(record) => stored::release(record),
            Self::Config(config) => serde_json::to_vec(config),
            Self::Deploy(record) => serde_json::to_vec(record),
            Self::Build(record) => serde_json::to_vec(record),
            Self::Packs(_, packs) => serde_json::to_vec(packs),
            Self::Base(record) => serde_json::to_vec(record),
            Self::Code(record) => serde_json::to_vec(record),
            Self::Tag { digest, .. } => serde_json::to_vec(digest),
            Self::Manifest { pushed, .. } => serde_json::to_vec(pushed),
            Self::Token { token, .. } => serde_json::to_vec(token),
            Self::Event(record) => serde_json::to_vec(record),
            Self::Cluster(id) => serde_json::to_vec(id),
            Self::Policy(record) => serde_json::to_vec(record),
            Self::Numbers(_, record) => serde_json::to_vec(&**record),
            Self::Routes(_, record) => serde_json::to_vec(&**record),
            Self::Routing(record) => serde_json::to_vec(record),
            Self::Registered(machine) => serde_json::to_vec(machine),
            Self::Machine(_, record) => stored::part(record),
            Self::Authority(record) => serde_json::to_vec(record),
            Self::JoinToken { token, .. } => serde_json::to_vec(token),
            Self::Member(record) => serde_json::to_vec(record),
        }
    }
}

/// Key of the cluster's identity.
pub const CLUSTER_ID_KEY: &str = "cluster/id";

/// Parses the value of [`CLUSTER_ID_KEY`].
///
/// # Errors
/// [`RecordError`].
pub fn parse_cluster_id(value: &[u8]) -> Result<ClusterId, RecordError> {
    read(CLUSTER_ID_KEY, value)
}

/// Returns the key of a machine's part of the plan.
#[must_use]
pub fn part_key(machine: &MachineName) -> String {
    format!("plan/machines/{machine}")
}

/// Returns the machine of the key of a part.
#[must_use]
pub fn machine_of_part_key(key: &str) -> Option<MachineName> {
    MachineName::parse(key.strip_prefix("plan/machines/")?).ok()
}

/// Returns the key of a release.
#[must_use]
pub fn release_key(app: &AppName, number: ReleaseNumber) -> String {
    format!("releases/{app}/{:08}", number.0)
}

/// Returns the key of a configuration.
#[must_use]
pub fn config_key(digest: &Digest) -> String {
    format!("configs/{}", digest.hex())
}

/// Returns the key of a tag.
#[must_use]
pub fn tag_key(repository: &str, tag: &str) -> String {
    format!("tags/{repository}/{tag}")
}

/// Returns the key of a manifest.
#[must_use]
pub fn manifest_key(repository: &str, digest: &Digest) -> String {
    format!("manifests/{repository}/{digest}")
}

/// Returns the key of an app's routes.
#[must_use]
pub fn routes_key(app: &AppName) -> String {
    format!("plan/routes/{app}")
}

/// Returns the key of the numbers of an app's allocations.
#[must_use]
pub fn numbers_key(app: &AppName) -> String {
    format!("plan/allocations/{app}")
}

/// Returns the key of a base.
#[must_use]
pub fn base_key(base: &BaseName) -> String {
    format!("bases/{base}")
}

/// Returns the key of the packs of an app's repository.
#[must_use]
pub fn packs_key(app: &AppName) -> String {
    format!("packs/{app}")
}

/// Returns the key of a build.
#[must_use]
pub fn build_key(app: &AppName, commit: &str) -> String {
    format!("builds/{app}/{commit}")
}

/// Returns the key of a token.
#[must_use]
pub fn token_key(hash: &str) -> String {
    format!("tokens/{hash}")
}

/// Returns the key of a deploy.
#[must_use]
pub fn deploy_key(app: &AppName, number: DeployNumber) -> String {
    format!("deploys/{app}/{:08}", number.0)
}

/// Returns the app to which a key belongs, if its record can affect the app's plan.
#[must_use]
pub fn app_of_key(key: &str) -> Option<AppName> {
    match key.split('/').collect::<Vec<_>>().as_slice() {
        ["apps" | "deploys" | "releases" | "builds", app, ..] => AppName::parse(app).ok(),
        _ => None,
    }
}

/// A record that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the store's record {key} cannot be read: {why}; it was written by another version or changed by hand")]
pub struct RecordError {
    /// Key of the record.
    pub key: String,
    /// Cause of the failure.
    pub why: String,
}

impl RecordError {
    pub(crate) fn new(key: &str, why: impl ToString) -> Self {
        Self { key: key.to_owned(), why: why.to_string() }
    }
}

/// Parses an entry of the store with the configurations that it names. Returns `None` for a key that holds no record.
pub(crate) fn parse(key: &str, value: &[u8], configs: &Configs) -> Result<Option<StoreRecord>, RecordError> {
    let parts: Vec<&str> = key.split('/').collect();
    Ok(Some(match parts.as_slice() {
        ["apps", _] => StoreRecord::App(read(key, value)?),
        ["destroyed-apps", _] => StoreRecord::Destroyed(read(key, value)?),
        ["releases", _, _] => StoreRecord::Release(stored::read_release(key, value, configs)?),
        ["deploys", _, _] => StoreRecord::Deploy(read(key, value)?),
        ["builds", _, _] => StoreRecord::Build(read(key, value)?),
        ["packs", app] => {
            let name = AppName::parse(app).map_err(|error| RecordError::new(key, error))?;
            StoreRecord::Packs(name, read(key, value)?)
        }
        ["bases", _] => StoreRecord::Base(read(key, value)?),
        ["codes", _, _] => StoreRecord::Code(read(key, value)?),
        ["tags", repository @ .., tag] => {
            StoreRecord::Tag { repository: repository.join("/"), tag: (*tag).to_owned(), digest: read(key, value)? }
        }
        ["manifests", repository @ .., digest] => {
            let digest = digest.parse().map_err(|error: DigestError| RecordError::new(key, error))?;
            StoreRecord::Manifest { repository: repository.join("/"), digest, pushed: read(key, value)? }
        }
        ["tokens", hash] => StoreRecord::Token { hash: (*hash).to_owned(), token: read(key, value)? },
        ["events", _] => StoreRecord::Event(read(key, value)?),
        ["cluster", "id"] => StoreRecord::Cluster(read(key, value)?),
        ["cluster", "policy"] => StoreRecord::Policy(read(key, value)?),
        ["machines", _] => StoreRecord::Registered(read(key, value)?),
        ["trust", "authority"] => StoreRecord::Authority(read(key, value)?),
        ["join-tokens", hash] => StoreRecord::JoinToken { hash: (*hash).to_owned(), token: read(key, value)? },
        ["members", _] => StoreRecord::Member(read(key, value)?),
        ["plan", "allocations", app] => {
            let name = AppName::parse(app).map_err(|error| RecordError::new(key, error))?;
            StoreRecord::Numbers(name, Arc::new(read(key, value)?))
        }
        ["plan", "routes", app] => {
            let name = AppName::parse(app).map_err(|error| RecordError::new(key, error))?;
            StoreRecord::Routes(name, Arc::new(read(key, value)?))
        }
        ["plan", "routing"] => StoreRecord::Routing(read(key, value)?),
        ["plan", "machines", machine] => {
            let name = MachineName::parse(machine).map_err(|error| RecordError::new(key, error))?;
            StoreRecord::Machine(name, Arc::new(stored::read_part(key, value, configs)?))
        }
        _ => return Ok(None),
    }))
}

pub(crate) fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(value).map_err(|error| RecordError::new(key, error))
}
