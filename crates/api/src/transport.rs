//! The connections of a client: plain, or TLS to one of several servers.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tower_service::Service;

/// Timeout of a connection to one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Head start of a server before the next one is tried beside it. A machine that is off refuses no connection.
const HEAD_START: Duration = Duration::from_millis(300);

/// Keepalive of a connection: the time without a packet of the server after which the kernel probes whether its machine
/// lives, the interval of the probes, and the number of probes without an answer that ends the connection. A server that
/// lives answers each probe, however long a response or the next line of a stream takes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// The servers of a cluster, and how a client verifies them. Clones share the list of servers.
#[derive(Clone)]
pub struct Servers(Arc<Shared>);

struct Shared {
    /// Addresses, each `host:port`.
    addresses: RwLock<Vec<String>>,
    /// Place of the server that was reached last.
    preferred: AtomicUsize,
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Servers {
    /// Names the servers, each `host:port`; the TLS configuration; and the name that their certificates have.
    #[must_use]
    pub fn new(addresses: Vec<String>, tls: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        let (addresses, preferred) = (RwLock::new(addresses), AtomicUsize::new(0));
        Self(Arc::new(Shared { addresses, preferred, tls: tls.into(), name }))
    }

    /// The servers' addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.0.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a new list of servers, unless the list is empty. Open connections stay.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        if !addresses.is_empty() {
            *self.0.addresses.write().unwrap_or_else(PoisonError::into_inner) = addresses;
        }
    }

    /// Connects to the first server that can be reached, beginning with the one that was reached last.
    async fn connect(self) -> io::Result<Stream> {
        let addresses = self.addresses();
        let first = self.0.preferred.load(Ordering::Relaxed);
        let attempt = |place: usize| {
            let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect_to(&addresses[place]));
            let timeout = || io::Error::new(io::ErrorKind::TimedOut, "no connection in 3 s");
            async move { (place, connecting.await.unwrap_or_else(|_| Err(timeout()))) }
        };
        let mut places = (0..addresses.len()).map(|n| first.wrapping_add(n) % addresses.len()).peekable();
        let mut attempts = FuturesUnordered::new();
        let mut failure = io::Error::other("the cluster has no server");
        loop {
            attempts.extend(places.next().map(&attempt));
            let head_start = if places.peek().is_some() { HEAD_START } else { CONNECT_TIMEOUT * 2 };
            match tokio::time::timeout(head_start, attempts.next()).await {
                Ok(Some((place, Ok(stream)))) => {
                    self.0.preferred.store(place, Ordering::Relaxed);
                    return Ok(Stream::Tls(Box::new(stream)));
                }
                Ok(Some((_, Err(error)))) => failure = error,
                Ok(None) => return Err(failure),
                Err(_) => {}
            }
        }
    }

    /// Connects, and returns the certificates that the server shows.
    ///
    /// # Errors
    /// The failure of the connection to the last server.
    pub async fn certificates(&self) -> io::Result<Vec<CertificateDer<'static>>> {
        match self.clone().connect().await? {
            Stream::Tls(stream) => Ok(stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec()),
            Stream::Plain(_) => Ok(Vec::new()),
        }
    }

    async fn connect_to(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        self.0.tls.connect(self.0.name.clone(), stream).await
    }
}

/// Has the kernel end a connection whose server's machine is gone.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, probes) = KEEPALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    Ok(sockopt::set_tcp_keepcnt(stream, probes)?)
}

/// Opens connections.
#[derive(Clone)]
pub(crate) enum Connector {
    Plain(HttpConnector),
    Tls(Servers),
}

type ConnectError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        match self {
            Self::Plain(connector) => connector.poll_ready(cx).map_err(Into::into),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Plain(connector) => {
                let connecting = connector.call(uri);
                Box::pin(async move {
                    let stream = connecting.await?.into_inner();
                    keep_alive(&stream)?;
                    Ok(TokioIo::new(Stream::Plain(stream)))
                })
            }
            Self::Tls(servers) => {
                let connecting = servers.clone().connect();
                Box::pin(async move { Ok(TokioIo::new(connecting.await?)) })
            }
        }
    }
}

/// A connection.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_ends_a_connection_without_a_server_within_half_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let uri = format!("http://{address}").parse().expect("a URI");
        let connection = Connector::Plain(HttpConnector::new()).call(uri).await.expect("connected");
        let Stream::Plain(stream) = connection.into_inner() else { panic!("a plain connection") };
        assert!(sockopt::socket_keepalive(&stream).expect("an option"));
        let idle = sockopt::tcp_keepidle(&stream).expect("an option");
        let interval = sockopt::tcp_keepintvl(&stream).expect("an option");
        let probes = sockopt::tcp_keepcnt(&stream).expect("an option");
        assert!(idle + probes * interval <= Duration::from_secs(30), "{idle:?} {interval:?} {probes}");
    }
}
