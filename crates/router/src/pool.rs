//! Kept connections to one instance. An HTTP/1.1 connection is in here only while nobody uses it; an HTTP/2 connection is
//! shared by everyone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_model::role::Protocol;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::body::Outgoing;
use crate::joined::Joined;
use crate::threads;

/// A kept connection is not used after this: many servers close theirs after 5 s (Node's default).
const IDLE: Duration = Duration::from_secs(4);

/// The most kept connections to one instance.
const KEPT_MAX: usize = 256;

/// One way to send a request.
pub(crate) enum Sender {
    One(http1::SendRequest<Outgoing>),
    Shared(http2::SendRequest<Outgoing>),
}

impl Sender {
    /// Speaks `protocol` on a connection that was made just now.
    pub(crate) async fn begin(stream: TcpStream, protocol: Protocol) -> hyper::Result<Self> {
        let stream = TokioIo::new(Joined::new(stream));
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::Builder::new().handshake(stream).await?;
                tokio::spawn(async move {
                    let _ = connection.with_upgrades().await;
                });
                Ok(Self::One(sender))
            }
            Protocol::H2c => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(stream).await?;
                tokio::spawn(async move {
                    let _ = connection.await;
                });
                Ok(Self::Shared(sender))
            }
        }
    }

    /// Sends a request; it comes back with the error if it was not sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Shared(sender) => sender.try_send_request(request).await,
        }
    }

    /// Ready for the next request; false once it is closed.
    pub(crate) async fn ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Shared(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Ready without waiting.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_ready(),
            Self::Shared(sender) => sender.is_ready(),
        }
    }

    fn is_usable(&self) -> bool {
        match self {
            Self::One(sender) => !sender.is_closed() && sender.is_ready(),
            Self::Shared(sender) => !sender.is_closed() && sender.is_ready(),
        }
    }
}

/// Kept connections, those of each of the router's threads apart: a connection is served by the thread that made it.
pub(crate) struct Pool(Box<[Mutex<Kept>]>);

/// With when each was last used; the newest last.
type Kept = Vec<(Instant, Sender)>;

impl Pool {
    pub(crate) fn new() -> Self {
        Self(std::iter::repeat_with(Mutex::default).take(threads::count()).collect())
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0[threads::own() % self.0.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if one is still good.
    pub(crate) fn take(&self, now: Instant) -> Option<Sender> {
        let mut kept = self.own();
        while let Some((since, sender)) = kept.pop() {
            match sender {
                Sender::Shared(shared) if !shared.is_closed() => {
                    kept.push((now, Sender::Shared(shared.clone())));
                    return Some(Sender::Shared(shared));
                }
                _ if now.duration_since(since) > IDLE => {
                    // What lies below is older still.
                    kept.clear();
                    return None;
                }
                sender if sender.is_usable() => return Some(sender),
                _ => {}
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, sender: Sender) {
        let mut kept = self.own();
        let shared_already = matches!(sender, Sender::Shared(_)) && !kept.is_empty();
        if sender.is_usable() && kept.len() < KEPT_MAX && !shared_already {
            kept.push((Instant::now(), sender));
        }
    }

    /// Lets all of them go.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner).clear());
    }
}
