//! Requests for sessions, and the messages on a session.

use std::collections::BTreeSet;

use gantry_api::volumes::{
    CreateSnapshot, ExportVolume, SnapshotInfo, VolumeAction, VolumeAnswer, VolumeOwner, VolumeReport, VolumeRequest,
};
use gantry_api::{ErrorCode, Problem};
use gantry_control::ServerMessage;
use gantry_control::builds::{
    BaseOrder, BuildEvent, BuildOrder, CacheOrder, CompileLimits, PullOrder, RegistryCredentials,
};
use gantry_control::jobs::JobId;
use gantry_control::sessions::{LogQuery, SessionKind, SessionRequest, UnreadSession};
use gantry_model::{BuildPhase, Bytes, DeployNumber, Moment, ReleaseNumber};
use serde_json::Value;

use crate::release::{digest, parsed, service};
use crate::transcript::{Transcript, on_the_wire};

/// Records requests for all kinds of sessions, and the messages that agents send on them.
pub(crate) fn record(transcript: &mut Transcript) {
    for (name, kind) in session_kinds() {
        let request = SessionRequest { id: "5e55".to_owned(), kind };
        let sent = on_the_wire(&ServerMessage::Session { request: on_the_wire(&request) });
        transcript.entry(&format!("server: session {name}"), sent, &Ok(request), read_request);
    }
    for (name, event) in build_events() {
        transcript.message(&format!("session: build event {name}"), &event);
    }
    for (name, answer) in volume_answers() {
        transcript.message(&format!("session: volumes {name}"), &answer);
    }
}

fn read_request(message: Value) -> serde_json::Result<Result<SessionRequest, UnreadSession>> {
    let request = match serde_json::from_value(message)? {
        ServerMessage::Session { request } => request,
        _ => Value::Null,
    };
    Ok(SessionRequest::read(request))
}

fn session_kinds() -> Vec<(&'static str, SessionKind)> {
    let command = || vec!["sh".to_owned(), "-c".to_owned(), "env".to_owned()];
    let query = LogQuery {
        app: Some(parsed("shop")),
        role: Some(parsed("web")),
        lines: Some(50),
        since: Some(Moment(1_700_000_000_000)),
        grep: Some("error".to_owned()),
        follow: true,
        after: Some(ReleaseNumber(11)),
    };
    let run = SessionKind::Run {
        app: parsed("shop"),
        release: ReleaseNumber(12),
        spec: Box::new(service()),
        alone: BTreeSet::from(["data".to_owned()]),
        command: command(),
        terminal: true,
        trace: true,
    };
    let exec = SessionKind::Exec { instance: parsed("shop.v12.web-2.3"), command: command(), terminal: true };
    let mut kinds = samples!(SessionKind {
        SessionKind::Exec { .. } => ["exec": exec],
        SessionKind::Run { .. } => ["run": run],
        SessionKind::Logs(_) => ["logs": SessionKind::Logs(query)],
        SessionKind::JobOutput { .. } => ["job output": SessionKind::JobOutput { job: JobId(7) }],
        // Recorded below.
        SessionKind::Volumes { .. } => [],
        SessionKind::Build(_) => ["build": SessionKind::Build(build_order())],
        SessionKind::Base(_) => ["base": SessionKind::Base(BaseOrder { recipe: "name = \"small\"".to_owned() })],
        SessionKind::Pull(_) => ["pull": SessionKind::Pull(pull_order())],
        SessionKind::Space => ["space": SessionKind::Space],
        SessionKind::Cache(_) => [
            "cache forget": SessionKind::Cache(cache_orders().0),
            "cache rename": SessionKind::Cache(cache_orders().1),
        ],
    });
    kinds.extend(volume_requests().into_iter().map(|(name, request)| (name, SessionKind::Volumes { request })));
    kinds
}

fn build_order() -> BuildOrder {
    BuildOrder {
        app: parsed("shop"),
        created: Moment(1_690_000_000_000),
        number: DeployNumber(31),
        commit: "c0ffee".to_owned(),
        source: digest('c'),
        base: digest('d'),
        limits: CompileLimits { seconds: 600, memory: 1_073_741_824, disk: 4_294_967_296 },
    }
}

fn pull_order() -> PullOrder {
    let credentials = RegistryCredentials { username: "ci".to_owned(), password: "pass".to_owned() };
    let reference = "registry.example/shop:1".to_owned();
    PullOrder { reference, credentials: Some(credentials), own: "0f".to_owned() }
}

