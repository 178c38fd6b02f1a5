//! Many made-up agents and routers, each connected over TLS of its own, on one real server. `benches/agents` starts the
//! cloud and runs this test.
//!
//! ```text
//! machines join ─► agents connect ─► changes ─► routers connect ─► changes ─► server killed ─► all connect again
//! ```
//! Each agent reports at once that its copies are as the plan says: every wanted copy is ready, and every other is gone.
//! Each router reports at once that it uses the newest routing table. Each change gives a new configuration to an app with a
//! copy on every machine, which is a new part for each agent and a new table for each router.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use gantry_api::endpoint::Endpoint;
use gantry_api::endpoints::{apps, cluster};
use gantry_api::types::{ChangeConfig, CreateJoinToken, JoinRoleInfo};
use gantry_api::{Client, ClientError, ErrorCode, Servers};
use gantry_control::endpoints::{AgentControl, Join, RouterControl};
use gantry_control::jobs::JobsReport;
use gantry_control::join::{JoinCall, JoinReply};
use gantry_control::layers::LayersReport;
use gantry_control::version::SUPPORTED_VERSIONS;
use gantry_control::{
    Hello, LinkError, MachineFacts, MachineReport, PeerMessage, ReportSender, RouterReport, ServerMessage, Update,
    UpdateReceiver, link,
};
use gantry_model::{
    AppName, Bytes, InstanceGoal, InstancePhase, JoinRole, MachineCapacity, MachineId, MachineName, MachinePlan,
    MilliCpu, Moment, ObservedInstance, ReleaseNumber, RoutingTable,
};
use gantry_supervision::{Backoff, ReconcileLoop};
use gantry_trust::{Credentials, JoinToken, MachineKey, PeerName, pinned_config};
use tokio::sync::{Mutex, mpsc};

/// Interval between two messages of a peer without a change, as that of a real one.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Pause of a peer before its next connection, as that of a real one.
const RETRY: Duration = Duration::from_millis(250);

/// Longest time until all peers are in an awaited state.
const DEADLINE: Duration = Duration::from_secs(300);

/// Machines that join at the same time.
const JOINING: usize = 8;

/// Pause of a machine that the server does not admit yet, and longest time until the server must admit it. The server
/// admits a few machines in each second.
const JOIN_PAUSE: Duration = Duration::from_millis(500);
const JOIN_DEADLINE: Duration = Duration::from_secs(120);

/// Number of changes that are measured without routers, and again with routers.
const CHANGES: u64 = 10;

/// Number of a router on its machine.
const ROUTER: u64 = 1;

/// Maximum number of events that wait for the test.
const EVENTS_MAX: usize = 1 << 16;

/// An event of a peer.
#[derive(Debug, Clone, Copy)]
enum PeerEvent {
    /// The server has welcomed the peer.
    Connected,
    /// The agent has a part of the plan with copies of these releases, from the oldest to the newest.
    Told { oldest: ReleaseNumber, newest: ReleaseNumber },
    /// The router has a table with the addresses of so many copies of the app.
    Routed { copies: usize },
}

/// A peer with its event, and the moment.
type News = (usize, PeerEvent, Instant);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("benches/agents sets {name}"))
}

fn number(name: &str) -> usize {
    variable(name).parse().expect("a number")
}

fn app() -> AppName {
    AppName::parse(&variable("BENCH_APP")).expect("a name")
}

/// A machine that has joined.
struct FakeMachine {
    name: MachineName,
    client: Client,
    facts: MachineFacts,
}

