//! Another machine's router: its connections, and whether it answers.
//!
//! ```text
//!        unanswered ping            no answer for DEAD, a broken or refused connection
//!   up ──────────────────► suspect ─────────────────────────► down
//!    ▲◄────────────────────┘ answered                          │
//!    └──────────────────────── a new connection answers ◄──────┘ tried again and again, without any request
//! ```
//! Only targets of a router that is `up` get requests, so a machine that is gone costs the requests that were under way
//! and no others. They end as soon as the router is suspected and the routing table names its machine as lost: neither
//! the servers nor this router get an answer. Without the servers' word they wait until the router counts as gone.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_model::{MachineName, TunnelAddress};
use gantry_supervision::TaskSet;
use gantry_trust::PeerName;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::http2::body::SharedUse;
use crate::tunnel::lanes::Lanes;
use crate::{tasks, threads};

/// Maximum number of requests at once on a connection. The peer allows more, so that no request waits for a stream.
const USERS_MAX: usize = 128;

/// Flow-control windows of a stream and of a connection, in bytes. The connection window equals the windows of all its
/// streams; otherwise clients that read nothing would stop the others.
const WINDOWS: (u32, u32) = (256 << 10, USERS_MAX as u32 * (256 << 10));

/// Largest frame, in bytes: large enough for few frames, small enough that no stream delays the others.
pub(crate) const FRAME_MAX: u32 = 64 << 10;

/// Maximum size of the fields of a head in bytes, as HTTP/2 counts them: those of a request or a response of the largest
/// accepted head.
pub(crate) const HEADER_LIST_MAX: u32 = 256 << 10;

/// Longest time for a connection to one address, up to the answer to the first ping: for a request that waits, and at most
/// for a router that is down. Machines that lack processor time answer late, and each attempt costs them more of it.
const CONNECT: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(8);

/// Interval between the pings of a connection with requests under way.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Time without an answer to a ping after which a router is suspected, and after which it counts as gone.
const SUSPECT: Duration = Duration::from_secs(1);
const DEAD: Duration = Duration::from_secs(5);

/// Idle time after which a connection closes.
const IDLE: Duration = Duration::from_secs(60);

/// Shortest and longest pause between two attempts to reach a router that is down.
const RECOVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

const UP: u8 = 0;
const SUSPECTED: u8 = 1;
const DOWN: u8 = 2;

/// Reason why there is no connection to another machine's router.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("no tunnel address of the machine is known")]
    NoAddress,
    #[error("the router did not answer a moment ago")]
    Down,
    #[error("no answer from {0} within {s} s", s = .1.as_secs())]
    Silent(TunnelAddress, Duration),
    #[error("cannot connect to {0}: {1}")]
    Connect(TunnelAddress, std::io::Error),
    #[error("{0} does not speak the tunnel's protocol: {1}")]
    Protocol(TunnelAddress, h2::Error),
    #[error("{0} closed the connection; the machines' certificates may not match")]
    Closed(TunnelAddress),
}

/// Another machine's router.
pub(crate) struct PeerRouter {
    pub(crate) machine: MachineName,
    name: ServerName<'static>,
    /// Presents this machine's certificate; a renewed one from the next connection on.
    tls: Arc<ClientConfig>,
    addresses: Mutex<Vec<TunnelAddress>>,
    state: AtomicU8,
    /// The routing table names the machine as lost.
    lost: watch::Sender<bool>,
    /// Connections, separate for each thread of the router: the thread that made a connection serves it.
    pools: Box<[PeerPool]>,
    tasks: TaskSet,
}

#[derive(Default)]
struct PeerPool {
    open: Mutex<Vec<PeerConnection>>,
    /// Held while a connection is made, so that a burst of requests makes one.
    connecting: tokio::sync::Mutex<()>,
}

/// Connection to another machine's router, shared by many requests.
#[derive(Clone)]
pub(crate) struct PeerConnection {
    /// Cloned only by a request with a stream of its own: a clone takes a lock of the connection.
    pub(super) sender: Arc<SendRequest<Bytes>>,
    /// Counts the requests under way. The pool and the task of the connection hold one count each.
    pub(super) user: SharedUse,
    state: Arc<ConnectionState>,
}

struct ConnectionState {
    lanes: Lanes,
    /// The connection takes no more requests.
    closed: AtomicBool,
    /// Reason why this router gave up the connection.
    given_up: OnceLock<Silence>,
}

impl ConnectionState {
    /// Creates the state of a connection, whose first ping took `round_trip`.
    fn new(round_trip: Duration) -> Self {
        Self { lanes: Lanes::new(round_trip), closed: AtomicBool::new(false), given_up: OnceLock::new() }
    }
}

