//! Connections of agents and routers of other versions, over a real socket.
//!
//! An older peer never sends a field, a value or a message that it lacks. A newer peer sends fields, values and messages
//! that this server does not know. In both cases the server reads the rest of the report, and keeps the connection.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::Client;
use gantry_blobs::BlobStore;
use gantry_control::version::SUPPORTED_VERSIONS;
use gantry_control::{Connection, Hello, MachineFacts, ProtocolRange, ProtocolVersion, link};
use gantry_model::{
    AllocationId, App, AppName, Bytes, ClusterPolicy, Deploy, DeployCause, DeployNumber, DeployState, Digest,
    InstancePhase, MachineCapacity, MachineId, MachineName, MachineRefusal, MilliCpu, Moment, Reason, Release,
    ReleaseConfig, ReleaseNumber, RequestCounts, RequestFailure, Role, RoleCommand, RoleName,
};
use gantry_records::StoreRecord;
use gantry_store::StoreAddress;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::coordination::Coordination;
use crate::leadership::{self, Candidate};
use crate::{Server, ServerSettings, assembly, connections, core, http, tokens};

/// Longest time until the server has done what a peer waits for.
const DEADLINE: Duration = Duration::from_secs(60);

/// Poll interval for the server's view.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A server that serves the API. It ends with the runtime of the test.
struct RunningServer {
    folder: tempfile::TempDir,
    server: Arc<Server>,
    url: String,
}

fn machine() -> MachineName {
    MachineName::parse("m").expect("a name")
}

fn app() -> AppName {
    AppName::parse("shop").expect("a name")
}

fn settings(folder: &std::path::Path) -> ServerSettings {
    let folder = |name: &str| {
        let path = folder.join(name);
        std::fs::create_dir(&path).expect("made");
        path
    };
    let data = folder("data");
    ServerSettings {
        name: "server".to_owned(),
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        store: StoreAddress::File(data.join("store.db")),
        job_store: None,
        data,
        run: folder("run"),
        program: "gantry".into(),
        machine: machine(),
        policy: ClusterPolicy::default(),
        cluster_listen: None,
        advertise: None,
    }
}

/// A role of one copy.
fn role() -> Role {
    Role::new(RoleCommand::Shell("run".to_owned()))
}

/// The records of an app whose release has this role.
fn records(role: Role) -> Vec<StoreRecord> {
    let (number, deploy) = (ReleaseNumber(1), DeployNumber(1));
    let mut app = App::new(app(), Moment(0));
    (app.current, app.last_release, app.last_deploy) = (Some(number), 1, 1);
    let cause = || DeployCause::Config { keys: vec!["COLOR".to_owned()] };
    let release = Release {
        app: app.name.clone(),
        number,
        image: Digest::from_hex(&"a".repeat(64)).expect("a digest"),
        commit: None,
        config: ReleaseConfig::default(),
        roles: [(RoleName::parse("web").expect("a role"), role)].into(),
        deploy,
        created: Moment(0),
        by: "test".to_owned(),
        cause: cause(),
    };
    let mut done = Deploy::new(app.name.clone(), deploy, cause(), "test".to_owned(), false, Moment(0));
    (done.release, done.state) = (Some(number), DeployState::Done);
    vec![StoreRecord::App(app), StoreRecord::Release(release), StoreRecord::Deploy(done)]
}

impl RunningServer {
    async fn start() -> Self {
        Self::with_role(role()).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test has no set of tasks")]
    async fn with_role(role: Role) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path());
        let store = gantry_store::open(&settings.store).await.expect("a store");
        let leadership = leadership::acquire(&store, &Candidate::of(&settings)).await.expect("leads");
        let (core, _) = core::start(store, leadership.clone(), &settings).await.expect("a core");
        tokio::spawn(async move { leadership.renew_until_lost().await });
        let first = tokens::first_tokens(&settings).expect("tokens");
        tokens::admit(&core, first, false).await.expect("admitted");
        tokens::adopt_new_secrets(&settings).expect("settled");
        core.mutate(move |_, _| Ok((records(role).into_iter().map(Into::into).collect(), ()))).await.expect("written");
        let blobs = BlobStore::in_folder(&settings.data.join("blobs")).expect("blobs");
        let server = assembly::assemble(settings, core, blobs, None, None, Coordination::closed(), true);
        let server = Arc::new(server.expect("a server"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = http::router(Arc::clone(&server));
        tokio::spawn(async move { connections::serve(&listener, router).await });
        Self { folder, server, url }
    }

    /// Connects a peer with the token of the machine.
    async fn connect(&self, path: &str, hello: Hello) -> ConnectedPeer {
        let token = std::fs::read_to_string(self.folder.path().join("data").join(tokens::MACHINE_FILE));
        let client = Client::new(&self.url, token.expect("a token").trim());
        let connection = link::connect(&client, path, hello).await.expect("connected");
        ConnectedPeer { connection, messages: Vec::new() }
    }
}

/// A peer, and what it has heard of the server.
struct ConnectedPeer {
    connection: Connection,
    messages: Vec<Value>,
}

impl ConnectedPeer {
    async fn send(&self, lines: Vec<Value>) {
        for line in lines {
            self.connection.stream.sender.send(&line).await.expect("sent");
        }
    }

