//! Request body, as sent to an instance: complete and buffered, or streamed from the client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::client::body::ClientBody;
use crate::client::buffer::{BodyStart, BufferedBody};
use crate::message::{BodyError, PolledFrame};
use crate::request::tunnel_upload::TunnelUpload;
use crate::trailers;

/// Request body, as sent to an instance.
pub(crate) enum RequestBody {
    None,
    /// The complete, buffered body.
    Buffered(BufferedBody),
    /// The body as the client sends it, behind its buffered beginning.
    Client(Box<StreamedBody>),
    /// The body as another machine's router sends it.
    Tunnelled(Box<TunnelUpload>),
}

impl RequestBody {
    /// Returns whether the client waits for `100 Continue` before it sends the body.
    pub(crate) fn waits(&self) -> bool {
        match self {
            Self::None | Self::Buffered(_) => false,
            Self::Client(streamed) => streamed.rest.waits(),
            Self::Tunnelled(upload) => upload.waits(),
        }
    }
}

/// Request body that is streamed from the client.
pub(crate) struct StreamedBody {
    pub(crate) begun: Option<BodyStart>,
    pub(crate) rest: ClientBody,
    pub(crate) upload: Arc<UploadProgress>,
}

impl StreamedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
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
            self.upload.record_piece();
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
pub(crate) struct UploadProgress {
    begun: Instant,
    /// Time of the last piece, in milliseconds after `begun`.
    last: AtomicU64,
    /// The instance wants the next piece, and the client has not sent it.
    awaited: AtomicBool,
}

impl UploadProgress {
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

    pub(crate) fn record_piece(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let polled = match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Buffered(whole) if !whole.data.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut whole.data)))))
            }
            Self::Buffered(whole) => Poll::Ready(whole.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            Self::Client(streamed) => streamed.poll_frame(cx),
            Self::Tunnelled(upload) => upload.poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) if !frame.is_data() => Poll::Ready(trailers::allowed(frame).map(Ok)),
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Buffered(whole) => whole.data.is_empty() && whole.trailers.is_none(),
            Self::Client(streamed) => streamed.begun.is_none() && streamed.rest.is_end_stream(),
            Self::Tunnelled(upload) => upload.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            // Trailers may only follow a body whose length was not announced.
            Self::Buffered(whole) if whole.trailers.is_some() => SizeHint::default(),
            Self::Buffered(whole) => SizeHint::with_exact(whole.data.len() as u64),
            Self::Client(streamed) => streamed.size_hint(),
            Self::Tunnelled(upload) => upload.size_hint(),
        }
    }
}
