//! HTTP connections to the API. Each connection has timeouts for its requests, and the number of connections is
//! bounded.

use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use gantry_supervision::TaskSet;
use gantry_trust::{Credentials, Peer};

use crate::core;
use crate::tasks::CONNECTION;

/// Timeout for the head of a request, and for the next request on a kept connection. The router uses the same timeout.
const HEAD: Duration = Duration::from_secs(75);

/// Longest silence of a client in the middle of a request's body. A client that sends a base through a pipe may still
/// be making the base.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Maximum number of connections that wait for a request: a few for each agent and router of a thousand machines, and
/// those of people. Further connections wait to be accepted. A connection that became a session (`gantry exec`) no
/// longer counts.
const CONNECTIONS_MAX: usize = 8192;

/// Limits in time and bytes on what the server still reads from a client after the last response.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;

/// Pause after a failed accept (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Timeout of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves HTTP/1.1, which the command line, git and registry clients speak.
pub(crate) async fn serve(listener: &TcpListener, router: Router) -> Infallible {
    let (places, builder, tasks) = (places(), builder(), TaskSet::default());
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Some(stream) = accept(listener).await else { continue };
        let connection = serve_stream(&builder, stream, router.clone(), Peer::Anonymous);
        tasks.spawn(CONNECTION, async move {
            connection.await;
            drop(place);
        });
    }
}

/// Serves HTTP/1.1 over TLS, to machines and to people. Each request carries who the peer is, as an extension.
pub(crate) async fn serve_tls(
    listener: TcpListener,
    tls: TlsAcceptor,
    credentials: Credentials,
    router: Router,
) -> Infallible {
    let (places, builder, tasks) = (places(), builder(), TaskSet::default());
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Some(stream) = accept(&listener).await else { continue };
        let (tls, credentials, router, builder) = (tls.clone(), credentials.clone(), router.clone(), builder.clone());
        tasks.spawn(CONNECTION, async move {
            let address = stream.peer_addr();
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let peer = credentials.peer(stream.get_ref().1.peer_certificates(), core::now());
                    serve_stream(&builder, stream, router, peer).await;
                }
                Ok(Err(error)) => tracing::debug!(?address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(?address, "TLS handshake timed out"),
            }
            drop(place);
        });
    }
}

/// Places for connections. Half of the allowed open files stay free for everything else.
fn places() -> Arc<Semaphore> {
    let files = usize::try_from(gantry_linux::process::open_files()).unwrap_or(usize::MAX);
    Arc::new(Semaphore::new(CONNECTIONS_MAX.min(files / 2)))
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
}

async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    let Ok((stream, _)) = listener.accept().await else {
        tokio::time::sleep(ACCEPT_PAUSE).await;
        return None;
    };
    // No send timeout: a reader of a log may stop at a page for any length of time.
    gantry_linux::connection::set_stream_options(&stream, None);
    gantry_linux::connection::probe_often(&stream);
    Some(stream)
}

/// Serves one connection until it ends.
fn serve_stream<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    builder: &http1::Builder,
    stream: S,
    router: Router,
    peer: Peer,
) -> impl Future<Output = ()> + Send + use<S> {
    let is_key_alone = matches!(peer, Peer::Key(_));
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| axum::body::Body::new(TimedBody { body, silence: None }));
        request.extensions_mut().insert(peer.clone());
        service.call(request)
    });
    let mut builder = builder.clone();
    // A machine with an expired certificate gets a new one, and must show it on a new connection.
    builder.keep_alive(!is_key_alone);
    let connection = builder.serve_connection(TokioIo::new(LingeringStream::new(stream)), service).with_upgrades();
    async move { drop(connection.await) }
}

/// A connection that the server still reads for a while after its last response. An upload may be refused in the
/// middle: if the server then closed the connection with unread data, the client would get a reset. The reset would
/// cost the client the response (RFC 9112, section 9.6).
struct LingeringStream<S> {
    stream: S,
    /// Timer since the server shut down its side of the connection.
    linger_timeout: Option<Pin<Box<Sleep>>>,
    /// Number of bytes that may still be read after that.
    left: usize,
}

impl<S> LingeringStream<S> {
    fn new(stream: S) -> Self {
        Self { stream, linger_timeout: None, left: LINGER_BYTES }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LingeringStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let Self { stream, linger_timeout, left } = self.get_mut();
        if linger_timeout.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let linger_timeout = linger_timeout.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut waste = [0; 16 << 10];
        while linger_timeout.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() && buffer.filled().len() < *left => {
                    *left -= buffer.filled().len()
                }
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Body of a request, with a limit on the client's silence.
struct TimedBody {
    body: Incoming,
    /// Timer of the silence. It starts when a read finds no data, because nothing may have read from the body for a
    /// while.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { body, silence } = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            *silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_TIMEOUT))).as_mut().poll(cx));
        Poll::Ready(Some(Err(
            format!("the client sent nothing more of the request for {} s", STALL_TIMEOUT.as_secs()).into()
        )))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
