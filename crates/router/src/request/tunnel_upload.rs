//! Body of a request that another machine's router sends.

use std::task::Context;

use h2::RecvStream;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use hyper::body::SizeHint;

use crate::http2::body::BodyReceiver;
use crate::http2::responder::Http2Responder;
use crate::message::PolledFrame;

/// Body of a tunnelled request.
pub(crate) struct TunnelUpload {
    body: BodyReceiver,
    length: Option<u64>,
    waits: bool,
    /// The entry router waits for an interim response before it sends the body. The first poll sends it: by then, the
    /// instance has the head of the request.
    holds: Option<Http2Responder>,
}

impl TunnelUpload {
    /// Takes the body of a request with these headers. `holds` is the entry router, if it waits for an interim response.
    pub(crate) fn new(stream: RecvStream, headers: &HeaderMap, holds: Option<Http2Responder>) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { body: BodyReceiver::new(stream), length, waits: headers.contains_key(EXPECT), holds }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        self.waits = false;
        if let Some(entry) = self.holds.take() {
            entry.ask_for_body();
        }
        self.body.poll_frame(cx)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Returns whether the client waits for the instance's word before it sends the body.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }
}