    /// Stays connected until `found` returns a value. `name` is the version of the peer.
    async fn find<T>(&mut self, name: &str, mut found: impl FnMut(&[Value]) -> Option<T>) -> T {
        let mut polls = tokio::time::interval(POLL_INTERVAL);
        let finding = async {
            loop {
                if let Some(found) = found(&self.messages) {
                    return found;
                }
                tokio::select! {
                    message = self.connection.stream.receiver.next() => {
                        let message = message.unwrap_or_else(|error| panic!("{name}: {error}"));
                        self.messages.push(message.unwrap_or_else(|| panic!("{name}: the server ended the connection")));
                    }
                    _ = polls.tick() => {}
                }
            }
        };
        let found = tokio::time::timeout(DEADLINE, finding).await;
        found.unwrap_or_else(|_| panic!("{name}: the server said {:?}", self.messages))
    }
}

fn versions(oldest: u32, newest: u32) -> ProtocolRange {
    ProtocolRange { oldest: ProtocolVersion(oldest), newest: ProtocolVersion(newest) }
}

/// Changes the items of all updates whose keys begin with `kind`.
fn change_items(lines: &mut [Value], kind: &str, change: impl Fn(&mut Value)) {
    let items = lines.iter_mut().filter_map(|line| line.get_mut("set")?.as_object_mut()).flatten();
    items.filter(|(key, _)| key.starts_with(kind)).for_each(|(_, item)| change(item));
}

fn lack_messages(mut lines: Vec<Value>) -> Vec<Value> {
    lines.retain(|line| line["type"] == "update");
    lines
}

fn add_messages(lines: Vec<Value>) -> Vec<Value> {
    let news = json!({"type": "weather", "rain": {"tomorrow": true}});
    lines.into_iter().flat_map(|line| [news.clone(), line]).collect()
}

fn add_fields(mut lines: Vec<Value>) -> Vec<Value> {
    for kind in ["instance/", "counts/", "failures/"] {
        change_items(&mut lines, kind, |item| item["zone"] = json!({"name": "b"}));
    }
    for line in &mut lines {
        line["zone"] = json!("b");
    }
    lines
}

mod agents {
    use super::*;

    /// The messages of an agent of this version that has a copy. The copy is ready first, and then fails its checks.
    fn lines(id: &AllocationId, plan: u64) -> Vec<Value> {
        let key = format!("instance/{id}");
        let status = |phase: &str| {
            json!({
                "phase": phase, "since": 7, "address": "10.0.0.2", "restarts": 2, "started": 7, "failed_checks": 1,
                "unpacked": 9, "exit": null,
            })
        };
        vec![
            json!({"type": "clock", "now": 7}),
            json!({"type": "jobs", "capacity": 4, "held": [], "ended": []}),
            json!({"type": "layers", "has": [], "wants": []}),
            json!({"type": "lease", "asked": 1}),
            json!({"type": "update", "base": 1, "revision": 2, "set": {&key: status("ready"), "plan": plan}}),
            json!({"type": "alive"}),
            json!({"type": "update", "base": 2, "revision": 3, "set": {&key: status("unhealthy")}}),
        ]
    }

    fn lack_fields(mut lines: Vec<Value>) -> Vec<Value> {
        change_items(&mut lines, "instance/", |item| *item = json!({"phase": item["phase"], "since": item["since"]}));
        lines
    }

    /// An agent before the phase "unhealthy".
    fn lack_values(mut lines: Vec<Value>) -> Vec<Value> {
        change_items(&mut lines, "instance/", |item| {
            if item["phase"] == "unhealthy" {
                item["phase"] = json!("starting");
            }
        });
        lines
    }

    fn add_values(mut lines: Vec<Value>) -> Vec<Value> {
        change_items(&mut lines, "instance/", |item| {
            item["exit"] = json!({"how": "evaporated"});
            if item["phase"] == "unhealthy" {
                item["phase"] = json!("hibernating");
            }
        });
        let ended = json!({"job": 5, "fence": 2, "outcome": "preempted", "details": {"ended": 7}});
        lines[1]["ended"] = json!([ended]);
        let digest = Digest::from_hex(&"b".repeat(64)).expect("a digest");
        lines[2]["wants"] = json!([{"digest": digest, "from": {"kind": "satellite"}}]);
        lines
    }