fn cache_orders() -> (CacheOrder, CacheOrder) {
    let orders = samples!(CacheOrder {
        CacheOrder::Forget { .. } => ["forget": CacheOrder::Forget { app: parsed("shop") }],
        CacheOrder::Rename { .. } => ["rename": CacheOrder::Rename { from: parsed("shop"), to: parsed("store") }],
    });
    let [(_, forget), (_, rename)] = <[_; 2]>::try_from(orders).expect("two orders");
    (forget, rename)
}

fn volume_requests() -> Vec<(&'static str, VolumeRequest)> {
    let one = |action| VolumeRequest::One { app: parsed("shop"), name: parsed("data"), what: action };
    let snapshot = || parsed("nightly");
    let (replace, limit) = (true, Bytes(1_048_576));
    let actions = samples!(VolumeAction {
        VolumeAction::Show => ["volumes show": VolumeAction::Show],
        VolumeAction::Remove => ["volumes remove": VolumeAction::Remove],
        VolumeAction::Export(_) => ["volumes export": VolumeAction::Export(ExportVolume { zstd: true })],
        VolumeAction::Import { .. } => ["volumes import": VolumeAction::Import { replace, limit }],
        VolumeAction::Snapshot(_) => [
            "volumes snapshot": VolumeAction::Snapshot(CreateSnapshot { name: Some(snapshot()) }),
        ],
        VolumeAction::RemoveSnapshot { .. } => [
            "volumes remove snapshot": VolumeAction::RemoveSnapshot { snapshot: snapshot() },
        ],
        VolumeAction::Restore { .. } => ["volumes restore": VolumeAction::Restore { snapshot: snapshot() }],
    });
    let mut requests = samples!(VolumeRequest {
        VolumeRequest::List { .. } => ["volumes list": VolumeRequest::List { app: Some(parsed("shop")) }],
        // Recorded for each action.
        VolumeRequest::One { .. } => [],
    });
    requests.extend(actions.into_iter().map(|(name, action)| (name, one(action))));
    requests
}

fn problem() -> Problem {
    Problem {
        status: 404,
        code: ErrorCode::AppNotFound.into(),
        message: "there is no app shp".to_owned(),
        hint: Some("did you mean shop?".to_owned()),
        retry_after: Some(30),
    }
}

fn build_events() -> Vec<(&'static str, BuildEvent)> {
    let text = || "compiles".to_owned();
    let (phase, message, tail) = (BuildPhase::Compile, "make failed".to_owned(), vec!["no rule".to_owned()]);
    samples!(BuildEvent {
        BuildEvent::Step { .. } => ["step": BuildEvent::Step { text: text() }],
        BuildEvent::Note { .. } => ["note": BuildEvent::Note { text: text() }],
        BuildEvent::Program { .. } => ["program": BuildEvent::Program { text: text() }],
        BuildEvent::Done { .. } => ["done": BuildEvent::Done { image: digest('a') }],
        BuildEvent::Failed { .. } => ["failed": BuildEvent::Failed { phase, message, tail }],
        BuildEvent::Refused { .. } => ["refused": BuildEvent::Refused { problem: problem() }],
        BuildEvent::OwnRegistry => ["own registry": BuildEvent::OwnRegistry],
    })
}

fn volume_answers() -> Vec<(&'static str, VolumeAnswer)> {
    let snapshot = || SnapshotInfo { name: parsed("nightly"), at: Moment(1_700_000_000_000) };
    let in_use = || vec!["shop.v12.web-1".to_owned()];
    let volume = || VolumeReport {
        app: parsed("shop"),
        name: parsed("data"),
        machine: parsed("m1"),
        size: Bytes(4096),
        owner: VolumeOwner { user: 1000, group: 1001 },
        used: Some(Moment(1_700_000_000_000)),
        in_use: in_use(),
        files: Some(5),
        snapshots: vec![snapshot()],
    };
    samples!(VolumeAnswer {
        VolumeAnswer::List { .. } => ["list": VolumeAnswer::List { volumes: vec![volume()] }],
        VolumeAnswer::One { .. } => ["one": VolumeAnswer::One { volume: Box::new(volume()) }],
        VolumeAnswer::Snapshot { .. } => [
            "snapshot": VolumeAnswer::Snapshot { snapshot: snapshot(), files: 5, cloned: true, in_use: in_use() },
        ],
        VolumeAnswer::Refused { .. } => ["refused": VolumeAnswer::Refused { problem: problem() }],
    })
}
