//! Measurements for `benches/core`, in a cluster of 1,000 machines and 100,000 copies that report what the plan says. Each
//! change is a machine's report in which one copy has another phase than before.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use gantry_cluster::{CoreEvent, CoreState, DirtySet};
use gantry_control::{MachineReport, RouterReport};
use gantry_model::clock::ClockJumps;
use gantry_model::{
    AllocationId, App, AppName, Assignment, Deploy, DeployCause, DeployNumber, DeployState, Digest, Exposure,
    Generation, InstanceGoal, InstancePhase, InstanceSpec, MachineName, MachinePlan, Moment, ObservedInstance, Release,
    ReleaseConfig, ReleaseNumber, Role, RoleCommand, RoleName,
};
use gantry_records::{RecordChange, RecordIndex, StoreRecord};
use gantry_store::{Store, StoreAddress, Txn, TxnWrite};

use super::INBOX_MAX;
use super::task::{CoreMessage, CoreTask};
use crate::leadership;

const MACHINES: usize = 1_000;
const COPIES: usize = 100;

fn app_name(name: &str) -> AppName {
    AppName::parse(name).expect("a name")
}

fn machine_name(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

fn instance_id(text: &str) -> AllocationId {
    AllocationId::parse(text).expect("an id")
}

fn ready(address: Ipv4Addr) -> ObservedInstance {
    let since = Moment(0);
    ObservedInstance {
        started: Some(since),
        address: Some(address),
        ..ObservedInstance::new(InstancePhase::Ready, since)
    }
}

/// The only release of an app, with four copies of one role.
fn release(app: AppName) -> Release {
    let mut role = Role { exposure: Exposure::Http, ..Role::new(RoleCommand::Shell("serve".into())) };
    role.instances = 4;
    Release {
        app,
        number: ReleaseNumber(1),
        image: Digest::from_hex(&"ab".repeat(32)).expect("a digest"),
        commit: None,
        config: ReleaseConfig::default(),
        roles: [(RoleName::parse("web").expect("a role"), role)].into(),
        deploy: DeployNumber(1),
        created: Moment(0),
        by: "test".into(),
        cause: cause(),
    }
}

fn cause() -> DeployCause {
    DeployCause::Config { keys: vec!["A".into()] }
}

/// The spec of every copy.
fn spec() -> InstanceSpec {
    let release = release(app_name("app"));
    let role = release.roles.into_values().next().expect("a role");
    InstanceSpec { image: release.image, commit: None, config: ReleaseConfig::default(), role, volumes_of: None }
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("readable");
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

/// Processor time of this process in microseconds.
fn processor() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// The copies of a machine. The four copies of an app are on four machines.
fn ids(machine: usize) -> impl Iterator<Item = AllocationId> {
    (0..COPIES).map(move |copy| {
        let number = copy * MACHINES + machine;
        instance_id(&format!("app-{}.v1.web-{}", number / 4, number % 4 + 1))
    })
}

fn report(machine: usize) -> MachineReport {
    let address = |copy: usize| Ipv4Addr::from(0x0a53_0002 + u32::try_from(copy).expect("small"));
    let instances = ids(machine).enumerate().map(|(copy, id)| (id, ready(address(copy)))).collect();
    MachineReport { generation: Generation(1), instances, network: Vec::new() }
}

fn router(generation: Generation) -> RouterReport {
    let (active, counts, failures) = Default::default();
    RouterReport { number: 1, gone: false, generation, active, counts, failures }
}

/// The records of the cluster, each app with a release that serves. Each record is made when it is needed.
fn records() -> impl Iterator<Item = StoreRecord> {
    let apps = (0..MACHINES * COPIES / 4).flat_map(|number| {
        let name = app_name(&format!("app-{number}"));
        let mut app = App::new(name.clone(), Moment(0));
        (app.current, app.last_release, app.last_deploy) = (Some(ReleaseNumber(1)), 1, 1);
        let release = release(name.clone());
        let mut deploy = Deploy::new(name, release.deploy, cause(), "test".into(), false, Moment(0));
        (deploy.release, deploy.state) = (Some(ReleaseNumber(1)), DeployState::Done);
        [StoreRecord::App(app), StoreRecord::Release(release), StoreRecord::Deploy(deploy)]
    });
    let machines = (0..MACHINES).map(|machine| {
        let spec = Arc::new(spec());
        let run = |id| (id, Assignment { spec: Arc::clone(&spec), goal: InstanceGoal::Run });
        let part = MachinePlan { generation: Generation(1), instances: ids(machine).map(run).collect() };
        StoreRecord::Machine(machine_name(&format!("m{machine}")), part.into())
    });
    // Releases and parts name this configuration.
    std::iter::once(StoreRecord::Config(ReleaseConfig::default())).chain(apps).chain(machines)
}

/// The records as the store has them. All texts are in one allocation, which goes back to the kernel in the end: the core's
/// memory would otherwise take its place, and would not be measured.
#[derive(Default)]
struct StoredRecords {
    text: Vec<u8>,
    /// The ends of each key and its value in the text.
    ends: Vec<(usize, usize)>,
}

impl StoredRecords {
    fn of(records: impl Iterator<Item = StoreRecord>) -> Self {
        let mut stored = Self::default();
        for record in records {
            let (key, value) = RecordChange::from(record).entry().expect("an entry");
            stored.text.extend_from_slice(key.as_bytes());
            let key_end = stored.text.len();
            stored.text.extend_from_slice(&value.expect("a value"));
            stored.ends.push((key_end, stored.text.len()));
        }
        stored
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        begins.zip(&self.ends).map(move |(begin, (key_end, end))| {
            let key = std::str::from_utf8(&self.text[begin..*key_end]).expect("a key");
            (key, &self.text[*key_end..*end])
        })
    }
}

/// Plans until nothing changes, and serializes what is to be written.
fn plan_until_stable(state: &mut CoreState, mut dirty: DirtySet, now: Moment) {
    while let Some(step) = state.plan(&dirty, now) {
        dirty = DirtySet::default();
        let changes = step.groups.concat();
        if changes.is_empty() {
            return;
        }
        changes.iter().for_each(|change| drop(change.entry().expect("an entry")));
        dirty.merge(state.apply(CoreEvent::Committed(changes), now).dirty);
    }
}

/// The report of a machine in which the copy of this round fails its checks.
fn news(machine: usize, round: usize) -> (MachineName, MachineReport) {
    let mut report = report(machine);
    report.instances.values_mut().nth(round).expect("a copy").phase = InstancePhase::Unhealthy;
    (machine_name(&format!("m{machine}")), report)
}

#[test]
#[ignore = "a measurement; benches/core runs it"]
fn absorbs_status_changes() {
    let before = resident();
    let stored = StoredRecords::of(records());
    let index = RecordIndex::load(stored.entries()).expect("records");
    drop(stored);
    let mut state = CoreState::new(index, ClockJumps::default(), Moment(0));
    for machine in 0..MACHINES {
        state.apply(CoreEvent::Machine(machine_name(&format!("m{machine}")), report(machine)), Moment(1));
    }
    plan_until_stable(&mut state, DirtySet::everything(), Moment(1));
    let memory = (resident() - before) as f64 / 1e6;
    let revision = state.view().records.plan.routing.revision;
    state.apply(CoreEvent::Router(machine_name("m0"), router(revision)), Moment(1));
    assert_eq!(state.view().records.plan.endpoints().count(), MACHINES * COPIES);

    // Applied, planned and serialized in batches, as the core's task does with a full inbox.
    let rounds = 20;
    let mut took = 0.0;
    for round in 0..rounds {
        let reports: Vec<_> = (0..MACHINES).map(|machine| news(machine, round)).collect();
        let mut reports = reports.into_iter();
        let begun = processor();
        loop {
            let mut dirty = DirtySet::default();
            for (machine, report) in reports.by_ref().take(INBOX_MAX) {
                dirty.merge(state.apply(CoreEvent::Machine(machine, report), Moment(2)).dirty);
            }
            if dirty.is_empty() {
                break;
            }
            plan_until_stable(&mut state, dirty, Moment(2));
        }
        took += processor() - begun;
    }
    let changes = rounds * MACHINES;
    assert!(state.view().records.plan.endpoints().count() < MACHINES * COPIES - changes / 2, "the routes follow");
    println!("core: {:.0} changes/s, {memory:.1} MB", changes as f64 / took * 1e6);
}

/// One change at a time, until it is written to the store.
#[tokio::test]
#[ignore = "a measurement; benches/core runs it"]
async fn writes_one_status_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = StoreAddress::File(folder.path().join("store.db"));
    let store: Arc<dyn Store> = gantry_store::open(&address).await.expect("a store");
    let leadership = leadership::acquire(&store, &leadership::Candidate::named("bench")).await.expect("leadership");
    for records in records().collect::<Vec<_>>().chunks(100) {
        let put = |record: &StoreRecord| {
            let (key, value) = RecordChange::from(record.clone()).entry().expect("an entry");
            TxnWrite::Put(key, value.expect("a value"), None)
        };
        let txn = Txn { compares: Vec::new(), writes: records.iter().map(put).collect() };
        store.commit(txn).await.expect("committed");
    }
    let mut task = CoreTask::load(store, leadership).await.expect("loaded");
    for machine in 0..MACHINES {
        let message = CoreMessage::Machine(machine_name(&format!("m{machine}")), report(machine));
        task.handle(message).await.expect("handled");
    }
    task.plan_until_stable().await.expect("settled");
    let (mut processors, mut waited) = (Vec::new(), Vec::new());
    for machine in 0..MACHINES {
        let (name, report) = news(machine, 7);
        let (begun, at) = (processor(), Instant::now());
        task.handle(CoreMessage::Machine(name, report)).await.expect("handled");
        task.plan_until_stable().await.expect("settled");
        processors.push(processor() - begun);
        waited.push(at.elapsed().as_micros());
    }
    processors.sort_by(f64::total_cmp);
    waited.sort_unstable();
    let half = MACHINES / 2;
    println!("core: {:.0} us of processor, {} us until written", processors[half], waited[half]);
}
