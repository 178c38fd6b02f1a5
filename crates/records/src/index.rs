//! The index of all records in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{
    App, AppName, BaseName, ClusterId, ClusterPolicy, Deploy, DeployNumber, DeployState, Digest, InstanceSpec, Machine,
    MachineName, MachineTunnels, Plan, Release, ReleaseConfig, ReleaseNumber, RoleName,
};

use crate::record::{parse, read};
use crate::{
    AuthorityRecord, BaseRecord, BuildRecord, CodeRecord, DestroyedApp, EVENT_KEYS, EventRecord, GitPacks,
    JoinTokenRecord, MemberRecord, PushedManifest, RecordChange, RecordError, StoreRecord, TokenRecord,
};

/// All records. Cloning is cheap, because clones share the large records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordIndex {
    /// Apps by name.
    pub apps: BTreeMap<AppName, Arc<App>>,
    /// The last numbers of destroyed apps, by name.
    pub destroyed: BTreeMap<AppName, DestroyedApp>,
    /// Configurations by digest.
    pub configs: BTreeMap<Digest, ReleaseConfig>,
    /// Releases by app and number.
    pub releases: BTreeMap<AppName, BTreeMap<ReleaseNumber, Arc<Release>>>,
    /// Deploys by app and number.
    pub deploys: BTreeMap<AppName, BTreeMap<DeployNumber, Arc<Deploy>>>,
    /// Results of builds by app and commit.
    pub builds: BTreeMap<(AppName, String), Arc<BuildRecord>>,
    /// The packs of each app's repository, for clusters with several servers.
    pub packs: BTreeMap<AppName, GitPacks>,
    /// Bases by name.
    pub bases: BTreeMap<BaseName, BaseRecord>,
    /// Uploaded codes by app and name.
    pub codes: BTreeMap<AppName, BTreeMap<RoleName, Arc<CodeRecord>>>,
    /// Tags by repository.
    pub tags: BTreeMap<String, BTreeMap<String, Digest>>,
    /// Manifests by repository.
    pub manifests: BTreeMap<String, BTreeMap<Digest, PushedManifest>>,
    /// Tokens by the hash of their secret.
    pub tokens: BTreeMap<String, TokenRecord>,
    /// Registered machines by name.
    pub machines: BTreeMap<MachineName, Arc<Machine>>,
    /// Tunnel addresses of the registered machines.
    pub tunnels: MachineTunnels,
    /// The authority that signs the machines' certificates; none in a cloud of one machine.
    pub authority: Option<Arc<AuthorityRecord>>,
    /// Join tokens by the hash of their secret.
    pub join_tokens: BTreeMap<String, JoinTokenRecord>,
    /// Machines that have joined, by name.
    pub members: BTreeMap<MachineName, Arc<MemberRecord>>,
    /// Events by number.
    pub events: BTreeMap<u64, Arc<EventRecord>>,
    /// Identity of the cluster; none before the first term of a server that knows ids.
    pub cluster: Option<ClusterId>,
    /// Rules that hold for all apps.
    pub policy: ClusterPolicy,
    /// The plan.
    pub plan: Arc<Plan>,
}

impl RecordIndex {
    /// Parses all records among the keys and values of a store.
    ///
    /// # Errors
    /// When a value is no record of this version.
    pub fn load<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, RecordError> {
        let entries: Vec<(&str, &[u8])> = entries.into_iter().collect();
        let mut records = Self::default();
        for (key, value) in entries.iter().filter(|(key, _)| key.starts_with("configs/")) {
            records.put(StoreRecord::Config(read(key, value)?));
        }
        for (key, value) in entries {
            if let Some(record) = parse(key, value, &records.configs)? {
                records.put(record);
            }
        }
        records.share_specs();
        Ok(records)
    }

    /// Makes equal specs of a role one value in memory, whatever machines run the copies.
    fn share_specs(&mut self) {
        let mut known: BTreeMap<(AppName, ReleaseNumber, RoleName), Vec<Arc<InstanceSpec>>> = BTreeMap::new();
        let plan = Arc::make_mut(&mut self.plan);
        for part in plan.machines.values_mut() {
            for (id, assignment) in &mut Arc::make_mut(part).instances {
                let specs = known.entry((id.slot.app.clone(), id.slot.release, id.slot.role.clone())).or_default();
                match specs.iter().find(|spec| **spec == assignment.spec) {
                    Some(spec) => assignment.spec = Arc::clone(spec),
                    None => specs.push(Arc::clone(&assignment.spec)),
                }
            }
        }
    }

