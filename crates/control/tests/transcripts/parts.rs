//! Updates of the replicated parts: each complete, and then changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_control::{
    MachineReport, PeerMessage, ProtocolVersion, Receipt, Replicated, RouterReport, ServerMessage, Update,
    UpdateReceiver, UpdateSender, version_one,
};
use gantry_model::role::AppProtocol;
use gantry_model::{
    AllocationId, AppNames, Assignment, Bytes, ClosedReason, ClosedRoute, Endpoint, ExitStatus, FailedProbe,
    FailureRun, Generation, InstanceGoal, InstancePhase, LimitHit, MachineAddress, MachineName, MachinePlan, Moment,
    NetworkFault, NetworkFlow, NetworkPart, ObservedInstance, OutputLine, ReleaseNumber, RequestCounts,
    RequestTimeouts, RoleLimit, Route, RoutingTable, Seconds, StopReason, TrafficPolicy, TrustedProxies, TunnelAddress,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::release::{job, parsed, service};
use crate::transcript::{Transcript, on_the_wire};
use crate::words::{phases_of_instances, request_failures};

/// Records the updates of all parts.
pub(crate) fn record(transcript: &mut Transcript) {
    let peer = |message| match message {
        PeerMessage::Update(update) => update,
        _ => Update::default(),
    };
    let server = |message| match message {
        ServerMessage::Update(update) => update,
        _ => Update::default(),
    };
    let tables = [table(true), table(false)];
    // Version 1 has no ports of roles.
    let known = |mut table: RoutingTable, version| {
        if version == ProtocolVersion(1) {
            table.names.values_mut().for_each(|names| names.ports = BTreeMap::new());
        }
        table
    };
    let known = tables.clone().map(|table| known(table, transcript.version));
    replicate(transcript, "server: plan", &[plan(true), plan(false)], None, ServerMessage::Update, server);
    replicate(transcript, "server: routes", &tables, Some(&known), ServerMessage::Update, server);
    let reports = [machine_report(true), machine_report(false)];
    replicate(transcript, "peer: report of a machine", &reports, None, PeerMessage::Update, peer);
    let reports = [router_report(true), router_report(false)];
    replicate(transcript, "peer: report of a router", &reports, None, PeerMessage::Update, peer);
}

/// Records two updates of a part. The receiver of the recorded updates gets the parts that were sent, or the parts in
/// `received`.
fn replicate<P: Replicated + PartialEq + Debug, M: Serialize + DeserializeOwned>(
    transcript: &mut Transcript,
    name: &str,
    parts: &[P; 2],
    received: Option<&[P; 2]>,
    message: impl Fn(Update) -> M,
    update_of: impl Fn(M) -> Update,
) {
    let (version, here) = (transcript.version, parsed::<MachineName>("m1"));
    let mut sender = UpdateSender::<P>::new(None);
    let mut receiver = UpdateReceiver::<P>::new(None);
    let steps = [(1, "complete"), (2, "change")];
    for ((revision, step), (sent, received)) in steps.into_iter().zip(parts.iter().zip(received.unwrap_or(parts))) {
        let mut update = sender.next(revision, sent).expect("a newer revision");
        version_one::translate_sent(version, &mut update, &here);
        let expected = (Receipt::Applied(Vec::new()), Some(received.clone()));
        transcript.entry(&format!("{name}, {step}"), on_the_wire(&message(update)), &expected, |recorded| {
            let mut update = update_of(serde_json::from_value(recorded)?);
            version_one::translate_received(version, &mut update, &here);
            Ok((receiver.receive(&update), receiver.part().cloned()))
        });
    }
}

fn id(text: &str) -> AllocationId {
    parsed(text)
}

fn plan(first: bool) -> MachinePlan {
    let (service, job) = (Arc::new(service()), Arc::new(job()));
    let assign = |name: &str, spec: &Arc<_>, goal| (id(name), Assignment { spec: Arc::clone(spec), goal });
    let retire = InstanceGoal::Retire { removed_in: Generation(7), since: Moment(1_700_000_000_000) };
    let goals = samples!(InstanceGoal {
        InstanceGoal::Run => ["shop.v12.web-1": InstanceGoal::Run],
        InstanceGoal::Retire { .. } => ["shop.v12.web-2.3": retire],
        InstanceGoal::Stop => ["shop.v12.web-3": InstanceGoal::Stop],
    });
    let instances: BTreeMap<_, _> = if first {
        let release = assign("shop.v12.release-1", &job, InstanceGoal::Run);
        goals.into_iter().map(|(name, goal)| assign(name, &service, goal)).chain([release]).collect()
    } else {
        BTreeMap::from([
            assign("shop.v12.web-1", &service, InstanceGoal::Stop),
            assign("shop.v12.release-1", &job, InstanceGoal::Run),
            assign("shop.v13.release-1", &job, InstanceGoal::Run),
        ])
    };
    MachinePlan { generation: Generation(if first { 1 } else { 2 }), instances }
}

fn table(first: bool) -> RoutingTable {
    let at = |last: u8| MachineAddress::new(parsed("m1"), Ipv4Addr::new(10, 83, 0, last));
    let endpoint =
        |name: &str, last: u8, protocol| Endpoint { allocation: id(name), at: at(last), port: 8080, protocol };
    let mut endpoints = vec![endpoint("shop.v12.web-1", 2, AppProtocol::Http1)];
    if first {
        endpoints.push(endpoint("shop.v12.web-2.3", 3, AppProtocol::H2c));
    }
    let proxies = |range: &str| TrustedProxies::new(vec![parsed(range)]);
    let shop = Route {
        app: parsed("shop"),
        release: ReleaseNumber(12),
        held: true,
        endpoints,
        traffic: TrafficPolicy {
            paused: true,
            maintenance: Some("back at noon".to_owned()),
            rate: Some(100),
            concurrent: Some(20),
            trusted_proxies: proxies("192.0.2.1/32"),
        },
        timeouts: RequestTimeouts { response: Seconds(61), drain: Seconds(32), request_buffer: Bytes(4096) },
    };
    let blog = Route {
        app: parsed("blog"),
        release: ReleaseNumber(1),
        held: false,
        endpoints: Vec::new(),
        traffic: TrafficPolicy::default(),
        timeouts: shop.timeouts,
    };
    let roles = BTreeMap::from([(parsed("web"), vec![at(2)]), (parsed("worker"), Vec::new())]);
    let shop_names = AppNames { main: Some(parsed("web")), roles, ports: BTreeMap::from([(parsed("web"), 8080)]) };
    let blog_names = AppNames { main: None, roles: BTreeMap::new(), ports: BTreeMap::new() };
    let closed = ClosedRoute { app: parsed("wiki"), reason: ClosedReason::ScaledToZero };
    let tunnels: [(MachineName, Vec<TunnelAddress>); 2] = [
        (parsed("m1"), vec![parsed("10.0.0.7:7001"), parsed("[fd00::7]:7001")]),
        (parsed("m2"), vec![parsed("m2.example:7001")]),
    ];
    // The second table lacks the last item of each kind.
    let count = if first { 2 } else { 1 };
    RoutingTable {
        generation: Generation(if first { 1 } else { 2 }),
        routes: [(parsed("shop.example"), shop), (parsed("blog.example"), blog)].into_iter().take(count).collect(),
        closed: [(parsed("wiki.example"), closed)].into_iter().take(count - 1).collect(),
        names: [(parsed("shop"), shop_names), (parsed("blog"), blog_names)].into_iter().take(count).collect(),
        trusted_proxies: proxies(if first { "10.0.0.0/8" } else { "2001:db8::/32" }),
        tunnels: tunnels.into_iter().take(count).collect::<BTreeMap<_, _>>().into(),
        lost: if first { BTreeSet::from([parsed("m2")]) } else { BTreeSet::new() },
    }
}

fn probe() -> FailedProbe {
    FailedProbe {
        target: "GET http://10.83.0.2:8080/up".to_owned(),
        outcome: "status 503".to_owned(),
        body: "database is gone".to_owned(),
        at: Moment(1_700_000_002_000),
        check: "GET /up".to_owned(),
        status: Some(503),
        remedy: Some("look at the database".to_owned()),
    }
}

fn exit(stopped: StopReason) -> ExitStatus {
    ExitStatus {
        code: Some(1),
        signal: Some(9),
        out_of_memory: Some(268_435_456),
        out_of_processes: Some(256),
        out_of_disk: Some(1_048_576),
        at: Moment(1_700_000_003_000),
        tail: vec!["killed".to_owned()],
        stopped: Some(stopped),
        killed_after: Some(Seconds(31)),
        left_processes: true,
    }
}

/// An instance about which only its phase is known.
fn in_phase(phase: InstancePhase) -> ObservedInstance {
    ObservedInstance {
        phase,
        since: Moment(1_700_000_001_000),
        address: None,
        restarts: 0,
        exit: None,
        probe: None,
        failure: None,
        warning: None,
        started: None,
        failed_checks: 0,
        limit_hits: Vec::new(),
        unpacked: 0,
        last_output: None,
    }
}

fn complete_instance() -> ObservedInstance {
    let limits = samples!(RoleLimit {
        RoleLimit::Processes(_) => ["processes": RoleLimit::Processes(256)],
        RoleLimit::Memory(_) => ["memory": RoleLimit::Memory(268_435_456)],
    });
    let (since, last) = (Moment(1_700_000_001_000), Moment(1_700_000_002_000));
    let hit = |(_, limit)| LimitHit { limit, count: 2, since, last };
    ObservedInstance {
        phase: InstancePhase::Unhealthy,
        since,
        address: Some(Ipv4Addr::new(10, 83, 0, 2)),
        restarts: 4,
        exit: Some(exit(StopReason::FailedChecks { times: 3, probe: Box::new(probe()) })),
        probe: Some(probe()),
        failure: Some("the image is missing".to_owned()),
        warning: Some("no users of its own".to_owned()),
        started: Some(Moment(1_700_000_000_000)),
        failed_checks: 3,
        limit_hits: limits.into_iter().map(hit).collect(),
        unpacked: 7_340_032,
        last_output: Some(OutputLine { at: last, line: "migrated".to_owned() }),
    }
}

fn network_faults() -> Vec<NetworkFault> {
    let text = |text: &str| text.to_owned();
    let dropped = NetworkFault::Dropped {
        flow: NetworkFlow::Outside,
        chain: text("inet filter forward"),
        by: text("policy drop"),
        remedy: text("nft add rule"),
    };
    let (part, at) = (NetworkPart::Bridge, Moment(1_700_000_000_000));
    let repaired = NetworkFault::Repaired { part, name: text("gantry0"), at, times: 2 };
    let broken = NetworkFault::Broken { part, name: text("gantry0"), why: text("operation not permitted") };
    let overlaps = NetworkFault::Overlaps { device: text("eth1"), network: text("10.83.0.0/24") };
    let faults = samples!(NetworkFault {
        NetworkFault::Dropped { .. } => ["dropped": dropped],
        NetworkFault::Repaired { .. } => ["repaired": repaired],
        NetworkFault::Broken { .. } => ["broken": broken],
        NetworkFault::Overlaps { .. } => ["overlaps": overlaps],
    });
    faults.into_iter().map(|(_, fault)| fault).collect()
}

fn machine_report(first: bool) -> MachineReport {
    let mut instances = BTreeMap::from([(id("shop.v12.web-2.3"), complete_instance())]);
    if first {
        for (index, phase) in (1..).zip(phases_of_instances()) {
            instances.insert(id(&format!("shop.v12.worker-{index}")), in_phase(phase));
        }
    }
    // The reason with a probe is the one of the complete instance.
    let reasons = samples!(StopReason {
        StopReason::FailedChecks { .. } => [],
        StopReason::Planned => ["shop.v12.cron-1": StopReason::Planned],
        StopReason::NetworkChanged => ["shop.v12.cron-2": StopReason::NetworkChanged],
    });
    for (name, reason) in reasons {
        instances.insert(id(name), ObservedInstance { exit: Some(exit(reason)), ..in_phase(InstancePhase::Exited) });
    }
    let network = if first { network_faults() } else { Vec::new() };
    MachineReport { generation: Generation(if first { 17 } else { 18 }), instances, network }
}

fn router_report(first: bool) -> RouterReport {
    let run = FailureRun {
        count: 2,
        of: 9,
        since: Moment(1_700_000_001_000),
        last: Moment(1_700_000_002_000),
        status: 502,
        instance: Some(id("shop.v12.web-2.3")),
    };
    let kinds = if first { request_failures() } else { Vec::new() };
    let counts = |app: &str| (parsed(app), RequestCounts { waiting: 1, held: 2, refused: 3, limited: 4 });
    let actives = [(id("shop.v12.web-1"), 5), (id("shop.v12.web-2.3"), 6)];
    let count = if first { 2 } else { 1 };
    RouterReport {
        // Numbers and ends of routers are in other messages.
        number: 0,
        gone: false,
        generation: Generation(if first { 17 } else { 18 }),
        active: actives.into_iter().take(count).collect(),
        counts: [counts("shop"), counts("blog")].into_iter().take(count).collect(),
        failures: BTreeMap::from([(parsed("shop"), kinds.into_iter().map(|kind| (kind, run.clone())).collect())]),
    }
}
