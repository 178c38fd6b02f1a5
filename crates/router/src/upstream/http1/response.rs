//! Receiving of a response: the body behind the head, and what becomes of the connection afterwards.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::io::poll_read_buf;
use tokio_util::task::AbortOnDropHandle;

use super::chunks::{ChunkDecoder, ChunkPiece};
use super::connection::Http1Connection;

/// Smallest and largest read size in bytes. The smallest size fits a head and a small body; larger bodies raise the
/// read size.
pub(super) const READ_SIZES: (usize, usize) = (8 * 1024, 256 * 1024);

/// Capacity of the send buffer that a kept connection retains, beside a read buffer of the first [`READ_SIZES`].
const SEND_BUFFER_KEPT: usize = 4 * 1024;

/// Receiving side of a connection.
pub(super) struct ReadSide {
    pub(super) from: OwnedReadHalf,
    /// Bytes received and not yet consumed.
    pub(super) received: BytesMut,
    pub(super) room: usize,
}

impl ReadSide {
    /// Reads more bytes; returns 0 at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.received.reserve(self.room);
        let bytes = ready!(poll_read_buf(Pin::new(&mut self.from), cx, &mut self.received))?;
        if bytes >= self.room {
            self.room = (self.room * 2).min(READ_SIZES.1);
        }
        Poll::Ready(Ok(bytes))
    }
}

/// State of the request when the response arrived.
pub(super) enum RequestRest {
    Sent {
        to: OwnedWriteHalf,
        out: Vec<u8>,
    },
    /// The body is never sent.
    Unsent,
    Uploading {
        _task: AbortOnDropHandle<()>,
    },
}

/// Framing of a response body, and the current position.
pub(super) enum BodyFraming {
    Known(u64),
    Chunked(ChunkDecoder),
    UntilClosed,
}

/// Body of a response.
pub(crate) struct Http1Body {
    pub(super) source: ReadSide,
    pub(super) rest: RequestRest,
    pub(super) decoding: BodyFraming,
    pub(super) keeps: bool,
}

impl Http1Body {
    /// Returns the connection for the next request, if the response is complete and left the connection in order.
    pub(crate) fn into_connection(self) -> Option<Http1Connection> {
        let over = self.keeps && self.is_end_stream() && self.source.received.is_empty();
        match self.rest {
            RequestRest::Sent { to, mut out } if over => {
                out.shrink_to(SEND_BUFFER_KEPT);
                let ReadSide { from, received, room } = self.source;
                let received = if room == READ_SIZES.0 { received } else { BytesMut::new() };
                Some(Http1Connection { from, to, out, received })
            }
            _ => None,
        }
    }

    /// Returns both directions after a change of protocol; none while the request is still being sent.
    pub(crate) fn into_stream(self) -> Option<(UpgradedStream, OwnedWriteHalf)> {
        let RequestRest::Sent { to, .. } = self.rest else { return None };
        Some((UpgradedStream(self.source), to))
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Self { source, decoding, .. } = self.get_mut();
        loop {
            let ended = match decoding {
                BodyFraming::Known(0) => return Poll::Ready(None),
                BodyFraming::Known(left) if !source.received.is_empty() => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(source.received.len());
                    *left -= taken as u64;
                    return Poll::Ready(Some(Ok(Frame::data(source.received.split_to(taken).freeze()))));
                }
                BodyFraming::Chunked(chunks) => match chunks.next(&mut source.received).map_err(io::Error::other)? {
                    ChunkPiece::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    ChunkPiece::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                    ChunkPiece::Ended => return Poll::Ready(None),
                    ChunkPiece::Wanting => false,
                },
                BodyFraming::UntilClosed if !source.received.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(source.received.split().freeze()))));
                }
                BodyFraming::UntilClosed => true,
                BodyFraming::Known(_) => false,
            };
            match ready!(source.poll_more(cx))? {
                0 if ended => *decoding = BodyFraming::Known(0),
                0 => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                _ => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.decoding, BodyFraming::Known(0) | BodyFraming::Chunked(ChunkDecoder::Ended))
    }

    fn size_hint(&self) -> SizeHint {
        match self.decoding {
            BodyFraming::Known(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}

/// Connection after a change of protocol.
pub(crate) struct UpgradedStream(ReadSide);

impl AsyncRead for UpgradedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ReadSide { from, received, .. } = &mut self.0;
        if received.is_empty() {
            return Pin::new(from).poll_read(cx, buffer);
        }
        let taken = received.len().min(buffer.remaining());
        buffer.put_slice(&received.split_to(taken));
        Poll::Ready(Ok(()))
    }
}