/// A machine whose router does not answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum Silence {
    #[error("no answer to a ping for {s} s", s = DEAD.as_secs())]
    Gone,
    #[error("the machine is lost, and its router does not answer")]
    Lost,
}

impl PeerConnection {
    pub(crate) fn is_closed(&self) -> bool {
        self.state.closed.load(Ordering::Relaxed)
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.state.lanes
    }

    /// Returns why this router gave up the connection; none if it did not.
    pub(super) fn given_up(&self) -> Option<Silence> {
        self.state.given_up.get().copied()
    }

    /// Stops new requests from using the connection.
    pub(super) fn retire(&self) {
        self.state.closed.store(true, Ordering::Relaxed);
    }

    fn has_room(&self) -> bool {
        !self.is_closed() && Arc::strong_count(&self.user) <= USERS_MAX + 1
    }
}

impl PeerRouter {
    /// Creates the router of a machine.
    pub(crate) fn new(machine: &MachineName, tls: &Arc<ClientConfig>) -> Self {
        Self {
            machine: machine.clone(),
            name: PeerName::Machine(machine.clone()).server_name(),
            tls: Arc::clone(tls),
            addresses: Mutex::default(),
            state: AtomicU8::new(UP),
            lost: watch::Sender::new(false),
            pools: std::iter::repeat_with(PeerPool::default).take(threads::count()).collect(),
            tasks: TaskSet::default(),
        }
    }

    /// Sets the addresses of the router.
    pub(crate) fn set_addresses(&self, addresses: &[TunnelAddress]) {
        let mut known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != addresses {
            addresses.clone_into(&mut known);
        }
    }

    /// Takes over whether the routing table names the machine as lost.
    pub(crate) fn set_lost(&self, lost: bool) {
        self.lost.send_if_modified(|known| std::mem::replace(known, lost) != lost);
    }

