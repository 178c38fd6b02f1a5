//! Bodies: streamed both ways, never gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use crate::access::Entry;
use crate::gate::Admitted;
use crate::pool::Sender;
use crate::routing::{Active, Target};

/// What an answer is made of.
pub(crate) type Answer = BoxBody<Bytes, hyper::Error>;

/// What is sent to an instance: the client's body as it comes, or none.
pub(crate) enum Outgoing {
    None(Empty<Bytes>),
    Client(Incoming, Arc<Upload>),
}

/// When the client last sent something of its body: an application is not waited for before it has all of it.
pub(crate) struct Upload {
    begun: Instant,
    /// Milliseconds after `begun`.
    last: AtomicU64,
}

impl Upload {
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), last: AtomicU64::new(0) }
    }

    /// When something last came.
    pub(crate) fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    fn came(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::None(_) => Poll::Ready(None),
            Self::Client(body, upload) => {
                let polled = Pin::new(body).poll_frame(cx);
                if polled.is_ready() {
                    upload.came();
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None(_) => true,
            Self::Client(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None(body) => body.size_hint(),
            Self::Client(body, _) => body.size_hint(),
        }
    }
}

/// A short text.
pub(crate) fn text(text: String) -> Answer {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

/// An instance's answer on its way to the client. At its end the connection is kept and the request counted out.
pub(crate) struct Relayed {
    pub(crate) body: Incoming,
    pub(crate) done: Option<Done>,
}

/// What happens when an answer has ended.
pub(crate) struct Done {
    pub(crate) target: Arc<Target>,
    pub(crate) sender: Option<Sender>,
    pub(crate) active: Active,
    pub(crate) admitted: Admitted,
    pub(crate) entry: Entry,
}

impl Relayed {
    fn finish(&mut self) {
        if let Some(Done { target, sender, active, admitted, entry }) = self.done.take() {
            match sender {
                Some(sender) if sender.is_ready() => target.pool.keep(sender),
                // Ready again a moment after the last byte, once the connection's own task has run.
                Some(mut sender) => drop(tokio::spawn(async move {
                    if sender.ready().await {
                        target.pool.keep(sender);
                    }
                })),
                None => {}
            }
            drop((active, admitted, entry));
        }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
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
            Poll::Ready(Some(Err(_))) => drop(self.done.take()),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // A body without content is never polled.
        if self.body.is_end_stream() {
            self.finish();
        }
    }
}
