//! The store's records in memory, held by their one owner, the core.
//!
//! | key | record |
//! |---|---|
//! | `apps/<app>` | [`App`] |
//! | `releases/<app>/<number>` | [`Release`] |
//! | `deploys/<app>/<number>` | [`Deploy`] |
//! | `builds/<app>/<commit>` | [`BuildRecord`] |
//! | `bases/<name>` | [`BaseInfo`] |
//! | `tags/<repository>/<tag>` | a digest |
//! | `manifests/<repository>/<digest>` | [`PushedManifest`] |
//! | `tokens/<hash>` | [`TokenInfo`] |
//! | `events/<number mod 1000>` | [`Event`] |
//! | `cluster/policy` | [`ClusterPolicy`] |
//! | `plan/table`, `plan/machines/<machine>` | the plan |

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::types::{BaseInfo, Event, TokenInfo};
use gantry_model::{
    App, AppName, BaseName, ClusterPolicy, Deploy, DeployNumber, Digest, MachineName, MachinePlan, Moment, Plan,
    Release, ReleaseNumber, Role, RoleName, RoutingTable,
};
use gantry_planner::{DesiredApp, DesiredCluster};
use gantry_store::{StoreEntry, Txn, TxnWrite};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ServerError;

/// Number of events that the audit trail keeps.
pub(crate) const EVENTS_MAX: u64 = 1000;

/// Result of a build, kept so that each commit is built once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BuildRecord {
    pub(crate) app: AppName,
    pub(crate) commit: String,
    /// Base image of the build. The same commit on another base is another build.
    pub(crate) base: Digest,
    pub(crate) image: Digest,
    pub(crate) roles: BTreeMap<RoleName, Role>,
}

/// A pushed manifest. Its repository keeps the manifest by digest, tagged or not, until no record references it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PushedManifest {
    /// Time of the latest push.
    pub(crate) at: Moment,
    /// Image to which the manifest refers. The manifest is kept as long as this image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Digest>,
}

/// A record of the store.
#[derive(Debug, Clone)]
pub(crate) enum StoreRecord {
    App(App),
    Release(Release),
    Deploy(Deploy),
    Build(BuildRecord),
    Base(BaseInfo),
    Tag { repository: String, tag: String, digest: Digest },
    Manifest { repository: String, digest: Digest, pushed: PushedManifest },
    Token { hash: String, info: TokenInfo },
    Event(Event),
    Policy(ClusterPolicy),
    Table(RoutingTable),
    Machine(MachineName, MachinePlan),
}

/// A change of one record.
#[derive(Debug, Clone)]
pub(crate) enum RecordChange {
    Put(Box<StoreRecord>),
    /// Removal of the record under a key.
    Remove(String),
}

impl From<StoreRecord> for RecordChange {
    fn from(record: StoreRecord) -> Self {
        Self::Put(Box::new(record))
    }
}

impl StoreRecord {
    pub(crate) fn key(&self) -> String {
        match self {
            Self::App(app) => format!("apps/{}", app.name),
            Self::Release(release) => release_key(&release.app, release.number),
            Self::Deploy(deploy) => deploy_key(&deploy.app, deploy.number),
            Self::Build(build) => format!("builds/{}/{}", build.app, build.commit),
            Self::Base(base) => base_key(&base.name),
            Self::Tag { repository, tag, .. } => tag_key(repository, tag),
            Self::Manifest { repository, digest, .. } => manifest_key(repository, digest),
            Self::Token { hash, .. } => token_key(hash),
            Self::Event(event) => format!("events/{:04}", event.number % EVENTS_MAX),
            Self::Policy(_) => "cluster/policy".to_owned(),
            Self::Table(_) => "plan/table".to_owned(),
            Self::Machine(machine, _) => format!("plan/machines/{machine}"),
        }
    }

    fn value(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::App(record) => serde_json::to_vec(record),
            Self::Release(record) => serde_json::to_vec(record),
            Self::Deploy(record) => serde_json::to_vec(record),
            Self::Build(record) => serde_json::to_vec(record),
            Self::Base(record) => serde_json::to_vec(record),
            Self::Tag { digest, .. } => serde_json::to_vec(digest),
            Self::Manifest { pushed, .. } => serde_json::to_vec(pushed),
            Self::Token { info, .. } => serde_json::to_vec(info),
            Self::Event(record) => serde_json::to_vec(record),
            Self::Policy(record) => serde_json::to_vec(record),
            Self::Table(record) => serde_json::to_vec(record),
            Self::Machine(_, record) => serde_json::to_vec(record),
        }
    }
}

