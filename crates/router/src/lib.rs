//! The data plane: HTTP entry and name resolver.
//!
//! ```text
//! table (long poll, last one on disk) ─► routing ─┬─► entry: HTTP/1.1, HTTP/2, TLS ─► proxy ─► pool ─► instance
//! server ◄── generation acknowledged, requests    └─► names: UDP and TCP, port 53
//!            under way ◄──────────────────────────────┘
//! ```
//! - [`run`]: listens, follows the table, serves until told to end, then drains. Begin there.
//! - `routing`: the table with what is known of each endpoint: requests under way, failures.
//! - `proxy`: one request, from its arrival to the last byte of its answer.
//! - `collect`: bodies of requests, before an instance is chosen; `client`: what is left of one that nobody reads.
//! - `interim`: answers that announce another one; `trailers`: which fields may stand behind a body.
//! - `origin`: where a request came from; `preamble`: the PROXY protocol of trusted proxies.
//! - `pool`: kept connections to instances; `wire`: HTTP/1.1 on one of them.
//! - `gate`: requests that wait while no instance is ready, and what owners allow; `circuit`: instances that fail.
//! - `upgrade`: which other protocols are changed to; `tunnel`: what is said then. A websocket is told when its instance goes.
//! - `threads`: one a core; a request stays on one.
//! - `names`: `app.gantry.internal`, `role.app.gantry.internal`; everything else is handed on.
//!
//! It has its own copy of the table on disk. Losing server or agent fails no request, and a table is changed in memory.

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
mod joined;
mod names;
mod opening;
mod origin;
mod page;
mod pool;
mod preamble;
mod proxy;
mod routing;
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

/// The router's settings, complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The machine it runs on.
    pub machine: MachineName,
    /// Which of the machine's routers it is: two run while one takes the other's place.
    pub number: u64,
    /// Where its table and access log are.
    pub data: PathBuf,
    /// Apps are reached below this domain; for the page that a wrong host name gets.
    pub domain: HostName,
    /// Where the resolver answers; none for no resolver.
    pub resolver: Option<Ipv4Addr>,
    /// Certificate chain and key for HTTPS, as PEM files.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The longest that a request waits for an instance.
    pub wait: Duration,
    /// The longest that connections may take to end when the router does; longer where an app's own drain is.
    pub drain: Duration,
}

/// Why the router could not start.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// An address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The machine gives no threads.
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    /// A file cannot be used.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate or its key.
    #[error("the certificate {path} cannot be used: {why}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Everything that a request may need.
pub(crate) struct Router {
    pub(crate) settings: Settings,
    pub(crate) routing: routing::Routing,
    pub(crate) access: access::AccessLog,
    /// The memory of collected bodies.
    pub(crate) budget: Arc<collect::Budget>,
    /// Connections are being ended.
    pub(crate) ending: AtomicBool,
}

/// What the router listens on.
#[derive(Debug)]
pub struct Listeners {
    /// For HTTP.
    pub plain: std::net::TcpListener,
    /// For HTTPS; wants a certificate.
    pub secure: Option<std::net::TcpListener>,
}

/// Runs the router until `shutdown`, then lets what is under way end. `serving` is called once it takes connections.
///
/// # Errors
/// When it cannot start.
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
    // It follows the table and tells of its requests to the last: an instance is not stopped under them.
    let patience = router.settings.drain.max(router.routing.longest_drain());
    entry.drain(patience).await;
    follow.abort();
    report.abort();
    sync::say_goodbye(&router, &client).await;
    router.access.finish();
    // Last: another router's socket is beside this one's, and what comes to this one is lost from here on.
    if let Some(names) = names {
        names.abort();
    }
    Ok(())
}
