//! Bodies and changed protocols over a stream of HTTP/2, with back-pressure in both directions.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::message::{BodyError, PolledFrame, is_lost_connection};

/// Largest piece that one write of a changed protocol takes.
const WRITE_MAX: usize = 64 * 1024;

/// Reason why a body was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendBodyError {
    #[error("the other side ended the request: {0}")]
    Stream(#[from] h2::Error),
    #[error("{0}")]
    Body(BodyError),
}

/// Sends a body over a stream.
pub(crate) struct BodySender<B> {
    pub(crate) body: B,
    stream: SendStream<Bytes>,
    /// Part of the body that waits for the window of the receiver.
    piece: Bytes,
    /// Code of the reset that tells of a lost connection to the body's source.
    on_loss: Reason,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> BodySender<B> {
    /// Sends to another router, which has to know of a lost connection.
    pub(crate) fn to_router(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, piece: Bytes::new(), on_loss: Reason::CONNECT_ERROR }
    }

    pub(crate) fn to_client(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, piece: Bytes::new(), on_loss: Reason::INTERNAL_ERROR }
    }

    /// Resolves once the whole body is sent, or sending failed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendBodyError>> {
        loop {
            if !self.piece.is_empty() {
                let room = ready!(poll_room(&mut self.stream, self.piece.len(), cx))?;
                let part = self.piece.split_to(room.min(self.piece.len()));
                let last = self.piece.is_empty() && self.body.is_end_stream();
                self.stream.send_data(part, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if let Poll::Ready(reason) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(h2::Error::from(reason?).into()));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(frame) => {
                        self.stream.send_trailers(frame.into_trailers().unwrap_or_default())?;
                        return Poll::Ready(Ok(()));
                    }
                },
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => {
                    // The receiver must not take the part for the whole.
                    self.stream.send_reset(reason_of(&error).unwrap_or(self.on_loss));
                    return Poll::Ready(Err(SendBodyError::Body(error)));
                }
            }
        }
    }
}

/// Code of the instance that reset its response; none if its connection was lost.
fn reason_of(error: &BodyError) -> Option<Reason> {
    if is_lost_connection(error) {
        return None;
    }
    let mut cause: Option<&dyn std::error::Error> = Some(&**error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason();
        }
        cause = error.source();
    }
    None
}

/// Resolves to the number of bytes that the stream takes now, up to `chunk_size`.
pub(crate) fn poll_room(
    stream: &mut SendStream<Bytes>,
    chunk_size: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, h2::Error>> {
    stream.reserve_capacity(chunk_size);
    loop {
        match stream.capacity() {
            0 => match ready!(stream.poll_capacity(cx)) {
                Some(room) => drop(room?),
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            },
            room => return Poll::Ready(Ok(room)),
        }
    }
}

/// Receives a body from a stream.
pub(crate) struct BodyReceiver {
    pub(crate) stream: RecvStream,
    is_data_over: bool,
    is_over: bool,
}

impl BodyReceiver {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, is_data_over: false, is_over: false }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        if !self.is_data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The caller polls only with room for more data.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.is_data_over = true,
            }
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        self.is_over = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.is_over || self.stream.is_end_stream()
    }
}

/// Guard of a request on a shared connection; counts the request until dropped.
pub(crate) type SharedUse = Arc<()>;

/// Receiving direction of a changed protocol.
pub(crate) struct Http2Reader {
    body: BodyReceiver,
    unread: Bytes,
    _user: Option<SharedUse>,
}

impl Http2Reader {
    /// `user` counts the request on its connection.
    pub(crate) fn new(body: BodyReceiver, user: Option<SharedUse>) -> Self {
        Self { body, unread: Bytes::new(), _user: user }
    }
}

impl AsyncRead for Http2Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(frame)) => self.unread = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

/// Sending direction of a changed protocol.
pub(crate) struct Http2Writer(pub(crate) SendStream<Bytes>);

impl AsyncWrite for Http2Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let chunk_size = bytes.len().min(WRITE_MAX);
        let room = ready!(poll_room(&mut self.0, chunk_size, cx)).map_err(io::Error::other)?;
        let taken = room.min(chunk_size);
        self.0.send_data(Bytes::copy_from_slice(&bytes[..taken]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the connection sends what it has.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