    /// Applies a change that the store has committed.
    pub fn apply(&mut self, change: RecordChange) {
        match change {
            RecordChange::Put(record) => self.put(*record),
            RecordChange::Remove(key) => self.remove(&key),
        }
    }

    fn put(&mut self, record: StoreRecord) {
        match record {
            StoreRecord::App(app) => drop(self.apps.insert(app.name.clone(), Arc::new(app))),
            StoreRecord::Destroyed(app) => drop(self.destroyed.insert(app.app.clone(), app)),
            StoreRecord::Config(config) => drop(self.configs.insert(config.digest().clone(), config)),
            StoreRecord::Release(release) => {
                self.releases.entry(release.app.clone()).or_default().insert(release.number, Arc::new(release));
            }
            StoreRecord::Deploy(deploy) => {
                self.deploys.entry(deploy.app.clone()).or_default().insert(deploy.number, Arc::new(deploy));
            }
            StoreRecord::Build(build) => {
                self.builds.insert((build.app.clone(), build.commit.clone()), Arc::new(build));
            }
            StoreRecord::Packs(app, packs) => drop(self.packs.insert(app, packs)),
            StoreRecord::Base(base) => drop(self.bases.insert(base.name.clone(), base)),
            StoreRecord::Code(code) => {
                self.codes.entry(code.app.clone()).or_default().insert(code.name.clone(), Arc::new(code));
            }
            StoreRecord::Tag { repository, tag, digest } => {
                self.tags.entry(repository).or_default().insert(tag, digest);
            }
            StoreRecord::Manifest { repository, digest, pushed } => {
                self.manifests.entry(repository).or_default().insert(digest, pushed);
            }
            StoreRecord::Token { hash, token } => drop(self.tokens.insert(hash, token)),
            StoreRecord::Event(event) => {
                self.events.insert(event.number, Arc::new(event));
                while self.events.len() as u64 > EVENT_KEYS {
                    self.events.pop_first();
                }
            }
            StoreRecord::Cluster(id) => self.cluster = Some(id),
            StoreRecord::Policy(policy) => self.policy = policy,
            StoreRecord::Numbers(app, numbers) => {
                Arc::make_mut(&mut self.plan).numbers.insert(app, numbers);
            }
            StoreRecord::Routes(app, routes) => Arc::make_mut(&mut self.plan).put_routes(app, routes),
            StoreRecord::Routing(head) => Arc::make_mut(&mut self.plan).put_routing(head),
            StoreRecord::Registered(machine) => {
                self.tunnels.set(&machine.name, &machine.addresses);
                self.machines.insert(machine.name.clone(), Arc::new(machine));
            }
            StoreRecord::Authority(authority) => self.authority = Some(Arc::new(authority)),
            StoreRecord::JoinToken { hash, token } => drop(self.join_tokens.insert(hash, token)),
            StoreRecord::Member(member) => drop(self.members.insert(member.machine.clone(), Arc::new(member))),
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
            ["destroyed-apps", name] => {
                if let Some(name) = app(name) {
                    self.destroyed.remove(&name);
                }
            }
            ["releases", name, number] => {
                if let (Some(name), Ok(number)) = (app(name), number.parse())
                    && let Some(releases) = self.releases.get_mut(&name)
                {
                    releases.remove(&ReleaseNumber(number));
                }
            }
            ["configs", hex] => {
                if let Ok(digest) = Digest::from_hex(hex) {
                    self.configs.remove(&digest);
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
            ["packs", name] => {
                if let Some(name) = app(name) {
                    self.packs.remove(&name);
                }
            }
            ["bases", name] => {
                if let Ok(name) = BaseName::parse(name) {
                    self.bases.remove(&name);
                }
            }
            ["codes", name, code] => {
                if let (Some(name), Ok(code)) = (app(name), RoleName::parse(code))
                    && let Some(codes) = self.codes.get_mut(&name)
                {
                    codes.remove(&code);
                }
            }
            ["tokens", hash] => drop(self.tokens.remove(*hash)),
            // The removal under the key of an earlier version follows the removal under today's key.
            ["events", place] if place.len() == 5 => {
                if let Ok(place) = place.parse::<u64>() {
                    self.events.retain(|number, _| number % EVENT_KEYS != place);
                }
            }
            ["join-tokens", hash] => drop(self.join_tokens.remove(*hash)),
            ["members", name] => {
                if let Ok(name) = MachineName::parse(name) {
                    self.members.remove(&name);
                }
            }
            ["plan", "allocations", name] => {
                if let Some(name) = app(name) {
                    Arc::make_mut(&mut self.plan).numbers.remove(&name);
                }
            }
            ["plan", "machines", name] => {
                if let Ok(name) = MachineName::parse(name) {
                    Arc::make_mut(&mut self.plan).machines.remove(&name);
                }
            }
            ["plan", "routes", name] => {
                if let Some(name) = app(name) {
                    Arc::make_mut(&mut self.plan).routes.remove(&name);
                }
            }
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

    /// Returns the highest release number of the earlier apps of a name; 0 if there was none.
    #[must_use]
    pub fn earlier_releases(&self, name: &AppName) -> u64 {
        self.destroyed.get(name).map_or(0, |destroyed| destroyed.last_release)
    }

    /// Returns an app's unfinished deploys, oldest first.
    pub fn open_deploys(&self, app: &AppName) -> impl Iterator<Item = &Arc<Deploy>> {
        self.deploys.get(app).into_iter().flat_map(BTreeMap::values).filter(|deploy| !deploy.state.is_final())
    }

    /// Returns a release of an app.
    #[must_use]
    pub fn release(&self, app: &AppName, number: ReleaseNumber) -> Option<&Arc<Release>> {
        self.releases.get(app)?.get(&number)
    }

    /// Returns an uploaded code of an app.
    #[must_use]
    pub fn code(&self, app: &AppName, name: &RoleName) -> Option<&Arc<CodeRecord>> {
        self.codes.get(app)?.get(name)
    }

    /// Reports whether a repository has the image of this digest. The image may have been pushed to the repository,
    /// have a tag there, belong to a release or to a code of the app, or be the base.
    #[must_use]
    pub fn has_image(&self, repository: &str, digest: &Digest) -> bool {
        let pushed = self.manifests.get(repository).is_some_and(|manifests| manifests.contains_key(digest));
        let tagged = || self.tags.get(repository).is_some_and(|tags| tags.values().any(|known| known == digest));
        let released = || {
            let releases = AppName::parse(repository).ok().and_then(|app| self.releases.get(&app));
            releases.is_some_and(|releases| releases.values().any(|release| release.image == *digest))
        };
        let uploaded = || {
            let codes = AppName::parse(repository).ok().and_then(|app| self.codes.get(&app));
            let mut revisions = codes.into_iter().flat_map(|codes| codes.values()).flat_map(|code| &code.revisions);
            revisions.any(|revision| revision.image == *digest)
        };
        pushed
            || tagged()
            || released()
            || uploaded()
            || self.base_of(repository).is_some_and(|base| base.image == *digest)
    }

    /// Returns the base to which a repository belongs.
    #[must_use]
    pub fn base_of(&self, repository: &str) -> Option<&BaseRecord> {
        self.bases.get(&BaseName::parse(repository.strip_prefix("base/")?).ok()?)
    }

    /// Reports whether a release has served: its deploy ended well.
    #[must_use]
    pub fn is_good(&self, release: &Release) -> bool {
        self.deploys
            .get(&release.app)
            .and_then(|deploys| deploys.get(&release.deploy))
            .is_some_and(|deploy| deploy.state == DeployState::Done)
    }

    /// Returns the events that the policy keeps, oldest first.
    pub fn kept_events(&self) -> impl DoubleEndedIterator<Item = &Arc<EventRecord>> {
        let surplus = self.events.len().saturating_sub(self.policy.event_retention() as usize);
        self.events.values().skip(surplus)
    }

    /// Returns the numbers of the events that the policy does not keep.
    pub fn surplus_events(&self) -> impl Iterator<Item = u64> {
        let surplus = self.events.len().saturating_sub(self.policy.event_retention() as usize);
        self.events.keys().take(surplus).copied()
    }

    /// Returns the number of the next event in the audit trail.
    #[must_use]
    pub fn next_event(&self) -> u64 {
        self.events.last_key_value().map_or(1, |(number, _)| number + 1)
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::{AuditAction, Moment};

    use super::*;

    fn event(number: u64) -> EventRecord {
        let app = AppName::parse("shop").expect("a name");
        EventRecord::new(number, Moment(number), "alice", None, AuditAction::AppCreated { app })
    }

    #[test]
    fn new_events_replace_the_oldest_and_their_keys() {
        let mut records = RecordIndex::default();
        let mut keys = std::collections::BTreeSet::new();
        for number in 1..=EVENT_KEYS + 100 {
            let record = StoreRecord::Event(event(number));
            keys.insert(record.key());
            records.apply(record.into());
        }
        assert_eq!(keys.len() as u64, EVENT_KEYS);
        assert_eq!(records.events.len() as u64, EVENT_KEYS);
        assert_eq!(records.events.keys().next(), Some(&101));
    }

    #[test]
    fn removes_the_events_that_the_policy_does_not_keep() {
        let mut records = RecordIndex::default();
        records.policy.event_retention = Some(100);
        for number in 1..=250 {
            records.apply(StoreRecord::Event(event(number)).into());
        }
        assert_eq!(
            records.kept_events().map(|event| event.number).collect::<Vec<_>>(),
            (151..=250).collect::<Vec<_>>()
        );
        let keys: Vec<String> = records.surplus_events().flat_map(crate::event_keys).collect();
        assert_eq!(keys[..2], ["events/00001".to_owned(), "events/0001".to_owned()]);
        keys.into_iter().for_each(|key| records.apply(RecordChange::Remove(key)));
        assert!(records.events.keys().copied().eq(151..=250));
        assert_eq!((records.next_event(), records.surplus_events().next()), (251, None));
    }

    #[test]
    fn events_of_other_versions_are_read() {
        let read = |text: &str| {
            let records = RecordIndex::load([("events/0007", text.as_bytes())]).expect("records");
            records.events.values().next().map(|event| (**event).clone()).expect("an event")
        };
        let old = read(r#"{"number":7,"at":7,"by":"alice","app":null,"what":"created app shop"}"#);
        assert_eq!((old.what.as_str(), old.action), ("created app shop", None));
        let newer = read(
            r#"{"number":7,"at":7,"by":"alice","app":null,"what":"sang a song","action":{"kind":"sang","key":1}}"#,
        );
        assert_eq!((newer.what.as_str(), newer.action), ("sang a song", None));
        let own = event(7);
        let (key, value) = RecordChange::from(StoreRecord::Event(own.clone())).entry().expect("an entry");
        assert_eq!(key, "events/00007");
        assert_eq!(read(&String::from_utf8(value.expect("a value")).expect("text")), own);
    }

    #[test]
    fn the_numbers_of_a_destroyed_app_are_read_and_removed() {
        let shop = AppName::parse("shop").expect("a name");
        let destroyed = DestroyedApp { app: shop.clone(), at: Moment(7), last_release: 12 };
        let (key, value) = RecordChange::from(StoreRecord::Destroyed(destroyed)).entry().expect("an entry");
        assert_eq!(key, "destroyed-apps/shop");
        let mut records = RecordIndex::load([(key.as_str(), &value.expect("a value")[..])]).expect("records");
        assert_eq!(records.earlier_releases(&shop), 12);
        records.apply(RecordChange::Remove(key));
        assert_eq!(records.earlier_releases(&shop), 0, "a name without a record");
        assert_eq!(records, RecordIndex::default());
    }

    #[test]
    fn names_an_unreadable_record() {
        let error = RecordIndex::load([("apps/shop", &b"{}"[..])]).expect_err("no app");
        assert!(error.to_string().starts_with("the store's record apps/shop cannot be read"), "{error}");
        assert_eq!(RecordIndex::load([("leader", &b"x"[..])]).expect("no record"), RecordIndex::default());
    }
}