    /// Returns whether the router may get requests.
    pub(crate) fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UP
    }

    fn own(&self) -> &PeerPool {
        &self.pools[threads::own() % self.pools.len()]
    }

    /// Removes the connections that take no more requests from the pool of this thread.
    fn forget_closed(&self) {
        let mut open = self.own().open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.is_closed());
    }

    /// Returns an open connection of this thread with room.
    pub(crate) fn open(&self) -> Option<PeerConnection> {
        let mut open = self.own().open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.is_closed());
        open.iter().find(|connection| connection.has_room()).cloned()
    }

    /// Returns a connection with room, and makes one if there is none. A router that cannot be reached is ejected.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<PeerConnection, PeerError> {
        if let Some(connection) = self.open() {
            return Ok(connection);
        }
        let _connecting = self.own().connecting.lock().await;
        if let Some(connection) = self.open() {
            return Ok(connection);
        }
        // Another request found out meanwhile.
        if !self.is_up() {
            return Err(PeerError::Down);
        }
        let connected = self.connect(CONNECT).await;
        if let Err(error) = &connected {
            self.eject(error);
        }
        connected
    }

    /// Makes a connection to the first address that answers, and keeps it for other requests.
    async fn connect(self: &Arc<Self>, timeout: Duration) -> Result<PeerConnection, PeerError> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut last = PeerError::NoAddress;
        for address in addresses {
            match tokio::time::timeout(timeout, self.connect_to(&address)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error,
                Err(_) => last = PeerError::Silent(address, timeout),
            }
        }
        Err(last)
    }

    async fn connect_to(self: &Arc<Self>, address: &TunnelAddress) -> Result<PeerConnection, PeerError> {
        let failed = |source| PeerError::Connect(address.clone(), source);
        let malformed = |source| PeerError::Protocol(address.clone(), source);
        let stream = TcpStream::connect(address.to_string()).await.map_err(failed)?;
        gantry_linux::connection::set_stream_options(&stream, Some(DEAD));
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(self.name.clone(), stream).await.map_err(failed)?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_frame_size(FRAME_MAX)
            .max_header_list_size(HEADER_LIST_MAX)
            .enable_push(false);
        let (sender, mut connection) = builder.handshake(stream).await.map_err(malformed)?;
        let closed = || PeerError::Closed(address.clone());
        let mut pings = connection.ping_pong().ok_or_else(closed)?;
        // On the client's side, a TLS handshake ends before the peer has checked the certificate. An answered ping shows
        // that the peer accepted it.
        let pinged = Instant::now();
        tokio::select! {
            ended = &mut connection => return Err(ended.err().map_or_else(closed, malformed)),
            pong = pings.ping(Ping::opaque()) => {
                pong.map_err(malformed)?;
            }
        }
        let connection_handle = PeerConnection {
            sender: Arc::new(sender),
            user: SharedUse::default(),
            state: Arc::new(ConnectionState::new(pinged.elapsed())),
        };
        let (user, state) = (Arc::clone(&connection_handle.user), Arc::clone(&connection_handle.state));
        #[expect(clippy::disallowed_methods, reason = "the requests of the connection see its end")]
        tokio::spawn(drive(Arc::downgrade(self), connection, pings, user, state));
        self.own().open.lock().unwrap_or_else(PoisonError::into_inner).push(connection_handle.clone());
        Ok(connection_handle)
    }

    /// Takes the router's targets from all requests until the router answers again.
    fn eject(self: &Arc<Self>, cause: &(dyn std::fmt::Display + Sync)) {
        if self.state.swap(DOWN, Ordering::Relaxed) == DOWN {
            return;
        }
        tracing::warn!(machine = %self.machine, %cause, "the router of a machine does not answer; its instances get no requests");
        let peer = Arc::downgrade(self);
        self.tasks.spawn_restarting(tasks::RECOVERY, tasks::pauses(), move || recover(Weak::clone(&peer)));
    }

    fn suspect(&self) {
        let _ = self.state.compare_exchange(UP, SUSPECTED, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn clear(&self) {
        let _ = self.state.compare_exchange(SUSPECTED, UP, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Tries to reach a router that is down until it answers.
async fn recover(peer: Weak<PeerRouter>) {
    let (mut pause, mut timeout) = (RECOVERY.0, CONNECT);
    while let Some(peer) = peer.upgrade() {
        if peer.connect(timeout).await.is_ok() {
            peer.state.store(UP, Ordering::Relaxed);
            tracing::info!(machine = %peer.machine, "the router of a machine answers again");
            return;
        }
        drop(peer);
        // Many routers lose a machine at the same moment.
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(RECOVERY.1);
        timeout = (timeout * 2).min(CONNECT_MAX);
    }
}

/// Runs a connection to its end. A connection that breaks ejects its router.
async fn drive(
    peer: Weak<PeerRouter>,
    mut connection: h2::client::Connection<TlsStream<TcpStream>, Bytes>,
    pings: PingPong,
    user: SharedUse,
    state: Arc<ConnectionState>,
) {
    let broken = tokio::select! {
        ended = &mut connection => ended.err().map(|error| error.to_string()),
        watched = watch(&peer, pings, &user, &state) => match watched {
            CloseReason::Silent(silence) => {
                let _ = state.given_up.set(silence);
                Some(silence.to_string())
            }
            CloseReason::Idle => None,
        },
    };
    state.closed.store(true, Ordering::Relaxed);
    if let (Some(cause), Some(peer)) = (broken, peer.upgrade()) {
        peer.eject(&cause);
    }
}

/// Reason to close a connection.
enum CloseReason {
    Silent(Silence),
    Idle,
}

/// Pings the router while requests are under way, and finds idle connections.
async fn watch(peer: &Weak<PeerRouter>, mut pings: PingPong, user: &SharedUse, state: &ConnectionState) -> CloseReason {
    let closed = &state.closed;
    let mut idle = Duration::ZERO;
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if !is_used(peer, user, closed) {
            idle += PING_INTERVAL;
            if idle >= IDLE {
                // A request that found the connection a moment ago still gets its response.
                closed.store(true, Ordering::Relaxed);
                if !is_used(peer, user, closed) {
                    return CloseReason::Idle;
                }
            }
            continue;
        }
        idle = Duration::ZERO;
        let pinged = Instant::now();
        let mut ping = std::pin::pin!(pings.ping(Ping::opaque()));
        if tokio::time::timeout(SUSPECT, ping.as_mut()).await.is_ok() {
            state.lanes.record_round_trip(pinged.elapsed());
            continue;
        }
        if let Some(peer) = peer.upgrade() {
            peer.suspect();
        }
        tokio::select! {
            answered = tokio::time::timeout(DEAD - SUSPECT, ping) => match answered {
                Ok(_) => peer.upgrade().iter().for_each(|peer| peer.clear()),
                Err(_) => return CloseReason::Silent(Silence::Gone),
            },
            () = lost(peer) => return CloseReason::Silent(Silence::Lost),
        }
    }
}

/// Returns whether a request uses the connection. The task of the connection holds one count, and the pool another while
/// the connection takes requests.
fn is_used(peer: &Weak<PeerRouter>, user: &SharedUse, closed: &AtomicBool) -> bool {
    if closed.load(Ordering::Relaxed) {
        peer.upgrade().iter().for_each(|peer| peer.forget_closed());
        return Arc::strong_count(user) > 1;
    }
    Arc::strong_count(user) > 2
}

/// Resolves when the routing table names the machine as lost.
async fn lost(peer: &Weak<PeerRouter>) {
    if let Some(mut lost) = peer.upgrade().map(|peer| peer.lost.subscribe())
        && lost.wait_for(|lost| *lost).await.is_ok()
    {
        return;
    }
    // The table no longer names the machine.
    std::future::pending().await
}
