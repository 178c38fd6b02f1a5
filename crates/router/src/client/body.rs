//! Request body of a client, and the disposal of an unread rest.
//!
//! The kernel resets a connection that is closed while its client still sends, and the client may never read the
//! response. So the router reads and discards the rest of a dropped body for a while, as nginx's `lingering_close`
//! does.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Request, Version};
use hyper::body::{Body, Incoming, SizeHint};

use crate::http2::body::BodyReceiver;
use crate::http2::responder::Http2Responder;
use crate::message::{BodyError, PolledFrame};

/// Longest time for which the rest of a body is discarded: in all, and without a new byte.
const LINGER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(2));

/// Request body of a client, up to its end.
pub(crate) struct ClientBody {
    /// None once the body ended or broke off.
    incoming: Option<IncomingBody>,
    /// The client waits for `100 Continue` before it sends the body (`Expect: 100-continue`). The first poll sends this
    /// response.
    waits: bool,
}

/// Body of a request as it arrives. hyper itself sends the `100 Continue` of HTTP/1.1.
enum IncomingBody {
    Http1(Incoming),
    Http2 {
        body: BodyReceiver,
        /// Announced bytes that have not arrived yet.
        left: Option<u64>,
        /// Sends the `100 Continue`.
        responder: Http2Responder,
    },
}

impl ClientBody {
    /// Takes the body of a request over HTTP/1.
    pub(crate) fn of_http1(request: Request<Incoming>) -> Request<Self> {
        let waits = request.version() == Version::HTTP_11 && waits(request.headers(), request.body().is_end_stream());
        request.map(|incoming| Self { incoming: Some(IncomingBody::Http1(incoming)), waits })
    }

    /// Takes the body of a request over HTTP/2.
    pub(crate) fn of_http2(request: Request<RecvStream>, responder: &Http2Responder) -> Request<Self> {
        let waits = waits(request.headers(), request.body().is_end_stream());
        let length = request.headers().get(CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let responder = responder.clone();
        request.map(|stream| Self {
            incoming: Some(IncomingBody::Http2 { body: BodyReceiver::new(stream), left, responder }),
            waits,
        })
    }

    /// Makes a body without a byte.
    pub(crate) fn none() -> Self {
        Self { incoming: None, waits: false }
    }

    pub(crate) fn waits(&self) -> bool {
        self.waits
    }
}

/// Returns whether the client waits for `100 Continue` before it sends the body (RFC 9110, section 10.1.1).
fn waits(headers: &HeaderMap, is_empty: bool) -> bool {
    !is_empty && headers.get(EXPECT).is_some_and(|word| word.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl IncomingBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        match self {
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Http2 { body, left, .. } => {
                let polled = body.poll_frame(cx);
                if let (Poll::Ready(Some(Ok(frame))), Some(left)) = (&polled, left) {
                    *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2 { body, .. } if body.is_end_stream() => SizeHint::with_exact(0),
            Self::Http2 { left, .. } => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let waited = std::mem::take(&mut self.waits);
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        if let (true, IncomingBody::Http2 { responder, .. }) = (waited, &*incoming) {
            responder.ask_for_body();
        }
        let polled = incoming.poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.incoming = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(IncomingBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), IncomingBody::size_hint)
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // A client that still waits for `100 Continue` sends nothing after the final response.
        if let Some(rest) = self.incoming.take().filter(|rest| !self.waits && !rest.is_end_stream())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn(linger(rest)));
        }
    }
}

async fn linger(mut rest: IncomingBody) {
    let reading = async {
        let mut next = std::future::poll_fn(|cx| rest.poll_frame(cx));
        while let Ok(Some(Ok(_))) = tokio::time::timeout(LINGER.1, &mut next).await {}
    };
    let _ = tokio::time::timeout(LINGER.0, reading).await;
}
