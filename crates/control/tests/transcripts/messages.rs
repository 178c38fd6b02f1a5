//! Messages of the control connection, and messages of joining.

use std::collections::{BTreeMap, BTreeSet};

use gantry_control::jobs::{
    AttemptDetails, AttemptOutcome, EndedJob, Fence, HeldJob, JobId, JobLine, JobOrder, JobOrders, JobRef, JobsReport,
};
use gantry_control::join::{JoinCall, JoinReply, RenewCall, RenewReply};
use gantry_control::layers::{LayerOrder, LayerOrders, LayerParts, LayerSource, LayersReport, WantedLayer};
use gantry_control::version::SHARES_LAYERS;
use gantry_control::{
    Hello, MachineFacts, PeerMessage, PeerPolicy, ProtocolRange, ProtocolVersion, ServerMessage, Welcome,
};
use gantry_model::{Architecture, Bytes, JoinRole, MachineCapacity, MachineId, MilliCpu, Moment, Seconds};

use crate::release::{digest, job, parsed, service};
use crate::transcript::Transcript;

/// Records all messages but updates and sessions.
pub(crate) fn record(transcript: &mut Transcript) {
    let shares_layers = transcript.version >= SHARES_LAYERS;
    for (name, message) in peer_messages() {
        if shares_layers || !matches!(message, PeerMessage::Layers(_)) {
            transcript.message(&format!("peer: {name}"), &message);
        }
    }
    for (name, message) in server_messages() {
        if shares_layers || !matches!(message, ServerMessage::Layers(_)) {
            transcript.message(&format!("server: {name}"), &message);
        }
    }
    record_joining(transcript);
    let digests = vec![digest('d'), digest('e')];
    transcript.message("server: parts of a layer", &LayerParts { size: 12, part_size: 8, digests });
}

fn peer_messages() -> Vec<(&'static str, PeerMessage)> {
    samples!(PeerMessage {
        PeerMessage::Hello(_) => [
            "hello of an agent": PeerMessage::Hello(hello(Some(facts()), 0)),
            "hello of a router": PeerMessage::Hello(hello(None, 4)),
        ],
        // Updates are recorded with the parts.
        PeerMessage::Update(_) => [],
        PeerMessage::Alive => ["alive": PeerMessage::Alive],
        PeerMessage::Lease { .. } => ["lease": PeerMessage::Lease { asked: 7000 }],
        PeerMessage::Clock { .. } => ["clock": PeerMessage::Clock { now: Moment(1_700_000_000_123) }],
        PeerMessage::Jobs(_) => ["jobs": PeerMessage::Jobs(jobs_report())],
        PeerMessage::Layers(_) => ["layers": PeerMessage::Layers(layers_report())],
        PeerMessage::Resend => ["resend": PeerMessage::Resend],
        PeerMessage::Leaving => ["leaving": PeerMessage::Leaving],
        // Never sent.
        PeerMessage::Unknown => [],
    })
}

fn server_messages() -> Vec<(&'static str, ServerMessage)> {
    let welcome = Welcome { version: ProtocolVersion(2), lease_millis: 5000 };
    samples!(ServerMessage {
        ServerMessage::Welcome(_) => ["welcome": ServerMessage::Welcome(welcome)],
        ServerMessage::Refused { .. } => ["refused": ServerMessage::Refused { reason: "no common version".to_owned() }],
        ServerMessage::Policy(_) => ["policy": ServerMessage::Policy(policy())],
        // Updates are recorded with the parts.
        ServerMessage::Update(_) => [],
        ServerMessage::Lease { .. } => ["lease": ServerMessage::Lease { asked: 7000, millis: 10_000, revision: 17 }],
        ServerMessage::Resend => ["resend": ServerMessage::Resend],
        // Recorded with the kinds of sessions.
        ServerMessage::Session { .. } => [],
        ServerMessage::Jobs(_) => ["jobs": ServerMessage::Jobs(job_orders())],
        ServerMessage::Layers(_) => ["layers": ServerMessage::Layers(layer_orders())],
        // Never sent.
        ServerMessage::Unknown => [],
    })
}

fn hello(machine: Option<MachineFacts>, number: u64) -> Hello {
    let versions = ProtocolRange { oldest: ProtocolVersion(1), newest: ProtocolVersion(2) };
    Hello { versions, program: "0.9.0".to_owned(), revision: Some(17), machine, number }
}

