//! Client connections: plain and TLS, HTTP/1.1 and HTTP/2, from accept to drain. hyper serves HTTP/1.1; `http2` serves
//! HTTP/2.

mod date;
mod http2;

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::client::body::ClientBody;
use crate::client::peer::ClientPeer;
use crate::client::stream::{ClientStream, HttpVersion};
use crate::client::{proxy_protocol, tls};
use crate::error::RouterError;
use crate::exchange::router_state::RouterState;
use crate::exchange::serve::serve;
use crate::threads::ServingThreads;
use crate::timer::HeadTimer;
use crate::tunnel_listener::serve::TunnelListener;
use crate::upstream::http1::head::HEAD_MAX;
use crate::{tunnel, virtual_address};

/// Longest time that a client may take for a TLS handshake, for the headers of a request, and between two requests.
/// This timeout exceeds the minute for which proxies keep connections. Otherwise a proxy might send a request while the
/// router closes the connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest time for which a client may leave sent data unacknowledged.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(120);

/// Time for which an idle connection survives the start of a shutdown, so that its client can send one more request and
/// learn to reconnect.
const IDLE_LINGER: Duration = Duration::from_secs(5);

/// Pause after a failed accept, such as one with too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listening sockets of the router.
#[derive(Debug)]
pub struct Listeners {
    /// Socket for HTTP.
    pub plain: std::net::TcpListener,
    /// Socket for HTTPS; requires a certificate.
    pub secure: Option<std::net::TcpListener>,
    /// Socket for tunnels of other machines' routers; requires the machine's credentials.
    pub tunnel: Option<std::net::TcpListener>,
}

/// Listening sockets and open connections.
pub(crate) struct ClientListener {
    router: Arc<RouterState>,
    plain: TcpListener,
    secure: Option<(TcpListener, TlsAcceptor)>,
    tunnel: Option<TunnelListener>,
    /// Tells the connections that the router shuts down. Each open connection has a receiver.
    ending: watch::Sender<()>,
    threads: ServingThreads,
}

impl ClientListener {
    pub(crate) fn open(router: &Arc<RouterState>, listeners: Listeners) -> Result<Self, RouterError> {
        let plain = listening(listeners.plain)?;
        let secure = match (listeners.secure, &router.settings.certificate) {
            (Some(listener), Some((chain, key))) => Some((listening(listener)?, tls::acceptor(chain, key)?)),
            _ => None,
        };
        let tunnel = match (listeners.tunnel, &router.settings.credentials) {
            (Some(listener), Some(credentials)) => {
                let acceptor = TlsAcceptor::from(credentials.server_config(&[tunnel::ALPN])?);
                Some(TunnelListener::new(listening(listener)?, acceptor))
            }
            _ => None,
        };
        tracing::info!(address = ?plain.local_addr().ok(), files = gantry_linux::process::open_files(), "routing");
        let threads = ServingThreads::start().map_err(RouterError::Threads)?;
        Ok(Self { router: Arc::clone(router), plain, secure, tunnel, ending: watch::Sender::default(), threads })
    }

