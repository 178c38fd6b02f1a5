//! Loads the records, and first migrates records of an earlier schema version.
//!
//! A new store has nothing to migrate, and begins at the newest version. Each transaction of a migration is guarded by
//! the leadership key. A server that is killed between two transactions leaves records that a server of either version
//! reads; see `gantry_records::schema`.

use gantry_records::RecordIndex;
use gantry_records::schema::{self, Migration, RawChange, RawRecords};
use gantry_store::{Revision, Store, StoreEntry, StoreError, TXN_MAX, Txn, TxnCondition, TxnOutcome, TxnWrite};

use crate::{ServerError, leadership, servers};

/// The records of a store.
pub(super) struct LoadedRecords {
    pub(super) records: RecordIndex,
    /// Reason why the store keeps the records of the version before; none if the store holds these records. A store
    /// with a full or read-only disk refuses writes. Such records are for reading only, until a later load can migrate
    /// them.
    pub(super) refused: Option<StoreError>,
}

/// Migrates and parses all records in a listing of the store.
pub(super) async fn load(
    store: &dyn Store,
    entries: Vec<StoreEntry>,
    term: Revision,
) -> Result<LoadedRecords, ServerError> {
    let mut raw: RawRecords = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let mut refused = None;
    if is_new(&raw) {
        let version = schema::newest()?;
        refused = write(store, std::slice::from_ref(&version), term).await?;
        if refused.is_none() {
            tracing::info!(version = schema::VERSION, "created the records of a new store");
        }
        version.apply(&mut raw);
    }
    while let Some(migration) = schema::next_migration(&raw)? {
        for transaction in transactions(&migration) {
            if refused.is_none() {
                refused = write(store, transaction, term).await?;
            }
        }
        if refused.is_none() {
            tracing::info!(version = migration.to, "migrated the records to the schema version");
        }
        migration.preparation.into_iter().chain(migration.switch).for_each(|change| change.apply(&mut raw));
    }
    let records = RecordIndex::load(raw.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    Ok(LoadedRecords { records, refused })
}

/// Reports whether the store has no records yet, apart from keys that servers write before the first leader.
fn is_new(records: &RawRecords) -> bool {
    records.keys().all(|key| key == leadership::KEY || servers::is_server_key(key))
}

/// Packs a migration into transactions. The switch is the last transaction, and is never split.
fn transactions(migration: &Migration) -> impl Iterator<Item = &[RawChange]> {
    let prepared = migration.preparation.chunks(TXN_MAX - 1);
    prepared.chain([migration.switch.as_slice()])
}

/// Writes a transaction. Returns the error of a store that refuses writes at present.
async fn write(store: &dyn Store, changes: &[RawChange], term: Revision) -> Result<Option<StoreError>, ServerError> {
    let write = |change: &RawChange| match change.clone() {
        RawChange::Put(key, value) => TxnWrite::Put(key, value, None),
        RawChange::Remove(key) => TxnWrite::Delete(key),
    };
    let txn = Txn { compares: Vec::new(), writes: changes.iter().map(write).collect() };
    match store.commit(txn.when(TxnCondition::Created(leadership::KEY.to_owned(), term))).await {
        Ok(TxnOutcome::Committed(_)) => Ok(None),
        Ok(TxnOutcome::Conflict) => Err(ServerError::Interrupted),
        Err(error) if error.is_refusal() => Ok(Some(error)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use gantry_cluster::{CoreEvent, CoreState, DirtySet};
    use gantry_control::{MachineReport, RouterReport};
    use gantry_model::clock::ClockJumps;
    use gantry_model::{
        AppName, ClusterPolicy, ExitStatus, InstanceGoal, InstancePhase, Kind, MachineName, MachinePlan, Moment,
        ObservedInstance, Plan, PolicyKey, ReleaseNumber, RoleName,
    };

    use super::*;
    use crate::core::task::CoreTask;

    /// A store with the records of commit cf11495, and the term under which the test writes.
    async fn earlier_store(folder: &tempfile::TempDir) -> (Arc<dyn Store>, Revision) {
        let path = folder.path().join("store.db");
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../records/tests/store-cf11495.db");
        std::fs::copy(fixture, &path).expect("copied");
        let store = gantry_store::open(&gantry_store::StoreAddress::File(path)).await.expect("opened");
        let taken = Txn::default().delete(leadership::KEY);
        store.commit(taken).await.expect("no leader");
        let taken = Txn::default().put(leadership::KEY, "test");
        let TxnOutcome::Committed(term) = store.commit(taken).await.expect("a leader") else { panic!("no term") };
        (store, term)
    }

    /// A store without records, with a server's entry in the list of servers, and the term under which the test writes.
    async fn new_store(folder: &tempfile::TempDir) -> (Arc<dyn Store>, Revision) {
        let path = folder.path().join("store.db");
        let store = gantry_store::open(&gantry_store::StoreAddress::File(path)).await.expect("opened");
        let first = Txn::default().put(leadership::KEY, "test").put("servers/m1", "{}");
        let TxnOutcome::Committed(term) = store.commit(first).await.expect("a leader") else { panic!("no term") };
        (store, term)
    }

    async fn entries(store: &dyn Store) -> Vec<StoreEntry> {
        store.list("").await.expect("listed").entries
    }

    #[tokio::test]
    async fn migrates_a_store_of_an_earlier_version_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, term) = earlier_store(&folder).await;
        let first = load(&*store, entries(&*store).await, term).await.expect("loaded");
        assert!(first.refused.is_none());
        let value = store.get(schema::KEY).await.expect("read").expect("a version").value;
        assert_eq!(schema::version(Some(&value)).expect("known"), schema::VERSION);
        let head = store.list("").await.expect("listed").revision;
        let second = load(&*store, entries(&*store).await, term).await.expect("loaded");
        assert!(second.refused.is_none() && second.records == first.records);
        assert_eq!(store.list("").await.expect("listed").revision, head, "nothing more is written");
    }

    #[tokio::test]
    async fn a_new_store_begins_at_the_newest_version_without_migrations() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, term) = new_store(&folder).await;
        let loaded = load(&*store, entries(&*store).await, term).await.expect("loaded");
        assert!(loaded.refused.is_none() && loaded.records == RecordIndex::default());
        let value = store.get(schema::KEY).await.expect("read").expect("a version").value;
        assert_eq!(schema::version(Some(&value)).expect("known"), schema::VERSION);
        assert_eq!(store.list("").await.expect("listed").revision, term + 1, "one write, and no migration");
        load(&*store, entries(&*store).await, term).await.expect("loaded again");
        assert_eq!(store.list("").await.expect("listed").revision, term + 1, "nothing more is written");
    }

    #[tokio::test]
    async fn a_deposed_server_creates_no_records() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, term) = new_store(&folder).await;
        let refused = load(&*store, entries(&*store).await, term - 1).await.err().expect("refused");
        assert!(matches!(refused, ServerError::Interrupted), "{refused}");
        assert_eq!(store.get(schema::KEY).await.expect("read"), None);
    }

    #[tokio::test]
    async fn every_prefix_of_a_migration_leads_to_the_same_records() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, term) = earlier_store(&folder).await;
        let before = entries(&*store).await;
        let whole = load(&*store, before.clone(), term).await.expect("loaded").records;
        let raw: RawRecords = before.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        let migration = schema::next_migration(&raw).expect("a migration").expect("the first");
        let mut prefix = raw;
        for change in &migration.preparation {
            change.clone().apply(&mut prefix);
            let entry = |(key, value): (&String, &Vec<u8>)| StoreEntry {
                key: key.clone(),
                value: value.clone(),
                created: 1,
                modified: 1,
            };
            let loaded = load(&*store, prefix.iter().map(entry).collect(), term).await.expect("loaded");
            assert!(loaded.records == whole);
        }
    }

    #[tokio::test]
    async fn a_deposed_server_writes_no_migration() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, _) = earlier_store(&folder).await;
        let refused = load(&*store, entries(&*store).await, 0).await.err().expect("refused");
        assert!(matches!(refused, ServerError::Interrupted), "{refused}");
        assert_eq!(store.get(schema::KEY).await.expect("read"), None);
    }

    #[tokio::test]
    async fn refuses_a_store_of_a_newer_version_and_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, term) = earlier_store(&folder).await;
        store.commit(Txn::default().put(schema::KEY, r#"{"version":99}"#)).await.expect("written");
        let before = entries(&*store).await;
        let refused = load(&*store, before.clone(), term).await.err().expect("refused");
        assert_eq!(refused.code(), Some(gantry_api::ErrorCode::StoreNewer), "{refused}");
        assert_eq!(entries(&*store).await, before);
    }

    /// A store that the program of commit cf11495 wrote loads completely.
    #[tokio::test]
    async fn loads_a_store_of_an_earlier_version() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, term) = earlier_store(&folder).await;
        let records = load(&*store, entries(&*store).await, term).await.expect("loaded").records;

        let names: Vec<&str> = records.apps.keys().map(AppName::as_str).collect();
        assert_eq!(names, ["empty", "hello", "redis", "sleepy"]);
        let releases: usize = records.releases.values().map(BTreeMap::len).sum();
        let deploys: usize = records.deploys.values().map(BTreeMap::len).sum();
        let counts =
            [releases, deploys, records.builds.len(), records.bases.len(), records.tokens.len(), records.events.len()];
        assert_eq!(counts, [10, 10, 7, 2, 5, 41]);
        let hello = &records.apps[&AppName::parse("hello").expect("a name")];
        assert_eq!((hello.current, hello.scale[&RoleName::parse("web").expect("a role")]), (Some(ReleaseNumber(7)), 2));
        let redis = &records.releases[&AppName::parse("redis").expect("a name")][&ReleaseNumber(1)];
        assert!(redis.roles.values().any(|role| !role.volumes.is_empty()), "{redis:?}");
        assert!(!records.plan.machines.is_empty() && records.plan.endpoints().count() > 0);
    }

    /// The reports of the machines of a plan: services are ready at the addresses that the routes name, and jobs have ended.
    fn reports(plan: &Plan, since: Moment) -> BTreeMap<MachineName, MachineReport> {
        let report = |(machine, part): (&MachineName, &Arc<MachinePlan>)| {
            let left = part.instances.iter().filter(|(_, assignment)| assignment.goal != InstanceGoal::Stop);
            let instances = left.map(|(id, assignment)| {
                let endpoint =
                    plan.endpoints().find(|endpoint| endpoint.allocation == *id).map(|endpoint| &endpoint.at);
                let at = endpoint.or_else(|| plan.routes.get(&id.slot.app)?.addresses().next());
                let instance = match assignment.spec.role.kind {
                    Kind::Job => {
                        let exit = ExitStatus { code: Some(0), at: since, ..ExitStatus::default() };
                        ObservedInstance { exit: Some(exit), ..ObservedInstance::new(InstancePhase::Exited, since) }
                    }
                    _ => ObservedInstance {
                        address: at.and_then(|at| at.address_on(machine)),
                        ..ObservedInstance::new(InstancePhase::Ready, since)
                    },
                };
                (id.clone(), instance)
            });
            let (generation, network) = (part.generation, Vec::new());
            (machine.clone(), MachineReport { generation, instances: instances.collect(), network })
        };
        plan.machines.iter().map(report).collect()
    }

    /// The machines and their routers report, and the server plans to rest, for longer than a server waits for reports after
    /// its start.
    #[tokio::test]
    async fn an_upgrade_of_the_store_stops_starts_and_renames_no_instance() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, term) = earlier_store(&folder).await;
        let records = load(&*store, entries(&*store).await, term).await.expect("loaded").records;
        let before = records.plan.clone();
        let started = records.deploys.values().flat_map(BTreeMap::values).map(|deploy| deploy.entered).max();
        let started = started.expect("a deploy").moved(60_000);
        let mut state = CoreState::new(records, ClockJumps::default(), started);
        let mut dirty = DirtySet::everything();
        for now in (0..60_000).step_by(500).map(|millis| started.moved(millis)) {
            let plan = Arc::clone(&state.view().records.plan);
            for (machine, report) in reports(&plan, started) {
                let generation = plan.routing.revision;
                let router = RouterReport { number: 1, generation, ..RouterReport::default() };
                dirty.merge(state.apply(CoreEvent::Machine(machine.clone(), report), now).dirty);
                dirty.merge(state.apply(CoreEvent::Router(machine, router), now).dirty);
            }
            dirty.merge(state.apply(CoreEvent::Tick, now).dirty);
            while let Some(step) = state.plan(&std::mem::take(&mut dirty), now) {
                state.apply(CoreEvent::Planned { apps: step.apps, report: step.report }, now);
                dirty = state.apply(CoreEvent::Committed(step.groups.concat()), now).dirty;
            }
        }
        let after = Arc::clone(&state.view().records.plan);
        let ready = state.view().observed.machines.values().map(|report| report.instances.len()).sum::<usize>();
        assert_eq!(ready, before.assignments().count(), "each instance was reported");
        assert_eq!(after.machines, before.machines);
        let endpoints = |plan: &Plan| plan.endpoints().cloned().collect::<Vec<_>>();
        assert_eq!(endpoints(&after), endpoints(&before));
        assert!(after.assignments().any(|(_, _, assignment)| assignment.spec.role.kind == Kind::Job), "a release step");
    }

    /// The server's settings become the policy of a store that an earlier program wrote, once.
    #[tokio::test]
    async fn settings_become_the_policy_of_an_earlier_store_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, _) = earlier_store(&folder).await;
        store.commit(Txn::default().delete(leadership::KEY)).await.expect("no leader");
        let leadership = leadership::acquire(&store, &leadership::Candidate::named("test")).await.expect("leadership");
        let mut settings = ClusterPolicy::default();
        for domain in ["apps.test", "other.test"] {
            settings.set(PolicyKey::Domain, domain).expect("a domain");
            let mut task = CoreTask::load(Arc::clone(&store), leadership.clone()).await.expect("loaded");
            task.adopt_policy(&settings).await.expect("written");
            assert_eq!(task.published().get().records.policy.domain().as_str(), "apps.test");
        }
    }
}
