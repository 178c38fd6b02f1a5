//! Connection pool of one instance. An HTTP/1.1 connection is in the pool only while no request uses the connection;
//! many requests share an HTTP/2 connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_model::role::AppProtocol;
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

/// Longest idle time of a kept connection: many servers close theirs after 5 s (Node's default).
const IDLE: Duration = Duration::from_secs(4);

/// Maximum number of kept connections to one instance.
const KEPT_MAX: usize = 256;

/// Maximum number of requests at once on an HTTP/2 connection: fewer than servers allow, so that no request waits
/// behind others.
const USERS_MAX: usize = 32;

/// Flow-control windows of a stream and of a connection, in bytes. The connection window equals the windows of all its
/// streams; otherwise clients that read nothing would stop the others.
const WINDOWS: (u32, u32) = (256 << 10, USERS_MAX as u32 * (256 << 10));

/// Interval and timeout of the pings on an HTTP/2 connection with requests under way.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

/// Guard of a request on a shared connection; counts the request until dropped.
pub(crate) type User = Arc<()>;

/// Shared HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Shared {
    sender: http2::SendRequest<Outgoing>,
    user: User,
}

impl Shared {
    /// Returns whether another request fits. The pool itself holds one count.
    fn has_room(&self) -> bool {
        !self.sender.is_closed() && Arc::strong_count(&self.user) <= USERS_MAX
    }
}

/// Connection on which a request is sent.
pub(crate) enum Sender {
    One(Wire),
    Shared(Shared),
}

impl Sender {
    /// Starts `protocol` on a new connection.
    pub(crate) async fn begin(stream: TcpStream, protocol: AppProtocol) -> hyper::Result<Self> {
        if protocol == AppProtocol::Http1 {
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

    /// Sends a request, and waits for the head of its response.
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
                // A user error of hyper is a failed request body here, and the body comes from the client.
                (None, error) if error.is_user() => Failure::Client(error.to_string()),
                (None, error) => Failure::Sent(error.to_string()),
            }),
        }
    }
}

/// Turns the request into its HTTP/2 form: host and scheme in the URI, and `TE: trailers`, as gRPC requires.
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

/// Kept connections, separate for each thread of the router: the thread that made a connection serves it.
pub(crate) struct Pool(Box<[Mutex<Kept>]>);

#[derive(Default)]
struct Kept {
    /// The connections and their times of last use; the newest last.
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

    /// Takes a shared connection with room, or else the open connection that was used last.
    pub(crate) fn take(&self, now: Instant) -> Option<Sender> {
        let mut kept = self.own();
        if let Some(shared) = kept.shared.iter().find(|shared| shared.has_room()) {
            return Some(Sender::Shared(shared.clone()));
        }
        while let Some((since, wire)) = kept.wires.pop() {
            if now.duration_since(since) > IDLE {
                // All connections further down are older still.
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

    /// Shares an HTTP/2 connection with later requests.
    pub(crate) fn share(&self, sender: &Sender) {
        if let Sender::Shared(shared) = sender {
            let mut kept = self.own();
            kept.shared.retain(|shared| !shared.sender.is_closed());
            if kept.shared.len() < KEPT_MAX {
                kept.shared.push(shared.clone());
            }
        }
    }

    /// Stops new requests from using the shared HTTP/2 connections, which may be stalled.
    pub(crate) fn distrust(&self) {
        self.own().shared.clear();
    }

    /// Closes the connections that are too old to be used, and removes those that the instance closed.
    pub(crate) fn sweep(&self, now: Instant) {
        for kept in &self.0 {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.wires.retain(|(since, _)| now.duration_since(*since) <= IDLE);
            kept.shared.retain(|shared| !shared.sender.is_closed());
        }
    }

    /// Closes all connections.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|kept| *kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default());
    }
}