pub(crate) fn release_key(app: &AppName, number: ReleaseNumber) -> String {
    format!("releases/{app}/{:08}", number.0)
}

pub(crate) fn tag_key(repository: &str, tag: &str) -> String {
    format!("tags/{repository}/{tag}")
}

pub(crate) fn manifest_key(repository: &str, digest: &Digest) -> String {
    format!("manifests/{repository}/{digest}")
}

pub(crate) fn base_key(base: &BaseName) -> String {
    format!("bases/{base}")
}

pub(crate) fn build_key(app: &AppName, commit: &str) -> String {
    format!("builds/{app}/{commit}")
}

pub(crate) fn token_key(hash: &str) -> String {
    format!("tokens/{hash}")
}

pub(crate) fn deploy_key(app: &AppName, number: DeployNumber) -> String {
    format!("deploys/{app}/{:08}", number.0)
}

/// Returns the app to which a key belongs, if its record can affect the app's plan.
pub(crate) fn app_of_key(key: &str) -> Option<AppName> {
    match key.split('/').collect::<Vec<_>>().as_slice() {
        ["apps" | "deploys" | "releases" | "builds", app, ..] => AppName::parse(app).ok(),
        _ => None,
    }
}

/// All records. Cloning is cheap, because clones share the large records.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RecordIndex {
    pub(crate) apps: BTreeMap<AppName, Arc<App>>,
    pub(crate) releases: BTreeMap<AppName, BTreeMap<ReleaseNumber, Arc<Release>>>,
    pub(crate) deploys: BTreeMap<AppName, BTreeMap<DeployNumber, Arc<Deploy>>>,
    pub(crate) builds: BTreeMap<(AppName, String), Arc<BuildRecord>>,
    pub(crate) bases: BTreeMap<BaseName, BaseInfo>,
    pub(crate) tags: BTreeMap<String, BTreeMap<String, Digest>>,
    pub(crate) manifests: BTreeMap<String, BTreeMap<Digest, PushedManifest>>,
    pub(crate) tokens: BTreeMap<String, TokenInfo>,
    pub(crate) events: BTreeMap<u64, Arc<Event>>,
    pub(crate) policy: ClusterPolicy,
    pub(crate) plan: Arc<Plan>,
}

impl RecordIndex {
    /// Parses all records in a listing of the store.
    pub(crate) fn load(entries: &[StoreEntry]) -> Result<Self, ServerError> {
        let mut records = Self::default();
        for entry in entries {
            if let Some(record) = parse(entry)? {
                records.put(record);
            }
        }
        Ok(records)
    }

    /// Applies a change that the store has committed.
    pub(crate) fn apply(&mut self, change: RecordChange) {
        match change {
            RecordChange::Put(record) => self.put(*record),
            RecordChange::Remove(key) => self.remove(&key),
        }
    }

    fn put(&mut self, record: StoreRecord) {
        match record {
            StoreRecord::App(app) => drop(self.apps.insert(app.name.clone(), Arc::new(app))),
            StoreRecord::Release(release) => {
                self.releases.entry(release.app.clone()).or_default().insert(release.number, Arc::new(release));
            }
            StoreRecord::Deploy(deploy) => {
                self.deploys.entry(deploy.app.clone()).or_default().insert(deploy.number, Arc::new(deploy));
            }
            StoreRecord::Build(build) => {
                self.builds.insert((build.app.clone(), build.commit.clone()), Arc::new(build));
            }
            StoreRecord::Base(base) => drop(self.bases.insert(base.name.clone(), base)),
            StoreRecord::Tag { repository, tag, digest } => {
                self.tags.entry(repository).or_default().insert(tag, digest);
            }
            StoreRecord::Manifest { repository, digest, pushed } => {
                self.manifests.entry(repository).or_default().insert(digest, pushed);
            }
            StoreRecord::Token { hash, info } => drop(self.tokens.insert(hash, info)),
            StoreRecord::Event(event) => {
                self.events.insert(event.number, Arc::new(event));
                while self.events.len() as u64 > EVENTS_MAX {
                    self.events.pop_first();
                }
            }
            StoreRecord::Policy(policy) => self.policy = policy,
            StoreRecord::Table(table) => Arc::make_mut(&mut self.plan).table = table,
            StoreRecord::Machine(machine, part) => {
                Arc::make_mut(&mut self.plan).machines.insert(machine, part);
            }
        }
    }

