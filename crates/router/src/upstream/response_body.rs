//! Response body of an instance.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::upstream::http1::Http1Body;

pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Returns whether the connection to the instance was lost, in contrast to a response that the instance itself reset.
pub(crate) fn is_lost_connection(error: &BodyError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(&**error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return !error.is_reset();
        }
        cause = error.source();
    }
    true
}

/// Result of polling a response body.
pub(crate) type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// Guard of a request on a shared connection; counts the request until dropped.
pub(crate) type SharedUse = Arc<()>;

/// Body of an instance's response, over HTTP/1.1 or HTTP/2.
pub(crate) enum InstanceBody {
    Http1(Http1Body),
    /// HTTP/2: the body, and the guard that counts its request on the shared connection.
    Http2 {
        body: Incoming,
        _user: SharedUse,
    },
    Over,
}

impl Body for InstanceBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Http2 { body, .. } => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2 { body, .. } => body.is_end_stream(),
            Self::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2 { body, .. } => body.size_hint(),
            Self::Over => SizeHint::with_exact(0),
        }
    }
}