    /// Accepts connections until `shutdown`.
    pub(crate) async fn serve_until(&self, shutdown: impl Future<Output = ()> + Send) {
        let secure = async {
            match &self.secure {
                Some((listener, acceptor)) => self.accept(listener, Some(acceptor)).await,
                None => std::future::pending().await,
            }
        };
        let tunnels = async {
            match &self.tunnel {
                Some(listener) => listener.accept(&self.router, &self.threads).await,
                None => std::future::pending().await,
            }
        };
        let services = async {
            match (&self.router.settings.credentials, self.router.settings.resolver) {
                (Some(_), Some(gateway)) => virtual_address::accept(&self.router, &self.threads, gateway).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = services => {}
            () = self.accept(&self.plain, None) => {}
            () = secure => {}
            () = tunnels => {}
            () = shutdown => {}
        }
    }

    async fn accept(&self, listener: &TcpListener, tls: Option<&TlsAcceptor>) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    gantry_linux::connection::set_stream_options(&stream, Some(UNACKNOWLEDGED_MAX));
                    // The runtime of the serving thread has to register the socket.
                    if let Ok(stream) = stream.into_std() {
                        self.connection(stream, peer, tls.cloned());
                    }
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Serves a connection in its own task. The connection counts from here on, so that a drain also waits for a
    /// handshake.
    fn connection(&self, stream: std::net::TcpStream, address: SocketAddr, tls: Option<TlsAcceptor>) {
        let router = Arc::clone(&self.router);
        let ending = self.ending.subscribe();
        let from_proxy = router.routes.now().table.trusted_proxies.contains(address.ip());
        self.threads.spawn(async move {
            let Ok(mut stream) = TcpStream::from_std(stream) else { return };
            let mut peer = ClientPeer::new(address.ip(), tls.is_some());
            // The rare and large parts are in boxes: the task of a connection is as large as its largest part.
            if from_proxy {
                match Box::pin(proxy_protocol::take(&mut stream, HEADER_TIMEOUT)).await {
                    Ok(Some(preamble)) => {
                        peer = ClientPeer::new(preamble.client.unwrap_or(address.ip()), tls.is_some() || preamble.tls);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%address, %error, "closing a connection with a bad PROXY protocol preamble");
                        return;
                    }
                }
            }
            match tls {
                None => serve_stream(router, peer, stream, true, ending).await,
                Some(acceptor) => {
                    let accepting = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream));
                    if let Ok(Ok(stream)) = Box::pin(accepting).await {
                        Box::pin(serve_stream(router, peer, stream, false, ending)).await;
                    }
                }
            }
        });
    }

    /// Stops accepting. Each connection ends with its next response; idle connections end after [`IDLE_LINGER`].
    pub(crate) async fn drain(self, timeout: Duration) {
        drop((self.plain, self.secure));
        let tunnels = self.tunnel.map(TunnelListener::stop);
        self.router.ending.store(true, Ordering::Relaxed);
        let until = tokio::time::Instant::now() + IDLE_LINGER;
        while self.ending.receiver_count() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        // Tunnels learn of the shutdown, each at a random moment.
        self.router.routes.leave(timeout);
        let ended = async {
            self.ending.send_replace(());
            self.ending.closed().await;
            if let Some(tunnels) = &tunnels {
                tunnels.closed().await;
            }
            while !self.router.routes.active().is_empty() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        if tokio::time::timeout(timeout, ended).await.is_err() {
            tracing::warn!("closing connections that are still open after {} s", timeout.as_secs());
        }
    }
}

/// Serves the requests of a connection, until the client or the router ends the connection.
async fn serve_stream<S>(
    router: Arc<RouterState>,
    peer: ClientPeer,
    stream: S,
    coalesces: bool,
    mut ending: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = ClientStream::new(stream, Arc::clone(&peer.interims), coalesces);
    let version = tokio::select! {
        biased;
        _ = ending.changed() => return,
        version = tokio::time::timeout(HEADER_TIMEOUT, stream.version()) => version,
    };
    let Ok(Ok(version)) = version else { return };
    let peer = Arc::new(peer);
    match version {
        HttpVersion::Http1 => {
            let service = service_fn(move |request| serve(&router, &peer, ClientBody::of_http1(request), None));
            let mut connection = pin!(http1().serve_connection(TokioIo::new(stream), service).with_upgrades());
            if is_interrupted(connection.as_mut(), &mut ending).await {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
        HttpVersion::Http2 => Box::pin(http2::serve_connection(router, peer, stream, ending)).await,
    }
}

/// Runs a connection until the connection ends (false) or the router shuts down (true).
async fn is_interrupted<C: Future>(mut connection: Pin<&mut C>, ending: &mut watch::Receiver<()>) -> bool {
    let mut interrupted = pin!(ending.changed());
    std::future::poll_fn(|cx| match interrupted.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending => connection.as_mut().poll(cx).map(|_| false),
    })
    .await
}

/// Settings of HTTP/1: a timeout for the head of a request.
///
/// A request has at most 100 fields, hyper's default. With any other limit hyper allocates space for all fields of each
/// head. That cost a tenth of a request's processor time and 9 KiB for each slow client.
fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(HeadTimer::default()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_MAX);
    builder
}

fn listening(listener: std::net::TcpListener) -> Result<TcpListener, RouterError> {
    let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let listen = |source| RouterError::Listen { address, source };
    listener.set_nonblocking(true).map_err(listen)?;
    TcpListener::from_std(listener).map_err(listen)
}
