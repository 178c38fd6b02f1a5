//! Connection to an instance: HTTP/1.1 for one request at a time, or HTTP/2 for many.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gantry_model::role::AppProtocol;
use http::header::{CONNECTION, HOST, TE, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::http2::body::SharedUse;
use crate::message::InterimSink;
use crate::request::request_body::RequestBody;
use crate::request::send_failure::SendFailure;
use crate::tunnel::frames::WrittenRequest;
use crate::tunnel::peer::PeerConnection;
use crate::upstream::http1::Http1Connection;
use crate::upstream::response_body::InstanceBody;

/// Maximum number of requests at once on an HTTP/2 connection. An instance may allow fewer: see
/// [`SharedConnection::has_room`].
const USERS_MAX: usize = 32;

/// Flow-control windows of a stream and of a connection, in bytes. The connection window equals the windows of all its
/// streams; otherwise clients that read nothing would stop the others.
const WINDOWS: (u32, u32) = (256 << 10, USERS_MAX as u32 * (256 << 10));

/// Interval and timeout of the pings on an HTTP/2 connection with requests under way.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

/// Shared HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct SharedConnection {
    pub(crate) sender: http2::SendRequest<RequestBody>,
    user: SharedUse,
    /// Number of requests at once that the instance allows (SETTINGS_MAX_CONCURRENT_STREAMS); [`USERS_MAX`] until the
    /// instance has sent its settings.
    allowed: Arc<AtomicUsize>,
}

impl SharedConnection {
    /// Returns whether another request fits, so that no request waits behind others. The pool itself holds one count.
    pub(crate) fn has_room(&self) -> bool {
        let most = self.allowed.load(Ordering::Relaxed).min(USERS_MAX);
        !self.sender.is_closed() && Arc::strong_count(&self.user) <= most
    }
}

/// Allocation of another machine.
pub(crate) struct TunnelledAllocation {
    /// Name of the allocation.
    pub(crate) name: HeaderValue,
    pub(crate) protocol: AppProtocol,
}

/// Connection on which a request is sent.
pub(crate) enum InstanceConnection {
    Http1(Http1Connection),
    Http2(SharedConnection),
    /// To another machine's router, for one of its allocations.
    Tunnel(PeerConnection, TunnelledAllocation),
}

impl InstanceConnection {
    /// Returns whether the connection leads to another machine's router.
    pub(crate) fn is_tunnel(&self) -> bool {
        matches!(self, Self::Tunnel(..))
    }

    /// Starts `protocol` on a new connection.
    pub(crate) async fn begin(stream: TcpStream, protocol: AppProtocol) -> hyper::Result<Self> {
        if protocol == AppProtocol::Http1 {
            return Ok(InstanceConnection::Http1(Http1Connection::new(stream)));
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .initial_max_send_streams(USERS_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let allowed = Arc::new(AtomicUsize::new(USERS_MAX));
        let published = Arc::clone(&allowed);
        #[expect(clippy::disallowed_methods, reason = "the requests of the connection see its end")]
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            // Each new request polls the connection.
            let _ = std::future::poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                published.store(connection.current_max_send_streams(), Ordering::Relaxed);
                polled
            })
            .await;
        });
        Ok(InstanceConnection::Http2(SharedConnection { sender, user: SharedUse::default(), allowed }))
    }

    /// Sends a request that is written already, and waits for the head of its response. Only instances that speak
    /// HTTP/1.1 get such requests.
    pub(crate) async fn send_written(
        self,
        request: &WrittenRequest,
        interims: &dyn InterimSink,
    ) -> Result<Response<InstanceBody>, SendFailure> {
        match self {
            InstanceConnection::Http1(wire) => {
                let response = wire.send_written(&request.bytes, &request.method, Some(interims)).await?;
                Ok(response.map(InstanceBody::Http1))
            }
            InstanceConnection::Http2(_) | InstanceConnection::Tunnel(..) => {
                Err(SendFailure::Unsent(RequestBody::None))
            }
        }
    }

    /// Sends a request, and waits for the head of its response.
    pub(crate) async fn send_request(
        self,
        request: &Parts,
        body: RequestBody,
        interims: Option<&dyn InterimSink>,
    ) -> Result<Response<InstanceBody>, SendFailure> {
        let SharedConnection { mut sender, user, .. } = match self {
            InstanceConnection::Http1(wire) => {
                return Ok(wire.send_request(request, body, interims).await?.map(InstanceBody::Http1));
            }
            InstanceConnection::Http2(shared) => shared,
            InstanceConnection::Tunnel(connection, allocation) => {
                let TunnelledAllocation { name, protocol } = allocation;
                let is_short = protocol == AppProtocol::Http1;
                if let Some(exchange) = is_short.then(|| connection.begin_exchange(request, &name, &body)).flatten() {
                    let response = connection.send_on_lane(exchange, request, body, interims).await?;
                    return Ok(response.map(|body| InstanceBody::Lane(Box::new(body))));
                }
                let response = connection.send_request(request, &name, body, interims).await?;
                return Ok(response.map(|body| InstanceBody::Tunnel(Box::new(body))));
            }
        };
        match sender.try_send_request(in_http2(request, body)).await {
            Ok(response) => Ok(response.map(|body| InstanceBody::Http2 { body, _user: user })),
            Err(mut error) => Err(match (error.take_message(), error.into_error()) {
                (Some(unsent), _) => SendFailure::Unsent(unsent.into_body()),
                // A user error of hyper is a failed request body here, and the body comes from the client.
                (None, error) if error.is_user() => SendFailure::Client(error.to_string()),
                (None, error) => SendFailure::Sent(error.to_string()),
            }),
        }
    }
}

/// Turns the request into its HTTP/2 form: host and scheme in the URI, and `TE: trailers`, as gRPC requires.
fn in_http2(request: &Parts, body: RequestBody) -> Request<RequestBody> {
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
