//! Many made-up agents, each joined and connected over TLS of its own, on one real server. `benches/agents` starts the cloud
//! and runs this test.
//!
//! Each agent reports at once that its copies are as the plan says: every wanted copy is ready, and every other is gone.
//! Each round changes the configuration of an app with a copy on every machine, which is a new part for each agent. Then
//! the server is killed, and all agents connect again.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use gantry_api::endpoints::{apps, cluster};
use gantry_api::types::{ChangeConfig, CreateJoinToken, JoinRoleInfo};
use gantry_api::{Client, Servers};
use gantry_control::endpoints::Join;
use gantry_control::jobs::JobsReport;
use gantry_control::join::{JoinCall, JoinReply};
use gantry_control::layers::LayersReport;
use gantry_control::version::SPOKEN;
use gantry_control::{
    Hello, LinkError, MachineFacts, MachineReport, PeerMessage, ReportSender, ServerMessage, UpdateReceiver, link,
};
use gantry_model::{
    AppName, Bytes, InstanceGoal, InstancePhase, JoinRole, MachineCapacity, MachineId, MachineName, MachinePlan,
    MilliCpu, Moment, ObservedInstance, ReleaseNumber,
};
use gantry_supervision::{Backoff, ReconcileLoop};
use gantry_trust::{Credentials, JoinToken, MachineKey, PeerName, pinned_config};
use tokio::sync::{Mutex, mpsc};

/// Interval between two messages of an agent without a change, as that of a real one.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Pause of an agent before its next connection, as that of a real one.
const RETRY: Duration = Duration::from_millis(250);

/// Longest time until all agents are in an awaited state.
const DEADLINE: Duration = Duration::from_secs(120);

/// Agents that join at the same time.
const JOINING: usize = 16;

/// Number of changes that are measured.
const CHANGES: u64 = 10;

/// Most events that wait for the test.
const EVENTS_MAX: usize = 1 << 16;

/// News of an agent.
#[derive(Debug, Clone, Copy)]
enum AgentEvent {
    /// The server has welcomed the agent.
    Connected,
    /// The agent has a part of the plan with copies of these releases, from the oldest to the newest.
    Told { oldest: ReleaseNumber, newest: ReleaseNumber },
}

/// An agent with its event, and the moment.
type News = (usize, AgentEvent, Instant);

/// A machine that has joined.
struct FakeAgent {
    number: usize,
    name: MachineName,
    client: Client,
    facts: MachineFacts,
    news: mpsc::Sender<News>,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("benches/agents sets {name}"))
}

impl FakeAgent {
    /// Joins the cluster with a token of its own.
    async fn join(number: usize, admin: &Client, server: &str, news: mpsc::Sender<News>) -> Self {
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
        let JoinReply { chain, ca, subnet, .. } = pinned.submit(&Join {}, &call).await.expect("joined");
        let credentials = Credentials::new(&ca, &chain, &key).expect("credentials");
        let client = Client::over_tls(servers(credentials.client_config(&[b"http/1.1"]).expect("TLS")), None);
        let capacity = MachineCapacity { cpu: MilliCpu(2000), memory: Bytes(4 << 30) };
        let facts = MachineFacts { id, capacity, addresses: Vec::new(), subnet: Some(subnet), architecture: None };
        Self { number, name, client, facts, news }
    }

    fn tell(&self, event: AgentEvent) {
        self.news.try_send((self.number, event, Instant::now())).expect("the test reads the news");
    }

    /// Stays connected until the test ends, with the loop of a real agent.
    async fn run(self) {
        let agent = Arc::new((self, Mutex::new(UpdateReceiver::<MachinePlan>::new(None))));
        let pass = move || {
            let agent = Arc::clone(&agent);
            async move {
                let (agent, received) = &*agent;
                match agent.serve(&mut *received.lock().await).await {
                    Err(LinkError::Refused(reason)) => panic!("{} is refused: {reason}", agent.name),
                    served => served,
                }
            }
        };
        ReconcileLoop::new("control connection", Duration::ZERO, Backoff::constant(RETRY)).run(pass).await;
    }

    /// Serves one connection until it ends.
    async fn serve(&self, received: &mut UpdateReceiver<MachinePlan>) -> Result<(), LinkError> {
        let path = format!("/internal/v1/machines/{}/control", self.name);
        let (revision, machine) = (received.revision(), Some(self.facts.clone()));
        let hello = Hello { versions: SPOKEN, program: "fake".to_owned(), revision, machine, number: 0 };
        let mut connection = link::connect(&self.client, &path, hello).await?;
        self.tell(AgentEvent::Connected);
        let stream = &mut connection.stream;
        let mut reports = ReportSender::default();
        stream.sender.send(&PeerMessage::Jobs(JobsReport::default())).await?;
        stream.sender.send(&PeerMessage::Layers(LayersReport::default())).await?;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                message = stream.receiver.next() => match message? {
                    Some(ServerMessage::Update(update)) => {
                        received.receive(&update);
                        received.part().and_then(releases).into_iter().for_each(|event| self.tell(event));
                    }
                    Some(ServerMessage::Resend) => reports.resend(),
                    Some(ServerMessage::Refused { reason }) => return Err(LinkError::Refused(reason)),
                    Some(_) => continue,
                    None => return Err(LinkError::Ended),
                },
                _ = heartbeat.tick() => {}
            }
            let report = received.part().map(|part| report(part, self.facts.subnet.map(|subnet| subnet.gateway())));
            let update = reports.next(&report.unwrap_or_default());
            stream.sender.send(&update.map_or(PeerMessage::Alive, PeerMessage::Update)).await?;
        }
    }
}

