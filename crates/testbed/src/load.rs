//! Load on one address of this machine: half of the clients keep their connection, half make a new one for each request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

/// The longest that a request may take: longer than the router lets one wait.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Reasons that are kept.
const REASONS: usize = 10;

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
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Requests.
    pub sent: u64,
    /// Those without a good answer.
    pub failed: u64,
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
    awaited_at: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

impl Load {
    /// Begins with `clients` clients, each pausing a little between requests; `limit` bounds it in time.
    ///
    /// # Panics
    /// When the address is not this machine's own.
    #[must_use]
    pub fn begin(target: &Target, clients: usize, limit: Duration) -> Self {
        assert!(target.address.ip().is_loopback(), "load is for this machine alone");
        let shared = Arc::new(Shared::default());
        let clients = (0..clients)
            .map(|number| {
                let client = Client { target: target.clone(), keep: number % 2 == 0, shared: Arc::clone(&shared) };
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
            awaited_at: (awaited > 0).then_some(awaited),
            reasons: self.shared.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

struct Client {
    target: Target,
    keep: bool,
    shared: Arc<Shared>,
}

type Connection = SendRequest<Empty<Bytes>>;

impl Client {
    async fn run(self) {
        let mut kept: Option<Connection> = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let outcome = tokio::time::timeout(TIMEOUT, self.request(kept.take())).await;
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(Ok(connection)) => kept = connection.filter(|_| self.keep),
                Ok(Err(error)) => self.failed(error.to_string()),
                Err(_) => self.failed("no answer in 40 s".to_owned()),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn failed(&self, reason: String) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.shared.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() < REASONS {
            reasons.push(reason);
        }
    }

    /// One request; the connection, if it may be used again.
    async fn request(&self, kept: Option<Connection>) -> anyhow::Result<Option<Connection>> {
        // A server may close a connection between requests; a client sees that before it asks again.
        let mut usable = None;
        if let Some(mut kept) = kept
            && kept.ready().await.is_ok()
        {
            usable = Some(kept);
        }
        let mut connection = match usable {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let request = http::Request::get(self.target.path.as_str())
            .header(http::header::HOST, &self.target.host)
            .body(Empty::<Bytes>::new())?;
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        let closes = answer.headers().get(http::header::CONNECTION).is_some_and(|value| value == "close");
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "status {status}: {}", String::from_utf8_lossy(&body).trim());
        if let Some(text) = &self.target.awaited
            && String::from_utf8_lossy(&body).contains(text.as_str())
        {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let now = u64::try_from(now).unwrap_or(u64::MAX);
            let _ = self.shared.awaited_at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
        Ok((!closes).then_some(connection))
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