    fn remove(&mut self, key: &str) {
        let parts: Vec<&str> = key.split('/').collect();
        let app = |text: &str| AppName::parse(text).ok();
        match parts.as_slice() {
            ["apps", name] => {
                if let Some(name) = app(name) {
                    self.apps.remove(&name);
                }
            }
            ["releases", name, number] => {
                if let (Some(name), Ok(number)) = (app(name), number.parse())
                    && let Some(releases) = self.releases.get_mut(&name)
                {
                    releases.remove(&ReleaseNumber(number));
                }
            }
            ["deploys", name, number] => {
                if let (Some(name), Ok(number)) = (app(name), number.parse())
                    && let Some(deploys) = self.deploys.get_mut(&name)
                {
                    deploys.remove(&DeployNumber(number));
                }
            }
            ["builds", name, commit] => {
                if let Some(name) = app(name) {
                    self.builds.remove(&(name, (*commit).to_owned()));
                }
            }
            ["bases", name] => {
                if let Ok(name) = BaseName::parse(name) {
                    self.bases.remove(&name);
                }
            }
            ["tokens", hash] => drop(self.tokens.remove(*hash)),
            ["tags", repository @ .., tag] => {
                if let Some(tags) = self.tags.get_mut(&repository.join("/")) {
                    tags.remove(*tag);
                }
            }
            ["manifests", repository @ .., digest] => {
                if let (Some(manifests), Ok(digest)) =
                    (self.manifests.get_mut(&repository.join("/")), digest.parse::<Digest>())
                {
                    manifests.remove(&digest);
                }
            }
            _ => {}
        }
    }

    /// Returns the planner's input: each app's record, the releases that run or may come back, and the deploys under
    /// way.
    pub(crate) fn desired(&self) -> DesiredCluster {
        let apps = self.apps.values().map(|app| {
            let deploys: Vec<Deploy> = self.open_deploys(&app.name).map(|deploy| (**deploy).clone()).collect();
            let wanted: Vec<ReleaseNumber> =
                deploys.iter().flat_map(|d| [d.release, d.previous]).chain([app.current]).flatten().collect();
            let releases = self.releases.get(&app.name).into_iter().flatten();
            let releases = releases
                .filter(|(number, _)| wanted.contains(number))
                .map(|(number, release)| (*number, (**release).clone()))
                .collect();
            (app.name.clone(), DesiredApp { app: (**app).clone(), releases, deploys })
        });
        DesiredCluster { apps: apps.collect(), trusted_proxies: self.policy.trusted_proxies.clone() }
    }

    /// Returns an app's unfinished deploys, oldest first.
    pub(crate) fn open_deploys(&self, app: &AppName) -> impl Iterator<Item = &Arc<Deploy>> {
        self.deploys.get(app).into_iter().flat_map(BTreeMap::values).filter(|deploy| !deploy.state.is_final())
    }

    /// Returns a release of an app.
    pub(crate) fn release(&self, app: &AppName, number: ReleaseNumber) -> Option<&Arc<Release>> {
        self.releases.get(app)?.get(&number)
    }

    /// Whether a repository has the image of this digest. The image may have been pushed to the repository, have a tag
    /// there, belong to a release of the app, or be the base.
    pub(crate) fn has_image(&self, repository: &str, digest: &Digest) -> bool {
        let pushed = self.manifests.get(repository).is_some_and(|manifests| manifests.contains_key(digest));
        let tagged = || self.tags.get(repository).is_some_and(|tags| tags.values().any(|known| known == digest));
        let released = || {
            let releases = AppName::parse(repository).ok().and_then(|app| self.releases.get(&app));
            releases.is_some_and(|releases| releases.values().any(|release| release.image == *digest))
        };
        pushed || tagged() || released() || self.base_of(repository).is_some_and(|base| base.image == *digest)
    }

