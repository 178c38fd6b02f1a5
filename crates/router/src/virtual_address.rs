//! Connections to virtual addresses: TCP to a role, on this machine or another.
//!
//! Containers reach a role at a virtual address that the resolver names. The machine redirects such connections to this
//! listener at the bridge's address. The router joins each connection with a ready copy of the role: a copy of this
//! machine if there is one, otherwise through the router of a machine with a copy. That router chooses among its own
//! copies by its own table, so that no address of another machine leads to a wrong container.

use std::future::ready;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use gantry_model::{AppName, MachineName, RoleName, VIRTUAL_PORT};
use gantry_supervision::{Backoff, Retry};
use rand::seq::SliceRandom;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::exchange::router_state::RouterState;
use crate::http2::body::{Http2Reader, Http2Writer};
use crate::routes::store::RouteSnapshot;
use crate::threads::ServingThreads;
use crate::tunnel::wire::Service;

/// Longest time that a connection waits for a copy: as long as a copy takes to restart.
const WAIT: Duration = Duration::from_secs(10);

/// Pause between two searches for a copy.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Longest time for a connection to a copy of this machine.
const CONNECT: Duration = Duration::from_secs(3);

/// Maximum number of connections that wait for an accept.
const BACKLOG: u32 = 1024;

/// Pause between two attempts to listen, because the agent may not have made the bridge yet.
const RETRY: Duration = Duration::from_millis(200);

/// Failed attempts before the router logs a warning.
const WARN_AFTER: u64 = 25;

/// Longest time for which either side may leave sent data unacknowledged.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(120);

/// Accepts connections to virtual addresses, for ever. `gateway` is the bridge's address.
pub(crate) async fn accept(router: &Arc<RouterState>, threads: &ServingThreads, gateway: Ipv4Addr) {
    let address = SocketAddr::from((gateway, VIRTUAL_PORT));
    let retry = Retry::new("listener of virtual addresses", Backoff::constant(RETRY)).quiet_for(WARN_AFTER);
    let listener = retry.until_done(|| ready(listen(address).map_err(|source| ListenError { address, source }))).await;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        gantry_linux::connection::set_stream_options(&stream, Some(UNACKNOWLEDGED_MAX));
        let Ok(original) = rustix::net::sockopt::ip_original_dst(&stream) else { continue };
        // The runtime of the serving thread has to register the socket.
        let Ok(stream) = stream.into_std() else { continue };
        let router = Arc::clone(router);
        threads.spawn(async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                join(&router, stream, original).await;
            }
        });
    }
}

/// The router cannot listen for connections to virtual addresses.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; containers cannot reach roles of other machines until the address is free")]
struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Binds the socket. A router that replaces this router, or is replaced by this router, may share the address.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Joins a connection with a copy of the role at its original address. Without a copy the connection closes.
async fn join(router: &Arc<RouterState>, stream: TcpStream, original: SocketAddrV4) {
    let begun = Instant::now();
    while begun.elapsed() < WAIT {
        let routes = router.routes.now();
        let Some((app, role)) = routes.services.role_at(*original.ip()) else { return };
        let service = Service { app: app.clone(), role: role.clone(), port: original.port() };
        if let Ok(copy) = connect_here(router, &routes, &service).await {
            return copy_both(stream, copy).await;
        }
        if let Some((reader, writer)) = connect_elsewhere(router, &routes, &service).await {
            return copy_both(stream, tokio::io::join(reader, writer)).await;
        }
        drop(routes);
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    tracing::debug!(address = %original, "no copy of the role takes connections");
}

/// Copies bytes in both directions until both sides have ended.
pub(crate) async fn copy_both(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut copy: impl AsyncRead + AsyncWrite + Unpin,
) {
    let _ = tokio::io::copy_bidirectional(&mut client, &mut copy).await;
}

/// The machines of a role's ready copies, with their addresses there, in random order.
fn copies(routes: &RouteSnapshot, app: &AppName, role: &RoleName) -> Vec<gantry_model::MachineAddress> {
    let roles = routes.table.names.get(app).map(|names| &names.roles);
    let mut copies = roles.and_then(|roles| roles.get(role)).cloned().unwrap_or_default();
    copies.shuffle(&mut rand::rng());
    copies
}

/// Connects to a copy of this machine.
pub(crate) async fn connect_here(
    router: &RouterState,
    routes: &RouteSnapshot,
    service: &Service,
) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for copy in copies(routes, &service.app, &service.role) {
        let Some(address) = copy.address_on(router.routes.own_machine()) else { continue };
        match tokio::time::timeout(CONNECT, TcpStream::connect((address, service.port))).await {
            Ok(Ok(stream)) => {
                gantry_linux::connection::set_stream_options(&stream, Some(UNACKNOWLEDGED_MAX));
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(last)
}

/// Opens a connection through the router of another machine.
async fn connect_elsewhere(
    router: &RouterState,
    routes: &RouteSnapshot,
    service: &Service,
) -> Option<(Http2Reader, Http2Writer)> {
    let mut tried: Vec<MachineName> = Vec::new();
    for copy in copies(routes, &service.app, &service.role) {
        if copy.machine() == router.routes.own_machine() || tried.contains(copy.machine()) {
            continue;
        }
        tried.push(copy.machine().clone());
        let Some(peer) = router.routes.peer(copy.machine()).filter(|peer| peer.is_up()) else { continue };
        let Ok(connection) = peer.connection().await else { continue };
        if let Some(joined) = connection.join(service).await {
            return Some(joined);
        }
    }
    None
}
