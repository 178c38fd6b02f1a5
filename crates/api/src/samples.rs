//! Samples of the types of requests and responses, from which the OpenAPI document derives schemas and examples.

use std::collections::BTreeMap;

use gantry_model::{
    AllocationId, AppName, AuditAction, BaseName, Bytes, ClusterPolicy, Deploy, DeployCause, DeployNumber, Digest,
    Generation, HostName, MachineId, MachineName, MilliCpu, Moment, NetworkFault, NetworkFlow, Reason, ReleaseNumber,
    RoleName, RouterId, Slot, TrafficPolicy,
};
use gantry_queue::{JobId, JobSettings, QueueName, ScheduleName};
use gantry_schedule::{Progress, Schedule};
use serde::Serialize;
use serde_json::Value;

use crate::codes::{CodeInfo, CodeRevision};
use crate::jobs::{
    CallbackInfo, CallbackKey, CallbackState, ChangeQueue, JobAttempt, JobInfo, JobLine, JobPage, JobProgress,
    JobSource, JobStatus, PurgedQueue, QueueInfo, RetryJob, SubmitJob, SubmitJobs, SubmittedJobs,
};
use crate::keys::{DeletedKey, KeyInfo, ListedKeys, WrittenKey};
use crate::locks::{AcquireLock, HeldLock, LockHolder, LockInfo, RenewLock};
use crate::policy::{ChangePolicy, PolicyInfo, PolicyValue};
use crate::schedules::{ChangeSchedule, CreateSchedule, ScheduleInfo};
use crate::services::{ServiceInfo, ServiceInstance};
use crate::types::{
    AcceptedDeploy, AppInfo, AuditEvent, AvailabilityInfo, BaseInfo, BlobPlaces, CauseCode, CauseInfo, CauseObject,
    ChangeAvailability, ChangeBase, ChangeBranch, ChangeConfig, ChangeHosts, ChangeLabels, ChangeScale, ChangeTraffic,
    ClusterStatus, CreateApp, CreateJoinToken, CreateToken, DeployInfo, DeployPlan, DeployProgress, DeploySource,
    Explanation, FaultInfo, FileReport, FindBlobs, GoalInfo, ImageChange, ImageProgress, ImageReport, InstanceInfo,
    JoinRoleInfo, LayerReport, LogItem, LogLine, MachineInfo, MachineStateInfo, MachineStatus, NewJoinToken, NewToken,
    ObjectKind, OpenApiDocument, PhaseInfo, PlanDeploy, PlannedCopy, PlannedRole, PlannedWait, PullImage, ReleaseInfo,
    RenameApp, RequestCountsInfo, RoleChange, RouterStatus, ServerBlobs, ServerInfo, StackInfo, StartDeploy, StartExec,
    StartRun, StatusWarning, StayInfo, SurplusKind, SurplusReport, TokenInfo, TokenScope, TrafficInfo,
    UnreachableMachine, WarningKind,
};
use crate::volumes::{
    CreateSnapshot, ExportVolume, ImportVolume, SnapshotInfo, VolumeInfo, VolumeList, VolumeOwner, VolumeRole,
};

/// A type with a sample.
pub trait Sample: Serialize + Sized {
    /// A value with every field that matters.
    fn sample() -> Self;

    /// The sample as JSON.
    #[must_use]
    fn json() -> Value {
        serde_json::to_value(Self::sample()).unwrap_or(Value::Null)
    }
}

/// Parses a name that is known to be valid.
fn name<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"))
}

fn digest() -> Digest {
    name(&format!("sha256:{}", "0".repeat(64)))
}

fn instance_id() -> AllocationId {
    Slot { app: name("storefront"), release: ReleaseNumber(6), role: name("web"), index: 1 }.numbered(1)
}

const NOW: Moment = Moment(1_790_000_000_000);

/// Implements [`Sample`] for types with the given values.
macro_rules! samples {
    ($($type:ty = $value:expr;)+) => {
        $(impl Sample for $type {
            fn sample() -> Self {
                $value
            }
        })+
    };
}