    /// Returns the base to which a repository belongs.
    pub(crate) fn base_of(&self, repository: &str) -> Option<&BaseInfo> {
        self.bases.get(&BaseName::parse(repository.strip_prefix("base/")?).ok()?)
    }

    /// Whether a release has served: its deploy ended well.
    pub(crate) fn is_good(&self, release: &Release) -> bool {
        self.deploys
            .get(&release.app)
            .and_then(|deploys| deploys.get(&release.deploy))
            .is_some_and(|deploy| deploy.state == gantry_model::DeployState::Done)
    }

    /// Returns the number of the next event in the audit trail.
    pub(crate) fn next_event(&self) -> u64 {
        self.events.last_key_value().map_or(1, |(number, _)| number + 1)
    }
}

/// Serializes changes as writes to the store.
pub(crate) fn writes(changes: &[RecordChange]) -> Result<Vec<TxnWrite>, serde_json::Error> {
    changes
        .iter()
        .map(|change| match change {
            RecordChange::Put(record) => Ok(TxnWrite::Put(record.key(), record.value()?, None)),
            RecordChange::Remove(key) => Ok(TxnWrite::Delete(key.clone())),
        })
        .collect()
}

/// Builds an unconditional transaction from writes.
pub(crate) fn txn(writes: Vec<TxnWrite>) -> Txn {
    Txn { compares: Vec::new(), writes }
}

/// Parses an entry of the store. Returns `None` for a key that holds no record.
fn parse(entry: &StoreEntry) -> Result<Option<StoreRecord>, ServerError> {
    let parts: Vec<&str> = entry.key.split('/').collect();
    Ok(Some(match parts.as_slice() {
        ["apps", _] => StoreRecord::App(read(entry)?),
        ["releases", _, _] => StoreRecord::Release(read(entry)?),
        ["deploys", _, _] => StoreRecord::Deploy(read(entry)?),
        ["builds", _, _] => StoreRecord::Build(read(entry)?),
        ["bases", _] => StoreRecord::Base(read(entry)?),
        ["tags", repository @ .., tag] => {
            StoreRecord::Tag { repository: repository.join("/"), tag: (*tag).to_owned(), digest: read(entry)? }
        }
        ["manifests", repository @ .., digest] => {
            let digest = digest.parse().map_err(|why| ServerError::Record { key: entry.key.clone(), why })?;
            StoreRecord::Manifest { repository: repository.join("/"), digest, pushed: read(entry)? }
        }
        ["tokens", hash] => StoreRecord::Token { hash: (*hash).to_owned(), info: read(entry)? },
        ["events", _] => StoreRecord::Event(read(entry)?),
        ["cluster", "policy"] => StoreRecord::Policy(read(entry)?),
        ["plan", "table"] => StoreRecord::Table(read(entry)?),
        ["plan", "machines", machine] => {
            let name = MachineName::parse(machine)
                .map_err(|error| ServerError::Record { key: entry.key.clone(), why: error.to_string() })?;
            StoreRecord::Machine(name, read(entry)?)
        }
        _ => return Ok(None),
    }))
}

fn read<T: DeserializeOwned>(entry: &StoreEntry) -> Result<T, ServerError> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| ServerError::Record { key: entry.key.clone(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_api::types::Event;
    use gantry_model::Moment;

    #[test]
    fn keeps_the_newest_events_and_reuses_the_keys_of_the_oldest() {
        let mut records = RecordIndex::default();
        let mut keys = std::collections::BTreeSet::new();
        for number in 1..=EVENTS_MAX + 100 {
            let event = Event { number, at: Moment(number), by: "x".into(), app: None, what: "x".into() };
            let record = StoreRecord::Event(event);
            keys.insert(record.key());
            records.apply(record.into());
        }
        assert_eq!(keys.len() as u64, EVENTS_MAX);
        assert_eq!(records.events.len() as u64, EVENTS_MAX);
        assert_eq!(records.events.keys().next(), Some(&101));
    }
}