impl FakeMachine {
    /// Joins the cluster with a token of its own.
    async fn join(number: usize, admin: &Client, server: &str) -> Arc<Self> {
        let request = CreateJoinToken { role: JoinRoleInfo::Agent, lifetime: None };
        let token = admin.submit(&cluster::CreateJoinToken {}, &request).await.expect("a token");
        let token: JoinToken = token.token.parse().expect("a join token");
        let key = MachineKey::generate().expect("a key");
        let name = MachineName::parse(&format!("fake-{number}")).expect("a name");
        let id = MachineId::from_random(number as u128 + 1);
        let call = JoinCall {
            token: token.reveal(),
            role: JoinRole::Agent,
            machine: name.clone(),
            id: id.clone(),
            advertise: Some("127.0.0.1".to_owned()),
            port: 1,
            labels: BTreeMap::new(),
        };
        let servers = |tls| Servers::new(vec![server.to_owned()], tls, PeerName::Server.server_name());
        let pinned = Client::over_tls(servers(pinned_config(token.ca(), Some(&key)).expect("TLS")), None);
        let JoinReply { chain, ca, subnet, .. } = admitted(&pinned, &call).await;
        let credentials = Credentials::new(&ca, &chain, &key).expect("credentials");
        let client = Client::over_tls(servers(credentials.client_config(&[b"http/1.1"]).expect("TLS")), None);
        let capacity = MachineCapacity { cpu: MilliCpu(2000), memory: Bytes(4 << 30) };
        let addresses = vec!["127.0.0.1:1".parse().expect("an address")];
        let facts = MachineFacts { id, capacity, addresses, subnet: Some(subnet), architecture: None };
        Arc::new(Self { name, client, facts })
    }

    /// The report of an agent that has done everything at once.
    fn report(&self, part: &MachinePlan) -> MachineReport {
        let (phase, since) = (InstancePhase::Ready, Moment(0));
        let address = self.facts.subnet.map(|subnet| subnet.gateway());
        let ready = ObservedInstance { started: Some(since), address, ..ObservedInstance::new(phase, since) };
        let runs = part.instances.iter().filter(|(_, assignment)| assignment.goal != InstanceGoal::Stop);
        let instances = runs.map(|(id, _)| (id.clone(), ready.clone())).collect();
        MachineReport { generation: part.generation, instances, network: Vec::new() }
    }
}

/// Sends a request to join, and again while the server does not admit more machines.
async fn admitted(client: &Client, call: &JoinCall) -> JoinReply {
    let deadline = Instant::now() + JOIN_DEADLINE;
    loop {
        match client.submit(&Join {}, call).await {
            Ok(reply) => return reply,
            Err(ClientError::Problem(problem))
                if problem.status == ErrorCode::JoinRateLimited.status() && Instant::now() < deadline =>
            {
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            Err(error) => panic!("{} cannot join: {error}", call.machine),
        }
    }
}

/// The part of the plan that a peer follows, and the reports of the peer's connection.
enum FollowedPart {
    /// An agent's.
    Machine(UpdateReceiver<MachinePlan>, ReportSender<MachineReport>),
    /// A router's.
    Routes(Box<UpdateReceiver<RoutingTable>>, ReportSender<RouterReport>),
}

impl FollowedPart {
    fn of_agent() -> Self {
        Self::Machine(UpdateReceiver::new(None), ReportSender::default())
    }

    fn of_router() -> Self {
        Self::Routes(Box::new(UpdateReceiver::new(None)), ReportSender::default())
    }

    fn revision(&self) -> Option<u64> {
        match self {
            Self::Machine(received, _) => received.revision(),
            Self::Routes(received, _) => received.revision(),
        }
    }

    /// Makes the next report a complete one.
    fn resend(&mut self) {
        match self {
            Self::Machine(_, reports) => reports.resend(),
            Self::Routes(_, reports) => reports.resend(),
        }
    }

    /// Begins the reports of a new connection.
    fn begin_reports(&mut self) {
        match self {
            Self::Machine(_, reports) => *reports = ReportSender::default(),
            Self::Routes(_, reports) => *reports = ReportSender::default(),
        }
    }

    /// Receives an update. Returns the event, if the part has something of the app.
    fn receive(&mut self, update: &Update, app: &AppName) -> Option<PeerEvent> {
        match self {
            Self::Machine(received, _) => {
                received.receive(update);
                received.part().and_then(releases)
            }
            Self::Routes(received, _) => {
                received.receive(update);
                let names = received.part()?.names.get(app)?;
                Some(PeerEvent::Routed { copies: names.roles.values().map(Vec::len).sum() })
            }
        }
    }

    /// The update of the report, if the report differs from the last one.
    fn next_report(&mut self, machine: &FakeMachine) -> Option<Update> {
        match self {
            Self::Machine(received, reports) => {
                reports.next(&received.part().map(|part| machine.report(part)).unwrap_or_default())
            }
            Self::Routes(received, reports) => {
                let generation = received.part().map(|table| table.generation).unwrap_or_default();
                reports.next(&RouterReport { number: ROUTER, generation, ..RouterReport::default() })
            }
        }
    }
}

/// The agent or the router of a machine.
struct FakePeer {
    number: usize,
    machine: Arc<FakeMachine>,
    app: AppName,
    news: mpsc::Sender<News>,
}

impl FakePeer {
    fn notify(&self, event: PeerEvent) {
        self.news.try_send((self.number, event, Instant::now())).expect("the test reads the news");
    }

    /// Stays connected until the test ends, with the loop of a real peer.
    async fn run(self, part: FollowedPart) {
        let peer = Arc::new((self, Mutex::new(part)));
        let pass = move || {
            let peer = Arc::clone(&peer);
            async move {
                let (peer, part) = &*peer;
                match peer.serve(&mut *part.lock().await).await {
                    Err(LinkError::Refused(reason)) => panic!("{} is refused: {reason}", peer.machine.name),
                    served => served,
                }
            }
        };
        ReconcileLoop::new("control connection", Duration::ZERO, Backoff::constant(RETRY)).run(pass).await;
    }

    /// Serves one connection until it ends.
    async fn serve(&self, part: &mut FollowedPart) -> Result<(), LinkError> {
        let FakeMachine { name, client, facts } = &*self.machine;
        let is_agent = matches!(part, FollowedPart::Machine(..));
        let (path, machine, number) = if is_agent {
            (AgentControl { machine: name.clone() }.path(), Some(facts.clone()), 0)
        } else {
            (RouterControl { machine: name.clone() }.path(), None, ROUTER)
        };
        let revision = part.revision();
        let hello = Hello { versions: SUPPORTED_VERSIONS, program: "fake".to_owned(), revision, machine, number };
        let mut connection = link::connect(client, &path, hello).await?;
        self.notify(PeerEvent::Connected);
        let stream = &mut connection.stream;
        part.begin_reports();
        if is_agent {
            stream.sender.send(&PeerMessage::Jobs(JobsReport::default())).await?;
            stream.sender.send(&PeerMessage::Layers(LayersReport::default())).await?;
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                message = stream.receiver.next() => match message? {
                    Some(ServerMessage::Update(update)) => {
                        part.receive(&update, &self.app).into_iter().for_each(|event| self.notify(event));
                    }
                    Some(ServerMessage::Resend) => part.resend(),
                    Some(ServerMessage::Refused { reason }) => return Err(LinkError::Refused(reason)),
                    Some(_) => continue,
                    None => return Err(LinkError::Ended),
                },
                _ = heartbeat.tick() => {}
            }
            let update = part.next_report(&self.machine);
            stream.sender.send(&update.map_or(PeerMessage::Alive, PeerMessage::Update)).await?;
        }
    }
}

