//! Response body of an instance.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Incoming, SizeHint};

use crate::http2::body::SharedUse;
use crate::message::{BodyError, PolledFrame};
use crate::tunnel::lane::LaneBody;
use crate::tunnel::remote_request::TunnelBody;
use crate::upstream::http1::Http1Body;
use crate::upstream::switched::{SwitchedReader, SwitchedWriter};

/// Body of an instance's response, over HTTP/1.1 or HTTP/2.
pub(crate) enum InstanceBody {
    Http1(Http1Body),
    /// HTTP/2: the body, and the guard that counts its request on the shared connection.
    Http2 {
        body: Incoming,
        _user: SharedUse,
    },
    /// From another machine's router.
    Tunnel(Box<TunnelBody>),
    /// From another machine's router, on a lane.
    Lane(Box<LaneBody>),
    Over,
}

impl InstanceBody {
    /// Returns both directions after a change of protocol.
    pub(crate) fn into_switched(self) -> Result<(SwitchedReader, SwitchedWriter), &'static str> {
        match self {
            Self::Http1(answer) => {
                let stream = answer.into_stream();
                stream.map(|(from, to)| (SwitchedReader::Http1(from), SwitchedWriter::Http1(to)))
            }
            Self::Tunnel(answer) => {
                let stream = answer.into_stream();
                stream.map(|(from, to)| (SwitchedReader::Tunnel(from), SwitchedWriter::Tunnel(to)))
            }
            Self::Http2 { .. } | Self::Over => return Err("the instance changed the protocol of an HTTP/2 connection"),
            Self::Lane(_) => return Err("the instance changed the protocol without a request to do so"),
        }
        .ok_or("the instance changed the protocol before it had the whole request")
    }
}

impl Body for InstanceBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Http2 { body, .. } => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Tunnel(body) => body.poll_frame(cx),
            Self::Lane(body) => body.poll_frame(cx),
            Self::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2 { body, .. } => body.is_end_stream(),
            Self::Tunnel(body) => body.is_end_stream(),
            Self::Lane(body) => body.is_end_stream(),
            Self::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2 { body, .. } => body.size_hint(),
            Self::Tunnel(body) => body.size_hint(),
            Self::Lane(body) => body.size_hint(),
            Self::Over => SizeHint::with_exact(0),
        }
    }
}
