//! HTTP/1.1 to an instance, in the task of the request itself: no other task, channel or copy of the headers stands
//! between a client and its response.
//!
//! A connection carries one request at a time. [`Wire::ask`] sends the request and returns the response's head.
//! [`Answer`] is the body that follows, and returns the connection at its end.

pub(crate) mod chunks;
pub(crate) mod head;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;
use tokio_util::task::AbortOnDropHandle;

use crate::body::Outgoing;
use crate::headers;
use crate::interim::Interims;
use chunks::{Chunks, Piece};
use head::{Head, Length};

/// Smallest and largest read size in bytes. The smallest size fits a head and a small body; larger bodies raise the
/// read size.
const ROOM: (usize, usize) = (8 * 1024, 256 * 1024);

/// Capacity of the send buffer that a kept connection retains, beside a read buffer of the first [`ROOM`].
const OUT_KEPT: usize = 4 * 1024;

/// Largest piece of a body that is copied behind the head, so that one write sends both.
const COPIED: usize = 4 * 1024;

/// Time for an instance to send the `100 Continue` that its client waits for (`Expect: 100-continue`); many instances
/// send none.
const WORD: Duration = Duration::from_secs(1);

/// Connection to an instance, between two requests.
pub(crate) struct Wire {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    /// Send buffer; empty, kept for its memory. The read buffer `came` is kept likewise.
    out: Vec<u8>,
    came: BytesMut,
}

/// Reason why there is no response.
pub(crate) enum Failure {
    /// No part of the request was sent; contains the body.
    Unsent(Outgoing),
    /// The instance may have received the request.
    Sent(String),
    /// The client did not send the whole request.
    Client(String),
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let (from, to) = stream.into_split();
        Self { from, to, out: Vec::new(), came: BytesMut::new() }
    }

    /// Returns false once the instance closed the connection, or sent bytes without a request.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.from.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request, and waits for the head of its response. An instance may respond before it has the whole
    /// request, so the upload may still be under way afterwards.
    pub(crate) async fn ask(
        self,
        request: &Parts,
        body: Outgoing,
        interims: Option<&Interims>,
    ) -> Result<Response<Answer>, Failure> {
        let Self { mut from, to, mut out, mut came } = self;
        let length = length(&body);
        out.clear();
        head::write(request, length, &mut out);
        let mut upload = Upload::new(to, out, body, length);
        let mut sending = Poll::Pending;
        let head = std::future::poll_fn(|cx| {
            loop {
                if sending.is_pending() {
                    sending = upload.poll(cx);
                }
                match &sending {
                    // An instance that reads no more may have sent a response with the reason.
                    Poll::Ready(Err(Stopped::Instance(_))) if upload.begun => {}
                    Poll::Ready(Err(Stopped::Instance(why))) => return Poll::Ready(Err(why.to_string())),
                    // The instance has no complete request, so no response is expected.
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(String::new())),
                    _ => {}
                }
                match ready!(poll_head(&mut from, &mut came, &request.method, cx)) {
                    // hyper sends `100 Continue` to the client once the body is polled.
                    Ok(head) if head.status == StatusCode::CONTINUE => upload.word = None,
                    Ok(mut head) if is_interim(head.status) => {
                        if let Some(interims) = interims {
                            headers::strip_hop(&mut head.headers);
                            interims.add(head.status, &head.headers);
                        }
                    }
                    answered => return Poll::Ready(answered),
                }
            }
        });
        let head = match head.await {
            Ok(head) => head,
            Err(_) if let Poll::Ready(Err(why @ (Stopped::Client(_) | Stopped::Length))) = sending => {
                return Err(Failure::Client(why.to_string()));
            }
            Err(_)
                if !upload.begun
                    && let Some((body, _)) = upload.body.take() =>
            {
                return Err(Failure::Unsent(body));
            }
            Err(why) => return Err(Failure::Sent(why)),
        };
        let source = Source { from, came, room: ROOM.0 };
        // An instance that responds before it has the whole request often closes the connection after the response.
        let keeps = head.keeps && matches!(sending, Poll::Ready(Ok(_)));
        let rest = match sending {
            // The instance responded without the body that its client still withholds, so the body is never sent.
            Poll::Pending if upload.word.is_some() => Rest::Unsent,
            Poll::Pending => Rest::Uploading { _task: AbortOnDropHandle::new(tokio::spawn(upload.finish())) },
            Poll::Ready(_) => Rest::Sent { to: upload.to, out: upload.out },
        };
        let decoding = match head.length {
            Length::Known(bytes) => Decoding::Known(bytes),
            Length::Chunked => Decoding::Chunked(Chunks::default()),
            Length::UntilClosed => Decoding::UntilClosed,
        };
        let mut response = Response::new(Answer { source, rest, decoding, keeps });
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }
}

