//! The API for applications, at `GANTRY_API` in every container: services, keys and locks.
//!
//! ```text
//! container ─► gateway:4690 ─► source address ─► app ─► /internal/v1/machines/<machine>/as/<app>/… at the server
//! ```
//! - [`run`]: the listener. Begin there.
//! - `limits`: what one container may use.
//! - `forward`: one request.
//!
//! The source address of a connection is the caller's identity. A container cannot choose another one: see
//! docs/security.md. The agent reads no request beyond its path, and its own token authenticates it at the server.

mod forward;
mod limits;

use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gantry_model::AppName;
use gantry_supervision::{Backoff, Retry};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use self::limits::{CallerLimits, Callers};
use crate::AgentContext;
use crate::tasks::APP_API;

/// Port of the listener.
pub(crate) const PORT: u16 = 4690;

/// Maximum number of connections that wait for an accept.
const BACKLOG: u32 = 1024;

/// Pause after a failed attempt to listen or to accept.
const RETRY: Duration = Duration::from_millis(200);

/// Failed attempts to listen before the agent logs a warning.
const WARN_AFTER: u64 = 25;

/// Longest time in which a client sends the head of a request, and in which a kept connection stays idle.
const HEAD: Duration = Duration::from_secs(75);

/// Largest head of a request.
const HEAD_MAX: usize = 16 << 10;

/// Failure to listen for applications.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: applications have no services, keys and locks until the address is free")]
struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// The address that containers find in `GANTRY_API`.
pub(crate) fn url(gateway: Ipv4Addr) -> String {
    format!("http://{gateway}:{PORT}")
}

/// Serves the containers of this machine, for ever.
pub(crate) async fn run(agent: &Arc<AgentContext>) {
    let address = SocketAddr::from((agent.settings.gateway, PORT));
    let retry = Retry::new("listener for applications", Backoff::constant(RETRY)).quiet_for(WARN_AFTER);
    let listener = retry.until_done(|| ready(listen(address).map_err(|source| ListenError { address, source }))).await;
    let callers = Callers::default();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        // The container of an address cannot change while the connection lives: its end ends the connection.
        let app = match peer {
            SocketAddr::V4(peer) => agent.addresses.owner(*peer.ip()),
            SocketAddr::V6(_) => None,
        };
        // Beyond a limit, the connection is closed at once.
        if let Some(limits) = callers.connect(peer.ip()) {
            let agent = Arc::clone(agent);
            agent.clone().tasks.spawn(APP_API, serve(agent, app, stream, limits));
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves one connection.
async fn serve(agent: Arc<AgentContext>, app: Option<AppName>, stream: TcpStream, limits: CallerLimits) {
    gantry_linux::connection::set_stream_options(&stream, Some(HEAD));
    let limits = Arc::new(limits);
    let service = service_fn(move |request| {
        let (agent, app, limits) = (Arc::clone(&agent), app.clone(), Arc::clone(&limits));
        async move { Ok::<_, std::convert::Infallible>(forward::forward(&agent, app.as_ref(), &limits, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_MAX);
    // A broken connection concerns its client alone.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
