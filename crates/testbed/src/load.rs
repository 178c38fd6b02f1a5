//! Load on one address of this computer, with the kinds of requests that browsers and programs send. Each client sends
//! one kind.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Timeout of a request, longer than the router lets a request wait.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Size of a posted body in bytes.
const POSTED: usize = 20_000;

/// Number of failure reasons kept.
const REASONS: usize = 10;

/// Kind of requests that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LoadKind {
    /// HTTP/1.1 on one kept connection.
    Keep,
    /// HTTP/1.1, a new connection for each request.
    Fresh,
    /// HTTP/2, many requests on one connection.
    Http2,
    /// HTTP/1.1 with a body; the app must echo the body.
    Post,
    /// A stream of server-sent events from `/events`, to its end.
    Events,
    /// A websocket at `/socket` whose messages are echoed. A close frame between two other frames is no failure; a
    /// connection that ends without a close frame is a failure.
    Socket,
}

/// The kinds that any app can serve.
pub const PLAIN: [LoadKind; 3] = [LoadKind::Keep, LoadKind::Fresh, LoadKind::Http2];

/// Every kind.
pub const ALL: [LoadKind; 6] =
    [LoadKind::Keep, LoadKind::Fresh, LoadKind::Http2, LoadKind::Post, LoadKind::Events, LoadKind::Socket];

/// Target of the load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Address on this machine.
    pub address: SocketAddr,
    /// Host name of the app.
    pub host: String,
    /// Path of the requests.
    pub path: String,
    /// Text that only the new release's page contains.
    pub awaited: Option<String>,
    /// Kinds of the clients, assigned in turn.
    pub kinds: Vec<LoadKind>,
    /// Pause between two requests of a client.
    pub pause: Duration,
}

impl Target {
    /// Returns the front page of `shop.localhost` on a port of this machine.
    #[must_use]
    pub fn shop(port: u16, kinds: &[LoadKind], pause: Duration) -> Self {
        Self {
            address: ([127, 0, 0, 1], port).into(),
            host: "shop.localhost".to_owned(),
            path: "/".to_owned(),
            awaited: None,
            kinds: kinds.to_vec(),
            pause,
        }
    }
}

/// Result of the load.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Number of requests sent.
    pub sent: u64,
    /// Number of requests without a valid response.
    pub failed: u64,
    /// Number of requests sent again on a new connection. The first connection ended before the server processed the
    /// request.
    pub again: u64,
    /// Time when the awaited text first arrived, in Unix milliseconds.
    pub awaited_at: Option<u64>,
    /// Reasons of the first failures.
    pub reasons: Vec<String>,
}

/// Running load.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    failed: AtomicU64,
    again: AtomicU64,
    awaited_at: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