/// The releases of a part; none if it has no copies.
fn releases(part: &MachinePlan) -> Option<PeerEvent> {
    let releases = || part.instances.keys().map(|id| id.slot.release);
    Some(PeerEvent::Told { oldest: releases().min()?, newest: releases().max()? })
}

/// Waits until each of `count` peers has told an event that counts since `since`. Returns the time of each peer's first
/// such event.
async fn all(
    count: usize,
    news: &mut mpsc::Receiver<News>,
    since: Instant,
    counts: impl Fn(PeerEvent) -> bool,
) -> Vec<Instant> {
    let mut first: BTreeMap<usize, Instant> = BTreeMap::new();
    let gather = async {
        while first.len() < count {
            let (peer, event, at) = news.recv().await.expect("the peers run");
            if at >= since && counts(event) {
                first.entry(peer).or_insert(at);
            }
        }
    };
    let ended = tokio::time::timeout(DEADLINE, gather).await;
    assert!(ended.is_ok(), "{} of {count} peers are there after {} s", first.len(), DEADLINE.as_secs());
    first.into_values().collect()
}

/// A number of kibibytes in the status of a process.
fn memory(process: &str, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a line of the status");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The 99th percentile of some times in milliseconds.
fn p99(mut times: Vec<Duration>) -> u128 {
    times.sort_unstable();
    times[(times.len() * 99).div_ceil(100) - 1].as_millis()
}

/// The server of the bench.
struct MeasuredServer {
    admin: Client,
    app: AppName,
    /// Id of the process.
    process: String,
}

impl MeasuredServer {
    /// Makes changes one after the other. Returns the 99th percentile of the times until each agent had its part of a
    /// change, in milliseconds.
    async fn change(&self, agents: usize, news: &mut mpsc::Receiver<News>, rounds: std::ops::Range<u64>) -> u128 {
        let mut seen = Vec::new();
        for round in rounds {
            let body = ChangeConfig { changes: [("ROUND".to_owned(), Some(round.to_string()))].into() };
            let release = self.newest().await;
            let begun = Instant::now();
            self.admin.submit(&apps::SetConfig { app: self.app.clone() }, &body).await.expect("accepted");
            let is_new = |event| matches!(event, PeerEvent::Told { newest, .. } if newest > release);
            seen.extend(all(agents, news, begun, is_new).await.into_iter().map(|at| at - begun));
            // The next change begins once this one has ended everywhere.
            let is_alone = |event| matches!(event, PeerEvent::Told { oldest, .. } if oldest > release);
            all(agents, news, begun, is_alone).await;
        }
        p99(seen)
    }

    /// The newest release of the app.
    async fn newest(&self) -> ReleaseNumber {
        let releases = self.admin.fetch(&apps::Releases { app: self.app.clone() }).await.expect("the releases");
        releases.iter().map(|release| release.number).max().expect("a release")
    }

    /// The most memory so far, and the memory now, in KiB.
    fn memory(&self) -> (u64, u64) {
        (memory(&self.process, "VmHWM"), memory(&self.process, "VmRSS"))
    }

    fn kill(&self) {
        let killed = std::process::Command::new("kill").args(["-KILL", &self.process]).status();
        assert!(killed.expect("kill").success());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark; see benches/agents"]
async fn many_agents_on_one_server() {
    let (agents, routers) = (number("AGENTS"), number("ROUTERS"));
    assert!(routers <= agents, "each router is on the machine of an agent");
    let admin = Client::new(&variable("GANTRY_URL"), variable("BENCH_TOKEN").trim());
    let server = MeasuredServer { admin, app: app(), process: variable("BENCH_PROCESS") };
    let (sender, mut news) = mpsc::channel(EVENTS_MAX);
    let start = |number: usize, machine: &Arc<FakeMachine>, part: FollowedPart| {
        let peer = FakePeer { number, machine: Arc::clone(machine), app: app(), news: sender.clone() };
        drop(tokio::spawn(peer.run(part)));
    };
    let (_, before) = server.memory();

    let begun = Instant::now();
    let address = variable("BENCH_SERVER");
    let joining = (0..agents).map(|number| FakeMachine::join(number, &server.admin, &address));
    let machines: Vec<_> = futures_util::stream::iter(joining).buffer_unordered(JOINING).collect().await;
    println!("agents: {agents} joined in {} ms, as fast as the server admits machines", begun.elapsed().as_millis());

    let begun = Instant::now();
    machines.iter().enumerate().for_each(|(number, machine)| start(number, machine, FollowedPart::of_agent()));
    // Every machine that joins gets its copy.
    all(agents, &mut news, begun, |event| matches!(event, PeerEvent::Told { .. })).await;
    println!("agents: all connected for the first time in {} ms", begun.elapsed().as_millis());
    let seen = server.change(agents, &mut news, 0..CHANGES).await;
    println!("agents: a change is seen, p99 {seen} ms");
    let (most, now) = server.memory();
    println!("agents: the server had at most {most} KiB, {now} KiB in the end, {before} KiB without them");

    let begun = Instant::now();
    let with_routers = machines.iter().take(routers).zip(agents..);
    with_routers.for_each(|(machine, number)| start(number, machine, FollowedPart::of_router()));
    let has_all = |event| matches!(event, PeerEvent::Routed { copies } if copies >= agents);
    all(routers, &mut news, begun, has_all).await;
    println!("agents: with routers, {routers} had all routes after {} ms", begun.elapsed().as_millis());
    let seen = server.change(agents, &mut news, CHANGES..2 * CHANGES).await;
    println!("agents: with routers, a change is seen, p99 {seen} ms");
    let (most, now) = server.memory();
    println!("agents: with routers, the server had at most {most} KiB, {now} KiB in the end");

    let begun = Instant::now();
    server.kill();
    let back = all(agents + routers, &mut news, begun, |event| matches!(event, PeerEvent::Connected)).await;
    let last = back.into_iter().max().expect("a peer");
    println!("agents: all are connected again after {} ms", (last - begun).as_millis());
}
