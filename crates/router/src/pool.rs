//! Kept connections to one instance. A connection is in here only while nobody uses it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

use crate::body::Outgoing;

/// A kept connection is not used after this: many servers close theirs after 5 s (Node's default).
const IDLE: Duration = Duration::from_secs(4);

/// The most kept connections to one instance.
const KEPT_MAX: usize = 256;

/// One way to send a request.
pub(crate) type Sender = SendRequest<Outgoing>;

/// Kept connections.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<(Instant, Sender)>>);

impl Pool {
    /// The connection that was used last, if one is still good.
    pub(crate) fn take(&self) -> Option<Sender> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while let Some((since, sender)) = kept.pop() {
            if now.duration_since(since) > IDLE {
                // What lies below is older still.
                kept.clear();
                return None;
            }
            if !sender.is_closed() && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push((Instant::now(), sender));
        }
    }

    /// Lets all of them go.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
