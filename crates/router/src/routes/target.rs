//! Endpoint of an instance of this machine and its state, which survives a change of the table. An endpoint of another
//! machine has no target: its address means something else here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_model::{Endpoint, MachineName};
use tokio::sync::watch;

use crate::routes::circuit::CircuitBreaker;
use crate::upstream::http1::Http1Connection;
use crate::upstream::pool::ConnectionPool;

/// Time for which a new instance gets fewer requests than older instances: caches are cold, code is not compiled yet.
pub(super) const SLOW_START: Duration = Duration::from_secs(10);

/// Smallest share of a new instance, relative to an old instance.
const LEAST_SHARE: f64 = 0.1;

/// Endpoint and its state.
pub(crate) struct RouteTarget {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
    /// Name of the instance in logs.
    pub(crate) label: String,
    /// Number of requests under way.
    pub(super) active: AtomicU64,
    pub(crate) circuit: CircuitBreaker,
    pub(crate) pool: ConnectionPool,
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
    /// Creates the target of an endpoint; none if the endpoint is on another machine than `here`.
    pub(super) fn new(endpoint: &Endpoint, here: &MachineName) -> Option<Self> {
        Some(Self {
            label: endpoint.allocation.to_string(),
            address: SocketAddr::from((endpoint.at.on(here)?, endpoint.port)),
            endpoint: endpoint.clone(),
            active: AtomicU64::new(0),
            circuit: CircuitBreaker::default(),
            pool: ConnectionPool::new(),
            since: Instant::now(),
            leaving: watch::Sender::new(None),
        })
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
        if self.leaving.borrow().is_none() {
            self.pool.keep(connection);
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
