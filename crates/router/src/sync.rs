//! Connection to the server: receives tables and sends reports. If the server is away or silent, routing goes on
//! unchanged.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use gantry_api::Client;
use gantry_api::endpoint::Endpoint;
use gantry_control::endpoints::RouterControl;
use gantry_control::version::SUPPORTED_VERSIONS;
use gantry_control::{
    Connection, Hello, LinkError, LinkStream, PeerMessage, Receipt, ReportSender, RouterReport, ServerMessage,
    UpdateReceiver, link, version_one,
};
use gantry_error::ErrorChain;
use gantry_model::{AppName, FailureRun, RequestFailure, RoutingTable};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::exchange::router_state::RouterState;

/// Pause before the next connection.
const RETRY: Duration = Duration::from_millis(250);

/// Interval between two messages without a change. Each message renews the router's lease.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Poll interval for requests under way: the server sees the end of a drain at most this much late.
const COUNT: Duration = Duration::from_millis(250);

/// Longest time that the last message may take.
pub(crate) const LAST_MESSAGE: Duration = Duration::from_secs(2);

/// Keeps the connection to the server until `ended`. The last message then says that the router is gone.
pub(crate) async fn follow(router: Arc<RouterState>, client: Client, ended: CancellationToken) {
    let known = router.routes.generation().map(|generation| (generation.0, router.routes.now().table.clone()));
    let mut tables = UpdateReceiver::new(known);
    let mut last = String::new();
    while !ended.is_cancelled() {
        let error = match connect(&router, &client, &mut tables, &ended).await {
            Ok(()) => return,
            Err(error) => ErrorChain(&error).to_string(),
        };
        // A server may be away for hours.
        if error != last {
            tracing::debug!(error, "no connection to the server");
            last = error;
        }
        let _ = tokio::time::timeout(RETRY, ended.cancelled()).await;
    }
}

/// Opens a connection, and serves it until it breaks or the router has ended.
async fn connect(
    router: &RouterState,
    client: &Client,
    tables: &mut UpdateReceiver<RoutingTable>,
    ended: &CancellationToken,
) -> Result<(), LinkError> {
    let path = RouterControl { machine: router.settings.machine.clone() }.path();
    let program = env!("CARGO_PKG_VERSION").to_owned();
    let hello = Hello {
        versions: SUPPORTED_VERSIONS,
        program,
        revision: tables.revision(),
        machine: None,
        number: router.settings.number,
    };
    let Connection { stream, welcome, .. } = &mut link::connect(client, &path, hello).await?;
    let (version, here) = (welcome.version, &router.settings.machine);
    let mut changes = router.routes.changes();
    let mut reports = ReportSender::default();
    let mut count = tokio::time::interval(COUNT);
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            message = stream.receiver.next() => match message? {
                Some(ServerMessage::Policy(policy)) => {
                    *router.domain.write().unwrap_or_else(PoisonError::into_inner) = Some(policy.domain);
                }
                Some(mut message) => {
                    if let ServerMessage::Update(update) = &mut message {
                        version_one::translate_received(version, update, here);
                    }
                    receive(tables, &mut reports, stream, message).await?;
                }
                None => return Err(LinkError::Ended),
            },
            _ = changes.changed() => {}
            _ = count.tick() => router.routes.sweep(std::time::Instant::now()),
            () = ended.cancelled() => return leave(stream).await,
        }
        // A table that could not be written is tried again with the next poll. Reports go on meanwhile: they tell the
        // server which table is in use.
        if let Some(table) = tables.part().filter(|table| router.routes.generation() != Some(table.generation)) {
            take(router, table);
        }
        let message = match reports.next(&report(router)) {
            Some(mut update) => {
                version_one::translate_sent(version, &mut update, here);
                PeerMessage::Update(update)
            }
            None if renewed.elapsed() >= HEARTBEAT => PeerMessage::Alive,
            None => continue,
        };
        stream.sender.send(&message).await?;
        renewed = Instant::now();
    }
}

async fn receive(
    tables: &mut UpdateReceiver<RoutingTable>,
    reports: &mut ReportSender<RouterReport>,
    stream: &LinkStream,
    message: ServerMessage,
) -> Result<(), LinkError> {
    match message {
        ServerMessage::Update(update) => match tables.receive(&update) {
            Receipt::Applied(unread) => {
                for item in unread {
                    tracing::warn!(item = item.key, reason = item.reason, "an item of the routes cannot be read");
                }
            }
            Receipt::Old => {}
            Receipt::Gap => stream.sender.send(&PeerMessage::Resend).await?,
        },
        ServerMessage::Resend => reports.resend(),
        ServerMessage::Refused { reason } => return Err(LinkError::Refused(reason)),
        ServerMessage::Welcome(_) => return Err(LinkError::Greeting),
        ServerMessage::Policy(_)
        | ServerMessage::Lease { .. }
        | ServerMessage::Session { .. }
        | ServerMessage::Jobs(_)
        | ServerMessage::Layers(_)
        | ServerMessage::Unknown => {}
    }
    Ok(())
}

/// Takes over a table. A table that cannot be written is not taken: a router killed after its acknowledgement must still
/// have the table.
fn take(router: &RouterState, table: &RoutingTable) {
    // A router that replaces this router owns the file from here on.
    let keep = !router.ending.load(Ordering::Relaxed);
    match router.routes.take(table.clone(), keep) {
        Ok(_) => tracing::debug!(generation = %table.generation, "routing table taken over"),
        Err(error) => {
            tracing::error!(%error, "cannot write the routing table to disk; the previous table stays in use");
        }
    }
}

/// Says that the router has ended, so the server need not wait for its requests, and waits until the server has read
/// it. A server that misses this message notices the end of the lease.
async fn leave(stream: &mut LinkStream) -> Result<(), LinkError> {
    let left = async {
        stream.sender.send(&PeerMessage::Leaving).await?;
        while stream.receiver.next::<ServerMessage>().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(LAST_MESSAGE, left).await.unwrap_or(Ok(()))
}

/// Returns the failures, with timestamps of the wall clock.
fn failures(router: &RouterState) -> BTreeMap<AppName, BTreeMap<RequestFailure, FailureRun>> {
    let mut failures = router.routes.failures(clock::now());
    if let Some(jump) = clock::jump() {
        for run in failures.values_mut().flat_map(BTreeMap::values_mut) {
            run.since = run.since.moved(jump.by);
            run.last = run.last.moved(jump.by);
        }
    }
    failures
}

/// The router's report.
fn report(router: &RouterState) -> RouterReport {
    RouterReport {
        number: router.settings.number,
        gone: false,
        generation: router.routes.generation().unwrap_or_default(),
        active: router.routes.active(),
        counts: router.routes.counts(),
        failures: failures(router),
    }
}