impl<T: Sample> Sample for Vec<T> {
    fn sample() -> Self {
        vec![T::sample()]
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample() -> Self {
        Some(T::sample())
    }
}

samples! {
    AcquireLock = AcquireLock { ttl: 15, wait: 30, value: Some("web-1".to_owned()) };
    HeldLock = HeldLock { name: "primary".to_owned(), token: 42, ttl: 15 };
    RenewLock = RenewLock { token: 42, value: Some("web-1".to_owned()) };
    LockInfo = LockInfo {
        name: "primary".to_owned(),
        holder: Some(LockHolder { token: 42, value: "web-1".to_owned() }),
        waiting: 1,
        revision: 57,
    };
    bool = true;
    u64 = 48_213;
    String = "m1:7000".to_owned();
    AppName = name("storefront");
    ServiceInfo = ServiceInfo {
        app: name("storefront"),
        role: name("web"),
        revision: 12,
        port: 8080,
        instances: vec![ServiceInstance { machine: name("m1"), address: Some([10, 83, 0, 7].into()) }],
    };
    KeyInfo = key();
    WrittenKey =
        WrittenKey { created: 2, key: Some("config/color".to_owned()), key_base64: None, revision: 7, version: 3 };
    DeletedKey = DeletedKey { deleted: true };
    ListedKeys = ListedKeys::Keys { entries: vec![key()], revision: 57 };
    BTreeMap<String, String> = BTreeMap::from([("COLOR".to_owned(), "blue".to_owned())]);
    OpenApiDocument = OpenApiDocument(serde_json::json!({ "openapi": "3.1.0" }));
    ClusterStatus = status();
    PolicyInfo = PolicyInfo::from(&ClusterPolicy::default());
    ChangePolicy = ChangePolicy { rules: BTreeMap::from([("drain".to_owned(), Some(PolicyValue::Number(60)))]) };
    FindBlobs = FindBlobs { digests: vec![digest()] };
    BlobPlaces = BlobPlaces {
        servers: BTreeMap::from([("m1".to_owned(), ServerBlobs::of(vec![digest()]))]),
    };
    AuditEvent = event();
    TokenInfo = token();
    NewToken = NewToken { info: token(), secret: "gantry_…".to_owned() };
    CreateJoinToken = CreateJoinToken { role: JoinRoleInfo::Agent, lifetime: Some(3_600_000) };
    NewJoinToken = NewJoinToken {
        token: "gantry-join-agent-…".to_owned(),
        ca_hash: "ab".repeat(32),
        expires: NOW,
        servers: vec!["m1:7000".to_owned()],
    };
    CreateToken = CreateToken { name: "ci".to_owned(), scope: TokenScope::Read, lifetime: Some(86_400_000) };
    MachineInfo = machine();
    ChangeLabels = ChangeLabels { labels: BTreeMap::from([(name("disk"), Some(name("ssd"))), (name("zone"), None)]) };
    ChangeAvailability = ChangeAvailability {
        availability: AvailabilityInfo::Draining,
        reason: Some("new disk".to_owned()),
        within: Some(3_600_000),
    };
    BaseInfo = base();
    ImageReport = ImageReport {
        image: digest(),
        packed: 31_000_000,
        size: 84_000_000,
        layers: vec![LayerReport { digest: digest(), packed: 31_000_000, size: 84_000_000, files: 3_400, hidden: 0 }],
        surplus: vec![SurplusReport { kind: SurplusKind::Documentation, size: 1_200_000 }],
        largest: vec![FileReport { path: "/usr/bin/python3.11".to_owned(), size: 6_800_000, layer: 1 }],
    };
    CodeInfo = CodeInfo {
        project: name("storefront"),
        name: name("report"),
        current: code_revision(),
        revisions: vec![code_revision()],
    };
    StackInfo = StackInfo {
        name: name("python"),
        about: "Python 3".to_owned(),
        packages: vec!["python3".to_owned(), "ca-certificates".to_owned()],
        base: Some(base()),
        of_operator: false,
    };
    PullImage = PullImage { reference: "registry.example/shop:1.2".to_owned(), username: None, password: None };
    ImageProgress = ImageProgress::Image { reference: format!("storefront@{}", digest()) };
    AppInfo = app();
    CreateApp = CreateApp { name: name("storefront"), base: None, branch: None, hosts: Vec::new() };
    ChangeConfig = ChangeConfig { changes: BTreeMap::from([("COLOR".to_owned(), Some("blue".to_owned()))]) };
    ChangeBase = ChangeBase { base: name("debian") };
    ChangeBranch = ChangeBranch { branch: "main".to_owned() };
    ChangeHosts = ChangeHosts { add: vec![name("shop.example")], remove: Vec::new() };
    RenameApp = RenameApp { name: name("boutique") };
    ChangeScale = ChangeScale { roles: BTreeMap::from([(name::<RoleName>("web"), 3)]) };
    ChangeTraffic = ChangeTraffic::Limit { rate: Some(100), concurrent: None };
    ReleaseInfo = release();
    InstanceInfo = instance();
    Explanation = Explanation {
        code: CauseCode::ScaledToZero,
        object: CauseObject::new(ObjectKind::Role, "web"),
        cause: "web is scaled to 0, so no copy runs".to_owned(),
        remedy: Some("`gantry scale storefront web=1` starts one".to_owned()),
        subject: "app storefront".to_owned(),
        headline: "web is scaled to 0, so no copy runs; `gantry scale storefront web=1` starts one".to_owned(),
        evidence: vec!["requested by ci 5 m ago".to_owned()],
    };
    AcceptedDeploy = AcceptedDeploy { deploy: DeployNumber(7) };
    DeployInfo = deploy();
    StartDeploy = start_deploy();
    PlanDeploy = PlanDeploy { source: Some(start_deploy().source) };
    DeployPlan = plan();
    DeployProgress = DeployProgress::Line { text: "-----> Starting v7".to_owned() };
    LogItem = LogItem::Line(LogLine { at: NOW, instance: instance_id(), error: false, text: "GET / 200".to_owned() });
    StartExec = StartExec { instance: Some("web-1".to_owned()), command: vec!["/bin/sh".to_owned()], terminal: true };
    StartRun = StartRun {
        command: vec!["/bin/sh".to_owned()],
        terminal: true,
        volumes: BTreeMap::from([(name("data"), Some("/data".to_owned()))]),
        image: Some("storefront:1.2".to_owned()),
        trace: true,
    };
    SubmitJobs = SubmitJobs { jobs: vec![submit()] };
    SubmittedJobs = SubmittedJobs { ids: vec![JobId(1042)] };
    JobInfo = job();
    JobPage = JobPage { jobs: vec![job()], next: Some(JobId(1042)) };
    JobLine = JobLine { at: NOW, error: false, text: "done".to_owned() };
    JobProgress = JobProgress { percent: 50, message: "half of the pages".to_owned() };
    RetryJob = RetryJob { delay: 60 };
    CallbackKey = CallbackKey { key: "0f".repeat(32), rotated: Some(NOW) };
    QueueInfo = queue();
    ChangeQueue = ChangeQueue { paused: Some(true), limit: Some(4) };
    PurgedQueue = PurgedQueue { cancelled: 10 };
    CreateSchedule = CreateSchedule { name: Some(name("nightly")), schedule: nightly(), job: submit() };
    ScheduleInfo = scheduled();
    ChangeSchedule = ChangeSchedule { paused: true };
    VolumeInfo = volume();
    VolumeList = VolumeList { volumes: vec![volume()], unreachable: vec![UnreachableMachine::silent(name("m3"))] };
    ExportVolume = ExportVolume { zstd: true };
    ImportVolume = ImportVolume { replace: true, limit: Some(Bytes::mebi(2048)) };
    CreateSnapshot = CreateSnapshot { name: Some(name("before-upgrade")) };
}

fn key() -> KeyInfo {
    KeyInfo {
        created: 2,
        key: Some("config/color".to_owned()),
        key_base64: None,
        revision: 7,
        value: Some("blue".to_owned()),
        value_base64: None,
        version: 3,
    }
}

fn deploy() -> DeployInfo {
    let mut deploy = Deploy::new(name("storefront"), DeployNumber(7), cause(), "ci".to_owned(), false, NOW);
    deploy.reason = Some(Reason::Aborted);
    DeployInfo::from(&deploy)
}

fn cause() -> DeployCause {
    DeployCause::Push { commit: "0".repeat(40), source: digest() }
}

fn start_deploy() -> StartDeploy {
    let volumes = BTreeMap::from([("data".to_owned(), "/var/lib/storefront".to_owned())]);
    let settings = ImageChange { volumes, port: Some(80) };
    let source = DeploySource::Image { reference: "storefront:1.2".to_owned(), origin: None, settings };
    StartDeploy { source, hold: false, plan: None }
}

fn plan() -> DeployPlan {
    let copy = |release, machine: &str| PlannedCopy {
        slot: Slot { app: name("storefront"), release: ReleaseNumber(release), role: name("web"), index: 1 },
        machine: Some(name(machine)),
    };
    let role = PlannedRole {
        role: name("web"),
        change: RoleChange::Changed,
        settings: vec!["limits".to_owned()],
        stop_first: false,
        starts: vec![copy(7, "m2")],
        stops: vec![copy(6, "m1")],
    };
    DeployPlan {
        app: name("storefront"),
        id: "3fa9c1d27b04".to_owned(),
        release: ReleaseNumber(7),
        previous: Some(ReleaseNumber(6)),
        image: digest(),
        roles: vec![role],
        waits: vec![PlannedWait { code: CauseCode::WaitsForDeploy, text: "the deploy waits for deploy #6".to_owned() }],
    }
}

fn app() -> AppInfo {
    AppInfo {
        name: name("storefront"),
        url: Some("http://storefront.localhost/".to_owned()),
        branch: "main".to_owned(),
        base: Some(name::<BaseName>("debian")),
        hosts: vec![name::<HostName>("shop.example")],
        current: Some(ReleaseNumber(6)),
        scale: BTreeMap::from([(name::<RoleName>("web"), 3)]),
        deploy: Some(deploy()),
        ready: 3,
        wanted: 3,
        traffic: TrafficInfo::from(&TrafficPolicy { rate: Some(100), ..TrafficPolicy::default() }),
        requests: RequestCountsInfo::default(),
        created: NOW,
    }
}

fn release() -> ReleaseInfo {
    ReleaseInfo {
        number: ReleaseNumber(6),
        current: true,
        good: true,
        image: digest(),
        commit: Some("0".repeat(40)),
        config: vec!["COLOR".to_owned()],
        roles: BTreeMap::from([(name::<RoleName>("web"), "bin/server".to_owned())]),
        created: NOW,
        by: "ci".to_owned(),
        cause: CauseInfo::from(&cause()),
    }
}

fn instance() -> InstanceInfo {
    InstanceInfo {
        id: instance_id(),
        machine: name("m1"),
        goal: GoalInfo::Run,
        phase: Some(PhaseInfo::Ready),
        since: Some(NOW),
        address: Some([10, 83, 0, 2].into()),
        restarts: 0,
        note: None,
        cause: None,
    }
}

fn status() -> ClusterStatus {
    let machine: MachineName = name("m1");
    let fault = NetworkFault::Dropped {
        flow: NetworkFlow::Outside,
        chain: "FORWARD of iptables's table filter".to_owned(),
        by: "its policy".to_owned(),
        remedy: "iptables -I FORWARD -i gantry0 -j ACCEPT && iptables -I FORWARD -o gantry0 -j ACCEPT".to_owned(),
    };
    let text = "the clock of the machine went back by 1 h, 40 s ago".to_owned();
    ClusterStatus {
        version: "0.1.0".to_owned(),
        store: "/var/lib/gantry/store.db".to_owned(),
        machines: BTreeMap::from([(
            machine.clone(),
            MachineStatus {
                silent_millis: 500,
                clock_offset_millis: Some(-90_000),
                network: vec![FaultInfo::from(&fault)],
            },
        )]),
        routers: BTreeMap::from([(
            RouterId { machine, number: 1 },
            RouterStatus { routes: Generation(12), silent_millis: 500 },
        )]),
        routes: Generation(12),
        apps: vec![app()],
        space: BTreeMap::from([("blobs".to_owned(), 1 << 30)]),
        servers: vec![ServerInfo {
            name: "m1".to_owned(),
            address: "10.0.0.1:4680".to_owned(),
            leads: true,
            lives: true,
        }],
        warnings: vec![StatusWarning { kind: WarningKind::ClockJumped, text }],
    }
}

fn event() -> AuditEvent {
    let action = AuditAction::Scaled { roles: BTreeMap::from([(name::<RoleName>("web"), 3)]) };
    AuditEvent::new(1, NOW, "ci".to_owned(), Some(&name("storefront")), Some(&action), action.to_string())
}

fn machine() -> MachineInfo {
    MachineInfo {
        name: name("m1"),
        id: MachineId::from_random(0x1b4e),
        state: MachineStateInfo::Ready,
        cpu: MilliCpu(4000),
        memory: Bytes::mebi(16_384),
        instances: 12,
        program: "0.1.0".to_owned(),
        protocol: 3,
        registered: NOW,
        seen: Some(NOW),
        availability: AvailabilityInfo::Draining,
        reason: Some("new disk".to_owned()),
        deadline: Some(NOW),
        labels: BTreeMap::from([(name("disk"), name("ssd"))]),
        addresses: Vec::new(),
        reserved_memory: Bytes::mebi(2048),
        stays: vec![StayInfo {
            instance: instance_id(),
            code: CauseCode::DataStays,
            text: "storefront.v6.web-1 stays on m1, which is being drained: the data of its volume is there".to_owned(),
        }],
    }
}

fn code_revision() -> CodeRevision {
    CodeRevision {
        number: 3,
        image: digest(),
        stack: name("python"),
        command: vec!["python3".to_owned(), "report.py".to_owned()],
        files: 12,
        size: 48_213,
        by: "ci".to_owned(),
        created: NOW,
    }
}

fn base() -> BaseInfo {
    BaseInfo { name: name("debian"), image: digest(), from: "bookworm with 8 packages".to_owned(), created: NOW }
}

fn token() -> TokenInfo {
    TokenInfo {
        name: "ci".to_owned(),
        scope: TokenScope::Deploy { app: name("storefront") },
        created: NOW,
        expires: Some(NOW),
    }
}

fn volume() -> VolumeInfo {
    VolumeInfo {
        app: name("storefront"),
        name: name("data"),
        machine: name("m1"),
        size: Bytes::mebi(120),
        owner: VolumeOwner { user: 1000, group: 1000 },
        used: Some(NOW),
        in_use: vec!["storefront.v6.web-1".to_owned()],
        roles: vec![VolumeRole { role: name("web"), path: "/var/lib/storefront".to_owned() }],
        files: Some(1200),
        snapshots: vec![SnapshotInfo { name: name("before-upgrade"), at: NOW }],
    }
}

fn queue_name() -> QueueName {
    QueueName { project: name("storefront"), code: name("report") }
}

fn job() -> JobInfo {
    JobInfo {
        revision: Some(3),
        id: JobId(1042),
        queue: queue_name(),
        status: JobStatus::Failed,
        note: Some("exited with 3".to_owned()),
        settings: JobSettings::default(),
        payload: Some(r#"{"month":"2026-11"}"#.to_owned()),
        payload_size: 19,
        by: "ci".to_owned(),
        submitted: NOW,
        started: Some(NOW),
        ended: Some(NOW),
        machine: Some(name("m1")),
        progress: None,
        failures: 1,
        lost: 0,
        attempt: Some(JobAttempt {
            code: Some(3),
            signal: None,
            out_of_memory: false,
            duration_millis: 1200,
            peak_memory: 32 << 20,
            cpu_micros: 900_000,
            output_cut: false,
        }),
        callback: Some(CallbackInfo {
            state: CallbackState::Waiting,
            attempts: 2,
            status: Some(503),
            error: Some("the receiver answered 503".to_owned()),
            tried: Some(NOW),
            next: Some(NOW),
        }),
    }
}

fn submit() -> SubmitJob {
    SubmitJob {
        source: JobSource::Role { app: name("storefront"), role: name("report") },
        command: Vec::new(),
        env: BTreeMap::new(),
        memory: Some(Bytes::mebi(512)),
        network: true,
        payload: r#"{"month":"2026-11"}"#.to_owned(),
        settings: JobSettings { callback: Some(name("https://reports.example/gantry")), ..JobSettings::default() },
    }
}

fn nightly() -> Schedule {
    Schedule::cron(name("0 6 * * *"), name("Europe/Paris"))
}

fn scheduled() -> ScheduleInfo {
    let next = Progress::new(NOW).upcoming(&nightly(), 5);
    ScheduleInfo {
        name: ScheduleName { project: name("storefront"), name: name("nightly") },
        schedule: nightly(),
        source: submit().source,
        payload: Some(r#"{"month":"2026-11"}"#.to_owned()),
        by: "ci".to_owned(),
        of_release: false,
        paused: false,
        runs: 12,
        skipped: 1,
        last_run: Some(NOW),
        last_job: Some(JobId(1042)),
        note: None,
        next,
    }
}

fn queue() -> QueueInfo {
    let (name, paused, limit) = (queue_name(), false, Some(4));
    QueueInfo { name, paused, limit, ready: 10, waiting: 1, running: 4, ended: 120, dead: 2, extra_runs: 0 }
}
