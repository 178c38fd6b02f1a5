//! Kept connections to one instance. An HTTP/1.1 connection is in here only while nobody uses it; an HTTP/2 connection is
//! shared by everyone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_model::role::Protocol;
use http::header::{CONNECTION, HOST, TE, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::body::{InstanceBody, Outgoing};
use crate::interim::Interims;
use crate::threads;
use crate::wire::{Failure, Wire};

/// A kept connection is not used after this: many servers close theirs after 5 s (Node's default).
const IDLE: Duration = Duration::from_secs(4);

/// The most kept connections to one instance.
const KEPT_MAX: usize = 256;

/// The most requests at once on a connection of HTTP/2: fewer than servers allow, so that none waits behind others.
const USERS_MAX: usize = 32;

/// What an answer may send before its client takes it, and what all of a connection may: together no more than that, or
/// clients that take nothing would stop the others.
const WINDOWS: (u32, u32) = (256 << 10, USERS_MAX as u32 * (256 << 10));

/// How often a connection of HTTP/2 with requests under way is asked whether its other end still is, and how long it has.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

/// Counts a request on a shared connection for as long as it lives.
pub(crate) type User = Arc<()>;

/// A connection of HTTP/2.
#[derive(Clone)]
pub(crate) struct Shared {
    sender: http2::SendRequest<Outgoing>,
    user: User,
}

impl Shared {
    /// Good for one more. The pool itself has one.
    fn has_room(&self) -> bool {
        !self.sender.is_closed() && Arc::strong_count(&self.user) <= USERS_MAX
    }
}

/// One way to send a request.
pub(crate) enum Sender {
    One(Wire),
    Shared(Shared),
}

impl Sender {
    /// Speaks `protocol` on a connection that was made just now.
    pub(crate) async fn begin(stream: TcpStream, protocol: Protocol) -> hyper::Result<Self> {
        if protocol == Protocol::Http1 {
            return Ok(Self::One(Wire::new(stream)));
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self::Shared(Shared { sender, user: User::default() }))
    }

    /// Sends a request, and waits for the head of its answer.
    pub(crate) async fn ask(
        self,
        request: &Parts,
        body: Outgoing,
        interims: Option<&Interims>,
    ) -> Result<Response<InstanceBody>, Failure> {
        let Shared { mut sender, user } = match self {
            Self::One(wire) => return Ok(wire.ask(request, body, interims).await?.map(InstanceBody::One)),
            Self::Shared(shared) => shared,
        };
        match sender.try_send_request(in_http2(request, body)).await {
            Ok(response) => Ok(response.map(|body| InstanceBody::Shared { body, _user: user })),
            Err(mut error) => Err(match (error.take_message(), error.into_error()) {
                (Some(unsent), _) => Failure::Unsent(unsent.into_body()),
                // Of all that a body is to hyper, only its own end is the client's.
                (None, error) if error.is_user() => Failure::Client(error.to_string()),
                (None, error) => Failure::Sent(error.to_string()),
            }),
        }
    }
}

/// The request in the form of HTTP/2: host and scheme in its address, and trailers welcome, as gRPC asks.
fn in_http2(request: &Parts, body: Outgoing) -> Request<Outgoing> {
    let mut out = Request::new(body);
    out.method_mut().clone_from(&request.method);
    out.headers_mut().clone_from(&request.headers);
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if let Ok(uri) = format!("http://{host}{path}").parse() {
        *out.uri_mut() = uri;
    }
    *out.version_mut() = Version::HTTP_2;
    for name in [HOST, CONNECTION, UPGRADE] {
        out.headers_mut().remove(name);
    }
    out.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    out
}

/// Kept connections, those of each of the router's threads apart: a connection is served by the thread that made it.
pub(crate) struct Pool(Box<[Mutex<Kept>]>);

#[derive(Default)]
struct Kept {
    /// With when each was last used; the newest last.
    wires: Vec<(Instant, Wire)>,
    shared: Vec<Shared>,
}

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
        if let Some(shared) = kept.shared.iter().find(|shared| shared.has_room()) {
            return Some(Sender::Shared(shared.clone()));
        }
        while let Some((since, wire)) = kept.wires.pop() {
            if now.duration_since(since) > IDLE {
                // What lies below is older still.
                kept.wires.clear();
            } else if wire.is_open() {
                return Some(Sender::One(wire));
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, wire: Wire) {
        let mut kept = self.own();
        if kept.wires.len() < KEPT_MAX {
            kept.wires.push((Instant::now(), wire));
        }
    }

    /// Lets others use it too, from now on.
    pub(crate) fn share(&self, sender: &Sender) {
        if let Sender::Shared(shared) = sender {
            let mut kept = self.own();
            kept.shared.retain(|shared| !shared.sender.is_closed());
            if kept.shared.len() < KEPT_MAX {
                kept.shared.push(shared.clone());
            }
        }
    }

    /// Gives what is under way on a connection that others share no fellows any more: it may hang.
    pub(crate) fn distrust(&self) {
        self.own().shared.clear();
    }

    /// Lets those go that nobody will use any more: the other end may have closed them.
    pub(crate) fn sweep(&self, now: Instant) {
        for kept in &self.0 {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.wires.retain(|(since, _)| now.duration_since(*since) <= IDLE);
            kept.shared.retain(|shared| !shared.sender.is_closed());
        }
    }

    /// Lets all of them go.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|kept| *kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default());
    }
}