/// The releases of a part; none if it has no copies.
fn releases(part: &MachinePlan) -> Option<AgentEvent> {
    let releases = || part.instances.keys().map(|id| id.slot.release);
    Some(AgentEvent::Told { oldest: releases().min()?, newest: releases().max()? })
}

/// The report of a machine that has done everything at once.
fn report(part: &MachinePlan, address: Option<Ipv4Addr>) -> MachineReport {
    let (phase, since) = (InstancePhase::Ready, Moment(0));
    let ready = ObservedInstance { started: Some(since), address, ..ObservedInstance::new(phase, since) };
    let runs = part.instances.iter().filter(|(_, assignment)| assignment.goal != InstanceGoal::Stop);
    let instances = runs.map(|(id, _)| (id.clone(), ready.clone())).collect();
    MachineReport { generation: part.generation, instances, network: Vec::new() }
}

/// Waits until each agent has told news that count. Returns the time of each agent's first such news.
async fn all(count: usize, news: &mut mpsc::Receiver<News>, counts: impl Fn(AgentEvent) -> bool) -> Vec<Instant> {
    let mut first: BTreeMap<usize, Instant> = BTreeMap::new();
    let gather = async {
        while first.len() < count {
            let (agent, event, at) = news.recv().await.expect("the agents run");
            if counts(event) {
                first.entry(agent).or_insert(at);
            }
        }
    };
    let ended = tokio::time::timeout(DEADLINE, gather).await;
    assert!(ended.is_ok(), "{} of {count} agents are there after {} s", first.len(), DEADLINE.as_secs());
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark; see benches/agents"]
async fn many_agents_on_one_server() {
    let count: usize = variable("AGENTS").parse().expect("a number");
    let (server, process) = (variable("BENCH_SERVER"), variable("BENCH_PROCESS"));
    let admin = Client::new(&variable("GANTRY_URL"), variable("BENCH_TOKEN").trim());
    let app = AppName::parse(&variable("BENCH_APP")).expect("a name");
    let (sender, mut news) = mpsc::channel(EVENTS_MAX);
    let before = memory(&process, "VmRSS");

    let begun = Instant::now();
    let joining = (0..count).map(|number| FakeAgent::join(number, &admin, &server, sender.clone()));
    let agents: Vec<FakeAgent> = futures_util::stream::iter(joining).buffer_unordered(JOINING).collect().await;
    println!("agents: {count} joined in {} ms", begun.elapsed().as_millis());
    agents.into_iter().for_each(|agent| drop(tokio::spawn(agent.run())));
    // Every machine that joins gets its copy.
    all(count, &mut news, |event| matches!(event, AgentEvent::Told { .. })).await;

    let mut seen = Vec::new();
    for change in 0..CHANGES {
        let body = ChangeConfig { changes: [("ROUND".to_owned(), Some(change.to_string()))].into() };
        let release = newest(&admin, &app).await;
        let begun = Instant::now();
        admin.submit(&apps::SetConfig { app: app.clone() }, &body).await.expect("accepted");
        let is_new = |event| matches!(event, AgentEvent::Told { newest, .. } if newest > release);
        seen.extend(all(count, &mut news, is_new).await.into_iter().map(|at| at - begun));
        // The next change begins once this one has ended everywhere.
        all(count, &mut news, |event| matches!(event, AgentEvent::Told { oldest, .. } if oldest > release)).await;
    }
    println!("agents: a change is seen, p99 {} ms", p99(seen));
    let (now, most) = (memory(&process, "VmRSS"), memory(&process, "VmHWM"));
    println!("agents: the server had at most {most} KiB, {now} KiB in the end, {before} KiB without them");

    let begun = Instant::now();
    let killed = std::process::Command::new("kill").args(["-KILL", &process]).status();
    assert!(killed.expect("kill").success());
    let back = all(count, &mut news, |event| matches!(event, AgentEvent::Connected)).await;
    let last = back.into_iter().max().expect("an agent");
    println!("agents: all are connected again after {} ms", (last - begun).as_millis());
}

/// The newest release of an app.
async fn newest(admin: &Client, app: &AppName) -> ReleaseNumber {
    let releases = admin.fetch(&apps::Releases { app: app.clone() }).await.expect("the releases");
    releases.iter().map(|release| release.number).max().expect("a release")
}