    /// An agent that differs from this version.
    struct OtherAgent {
        name: &'static str,
        versions: ProtocolRange,
        change: fn(Vec<Value>) -> Vec<Value>,
        /// Last phase of the copy.
        phase: InstancePhase,
        /// The lease whose end the server acknowledges.
        acknowledged: Option<Value>,
    }

    impl OtherAgent {
        fn new(name: &'static str, change: fn(Vec<Value>) -> Vec<Value>) -> Self {
            Self { name, versions: SUPPORTED_VERSIONS, change, phase: InstancePhase::Unhealthy, acknowledged: None }
        }
    }

    fn agents() -> Vec<OtherAgent> {
        let (starting, ended) = (InstancePhase::Starting, json!([{"job": 5, "fence": 2}]));
        vec![
            OtherAgent::new("this version", |lines| lines),
            OtherAgent { versions: versions(1, 2), ..OtherAgent::new("one version older", |lines| lines) },
            OtherAgent { versions: versions(2, 4), ..OtherAgent::new("one version newer", |lines| lines) },
            OtherAgent::new("lacks a field", lack_fields),
            OtherAgent::new("adds a field", add_fields),
            OtherAgent { phase: starting, ..OtherAgent::new("lacks a value", lack_values) },
            OtherAgent { phase: starting, acknowledged: Some(ended), ..OtherAgent::new("adds a value", add_values) },
            OtherAgent::new("lacks a message", lack_messages),
            OtherAgent::new("adds a message", add_messages),
        ]
    }

    fn hello(versions: ProtocolRange) -> Hello {
        let capacity = MachineCapacity { cpu: MilliCpu(2000), memory: Bytes(4 << 30) };
        let id = MachineId::from_random(1);
        let machine = MachineFacts { id, capacity, addresses: Vec::new(), subnet: None, architecture: None };
        Hello { versions, program: "other".to_owned(), revision: None, machine: Some(machine), number: 0 }
    }

    /// The first copy in the updates of the server, and the revision of its update.
    fn copy(messages: &[Value]) -> Option<(AllocationId, u64)> {
        messages.iter().find_map(|message| {
            let mut keys = message["set"].as_object()?.keys().filter_map(|key| key.strip_prefix("allocation/"));
            Some((AllocationId::parse(keys.next()?)?, message["revision"].as_u64()?))
        })
    }

    async fn serve(other: OtherAgent) {
        let running = RunningServer::start().await;
        let mut agent = running.connect("/internal/v1/machines/m/control", hello(other.versions)).await;
        assert_eq!(
            agent.connection.welcome.version,
            other.versions.newest.min(SUPPORTED_VERSIONS.newest),
            "{}",
            other.name
        );
        agent.send(vec![json!({"type": "update", "revision": 1})]).await;
        let (id, plan) = agent.find(other.name, copy).await;
        agent.send((other.change)(lines(&id, plan))).await;
        let core = &running.server.core;
        let seen = |messages: &[Value]| {
            let seen = core.view().observed.machines.get(&machine())?.instances.get(&id)?.clone();
            let acknowledged = |expected: &Value| messages.iter().any(|message| message["acknowledged"] == *expected);
            let is_last = seen.phase == other.phase && other.acknowledged.as_ref().is_none_or(acknowledged);
            is_last.then_some(seen)
        };
        let seen = agent.find(other.name, seen).await;
        assert_eq!((seen.since, seen.exit), (Moment(7), None), "{}", other.name);
        assert!(agent.messages.iter().any(|message| message["type"] == "policy"), "{}", other.name);
    }

    #[tokio::test]
    async fn an_agent_that_does_not_fence_gets_no_single_copy() {
        let running = RunningServer::with_role(Role { single: true, ..role() }).await;
        let (core, path) = (&running.server.core, "/internal/v1/machines/m/control");
        let first = || vec![json!({"type": "update", "revision": 1})];
        let mut old = running.connect(path, hello(versions(1, 2))).await;
        old.send(first()).await;
        let is_refused = |reason: &Reason| match reason {
            Reason::NoRoom { refusal, .. } => refusal.0.iter().any(|one| one.why == MachineRefusal::OldAgent),
            _ => false,
        };
        let refused = |_: &[Value]| core.view().report.waits.get(&app())?.iter().any(is_refused).then_some(());
        old.find("an older agent", refused).await;
        assert_eq!((copy(&old.messages), core.view().records.machines[&machine()].protocol), (None, 2));
        drop(old);
        // The updated agent keeps the promise of the role.
        let mut agent = running.connect(path, hello(SUPPORTED_VERSIONS)).await;
        agent.send(first()).await;
        agent.find("this version", copy).await;
    }

