//! Endpoint of an instance and its state, which survives a change of the table. Requests to an endpoint of another
//! machine go to that machine's router and name the allocation: the address means something else here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_model::{Endpoint, MachineName};
use http::HeaderValue;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::routes::circuit::{CircuitBreaker, InstanceFailure};
use crate::tunnel::peer::{PeerConnection, PeerError, PeerRouter};
use crate::upstream::connection::{InstanceConnection, TunnelledAllocation};
use crate::upstream::http1::Http1Connection;
use crate::upstream::pool::ConnectionPool;

/// Time for which a new instance gets fewer requests than older instances: caches are cold, code is not compiled yet.
pub(super) const SLOW_START: Duration = Duration::from_secs(10);

/// Smallest share of a new instance, relative to an old instance.
const LEAST_SHARE: f64 = 0.1;

/// Longest time that a connection to an instance of this machine may take.
const CONNECT: Duration = Duration::from_secs(3);

/// Place of an endpoint.
pub(crate) enum TargetPlace {
    /// On this machine.
    Here { address: SocketAddr, pool: ConnectionPool },
    /// On another machine, whose router knows the allocation by this name.
    Elsewhere { peer: Arc<PeerRouter>, allocation: HeaderValue },
}

/// Reason why there is no connection to a target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect to the instance: {0}")]
    Instance(#[from] std::io::Error),
    #[error("the instance does not speak HTTP/2: {0}")]
    Protocol(#[from] hyper::Error),
    #[error("cannot reach the router of the instance's machine: {0}")]
    Peer(#[from] PeerError),
}

/// Endpoint and its state.
pub(crate) struct RouteTarget {
    pub(crate) endpoint: Endpoint,
    pub(crate) place: TargetPlace,
    /// Name of the instance in logs.
    pub(crate) label: String,
    /// Number of requests under way.
    pub(super) active: AtomicU64,
    pub(crate) circuit: CircuitBreaker,
    pub(super) since: Instant,
    /// Time that requests under way may still take, once the endpoint left the table.
    pub(super) leaving: watch::Sender<Option<Duration>>,
}

/// Guard of a request to an endpoint; counts the request until dropped.
pub(crate) struct ActiveRequest(Arc<RouteTarget>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RouteTarget {
    /// Creates the target of an endpoint of the machine `here`; none if the endpoint is on another machine.
    pub(super) fn local(endpoint: &Endpoint, here: &MachineName) -> Option<Self> {
        let address = SocketAddr::from((endpoint.at.address_on(here)?, endpoint.port));
        Some(Self::new(endpoint, TargetPlace::Here { address, pool: ConnectionPool::new() }))
    }

    /// Creates the target of an endpoint of another machine.
    pub(super) fn remote(endpoint: &Endpoint, peer: Arc<PeerRouter>) -> Option<Self> {
        let allocation = HeaderValue::from_str(&endpoint.allocation.to_string()).ok()?;
        Some(Self::new(endpoint, TargetPlace::Elsewhere { peer, allocation }))
    }

    fn new(endpoint: &Endpoint, place: TargetPlace) -> Self {
        Self {
            label: endpoint.allocation.to_string(),
            place,
            endpoint: endpoint.clone(),
            active: AtomicU64::new(0),
            circuit: CircuitBreaker::default(),
            since: Instant::now(),
            leaving: watch::Sender::new(None),
        }
    }

    /// Returns whether the endpoint is on another machine.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.place, TargetPlace::Elsewhere { .. })
    }

    /// Returns whether the router of the endpoint's machine answers.
    pub(crate) fn is_up(&self) -> bool {
        match &self.place {
            TargetPlace::Here { .. } => true,
            TargetPlace::Elsewhere { peer, .. } => peer.is_up(),
        }
    }

    /// Takes a kept connection. A repeated request, or a request after a failure, asks for a new connection: an instance
    /// that accepts a connection is alive. An open connection to another machine's router counts as kept.
    pub(crate) fn take_kept(&self, now: Instant) -> Option<InstanceConnection> {
        match &self.place {
            TargetPlace::Here { pool, .. } => pool.take(now),
            TargetPlace::Elsewhere { peer, allocation } => Some(self.tunnelled(peer.open()?, allocation)),
        }
    }

    /// Connects to the instance. An HTTP/2 connection is shared with later requests.
    pub(crate) async fn connect(&self) -> Result<InstanceConnection, ConnectError> {
        match &self.place {
            TargetPlace::Here { address, pool } => {
                let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address));
                let stream = connecting.await.map_err(std::io::Error::from)??;
                stream.set_nodelay(true)?;
                let connection = InstanceConnection::begin(stream, self.endpoint.protocol).await?;
                self.circuit.record_connection();
                pool.share(&connection);
                Ok(connection)
            }
            TargetPlace::Elsewhere { peer, allocation } => Ok(self.tunnelled(peer.connection().await?, allocation)),
        }
    }

    fn tunnelled(&self, connection: PeerConnection, allocation: &HeaderValue) -> InstanceConnection {
        let allocation = TunnelledAllocation { name: allocation.clone(), protocol: self.endpoint.protocol };
        InstanceConnection::Tunnel(connection, allocation)
    }

    /// Records the failure of the request sent at `sent`. The failure of another machine's router is not the
    /// instance's.
    pub(crate) fn record_failure(&self, how: InstanceFailure, sent: Instant) {
        if self.is_up() {
            self.circuit.record_failure(how, sent, Instant::now());
        }
    }

    /// Stops new requests from using the shared HTTP/2 connections, which may be stalled. The pings of a tunnel find a
    /// stalled connection.
    pub(crate) fn retire_shared(&self) {
        if let TargetPlace::Here { pool, .. } = &self.place {
            pool.retire_shared();
        }
    }

    /// Closes all kept connections to the instance.
    pub(super) fn clear(&self) {
        if let TargetPlace::Here { pool, .. } = &self.place {
            pool.clear();
        }
    }

    /// Closes the kept connections that are too old to be used.
    pub(super) fn sweep(&self, now: Instant) {
        if let TargetPlace::Here { pool, .. } = &self.place {
            pool.sweep(now);
        }
    }

    /// Counts a new request.
    pub(crate) fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    /// Subscribes to the departure of the endpoint from the table.
    pub(crate) fn leaving(&self) -> watch::Receiver<Option<Duration>> {
        self.leaving.subscribe()
    }

    /// Keeps a connection for the next request. An endpoint that left the table gets no more requests and waits for
    /// its clients to leave, so its connection closes.
    pub(crate) fn keep(&self, connection: Http1Connection) {
        if let TargetPlace::Here { pool, .. } = &self.place
            && self.leaving.borrow().is_none()
        {
            pool.keep(connection);
        }
    }

    /// Records that the endpoint left the table, or is in the table (none).
    pub(super) fn leave(&self, drain: Option<Duration>) {
        self.leaving.send_if_modified(|known| std::mem::replace(known, drain) != drain);
    }

    /// Returns the share of the requests by the endpoint's age: 1 for an endpoint that is not new.
    pub(super) fn share(&self, now: Instant) -> f64 {
        (now.duration_since(self.since).as_secs_f64() / SLOW_START.as_secs_f64()).clamp(LEAST_SHARE, 1.0)
    }
}
