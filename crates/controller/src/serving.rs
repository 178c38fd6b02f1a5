//! Connections to the API. Each has deadlines for what it has to say, and there are only so many at once.

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

/// The longest that a client may take to send a request's head, and to ask again on a kept connection: as long as at the router.
const HEAD: Duration = Duration::from_secs(75);

/// The longest that it may say nothing in the middle of a request's body: a base that is piped in is made meanwhile.
const SILENCE: Duration = Duration::from_secs(300);

/// The most connections that requests are waited for on: agent and router of a thousand machines with a few each, and people.
/// More wait to be taken. Sessions that such a connection becomes (`gantry exec`) are not among them.
const CONNECTIONS_MAX: usize = 8192;

/// How long, and how much of it, what a client still sends is read after the last answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;

/// After a failed accept (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1, which is what the command line, git and the registry's clients speak.
pub(crate) async fn serve(listener: &TcpListener, router: Router) -> Infallible {
    // Half of the files that may be open are for everything else.
    let files = usize::try_from(gantry_linux::process::open_files()).unwrap_or(usize::MAX);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX.min(files / 2)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Whoever reads a log may stop at a page of it for as long as they like.
        gantry_linux::connection::tune(&stream, None);
        let service = TowerToHyperService::new(router.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            service.call(request.map(|body| axum::body::Body::new(Patient { body, silence: None })))
        });
        let connection = builder.serve_connection(TokioIo::new(Lingering::new(stream)), service).with_upgrades();
        tokio::spawn(async move {
            let _ = connection.await;
            drop(place);
        });
    }
}

/// A connection that is read a while longer once everything was said: were it closed with something unread, as when an upload is refused
/// in its middle, the client would be told of a reset and lose the answer (RFC 9112, section 9.6).
struct Lingering {
    stream: TcpStream,
    /// Since its end was told.
    patience: Option<Pin<Box<Sleep>>>,
    /// Bytes that are still read then.
    left: usize,
}

impl Lingering {
    fn new(stream: TcpStream) -> Self {
        Self { stream, patience: None, left: LINGER_BYTES }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
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
        let Self { stream, patience, left } = self.get_mut();
        if patience.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut waste = [0; 16 << 10];
        while patience.as_mut().poll(cx).is_pending() {
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

/// A request's body whose client may not be silent for long in the middle of it.
struct Patient {
    body: Incoming,
    /// Since it was found silent: nobody may have looked for a while.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { body, silence } = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            *silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(SILENCE))).as_mut().poll(cx));
        Poll::Ready(Some(Err(format!("nothing more of the request came within {} s", SILENCE.as_secs()).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