    #[tokio::test]
    async fn serves_agents_of_other_versions() {
        for other in agents() {
            serve(other).await;
        }
    }
}

mod routers {
    use super::*;

    /// The messages of a router of this version: requests wait first, and are refused then.
    fn lines() -> Vec<Value> {
        let counts = |refused: u64| json!({"waiting": 0, "held": 2, "refused": refused, "limited": 0});
        let run = json!({"count": 3, "of": 9, "since": 7, "last": 8, "status": 502, "instance": "shop.v1.web-1"});
        let failures = json!({"broken": run, "given_up": run});
        let first = json!({"active/shop.v1.web-1": 4, "counts/shop": counts(0), "failures/shop": failures, "table": 0});
        vec![
            json!({"type": "update", "revision": 1, "set": first}),
            json!({"type": "alive"}),
            json!({"type": "update", "base": 1, "revision": 2, "set": {"counts/shop": counts(3)}}),
        ]
    }

    fn lack_fields(mut lines: Vec<Value>) -> Vec<Value> {
        change_items(&mut lines, "counts/", |counts| {
            counts.as_object_mut().expect("fields").remove("limited").expect("written");
        });
        change_items(&mut lines, "failures/", |runs| {
            for (_, run) in runs.as_object_mut().expect("kinds") {
                run.as_object_mut().expect("fields").remove("instance").expect("written");
            }
        });
        lines
    }

    /// A router before the failure "given_up".
    fn lack_values(mut lines: Vec<Value>) -> Vec<Value> {
        change_items(&mut lines, "failures/", |runs| {
            runs.as_object_mut().expect("kinds").remove("given_up").expect("written");
        });
        lines
    }

    fn add_values(mut lines: Vec<Value>) -> Vec<Value> {
        change_items(&mut lines, "failures/", |runs| runs["haunted"] = json!({"ghosts": 2}));
        lines
    }

    /// A router that differs from this version: its name, its versions, its messages, and the failures that the server
    /// is to know.
    type OtherRouter = (&'static str, ProtocolRange, fn(Vec<Value>) -> Vec<Value>, &'static [RequestFailure]);

    const BOTH: &[RequestFailure] = &[RequestFailure::Broken, RequestFailure::GivenUp];

    fn routers() -> [OtherRouter; 9] {
        [
            ("this version", SUPPORTED_VERSIONS, |lines| lines, BOTH),
            ("one version older", versions(1, 2), |lines| lines, BOTH),
            ("one version newer", versions(2, 4), |lines| lines, BOTH),
            ("lacks a field", SUPPORTED_VERSIONS, lack_fields, BOTH),
            ("adds a field", SUPPORTED_VERSIONS, add_fields, BOTH),
            ("lacks a value", SUPPORTED_VERSIONS, lack_values, &[RequestFailure::Broken]),
            ("adds a value", SUPPORTED_VERSIONS, add_values, BOTH),
            ("lacks a message", SUPPORTED_VERSIONS, lack_messages, BOTH),
            ("adds a message", SUPPORTED_VERSIONS, add_messages, BOTH),
        ]
    }

    async fn serve(running: &RunningServer, number: u64, (name, versions, change, failures): OtherRouter) {
        let hello = Hello { versions, program: "other".to_owned(), revision: None, machine: None, number };
        let mut router = running.connect("/internal/v1/routers/m/control", hello).await;
        router.send(change(lines())).await;
        let core = &running.server.core;
        let seen = |_: &[Value]| {
            let observed = Arc::clone(&core.view().observed);
            let (_, seen) = observed.routers.iter().find(|(router, _)| router.number == number)?;
            seen.counts.get(&app()).is_some_and(|counts| counts.refused == 3).then(|| seen.clone())
        };
        let seen = router.find(name, seen).await;
        assert_eq!(seen.counts[&app()], RequestCounts { held: 2, refused: 3, ..RequestCounts::default() }, "{name}");
        assert!(seen.failures[&app()].keys().eq(failures), "{name}: {:?}", seen.failures);
        assert_eq!(seen.active.values().sum::<u64>(), 4, "{name}");
        router.find(name, |messages| messages.iter().any(|message| message["type"] == "update").then_some(())).await;
    }

    #[tokio::test]
    async fn serves_routers_of_other_versions() {
        let running = RunningServer::start().await;
        for (number, other) in (1..).zip(routers()) {
            serve(&running, number, other).await;
        }
    }
}
