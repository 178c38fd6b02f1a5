//! Request body of a client, and the disposal of an unread rest.
//!
//! The kernel resets a connection that is closed while its client still sends, and the client may never read the
//! response. So the router reads and discards the rest of a dropped body for a while, as nginx's `lingering_close`
//! does.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Longest time for which the rest of a body is discarded: in all, and without a new byte.
const LINGER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(2));

/// Request body of a client, up to its end.
pub(crate) struct ClientBody {
    /// None once the body ended or broke off.
    incoming: Option<Incoming>,
    /// The client waits for `100 Continue` before it sends the body (`Expect: 100-continue`). The first poll sends this
    /// response.
    waits: bool,
}

impl ClientBody {
    pub(crate) fn new(incoming: Incoming, waits: bool) -> Self {
        Self { incoming: Some(incoming), waits }
    }

    pub(crate) fn waits(&self) -> bool {
        self.waits
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.waits = false;
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let polled = Pin::new(incoming).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.incoming = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
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

async fn linger(mut rest: Incoming) {
    let reading = async { while let Ok(Some(Ok(_))) = tokio::time::timeout(LINGER.1, rest.frame()).await {} };
    let _ = tokio::time::timeout(LINGER.0, reading).await;
}
