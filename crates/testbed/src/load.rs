//! Load on one address of this machine, of every kind that a browser or program makes. Each client has one kind.

use std::net::SocketAddr;
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

/// The longest that a request may take: longer than the router lets one wait.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Bytes of a body that is posted.
const POSTED: usize = 20_000;

/// Reasons that are kept.
const REASONS: usize = 10;

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// HTTP/1.1 on one kept connection.
    Keep,
    /// HTTP/1.1, a new connection for each request.
    Fresh,
    /// HTTP/2, many requests on one connection.
    Http2,
    /// HTTP/1.1 with a body that is echoed: wants an app that does.
    Post,
    /// A stream of server-sent events from `/events`, to its end.
    Events,
    /// A websocket at `/socket` whose messages are echoed. That it is closed is no failure if it is told so, by a close frame
    /// between two others; that it just ends is one.
    Socket,
}

/// The kinds that any app answers.
pub const PLAIN: [Kind; 3] = [Kind::Keep, Kind::Fresh, Kind::Http2];

/// Every kind.
pub const ALL: [Kind; 6] = [Kind::Keep, Kind::Fresh, Kind::Http2, Kind::Post, Kind::Events, Kind::Socket];

/// What is asked, and of whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// On this machine.
    pub address: SocketAddr,
    /// The host name.
    pub host: String,
    /// The path.
    pub path: String,
    /// A text that only the new release's page has.
    pub awaited: Option<String>,
    /// What the clients are, in turn.
    pub kinds: Vec<Kind>,
    /// Between two requests of a client.
    pub pause: Duration,
}

impl Target {
    /// The front page of `shop.localhost` on a port of this machine.
    #[must_use]
    pub fn shop(port: u16, kinds: &[Kind], pause: Duration) -> Self {
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

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Requests.
    pub sent: u64,
    /// Those without a good answer.
    pub failed: u64,
    /// Those that went once more, on a new connection: the one before ended and had not begun with them.
    pub again: u64,
    /// When the awaited text first came, in Unix milliseconds.
    pub awaited_at: Option<u64>,
    /// Why some failed.
    pub reasons: Vec<String>,
}

/// Load under way.
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
    /// Begins with `clients` clients, each pausing a little between requests; `limit` bounds it in time.
    ///
    /// # Panics
    /// When the address is not this machine's own, or there are no kinds.
    #[must_use]
    pub fn begin(target: &Target, clients: usize, limit: Duration) -> Self {
        assert!(target.address.ip().is_loopback(), "load is for this machine alone");
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

    /// Requests that were answered so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Lets the requests under way end, and tells what came of all.
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

struct Client {
    target: Target,
    kind: Kind,
    shared: Arc<Shared>,
}

type Body = Full<Bytes>;

/// A connection that may be used again.
enum Connection {
    One(http1::SendRequest<Body>),
    Many(http2::SendRequest<Body>),
}

/// Why there is no answer.
struct Refused {
    error: hyper::Error,
    /// The request never left.
    unsent: bool,
}

impl Refused {
    /// It never left, or came after the last one that a server which ends takes (RFC 9113, section 6.8).
    fn was_not_begun(&self) -> bool {
        let source = std::error::Error::source(&self.error);
        let said = source.and_then(|source| source.downcast_ref::<h2::Error>());
        let goes =
            |said: &h2::Error| said.is_go_away() && said.is_remote() && said.reason() == Some(h2::Reason::NO_ERROR);
        self.unsent || said.is_some_and(goes)
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
        if self.kind == Kind::Socket {
            return self.sockets().await;
        }
        let mut kept: Option<Connection> = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let outcome = tokio::time::timeout(TIMEOUT, self.request(kept.take())).await;
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(Ok(connection)) => kept = connection.filter(|_| self.kind != Kind::Fresh),
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

    /// One request; the connection, if it may be used again.
    async fn request(&self, kept: Option<Connection>) -> anyhow::Result<Option<Connection>> {
        let (mut connection, is_kept) = match usable(kept).await {
            Some(kept) => (kept, true),
            None => (self.connect().await.context("connecting")?, false),
        };
        let mut answer = connection.send(self.message()?).await;
        // What a connection that is just ending did not begin with goes on a new one, as any client has it.
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
            Kind::Post => anyhow::ensure!(body.len() == POSTED, "{} bytes came back of {POSTED}", body.len()),
            Kind::Events => anyhow::ensure!(text.ends_with("data: end\n\n"), "the stream ended early: {text:?}"),
            _ => self.look_for_awaited(&text),
        }
        Ok((!closes).then_some(connection))
    }

    fn message(&self) -> anyhow::Result<http::Request<Body>> {
        let Target { host, path, .. } = &self.target;
        let builder = match self.kind {
            Kind::Http2 => return Ok(http::Request::get(format!("http://{host}{path}")).body(Body::default())?),
            Kind::Post => http::Request::post(path.as_str()),
            Kind::Events => http::Request::get("/events"),
            _ => http::Request::get(path.as_str()),
        };
        let body = if self.kind == Kind::Post { Body::from(vec![b'x'; POSTED]) } else { Body::default() };
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
        if self.kind == Kind::Http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            return Ok(Connection::Many(sender));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Connection::One(sender))
    }

    /// Websockets, one after the other; each message is a request.
    async fn sockets(&self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match tokio::time::timeout(TIMEOUT, self.socket()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.failed(&format!("{error:#}")),
                Err(_) => self.failed("no answer in 40 s"),
            }
        }
    }

    /// One websocket for up to two seconds.
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
            // A masked text frame of four bytes, its mask zero (RFC 6455, section 5.2).
            let message = [0x81, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g'];
            // After a farewell the other side may no longer read; what it said is read all the same.
            let _ = stream.write_all(&message).await;
            let mut head = [0; 2];
            stream.read_exact(&mut head).await.context("a websocket ended without a farewell")?;
            let mut text = vec![0; usize::from(head[1] & 0x7f)];
            stream.read_exact(&mut text).await.context("a websocket ended within a frame")?;
            match (head[0], text.as_slice()) {
                (0x81, b"ping") => {}
                // Going away (RFC 6455, section 7.4.1).
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

/// The kept connection, if it is still good: a server may close one between requests, and a client sees that before it
/// asks again.
async fn usable(kept: Option<Connection>) -> Option<Connection> {
    match kept? {
        Connection::One(mut sender) => sender.ready().await.is_ok().then_some(Connection::One(sender)),
        Connection::Many(mut sender) => sender.ready().await.is_ok().then_some(Connection::Many(sender)),
    }
}

/// An error with everything behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