/// Returns the length of a request's body; none if there is no body.
fn length(body: &Outgoing) -> Option<Length> {
    (!body.is_end_stream()).then(|| body.size_hint().exact().map_or(Length::Chunked, Length::Known))
}

/// Returns whether the response is an interim response (RFC 9110, section 15.2).
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Reads until a head is complete.
fn poll_head(
    from: &mut OwnedReadHalf,
    came: &mut BytesMut,
    asked: &Method,
    cx: &mut Context<'_>,
) -> Poll<Result<Head, String>> {
    loop {
        if !came.is_empty() {
            match head::read(came, asked) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error.to_string())),
            }
        }
        came.reserve(ROOM.0);
        match ready!(poll_read_buf(Pin::new(from), cx, came)) {
            Ok(0) => return Poll::Ready(Err("it closed the connection before it answered".to_owned())),
            Ok(_) => {}
            Err(error) => return Poll::Ready(Err(format!("the connection broke before it answered: {error}"))),
        }
    }
}

/// Reason why an upload stopped early.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("the connection broke before all of the request was sent: {0}")]
    Instance(io::Error),
    #[error("the client did not send all of the request: {0}")]
    Client(hyper::Error),
    #[error("the client sent another length than it announced")]
    Length,
}

/// Request that is being sent.
struct Upload {
    to: OwnedWriteHalf,
    out: Vec<u8>,
    written: usize,
    /// Piece of the body, sent after `out`.
    piece: Bytes,
    /// A part of the request was sent.
    begun: bool,
    /// The body, until its last piece was taken.
    body: Option<(Outgoing, Option<Length>)>,
    /// The whole body is in `out` and `piece`; `body` is kept until a part was sent.
    joined: bool,
    /// Timer while the body waits for the instance's `100 Continue`; the upload starts at the latest when the timer
    /// fires.
    word: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    fn new(to: OwnedWriteHalf, mut out: Vec<u8>, body: Outgoing, length: Option<Length>) -> Self {
        let (mut piece, mut joined) = (Bytes::new(), false);
        // A complete body goes out with its head.
        if let (Outgoing::Whole(whole), Some(Length::Known(_))) = (&body, length) {
            joined = true;
            if whole.data.len() <= COPIED {
                out.extend_from_slice(&whole.data);
            } else {
                piece = whole.data.clone();
            }
        }
        let waits = matches!(&body, Outgoing::Client(streamed) if streamed.rest.waits());
        let word = waits.then(|| Box::pin(tokio::time::sleep(WORD)));
        Self { to, out, written: 0, piece, begun: false, body: Some((body, length)), joined, word }
    }

    /// Resolves once everything is sent, or sending failed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            ready!(self.poll_out(cx)).map_err(Stopped::Instance)?;
            let Some((body, length)) = &mut self.body else { return Poll::Ready(Ok(())) };
            let Some(length) = length.as_mut().filter(|_| !self.joined) else {
                self.body = None;
                continue;
            };
            if let Some(word) = &mut self.word {
                ready!(word.as_mut().poll(cx));
                self.word = None;
            }
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => put(data, length, &mut self.out, &mut self.piece)?,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        if end(*length, &trailers, &mut self.out)? {
                            self.body = None;
                        }
                    }
                },
                Some(Err(error)) => return Poll::Ready(Err(Stopped::Client(error))),
                None => {
                    end(*length, &HeaderMap::new(), &mut self.out)?;
                    self.body = None;
                }
            }
        }
    }

    /// Sends `out`, then `piece`.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { to, out, written, piece, begun, .. } = self;
        while *written < out.len() || !piece.is_empty() {
            let rest = &out[*written..];
            let sent = match (rest.is_empty(), piece.is_empty()) {
                (true, _) => ready!(Pin::new(&mut *to).poll_write(cx, piece))?,
                (false, true) => ready!(Pin::new(&mut *to).poll_write(cx, rest))?,
                (false, false) => {
                    let both = [io::IoSlice::new(rest), io::IoSlice::new(piece)];
                    ready!(Pin::new(&mut *to).poll_write_vectored(cx, &both))?
                }
            };
            *begun = true;
            let of_out = sent.min(rest.len());
            *written += of_out;
            piece.advance(sent - of_out);
        }
        out.clear();
        *written = 0;
        Poll::Ready(Ok(()))
    }

    /// Sends the rest of the request. The connection is not used again. The sending direction stays open, because some
    /// servers would take a half-close for a client that has left.
    async fn finish(mut self) {
        let _ = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.to.forget();
    }
}

