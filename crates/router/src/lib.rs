//! Router: the data plane. Accepts HTTP connections, proxies requests to instances, and resolves internal names.
//!
//! ```text
//! table (control connection, last one on disk) ─► routes ─┬─► listener: HTTP/1.1, HTTP/2, TLS ─► exchange ─► upstream ─► instance
//! server ◄── generation acknowledged, requests   └─► dns: UDP and TCP, port 53
//!            under way ◄─────────────────────────────┘
//! ```
//! - [`run`]: listens, follows the routing table, serves until shutdown, then drains. Begin there.
//! - `listener`: accepts connections and drains them; `threads`: one thread for each core, on which a request stays.
//! - `exchange`: one request, from its arrival to the last byte of the response; also upgraded connections and the access log.
//! - `routes`: the table, the state of each instance, circuit breakers, and the limits of each app.
//! - `upstream`: connections to instances.
//! - `tunnel`: HTTP/2 over mutual TLS to the routers of the cluster's other machines. `tunnel_listener`: the requests of
//!   these routers.
//! - `virtual_address`: TCP to a role at its virtual address, on this machine or another.
//! - `request`: the body of a request until an instance has it.
//! - `client`: connections of clients, and buffered request bodies.
//! - `http2`: streams of HTTP/2, to clients and to other machines' routers.
//! - `message`: frames of bodies, and interim responses, which all modules hand to each other.
//! - `dns`: answers `app.gantry.internal` and `role.app.gantry.internal`; forwards every other question.
//! - `sync`: the connection to the server: tables, and reports of requests under way.
//! - `tasks`: the tasks that no request waits for.
//!
//! A module uses only modules below it: `listener`, then `tunnel_listener`, `virtual_address`, `sync` and `dns`, then
//! `exchange`, `routes`, `upstream`, `tunnel`, `request`, `client`, `http2`, `message`.
//!
//! The router keeps its own copy of the table on disk, so the loss of the server or the agent fails no request. A table
//! change happens in memory.

mod client;
mod clock;
mod dns;
mod error;
mod exchange;
#[cfg(fuzzing)]
pub mod fuzz;
mod headers;
mod http2;
mod listener;
mod message;
mod request;
mod routes;
mod settings;
mod sync;
mod tasks;
mod threads;
mod timer;
mod trailers;
mod tunnel;
mod tunnel_listener;
mod upstream;
mod virtual_address;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};

use gantry_api::Client;
use gantry_supervision::TaskSet;

pub use error::RouterError;
use exchange::access_log::AccessLog;
use exchange::router_state::RouterState;
use listener::ClientListener;
pub use listener::Listeners;
use routes::store::RouteStore;
pub use routes::store::TABLE_FILE;
pub use settings::RouterSettings;

/// Runs the router until `shutdown`, then drains the requests under way. Calls `serving` once the router accepts
/// connections.
///
/// # Errors
/// If the router cannot start.
pub async fn run(
    settings: RouterSettings,
    listeners: Listeners,
    client: Client,
    serving: impl FnOnce() + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), RouterError> {
    std::fs::create_dir_all(&settings.data).map_err(|source| RouterError::File {
        action: "create",
        path: settings.data.clone(),
        source,
    })?;
    let tls = settings.credentials.as_ref().map(|known| known.client_config(&[tunnel::ALPN])).transpose()?;
    let router = Arc::new(RouterState {
        routes: Arc::new(RouteStore::load(&settings.data.join(TABLE_FILE.name), &settings.machine, tls)),
        access: AccessLog::open(&settings.data.join("access.log"))?,
        domain: RwLock::default(),
        budget: Arc::default(),
        uploads: Arc::new(tokio::sync::Semaphore::new(tunnel_listener::layers::UPLOADS_MAX)),
        ending: AtomicBool::new(false),
        settings,
    });
    let ended = tokio_util::sync::CancellationToken::new();
    let tasks = TaskSet::default();
    let (own, end) = (Arc::clone(&router), ended.clone());
    let follow = move || sync::follow(Arc::clone(&own), client.clone(), end.clone());
    let link = tasks.spawn_restarting(tasks::LINK, tasks::pauses(), follow);
    let resolver = router.settings.resolver.map(|address| {
        let routes = Arc::clone(&router.routes);
        let resolve = move || dns::run(Arc::clone(&routes), address);
        tasks.spawn_restarting(tasks::RESOLVER, tasks::pauses(), resolve)
    });
    let listener = ClientListener::open(&router, listeners)?;
    serving();
    listener.serve_until(shutdown).await;
    // Until the drain ends, the router follows the table and reports its requests: the agent must not stop an instance
    // that still serves requests.
    let drain = router.settings.drain.max(router.routes.longest_drain());
    listener.drain(drain).await;
    ended.cancel();
    let _ = tokio::time::timeout(sync::LAST_MESSAGE, link).await;
    router.access.finish();
    // The resolver ends last. A new router's socket is bound beside this socket, and the kernel may still send
    // datagrams to this socket; they are lost from here on.
    if let Some(resolver) = resolver {
        resolver.abort();
    }
    Ok(())
}
