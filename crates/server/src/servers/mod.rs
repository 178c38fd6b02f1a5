//! Several servers on etcd: one leads, the others follow, and each serves every request.
//!
//! ```text
//! client ─► follower ─ gate ─► forward ─► leader ─ gate ─► http::router
//!              │ watches the leadership key                 │ one term: a runtime of its own
//!              └─────────────── etcd ◄──────────────────────┘
//! ```
//! - [`run`]: the life cycle of such a server: follows until leadership is vacant, leads until leadership is lost, and
//!   follows again.
//! - `follower`: waits for vacant leadership.
//! - `gate`: gives each request to this server's own term or to the leader, or holds it for a moment while no server leads.
//! - `forward`: one request on its way to the leader, with its streams and upgrades. `transport`: requests between servers.
//! - `node`: one of the servers. `membership`: which servers there are, and which live. `keys`: the keys of their records.
//! - `other_servers`: the other servers, as the leader sees them.
//! - `cluster_port`: the port for machines, people and the other servers, over TLS. It is open whether the server leads or
//!   follows.
//! - `introduction`: a follower's agent and administrator are known to the cluster, too.
//! - `peer_api`: what each server does for the others. `replicas`: the copy of each blob on another server. `copies`:
//!   garbage collection and repair of these copies, by the leader.
//! - `removed`: the records of servers whose machines were removed.
//!
//! A term runs in a runtime of its own. The end of the term ends the runtime, and with it every task and connection that
//! a deposed leader might serve from old records. A server with a store in a file has none of this (see `crate::run`).

mod cluster_port;
mod copies;
mod follower;
mod forward;
mod gate;
mod introduction;
mod keys;
mod membership;
mod node;
mod other_servers;
mod peer_api;
mod removed;
mod replicas;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use gantry_blobs::BlobStore;
use gantry_store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub(crate) use self::copies::{collect_copies, repair_copies};
pub(crate) use self::forward::ForwardingServer;
use self::gate::{Gate, LeadingTerm};
pub(crate) use self::introduction::{INTRODUCTION, introduced};
pub(crate) use self::keys::is_server_key;
use self::membership::Membership;
use self::node::Node;
pub(crate) use self::other_servers::OtherServers;
use self::peer_api::PeerApi;
pub(crate) use self::removed::forget_removed_servers;
use self::replicas::PeerBlobs;
use crate::leadership::{Candidate, Leadership};
use crate::run::{Term, serve_term};
use crate::{ServerError, ServerSettings, connections, http};

/// Timeout for the tasks of a term to end.
const TERM_END_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause between two terms. A term that cannot begin is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs one of several servers until `shutdown` completes.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    settings: ServerSettings,
    blobs: BlobStore,
    listen: impl FnOnce() -> std::io::Result<std::net::TcpListener>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    // A follower takes a refused connection for the end of the leader, so the socket listens before the first term.
    let listener = listen()
        .and_then(TcpListener::from_std)
        .map_err(|source| ServerError::Listen { address: settings.listen, source })?;
    let candidate = Candidate::of(&settings);
    let membership = Arc::new(Membership::new(&settings));
    let gate = Arc::new(Gate::new(Arc::clone(&membership)));
    let node = Node { store, settings, candidate, blobs, membership, gate };
    let stop = CancellationToken::new();
    let beside = async {
        let api = PeerApi {
            membership: Arc::clone(&node.membership),
            blobs: node.blobs.clone(),
            store: Arc::clone(&node.store),
        };
        let router = peer_api::routes(api).fallback_service(gate::router(Arc::clone(&node.gate)));
        let serving = connections::serve(&listener, router.clone());
        match tokio::select! {
            never = serving => never,
            never = node.membership.keep(&node.store) => never,
            never = introduction::introduce(&node) => never,
            error = cluster_port::serve(&node, router) => return error,
        } {}
    };
    let terms = terms(&node, &stop);
    tokio::pin!(terms, beside, shutdown);
    tokio::select! {
        ended = &mut terms => return ended,
        error = &mut beside => return Err(error),
        () = shutdown => stop.cancel(),
    }
    // The term resigns. Its connections go on being served meanwhile.
    tokio::select! {
        ended = terms => ended,
        error = beside => Err(error),
    }
}

/// Follows and leads in turn.
async fn terms(node: &Node, stop: &CancellationToken) -> Result<(), ServerError> {
    loop {
        let leadership = tokio::select! {
            leadership = follower::take_vacant(node) => leadership?,
            () = stop.cancelled() => return Ok(()),
        };
        match run_term(node, leadership, stop).await {
            Err(error) if ends_the_term(&error) => {
                tracing::warn!(error = crate::causes(&error), "this server lost leadership and follows");
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

/// Returns whether the error ends a term and not the server.
fn ends_the_term(error: &ServerError) -> bool {
    let of_store = |error: &StoreError| matches!(error, StoreError::Unavailable { .. } | StoreError::LeaseGone(_));
    match error {
        ServerError::NotLeading(_) | ServerError::Interrupted => true,
        ServerError::Store(error) => of_store(error),
        _ => false,
    }
}

/// Leads until leadership is lost or the server stops.
async fn run_term(node: &Node, leadership: Leadership, stop: &CancellationToken) -> Result<(), ServerError> {
    let built = tokio::runtime::Builder::new_multi_thread().thread_name("term").enable_all().build();
    let runtime = built.map_err(|error| ServerError::Broken(format!("cannot begin a term: {error}")))?;
    let ended = CancellationToken::new();
    let peers = Arc::new(PeerBlobs::new(Arc::clone(&node.membership), node.blobs.clone()));
    let servers = OtherServers {
        membership: Arc::clone(&node.membership),
        blobs: Arc::clone(&peers),
        leadership: leadership.clone(),
        store: Arc::clone(&node.store),
    };
    let term = Term {
        store: Arc::clone(&node.store),
        leadership,
        writes: true,
        settings: node.settings.clone(),
        blobs: node.blobs.with_replicas(peers),
        servers: Some(servers),
    };
    let (gate, open) = (Arc::clone(&node.gate), (runtime.handle().clone(), ended.clone()));
    let serve = move |server: &Arc<crate::Server>| {
        let (runtime, ended) = open;
        gate.begin_term(LeadingTerm { router: http::router(Arc::clone(server)), runtime, ended });
        Ok(std::future::pending())
    };
    let led = runtime.spawn(serve_term(term, serve, stop.clone().cancelled_owned())).await;
    node.gate.wait();
    ended.cancel();
    end(runtime).await;
    led.unwrap_or_else(|join| Err(ServerError::Broken(join.to_string())))
}

/// Ends a runtime with all its tasks. Work that blocks gets a moment to end.
async fn end(runtime: Runtime) {
    let ending = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(TERM_END_TIMEOUT));
    if let Err(error) = ending.await {
        tracing::error!(%error, "the tasks of a term ended with an error");
    }
}
