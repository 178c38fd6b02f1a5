//! Connections in: plain and TLS, HTTP/1.1 and HTTP/2, and their end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::first_byte::FirstByte;
use crate::proxy::{Peer, serve};
use crate::{Listeners, Router, RouterError, tls};

/// The longest that a client may take to send a request's headers, and to shake hands.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection without a word for this long is asked whether its other end still is; the kernel does it.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long an idle connection is kept when the router ends, for its client to ask once more and be told to go.
const LINGER: Duration = Duration::from_secs(5);

/// After a failed accept (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything that is listened on.
pub(crate) struct Entry {
    router: Arc<Router>,
    plain: TcpListener,
    secure: Option<(TcpListener, TlsAcceptor)>,
    connections: GracefulShutdown,
}

impl Entry {
    pub(crate) fn open(router: &Arc<Router>, listeners: Listeners) -> Result<Self, RouterError> {
        let plain = listening(listeners.plain)?;
        let secure = match (listeners.secure, &router.settings.certificate) {
            (Some(listener), Some((chain, key))) => Some((listening(listener)?, tls::acceptor(chain, key)?)),
            _ => None,
        };
        tracing::info!(address = ?plain.local_addr().ok(), "routing");
        Ok(Self { router: Arc::clone(router), plain, secure, connections: GracefulShutdown::new() })
    }

    /// Takes connections until `shutdown`.
    pub(crate) async fn serve_until(&self, shutdown: impl Future<Output = ()> + Send) {
        let plain = async {
            loop {
                match self.plain.accept().await {
                    Ok((stream, peer)) => {
                        tune(&stream);
                        self.connection(stream, Peer { address: peer, tls: false });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        };
        let secure = async {
            match &self.secure {
                Some((listener, acceptor)) => self.accept_secure(listener, acceptor).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = plain => {}
            () = secure => {}
            () = shutdown => {}
        }
    }

    async fn accept_secure(&self, listener: &TcpListener, acceptor: &TlsAcceptor) {
        let (sender, mut shaken) = tokio::sync::mpsc::channel(64);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        tune(&stream);
                        let (handshake, sender) = (acceptor.accept(stream), sender.clone());
                        tokio::spawn(async move {
                            if let Ok(Ok(stream)) = tokio::time::timeout(HEADER_TIMEOUT, handshake).await {
                                let _ = sender.send((stream, peer)).await;
                            }
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                Some((stream, peer)) = shaken.recv() => self.connection(stream, Peer { address: peer, tls: true }),
            }
        }
    }

    fn connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let router = Arc::clone(&self.router);
        let service = service_fn(move |request| {
            let router = Arc::clone(&router);
            async move { Ok::<_, Infallible>(serve(router, peer, request).await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(250)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let stream = FirstByte::within(HEADER_TIMEOUT, stream);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let watched = self.connections.watch(connection);
        tokio::spawn(async move {
            let _ = watched.await;
        });
    }

    /// Takes no more connections; lets each end with its next answer, and those that stay idle a while later.
    pub(crate) async fn drain(self, patience: Duration) {
        drop((self.plain, self.secure));
        self.router.ending.store(true, Ordering::Relaxed);
        let until = tokio::time::Instant::now() + LINGER;
        while self.connections.count() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        if tokio::time::timeout(patience, self.connections.shutdown()).await.is_err() {
            tracing::warn!("connections were still open after {} s and are cut", patience.as_secs());
        }
    }
}

/// Answers are sent as they come, and a client whose machine is gone is noticed some time.
fn tune(stream: &TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
    let _ = stream.set_nodelay(true);
    let _ = set_socket_keepalive(stream, true).and_then(|()| set_tcp_keepidle(stream, KEEPALIVE));
}

fn listening(listener: std::net::TcpListener) -> Result<TcpListener, RouterError> {
    let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let listen = |source| RouterError::Listen { address, source };
    listener.set_nonblocking(true).map_err(listen)?;
    TcpListener::from_std(listener).map_err(listen)
}