impl Load {
    /// Starts `clients` clients that pause between requests. `limit` bounds their run time.
    ///
    /// # Panics
    /// If the address may be of another computer, or if the target has no kinds.
    #[must_use]
    pub fn begin(target: &Target, clients: usize, limit: Duration) -> Self {
        assert!(is_of_this_computer(target.address.ip()), "load is for this computer alone");
        let shared = Arc::new(Shared::default());
        let clients = (0..clients)
            .map(|number| {
                let client = Client {
                    target: target.clone(),
                    kind: target.kinds[number % target.kinds.len()],
                    shared: Arc::clone(&shared),
                };
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(limit, client.run()).await;
                })
            })
            .collect();
        Self { shared, clients }
    }

    /// Returns the number of completed requests so far, including failures.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Waits for the requests in progress, then returns the report.
    pub async fn end(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let _ = client.await;
        }
        let awaited = self.shared.awaited_at.load(Ordering::Relaxed);
        Report {
            sent: self.shared.sent.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            again: self.shared.again.load(Ordering::Relaxed),
            awaited_at: (awaited > 0).then_some(awaited),
            reasons: self.shared.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Reports whether an address is a loopback address, or one of the range for tests that fleets use (RFC 2544).
fn is_of_this_computer(address: IpAddr) -> bool {
    let is_for_tests = |address: Ipv4Addr| address.octets()[0] == 198 && address.octets()[1] & 0xfe == 18;
    address.is_loopback() || matches!(address, IpAddr::V4(address) if is_for_tests(address))
}

struct Client {
    target: Target,
    kind: LoadKind,
    shared: Arc<Shared>,
}

type Body = Full<Bytes>;

/// A reusable connection.
enum Connection {
    One(http1::SendRequest<Body>),
    Many(http2::SendRequest<Body>),
}

/// Failure to get a response.
struct Refused {
    error: hyper::Error,
    /// True if the request was never sent.
    unsent: bool,
}

impl Refused {
    /// Returns whether the server never processed the request. Either the request was never sent, or the server's
    /// GOAWAY excluded the request (RFC 9113, section 6.8).
    fn was_not_begun(&self) -> bool {
        let source = std::error::Error::source(&self.error);
        let h2_error = source.and_then(|source| source.downcast_ref::<h2::Error>());
        let goes = |h2_error: &h2::Error| {
            h2_error.is_go_away() && h2_error.is_remote() && h2_error.reason() == Some(h2::Reason::NO_ERROR)
        };
        self.unsent || h2_error.is_some_and(goes)
    }
}

impl Connection {
    async fn send(&mut self, request: http::Request<Body>) -> Result<http::Response<hyper::body::Incoming>, Refused> {
        let sent = match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Many(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| Refused { unsent: error.take_message().is_some(), error: error.into_error() })
    }
}

impl Client {
    async fn run(self) {
        if self.kind == LoadKind::Socket {
            return self.sockets().await;
        }
        let mut kept: Option<Connection> = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let outcome = tokio::time::timeout(TIMEOUT, self.request(kept.take())).await;
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(Ok(connection)) => kept = connection.filter(|_| self.kind != LoadKind::Fresh),
                Ok(Err(error)) => self.failed(&format!("{error:#}")),
                Err(_) => self.failed("no answer in 40 s"),
            }
            tokio::time::sleep(self.target.pause).await;
        }
    }

    fn failed(&self, reason: &str) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.shared.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() < REASONS {
            reasons.push(format!("{:?}: {reason}", self.kind));
        }
    }

    /// Sends one request. Returns the connection if it is reusable.
    async fn request(&self, kept: Option<Connection>) -> anyhow::Result<Option<Connection>> {
        let (mut connection, is_kept) = match usable(kept).await {
            Some(kept) => (kept, true),
            None => (self.connect().await.context("connecting")?, false),
        };
        let mut answer = connection.send(self.message()?).await;
        // Like any client, sends a request again on a new connection if the old connection closed before the server
        // processed the request.
        if is_kept && answer.as_ref().is_err_and(Refused::was_not_begun) {
            self.shared.again.fetch_add(1, Ordering::Relaxed);
            connection = self.connect().await.context("connecting")?;
            answer = connection.send(self.message()?).await;
        }
        let answer = answer.map_err(|Refused { error, .. }| anyhow::anyhow!("no answer: {}", causes(&error)))?;
        let status = answer.status();
        let closes = answer.headers().get(http::header::CONNECTION).is_some_and(|value| value == "close");
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer was cut: {}", causes(&error)))?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        anyhow::ensure!(status.is_success(), "status {status}: {}", text.trim());
        match self.kind {
            LoadKind::Post => anyhow::ensure!(body.len() == POSTED, "{} bytes came back of {POSTED}", body.len()),
            LoadKind::Events => anyhow::ensure!(text.ends_with("data: end\n\n"), "the stream ended early: {text:?}"),
            _ => self.look_for_awaited(&text),
        }
        Ok((!closes).then_some(connection))
    }

    fn message(&self) -> anyhow::Result<http::Request<Body>> {
        let Target { host, path, .. } = &self.target;
        let builder = match self.kind {
            LoadKind::Http2 => return Ok(http::Request::get(format!("http://{host}{path}")).body(Body::default())?),
            LoadKind::Post => http::Request::post(path.as_str()),
            LoadKind::Events => http::Request::get("/events"),
            _ => http::Request::get(path.as_str()),
        };
        let body = if self.kind == LoadKind::Post { Body::from(vec![b'x'; POSTED]) } else { Body::default() };
        Ok(builder.header(http::header::HOST, host).body(body)?)
    }

    fn look_for_awaited(&self, text: &str) {
        if self.target.awaited.as_ref().is_some_and(|awaited| text.contains(awaited.as_str())) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let now = u64::try_from(now).unwrap_or(u64::MAX);
            let _ = self.shared.awaited_at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        if self.kind == LoadKind::Http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            return Ok(Connection::Many(sender));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Connection::One(sender))
    }

    /// Opens websockets one after the other; each message counts as a request.
    async fn sockets(&self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match tokio::time::timeout(TIMEOUT, self.socket()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.failed(&format!("{error:#}")),
                Err(_) => self.failed("no answer in 40 s"),
            }
        }
    }

    /// Uses one websocket for up to two seconds.
    async fn socket(&self) -> anyhow::Result<()> {
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        let Connection::One(mut sender) = self.connect().await.context("connecting")? else {
            anyhow::bail!("a websocket over HTTP/2");
        };
        let request = http::Request::get("/socket")
            .header(http::header::HOST, &self.target.host)
            .header(http::header::CONNECTION, "Upgrade")
            .header(http::header::UPGRADE, "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")
            .body(Body::default())?;
        let answer = sender.send_request(request).await.context("no answer to an upgrade")?;
        anyhow::ensure!(answer.status() == 101, "an upgrade was answered with {}", answer.status());
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.context("not upgraded")?);
        for _ in 0..20 {
            // A masked text frame of four bytes with a mask of zero (RFC 6455, section 5.2).
            let message = [0x81, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g'];
            // After its close frame the peer may no longer read, but its last frames are still read here.
            let _ = stream.write_all(&message).await;
            let mut head = [0; 2];
            stream.read_exact(&mut head).await.context("a websocket ended without a farewell")?;
            let mut text = vec![0; usize::from(head[1] & 0x7f)];
            stream.read_exact(&mut text).await.context("a websocket ended within a frame")?;
            match (head[0], text.as_slice()) {
                (0x81, b"ping") => {}
                // Close code "going away" (RFC 6455, section 7.4.1).
                (0x88, [0x03, 0xe9, ..]) => return Ok(()),
                _ => anyhow::bail!("a message came back as {head:?} {text:?}"),
            }
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            if self.shared.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// Returns the kept connection if it is still usable. A server may close a connection between requests, and a client
/// notices before its next request.
async fn usable(kept: Option<Connection>) -> Option<Connection> {
    match kept? {
        Connection::One(mut sender) => sender.ready().await.is_ok().then_some(Connection::One(sender)),
        Connection::Many(mut sender) => sender.ready().await.is_ok().then_some(Connection::Many(sender)),
    }
}

/// Formats an error with all its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
