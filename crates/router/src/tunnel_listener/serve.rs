//! Listener of tunnels: connections of other machines' routers, from accept to drain.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::MachineName;
use gantry_trust::machine_of_peer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::exchange::router_state::RouterState;
use crate::http2::body::{BodyReceiver, SharedUse};
use crate::threads::ServingThreads;
use crate::tunnel::lanes::LANES_MAX;
use crate::tunnel::peer::{FRAME_MAX, HEADER_LIST_MAX};
use crate::tunnel::wire;
use crate::tunnel_listener::answer::answer;
use crate::tunnel_listener::lane;

/// Longest time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Maximum number of handshakes at once. A stranger's handshake ends within [`HANDSHAKE`].
const HANDSHAKES_MAX: usize = 1000;

/// Longest time for which a router may leave sent data unacknowledged.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Pause after a failed accept, such as one with too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Maximum number of requests at once on a connection: more than a router sends.
const STREAMS_MAX: u32 = 1000;

/// Flow-control windows of a stream and of a connection, in bytes.
const WINDOWS: (u32, u32) = (256 << 10, 32 << 20);

/// Listening socket of tunnels.
pub(crate) struct TunnelListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
    /// Tells the connections that the router shuts down. Each open connection has a receiver.
    ending: watch::Sender<()>,
}

impl TunnelListener {
    pub(crate) fn new(listener: TcpListener, acceptor: TlsAcceptor) -> Self {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        Self { listener, acceptor, handshakes, ending: watch::Sender::default() }
    }

    /// Accepts connections, for ever.
    pub(crate) async fn accept(&self, router: &Arc<RouterState>, threads: &ServingThreads) {
        loop {
            let (Ok((stream, _)), Ok(handshake)) =
                (self.listener.accept().await, Arc::clone(&self.handshakes).acquire_owned().await)
            else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            gantry_linux::connection::set_stream_options(&stream, Some(UNACKNOWLEDGED_MAX));
            // The runtime of the serving thread has to register the socket.
            let Ok(stream) = stream.into_std() else { continue };
            let (router, acceptor, ending) = (Arc::clone(router), self.acceptor.clone(), self.ending.subscribe());
            threads.spawn(async move {
                let Ok(stream) = TcpStream::from_std(stream) else { return };
                let accepted = tokio::time::timeout(HANDSHAKE, Box::pin(acceptor.accept(stream))).await;
                drop(handshake);
                match accepted {
                    Ok(Ok(stream)) => match machine_of_peer(stream.get_ref().1.peer_certificates()) {
                        Some(machine) => serve(router, machine, stream, ending).await,
                        None => tracing::warn!("closing a tunnel whose certificate is not that of a machine"),
                    },
                    Ok(Err(error)) => tracing::debug!(%error, "no handshake on a tunnel"),
                    Err(_) => {}
                }
            });
        }
    }

    /// Stops accepting, and tells the other routers to send no further requests on their connections. The returned
    /// sender is closed once all connections have ended.
    pub(crate) fn stop(self) -> watch::Sender<()> {
        self.ending.send_replace(());
        self.ending
    }
}

/// Serves the requests of a connection until either side ends it.
async fn serve(
    router: Arc<RouterState>,
    machine: MachineName,
    stream: TlsStream<TcpStream>,
    mut ending: watch::Receiver<()>,
) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_frame_size(FRAME_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    let Ok(Ok(mut connection)) = tokio::time::timeout(HANDSHAKE, builder.handshake::<_, Bytes>(stream)).await else {
        return;
    };
    let machine = Arc::new(machine);
    // Each open lane holds a count.
    let lanes = SharedUse::default();
    let mut is_ending = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (router, machine) = (Arc::clone(&router), Arc::clone(&machine));
                // A router that shuts down refuses a lane as one that knows no lanes.
                if wire::is_lane(request.headers()) && !is_ending && Arc::strong_count(&lanes) <= LANES_MAX {
                    let from = BodyReceiver::new(request.into_body());
                    let (lane, ending) = (SharedUse::clone(&lanes), ending.clone());
                    #[expect(clippy::disallowed_methods, reason = "the other machine's router sees the end of the lane")]
                    tokio::spawn(async move {
                        lane::serve(router, machine, from, respond, ending).await;
                        drop(lane);
                    });
                } else {
                    #[expect(clippy::disallowed_methods, reason = "the other machine's router sees the end of the stream")]
                    tokio::spawn(answer(router, machine, request, respond));
                }
            }
            _ = ending.changed(), if !is_ending => {
                connection.graceful_shutdown();
                is_ending = true;
            }
        }
    }
}
