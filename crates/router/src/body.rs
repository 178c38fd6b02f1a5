//! Message bodies. A response body is streamed. A request body is streamed, or buffered before it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gantry_model::RequestFailure;
use http::HeaderMap;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use crate::access::Entry;
use crate::client::ClientBody;
use crate::collect::{Begun, Whole};
use crate::gate::Admitted;
use crate::pool::User;
use crate::routing::{Active, Target};
use crate::{trailers, wire};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// Request body, as sent to an instance.
pub(crate) enum Outgoing {
    None,
    /// The complete, buffered body.
    Whole(Whole),
    /// The body as the client sends it, behind its buffered beginning.
    Client(Box<Streamed>),
}

/// Request body that is streamed from the client.
pub(crate) struct Streamed {
    pub(crate) begun: Option<Begun>,
    pub(crate) rest: ClientBody,
    pub(crate) upload: Arc<Upload>,
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(begun) = &mut self.begun {
            if let Some(piece) = begun.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let last = begun.trailers.take();
            self.begun = None;
            if let Some(trailers) = last {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        let polled = Pin::new(&mut self.rest).poll_frame(cx);
        if polled.is_ready() {
            self.upload.came();
        }
        self.upload.awaited.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let begun = self.begun.as_ref().map_or(0, |begun| begun.pieces.iter().map(Bytes::len).sum());
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + begun as u64),
            None => SizeHint::default(),
        }
    }
}

/// Progress of an upload. The response timeout of an application starts only after the last byte of the request.
pub(crate) struct Upload {
    begun: Instant,
    /// Time of the last piece, in milliseconds after `begun`.
    last: AtomicU64,
    /// The instance wants the next piece, and the client has not sent it.
    awaited: AtomicBool,
}

impl Upload {
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), last: AtomicU64::new(0), awaited: AtomicBool::new(false) }
    }

    /// Time at which the last piece arrived.
    pub(crate) fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    pub(crate) fn came(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Whole(whole) if !whole.data.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut whole.data)))))
            }
            Self::Whole(whole) => Poll::Ready(whole.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            Self::Client(streamed) => streamed.poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) if !frame.is_data() => Poll::Ready(checked(frame).map(Ok)),
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Whole(whole) => whole.data.is_empty() && whole.trailers.is_none(),
            Self::Client(streamed) => streamed.begun.is_none() && streamed.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            // Trailers may only follow a body whose length was not announced.
            Self::Whole(whole) if whole.trailers.is_some() => SizeHint::default(),
            Self::Whole(whole) => SizeHint::with_exact(whole.data.len() as u64),
            Self::Client(streamed) => streamed.size_hint(),
        }
    }
}

/// Turns a frame without data into a frame of its allowed trailers.
fn checked(frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
    frame.into_trailers().ok().map(|mut fields: HeaderMap| {
        trailers::keep_allowed(&mut fields);
        Frame::trailers(fields)
    })
}

/// Response body.
pub(crate) enum Answer {
    Text(Full<Bytes>),
    Relayed(Box<Relayed>),
}

/// Makes a response body of a short text.
pub(crate) fn text(text: String) -> Answer {
    Answer::Text(Full::new(Bytes::from(text)))
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
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

/// Body of an instance's response, over HTTP/1.1 or HTTP/2.
pub(crate) enum InstanceBody {
    One(wire::Answer),
    /// HTTP/2: the body, and the guard that counts its request on the shared connection.
    Shared {
        body: Incoming,
        _user: User,
    },
    Over,
}

impl Body for InstanceBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::One(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Self::Shared { body, .. } => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Self::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::One(body) => body.is_end_stream(),
            Self::Shared { body, .. } => body.is_end_stream(),
            Self::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::One(body) => body.size_hint(),
            Self::Shared { body, .. } => body.size_hint(),
            Self::Over => SizeHint::with_exact(0),
        }
    }
}

/// Response body of an instance on its way to the client. At the end of the body the connection returns to the pool,
/// and the request is no longer counted.
pub(crate) struct Relayed {
    pub(crate) body: InstanceBody,
    pub(crate) done: Option<Done>,
}

/// Everything to release at the end of a response.
pub(crate) struct Done {
    pub(crate) target: Arc<Target>,
    pub(crate) active: Active,
    pub(crate) admitted: Admitted,
    pub(crate) entry: Entry,
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
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
            Poll::Ready(Some(Err(_))) => {
                if let Some(mut done) = self.done.take() {
                    done.entry.failure = Some(RequestFailure::Cut);
                }
            }
            Poll::Pending => {}
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) if !frame.is_data() => Poll::Ready(checked(frame).map(Ok)),
            polled => polled,
        }
    }

    fn finish(&mut self) {
        let Some(Done { target, active, admitted, entry }) = self.done.take() else { return };
        if let InstanceBody::One(answer) = std::mem::replace(&mut self.body, InstanceBody::Over)
            && let Some(wire) = answer.into_wire()
        {
            target.keep(wire);
        }
        drop((active, admitted, entry));
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // hyper never polls an empty body.
        if self.body.is_end_stream() {
            self.finish();
        }
    }
}
