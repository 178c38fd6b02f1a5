//! The connection between the server and an agent or a router: HTTP/2 inside an upgraded request.
//!
//! The upgraded request authenticates the peer. Keepalive messages of HTTP/2 detect a peer that is gone without a word.

use std::convert::Infallible;
use std::time::Duration;

use gantry_api::{Client, ClientError};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::JoinHandle;

use crate::lines::{self, LineReceiver, LineSender};
use crate::message::{Hello, PeerMessage, ServerMessage, Welcome};

/// The server's interval of keepalive messages, and the longest time without their acknowledgement.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The same of agents and routers. They notice the loss of the leader's machine while the next leader begins.
const PEER_KEEPALIVE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(3)];

/// Timeout of the connection and of the first messages.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of streams of one connection at once.
const STREAMS_MAX: u32 = 64;

/// End of a connection, or failure to open one.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The API refused the connection, or is unreachable.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// The agent does not know its machine.
    #[error("cannot read the machine's id and capacity")]
    Machine(#[source] std::io::Error),
    /// The connection failed.
    #[error("the control connection failed")]
    Connection(#[source] hyper::Error),
    /// The connection ended.
    #[error("the control connection ended")]
    Ended,
    /// The peer does not read.
    #[error("the peer of the control connection has not read a message for 10 s")]
    Slow,
    /// The peer is silent.
    #[error("the peer of the control connection sent no first message within 10 s")]
    Silent,
    /// A message cannot be written or read.
    #[error("invalid control message")]
    Message(#[source] serde_json::Error),
    /// A message is too large.
    #[error("a control message is larger than 64 MiB")]
    TooLarge,
    /// The server refuses the peer.
    #[error("the server refuses the control connection: {0}")]
    Refused(String),
    /// The peer sent something else than its first message.
    #[error("the control connection began with another message than expected")]
    Greeting,
}

/// Both directions of a stream.
#[derive(Debug)]
pub struct LinkStream {
    /// Sends messages.
    pub sender: LineSender,
    /// Receives messages.
    pub receiver: LineReceiver,
}

/// Connection of an agent or a router to the server. Dropping it closes the connection.
#[derive(Debug)]
pub struct Connection {
    /// The stream of messages.
    pub stream: LinkStream,
    /// The server's first message.
    pub welcome: Welcome,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects to the server, and agrees on a version.
///
/// # Errors
/// [`LinkError`].
pub async fn connect(client: &Client, path: &str, hello: Hello) -> Result<Connection, LinkError> {
    let session = client.session(path, bytes::Bytes::new()).await?;
    let builder = {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let [interval, timeout] = PEER_KEEPALIVE;
        let builder_ref = builder.timer(TokioTimer::new()).keep_alive_interval(interval);
        builder_ref.keep_alive_timeout(timeout).keep_alive_while_idle(true);
        builder
    };
    let greeting = async {
        let (mut requests, connection) =
            builder.handshake(TokioIo::new(session)).await.map_err(LinkError::Connection)?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        let (sender, body) = lines::channel();
        // The server answers the stream at once; its first message follows the peer's.
        let request = Request::builder().method(Method::POST).uri("http://server/control").body(body);
        let request = request.map_err(|_| LinkError::Greeting)?;
        let stream = async {
            sender.send(&PeerMessage::Hello(hello)).await?;
            let response = requests.send_request(request).await.map_err(LinkError::Connection)?;
            let mut receiver = LineReceiver::new(response.into_body());
            match receiver.next().await? {
                Some(ServerMessage::Welcome(welcome)) => Ok((LinkStream { sender, receiver }, welcome)),
                Some(ServerMessage::Refused { reason }) => Err(LinkError::Refused(reason)),
                _ => Err(LinkError::Greeting),
            }
        };
        match stream.await {
            Ok((stream, welcome)) => Ok(Connection { stream, welcome, driver }),
            Err(error) => {
                driver.abort();
                Err(error)
            }
        }
    };
    tokio::time::timeout(GREETING_TIMEOUT, greeting).await.map_err(|_| LinkError::Silent)?
}

/// Serves the upgraded connection of an agent or a router until it ends. `serve` starts a task for each stream of
/// messages.
pub async fn accept(connection: Upgraded, serve: impl Fn(LinkStream) + Send + 'static) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (sender, body) = lines::channel();
        let receiver = LineReceiver::new(request.into_body());
        serve(LinkStream { sender, receiver });
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE);
    builder.max_concurrent_streams(STREAMS_MAX);
    let _ = builder.serve_connection(connection, service).await;
}

/// Receives the first message of an agent or a router.
///
/// # Errors
/// [`LinkError`] if none arrives in time, or another message.
pub async fn receive_hello(stream: &mut LinkStream) -> Result<Hello, LinkError> {
    let first = tokio::time::timeout(GREETING_TIMEOUT, stream.receiver.next()).await.map_err(|_| LinkError::Silent)?;
    match first? {
        Some(PeerMessage::Hello(hello)) => Ok(hello),
        None => Err(LinkError::Ended),
        Some(_) => Err(LinkError::Greeting),
    }
}
