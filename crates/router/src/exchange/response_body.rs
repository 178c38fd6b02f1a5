//! Response body, as sent to the client: a short text of the router, or relayed from an instance.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use gantry_model::RequestFailure;
use http::HeaderMap;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use crate::exchange::log_entry::AccessLogEntry;
use crate::message::{BodyError, PolledFrame, is_lost_connection};
use crate::routes::admission::AdmittedRequest;
use crate::routes::target::{ActiveRequest, RouteTarget};
use crate::trailers;
use crate::upstream::response_body::InstanceBody;

/// Response body.
pub(crate) enum ResponseBody {
    Text(Full<Bytes>),
    Relayed(Box<RelayedBody>),
}

/// Makes a response body of a short text.
pub(crate) fn text(text: String) -> ResponseBody {
    ResponseBody::Text(Full::new(Bytes::from(text)))
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            Self::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Relayed(relayed) => relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Relayed(relayed) => relayed.body.size_hint(),
        }
    }
}

/// Response body of an instance on its chosen to the client. At the end of the body the connection returns to the pool,
/// and the request is no longer counted.
pub(crate) struct RelayedBody {
    pub(crate) body: InstanceBody,
    pub(crate) done: Option<ResponseEnd>,
    /// Trailers in place of the rest of the body, if the connection to the instance is lost.
    pub(crate) on_loss: Option<Box<HeaderMap>>,
}

/// Everything to release at the end of a response.
pub(crate) struct ResponseEnd {
    pub(crate) target: Arc<RouteTarget>,
    pub(crate) active: ActiveRequest,
    pub(crate) admitted: AdmittedRequest,
    pub(crate) entry: AccessLogEntry,
}

impl RelayedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(done)) = (frame.data_ref(), &mut self.done) {
                    done.entry.bytes += data.len() as u64;
                }
                if self.body.is_end_stream() {
                    self.finish();
                }
            }
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Err(error))) => {
                if let Some(mut done) = self.done.take() {
                    done.entry.failure = Some(RequestFailure::Cut);
                }
                if is_lost_connection(error)
                    && let Some(trailers) = self.on_loss.take()
                {
                    self.body = InstanceBody::Over;
                    return Poll::Ready(Some(Ok(Frame::trailers(*trailers))));
                }
            }
            Poll::Pending => {}
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) if !frame.is_data() => Poll::Ready(trailers::allowed(frame).map(Ok)),
            polled => polled,
        }
    }

    fn finish(&mut self) {
        let Some(ResponseEnd { target, active, admitted, entry }) = self.done.take() else { return };
        if let InstanceBody::Http1(answer) = std::mem::replace(&mut self.body, InstanceBody::Over)
            && let Some(connection) = answer.into_connection()
        {
            target.keep(connection);
        }
        drop((active, admitted, entry));
    }
}

impl Drop for RelayedBody {
    fn drop(&mut self) {
        // hyper never polls an empty body.
        if self.body.is_end_stream() {
            self.finish();
        }
    }
}