fn facts() -> MachineFacts {
    MachineFacts {
        id: MachineId::from_random(0x2a),
        capacity: MachineCapacity { cpu: MilliCpu(4000), memory: Bytes(8_589_934_592) },
        addresses: vec![parsed("10.0.0.7:7001"), parsed("[fd00::7]:7001")],
        subnet: Some(parsed("10.64.16.0/20")),
        architecture: Some(Architecture("arm64".to_owned())),
    }
}

fn policy() -> PeerPolicy {
    PeerPolicy {
        domain: parsed("apps.example"),
        builds: 2,
        collect_every: Seconds(3600),
        collect_grace: Seconds(7200),
        reserve: Bytes(2_147_483_648),
        log_retention: Seconds(604_800),
        logs_kept: 20,
    }
}

fn lease(job: u64) -> JobRef {
    JobRef { job: JobId(job), fence: Fence(3) }
}

fn jobs_report() -> JobsReport {
    let details = AttemptDetails {
        code: Some(3),
        signal: Some(9),
        out_of_memory: Some(268_435_456),
        out_of_disk: Some(1_048_576),
        failure: Some("the image is missing".to_owned()),
        started: Some(Moment(1_700_000_000_000)),
        ended: Moment(1_700_000_001_000),
        peak_memory: 4096,
        cpu_micros: 250_000,
        output_cut: true,
    };
    let line = |error: bool, text: &str| JobLine { at: Moment(1_700_000_000_500), error, text: text.to_owned() };
    let output = vec![line(false, "begins"), line(true, "fails")];
    let started = Some(Moment(1_700_000_000_000));
    JobsReport {
        capacity: 4,
        held: vec![HeldJob { lease: lease(7), started }, HeldJob { lease: lease(8), started: None }],
        ended: vec![EndedJob { lease: lease(9), outcome: AttemptOutcome::Failed, details, output }],
    }
}

fn job_orders() -> JobOrders {
    let order = |number: u64, spec| JobOrder {
        lease: lease(number),
        queue: parsed("shop/report"),
        release: "v12".to_owned(),
        spec: Box::new(spec),
        network: false,
        timeout: 60,
        payload: "{}".to_owned(),
    };
    JobOrders {
        run: vec![order(10, service()), order(11, job())],
        unread: Vec::new(),
        stop: vec![lease(12)],
        acknowledged: vec![lease(9)],
    }
}

fn layer_sources() -> Vec<LayerSource> {
    let (machine, addresses) = (parsed("m2"), vec![parsed("10.0.0.8:7001")]);
    let sources = samples!(LayerSource {
        LayerSource::Server => ["server": LayerSource::Server],
        LayerSource::Machine { .. } => ["machine": LayerSource::Machine { machine, addresses }],
        // Never sent.
        LayerSource::Unknown => [],
    });
    sources.into_iter().map(|(_, source)| source).collect()
}

fn layers_report() -> LayersReport {
    let failed = BTreeSet::from([parsed("m3"), parsed("m4")]);
    let want = |source| WantedLayer { digest: digest('d'), failed: failed.clone(), from: Some(source) };
    LayersReport { has: vec![digest('c')], wants: layer_sources().into_iter().map(want).collect() }
}

fn layer_orders() -> LayerOrders {
    let source = layer_sources().pop();
    LayerOrders { sources: vec![LayerOrder { digest: digest('d'), source, more: layer_sources() }] }
}

fn record_joining(transcript: &mut Transcript) {
    let (chain, ca) = ("a chain".to_owned(), "an authority".to_owned());
    let call = JoinCall {
        token: "gantry-join-agent-1".to_owned(),
        role: JoinRole::Server,
        machine: parsed("m2"),
        id: MachineId::from_random(0x2a),
        advertise: Some("10.0.0.2".to_owned()),
        port: 7000,
        labels: BTreeMap::from([(parsed("disk"), parsed("ssd"))]),
    };
    transcript.message("joining: call", &call);
    let reply = JoinReply {
        chain: chain.clone(),
        ca: ca.clone(),
        subnet: parsed("10.64.16.0/20"),
        advertise: "10.0.0.2".to_owned(),
        servers: vec!["10.0.0.1:7000".to_owned()],
        store: Some("https://10.0.0.1:2379".to_owned()),
    };
    transcript.message("joining: reply", &reply);
    transcript.message("renewal: call", &RenewCall { machine: parsed("m2") });
    transcript.message("renewal: reply", &RenewReply { chain, ca });
}
