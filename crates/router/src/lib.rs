//! Router: the data plane. Accepts HTTP connections, proxies requests to instances, and resolves internal names.
//!
//! ```text
//! table (long poll, last one on disk) ─► routing ─┬─► entry: HTTP/1.1, HTTP/2, TLS ─► proxy ─► pool ─► instance
//! server ◄── generation acknowledged, requests    └─► names: UDP and TCP, port 53
//!            under way ◄──────────────────────────────┘
//! ```
//! - [`run`]: listens, follows the routing table, serves until shutdown, then drains. Begin there.
//! - `routing`: the table and the state of each endpoint: requests under way and failures.
//! - `proxy`: one request, from its arrival to the last byte of the response.
//! - `collect`: buffers request bodies before an instance is chosen; `client`: reads and discards an unused rest of a
//!   body.
//! - `stream`: byte stream of a client connection: HTTP version and coalesced writes.
//! - `interim`: interim responses such as 103; `trailers`: the fields allowed behind a body.
//! - `origin`: where a request came from; `preamble`: the PROXY protocol of trusted proxies.
//! - `pool`: kept connections to instances; `wire`: HTTP/1.1 on one connection to an instance.
//! - `gate`: limits of an app, and requests that wait while no instance is ready; `circuit`: circuit breaker of an
//!   instance.
//! - `upgrade`: protocols that a connection may change to; `tunnel`: the connection after the change. The router closes
//!   a websocket when its instance leaves.
//! - `threads`: one thread for each core; a request stays on one thread.
//! - `names`: answers `app.gantry.internal` and `role.app.gantry.internal`; forwards every other question.
//!
//! The router keeps its own copy of the table on disk, so the loss of the server or the agent fails no request. A table
//! change happens in memory.

mod access;
mod body;
mod circuit;
mod client;
mod collect;
mod entry;
#[cfg(fuzzing)]
pub mod fuzz;
mod gate;
mod headers;
mod interim;
mod names;
mod origin;
mod page;
mod pool;
mod preamble;
mod proxy;
mod routing;
mod stream;
mod sync;
mod threads;
mod timer;
mod tls;
mod trailers;
mod tunnel;
mod upgrade;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gantry_api::Client;
use gantry_model::{HostName, MachineName};

/// All settings of the router.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The machine that the router runs on.
    pub machine: MachineName,
    /// Number of the router on its machine. Two routers run while a new router replaces an old one.
    pub number: u64,
    /// Directory of the table and the access log.
    pub data: PathBuf,
    /// Domain of the apps, shown in the error response for an unknown host name.
    pub domain: HostName,
    /// Address of the name resolver; none for no resolver.
    pub resolver: Option<Ipv4Addr>,
    /// Certificate chain and key for HTTPS, as PEM files.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Longest time that a request waits for an instance.
    pub wait: Duration,
    /// Longest time that connections may take to end when the router shuts down; an app's longer drain extends this
    /// time.
    pub drain: Duration,
}

/// Errors that keep the router from starting.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The address is taken, or does not belong to this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Error of the system call.
        source: std::io::Error,
    },
    /// The operating system refused to start a thread.
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// The operation.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system call.
        source: std::io::Error,
    },
    /// The certificate or its key is unusable.
    #[error("the certificate {path} cannot be used: {why}")]
    Certificate {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        why: String,
    },
}

/// State that every request shares.
pub(crate) struct Router {
    pub(crate) settings: Settings,
    pub(crate) routing: routing::Routing,
    pub(crate) access: access::AccessLog,
    /// Memory budget of buffered request bodies.
    pub(crate) budget: Arc<collect::Budget>,
    /// The router is shutting down and ends its connections.
    pub(crate) ending: AtomicBool,
}

/// Listening sockets of the router.
#[derive(Debug)]
pub struct Listeners {
    /// Socket for HTTP.
    pub plain: std::net::TcpListener,
    /// Socket for HTTPS; requires a certificate.
    pub secure: Option<std::net::TcpListener>,
}

/// Runs the router until `shutdown`, then drains the requests under way. Calls `serving` once the router accepts
/// connections.
///
/// # Errors
/// If the router cannot start.
pub async fn run(
    settings: Settings,
    listeners: Listeners,
    client: Client,
    serving: impl FnOnce() + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), RouterError> {
    std::fs::create_dir_all(&settings.data).map_err(|source| RouterError::File {
        action: "make",
        path: settings.data.clone(),
        source,
    })?;
    let access = access::AccessLog::open(&settings.data.join("access.log"))?;
    let router = Arc::new(Router {
        routing: routing::Routing::load(&settings.data.join("table.json")),
        access,
        budget: Arc::default(),
        ending: AtomicBool::new(false),
        settings,
    });
    let follow = tokio::spawn(sync::follow(Arc::clone(&router), client.clone()));
    let report = tokio::spawn(sync::report(Arc::clone(&router), client.clone()));
    let names = router.settings.resolver.map(|address| tokio::spawn(names::run(Arc::clone(&router), address)));
    let entry = entry::Entry::open(&router, listeners)?;
    serving();
    entry.serve_until(shutdown).await;
    // Until the drain ends, the router follows the table and reports its requests: the agent must not stop an instance
    // that still serves requests.
    let patience = router.settings.drain.max(router.routing.longest_drain());
    entry.drain(patience).await;
    follow.abort();
    report.abort();
    sync::say_goodbye(&router, &client).await;
    router.access.finish();
    // The resolver ends last. A new router's socket is bound beside this socket, and the kernel may still send
    // datagrams to this socket; they are lost from here on.
    if let Some(names) = names {
        names.abort();
    }
    Ok(())
}
