//! Sending of a request: the head, then the body as its pieces arrive.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::Body;
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Sleep;

use super::head::{self, BodyLength};
use crate::message::BodyError;
use crate::request::request_body::RequestBody;

/// Largest piece of a body that is copied behind the head, so that one write sends both.
const COPIED: usize = 4 * 1024;

/// Time for an instance to send the `100 Continue` that its client waits for (`Expect: 100-continue`); many instances
/// send none.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Reason why an upload stopped early.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the connection to the instance broke before the whole request was sent: {0}")]
    Instance(io::Error),
    #[error("the client did not send the whole request: {0}")]
    Client(BodyError),
    #[error("the client sent a body of another length than announced")]
    Length,
}

/// Request that is being sent.
pub(super) struct RequestUpload {
    pub(super) to: OwnedWriteHalf,
    pub(super) out: Vec<u8>,
    written: usize,
    /// Piece of the body, sent after `out`.
    piece: Bytes,
    /// A part of the request was sent.
    pub(super) begun: bool,
    /// The body, until its last piece was taken.
    pub(super) body: Option<(RequestBody, Option<BodyLength>)>,
    /// The whole body is in `out` and `piece`; `body` is kept until a part was sent.
    joined: bool,
    /// Timer while the body waits for the instance's `100 Continue`; the upload starts at the latest when the timer
    /// fires.
    pub(super) word: Option<Pin<Box<Sleep>>>,
}

impl RequestUpload {
    pub(super) fn new(to: OwnedWriteHalf, mut out: Vec<u8>, body: RequestBody, length: Option<BodyLength>) -> Self {
        let (mut piece, mut joined) = (Bytes::new(), false);
        // A complete body goes out with its head.
        if let (RequestBody::Buffered(whole), Some(BodyLength::Known(_))) = (&body, length) {
            joined = true;
            if whole.data.len() <= COPIED {
                out.extend_from_slice(&whole.data);
            } else {
                piece = whole.data.clone();
            }
        }
        let word = body.waits().then(|| Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT)));
        Self { to, out, written: 0, piece, begun: false, body: Some((body, length)), joined, word }
    }

    /// Resolves once everything is sent, or sending failed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        loop {
            ready!(self.poll_out(cx)).map_err(UploadError::Instance)?;
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
                Some(Err(error)) => return Poll::Ready(Err(UploadError::Client(error))),
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
    pub(super) async fn finish(mut self) {
        let _ = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.to.forget();
    }
}

/// Adds a piece of a body to the send buffers.
fn put(data: Bytes, length: &mut BodyLength, out: &mut Vec<u8>, piece: &mut Bytes) -> Result<(), UploadError> {
    match length {
        BodyLength::Known(left) => {
            // The instance would take excess bytes for the next request.
            *left = left.checked_sub(data.len() as u64).ok_or(UploadError::Length)?;
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
fn end(length: BodyLength, trailers: &HeaderMap, out: &mut Vec<u8>) -> Result<bool, UploadError> {
    match length {
        BodyLength::Known(0) => return Ok(trailers.is_empty()),
        BodyLength::Known(_) => return Err(UploadError::Length),
        _ => out.extend_from_slice(b"0\r\n"),
    }
    head::write_fields(trailers, out);
    out.extend_from_slice(b"\r\n");
    Ok(true)
}