/// Adds a piece of a body to the send buffers.
fn put(data: Bytes, length: &mut Length, out: &mut Vec<u8>, piece: &mut Bytes) -> Result<(), Stopped> {
    match length {
        Length::Known(left) => {
            // The instance would take excess bytes for the next request.
            *left = left.checked_sub(data.len() as u64).ok_or(Stopped::Length)?;
            *piece = data;
        }
        // An empty chunk would end the body.
        _ if data.is_empty() => {}
        _ => {
            out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            out.extend_from_slice(&data);
            out.extend_from_slice(b"\r\n");
        }
    }
    Ok(())
}

/// Ends a body, with its trailers if chunked; returns false if trailers have no place.
fn end(length: Length, trailers: &HeaderMap, out: &mut Vec<u8>) -> Result<bool, Stopped> {
    match length {
        Length::Known(0) => return Ok(trailers.is_empty()),
        Length::Known(_) => return Err(Stopped::Length),
        _ => out.extend_from_slice(b"0\r\n"),
    }
    head::write_fields(trailers, out);
    out.extend_from_slice(b"\r\n");
    Ok(true)
}

/// Receiving side of a connection.
struct Source {
    from: OwnedReadHalf,
    /// Bytes received and not yet consumed.
    came: BytesMut,
    room: usize,
}

impl Source {
    /// Reads more bytes; returns 0 at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.came.reserve(self.room);
        let bytes = ready!(poll_read_buf(Pin::new(&mut self.from), cx, &mut self.came))?;
        if bytes >= self.room {
            self.room = (self.room * 2).min(ROOM.1);
        }
        Poll::Ready(Ok(bytes))
    }
}

/// State of the request when the response arrived.
enum Rest {
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
enum Decoding {
    Known(u64),
    Chunked(Chunks),
    UntilClosed,
}

/// Body of a response.
pub(crate) struct Answer {
    source: Source,
    rest: Rest,
    decoding: Decoding,
    keeps: bool,
}

impl Answer {
    /// Returns the connection for the next request, if the response is complete and left the connection in order.
    pub(crate) fn into_wire(self) -> Option<Wire> {
        let over = self.keeps && self.is_end_stream() && self.source.came.is_empty();
        match self.rest {
            Rest::Sent { to, mut out } if over => {
                out.shrink_to(OUT_KEPT);
                let Source { from, came, room } = self.source;
                let came = if room == ROOM.0 { came } else { BytesMut::new() };
                Some(Wire { from, to, out, came })
            }
            _ => None,
        }
    }

    /// Returns both directions after a change of protocol; none while the request is still being sent.
    pub(crate) fn into_stream(self) -> Option<(Stream, OwnedWriteHalf)> {
        let Rest::Sent { to, .. } = self.rest else { return None };
        Some((Stream(self.source), to))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Self { source, decoding, .. } = self.get_mut();
        loop {
            let ended = match decoding {
                Decoding::Known(0) => return Poll::Ready(None),
                Decoding::Known(left) if !source.came.is_empty() => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(source.came.len());
                    *left -= taken as u64;
                    return Poll::Ready(Some(Ok(Frame::data(source.came.split_to(taken).freeze()))));
                }
                Decoding::Chunked(chunks) => match chunks.next(&mut source.came).map_err(io::Error::other)? {
                    Piece::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Piece::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                    Piece::Ended => return Poll::Ready(None),
                    Piece::Wanting => false,
                },
                Decoding::UntilClosed if !source.came.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(source.came.split().freeze()))));
                }
                Decoding::UntilClosed => true,
                Decoding::Known(_) => false,
            };
            match ready!(source.poll_more(cx))? {
                0 if ended => *decoding = Decoding::Known(0),
                0 => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                _ => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.decoding, Decoding::Known(0) | Decoding::Chunked(Chunks::Ended))
    }

    fn size_hint(&self) -> SizeHint {
        match self.decoding {
            Decoding::Known(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}

/// What comes after the protocol was changed.
pub(crate) struct Stream(Source);

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Source { from, came, .. } = &mut self.0;
        if came.is_empty() {
            return Pin::new(from).poll_read(cx, buffer);
        }
        let taken = came.len().min(buffer.remaining());
        buffer.put_slice(&came.split_to(taken));
        Poll::Ready(Ok(()))
    }
}
