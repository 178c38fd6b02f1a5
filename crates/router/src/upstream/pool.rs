//! Connection pool of one instance. An HTTP/1.1 connection is in the pool only while no request uses the connection;
//! many requests share an HTTP/2 connection.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::threads;
use crate::upstream::connection::{InstanceConnection, SharedConnection};
use crate::upstream::http1::Http1Connection;

/// Longest idle time of a kept connection: many servers close theirs after 5 s (Node's default).
const IDLE: Duration = Duration::from_secs(4);

/// Maximum number of kept connections to one instance.
const KEPT_MAX: usize = 256;

/// Kept connections, separate for each thread of the router: the thread that made a connection serves it.
pub(crate) struct ConnectionPool(Box<[Mutex<KeptConnections>]>);

#[derive(Default)]
struct KeptConnections {
    /// The connections and their times of last use; the newest last.
    idle: Vec<(Instant, Http1Connection)>,
    shared: Vec<SharedConnection>,
}

impl ConnectionPool {
    pub(crate) fn new() -> Self {
        Self(std::iter::repeat_with(Mutex::default).take(threads::count()).collect())
    }

    fn own(&self) -> std::sync::MutexGuard<'_, KeptConnections> {
        self.0[threads::own() % self.0.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a shared connection with room, or else the open connection that was used last.
    pub(crate) fn take(&self, now: Instant) -> Option<InstanceConnection> {
        let mut kept = self.own();
        if let Some(shared) = kept.shared.iter().find(|shared| shared.has_room()) {
            return Some(InstanceConnection::Http2(shared.clone()));
        }
        while let Some((since, connection)) = kept.idle.pop() {
            if now.duration_since(since) > IDLE {
                // All connections further down are older still.
                kept.idle.clear();
            } else if connection.is_open() {
                return Some(InstanceConnection::Http1(connection));
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, connection: Http1Connection) {
        let mut kept = self.own();
        if kept.idle.len() < KEPT_MAX {
            kept.idle.push((Instant::now(), connection));
        }
    }

    /// Shares an HTTP/2 connection with later requests.
    pub(crate) fn share(&self, sender: &InstanceConnection) {
        if let InstanceConnection::Http2(shared) = sender {
            let mut kept = self.own();
            kept.shared.retain(|shared| !shared.sender.is_closed());
            if kept.shared.len() < KEPT_MAX {
                kept.shared.push(shared.clone());
            }
        }
    }

    /// Stops new requests from using the shared HTTP/2 connections, which may be stalled.
    pub(crate) fn retire_shared(&self) {
        self.own().shared.clear();
    }

    /// Closes the connections that are too old to be used, and removes those that the instance closed.
    pub(crate) fn sweep(&self, now: Instant) {
        for kept in &self.0 {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.idle.retain(|(since, _)| now.duration_since(*since) <= IDLE);
            kept.shared.retain(|shared| !shared.sender.is_closed());
        }
    }

    /// Closes all connections.
    pub(crate) fn clear(&self) {
        self.0
            .iter()
            .for_each(|kept| *kept.lock().unwrap_or_else(PoisonError::into_inner) = KeptConnections::default());
    }
}
