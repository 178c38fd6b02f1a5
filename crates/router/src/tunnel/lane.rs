//! Lanes: the entry router's half.
//!
//! A lane is a stream of HTTP/2 that stays open and carries many short requests, each of them an *exchange*. A stream of
//! its own for each request costs both routers more processor time than the rest of the request. `frames` has the format.
//!
//! ```text
//! request ─► begin ─► frames ─┐                                              ┌─► exchange: head, body
//!                             ├─► task of the lane ══ HTTP/2 ══ other router ┤
//! dropped request ─► Cancel ──┘                                              └─► Leaving: no new exchange
//! ```
//! A connection opens its lanes after its first response, so that a router that does not answer gets one request and no
//! lane. A router that knows no lanes refuses the stream; then each request has a stream of its own. So have requests with
//! a streamed body or a change of protocol.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::client::SendRequest;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use hyper::body::{Frame, SizeHint};

use crate::headers;
use crate::http2::body::{BodyReceiver, SharedUse};
use crate::message::{BodyError, InterimSink, PolledFrame};
use crate::request::request_body::RequestBody;
use crate::request::send_failure::SendFailure;
use crate::tunnel::frame_queue::FrameQueue;
use crate::tunnel::frames::{self, BadFrame, CREDIT, FIELDS_MAX, FrameKind, LaneFrame, WrittenRequest};
use crate::tunnel::wire::{self, TunnelRefusal};
use crate::upstream::http1::chunks::{ChunkDecoder, ChunkPiece};
use crate::upstream::http1::head::{self, BodyLength};

/// Largest body of a request on a lane, in bytes. A larger body has a stream, and so a window, of its own.
const BODY_MAX: usize = 16 << 10;

/// Number of waiting bytes above which a request takes another way.
const QUEUE_MAX: usize = 256 << 10;

/// Longest payload of frames that are joined, so that an unread body of small frames takes little more memory than its
/// bytes.
const JOINED_MAX: usize = 16 << 10;

/// Number of unread frames of an exchange above which interim responses are dropped.
const INTERIMS_MAX: usize = 16;

/// Maximum number of unread frames of an exchange: more than its credit allows.
const FRAMES_MAX: usize = 128;

/// Maximum number of fields of a request on a lane, beside the fields that the router adds.
const REQUEST_FIELDS_MAX: usize = FIELDS_MAX - 16;

/// Lane of a connection to another machine's router.
#[derive(Default)]
pub(crate) struct Lane(Mutex<LaneState>);

#[derive(Default)]
struct LaneState {
    phase: LanePhase,
    queue: FrameQueue,
    exchanges: HashMap<u64, Arrived>,
    /// Number of the next exchange.
    next: u64,
}

/// Phase of a lane.
///
/// ```text
/// New ─ first response ─► Opening ─ accepted ─► Open ─ Leaving ─► Leaving
///                            └───── refused, or broken ──┴──────────┴────► Closed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum LanePhase {
    #[default]
    New,
    Opening,
    Open,
    /// The peer takes no new exchange; those under way go on.
    Leaving,
    Closed,
}

/// Frames of an exchange that have arrived, and are not read yet.
struct Arrived {
    frames: VecDeque<LaneFrame>,
    waiting: Option<Waker>,
    /// Number of bytes of the body that the peer may still send.
    credit: usize,
    /// The last frame has arrived.
    is_complete: bool,
    /// Position of the request among the bytes of the lane.
    position: u64,
}

/// The lane broke.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the other machine's router broke")]
enum LaneLost {
    /// No part of the request was sent.
    Unsent,
    /// The peer may have received the request.
    Sent,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the lane, unless the connection has opened it already.
    pub(super) fn open(self: &Arc<Self>, sender: &SendRequest<Bytes>) {
        {
            let mut state = self.lock();
            if state.phase != LanePhase::New {
                return;
            }
            state.phase = LanePhase::Opening;
        }
        let (lane, sender) = (Arc::clone(self), sender.clone());
        #[expect(clippy::disallowed_methods, reason = "the requests of the lane see its end")]
        tokio::spawn(async move {
            if let Err(cause) = lane.run(sender).await {
                tracing::debug!(%cause, "a lane has ended");
            }
            lane.close();
        });
    }

    /// Runs the lane to its end.
    async fn run(&self, mut sender: SendRequest<Bytes>) -> Result<(), BodyError> {
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
        let (response, mut to) = sender.send_request(wire::lane_request(), false)?;
        drop(sender);
        let (head, from) = response.await?.into_parts();
        if !wire::is_lane(&head.headers) {
            return Err("the other router knows no lanes".into());
        }
        self.lock().phase = LanePhase::Open;
        let mut from = BodyReceiver::new(from);
        let (mut received, mut is_told) = (BytesMut::new(), false);
        std::future::poll_fn(|cx| {
            if self.poll_receive(&mut from, &mut received, cx)?.is_ready() {
                return Poll::Ready(Ok::<(), BodyError>(()));
            }
            ready!(self.poll_send(&mut to, &mut is_told, cx))?;
            Poll::Pending
        })
        .await
    }

    /// Hands the arrived frames to their exchanges. Resolves at the end of the lane.
    fn poll_receive(
        &self,
        from: &mut BodyReceiver,
        received: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, BodyError> {
        loop {
            let data = match from.poll_frame(cx) {
                Poll::Ready(Some(frame)) => frame?.into_data().unwrap_or_default(),
                Poll::Ready(None) => return Ok(Poll::Ready(())),
                Poll::Pending => return Ok(Poll::Pending),
            };
            received.extend_from_slice(&data);
            let mut state = self.lock();
            while let Some(frame) = frames::take(received)? {
                state.receive(frame)?;
            }
        }
    }

    /// Sends the waiting frames, and the end after the last exchange of a peer that leaves.
    fn poll_send(
        &self,
        to: &mut SendStream<Bytes>,
        is_told: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        let mut state = self.lock();
        ready!(state.queue.poll_send(to, cx))?;
        if state.phase == LanePhase::Leaving && state.exchanges.is_empty() && !*is_told {
            *is_told = true;
            to.send_data(Bytes::new(), true)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the lane, and all exchanges that are under way.
    fn close(&self) {
        let mut state = self.lock();
        state.phase = LanePhase::Closed;
        state.exchanges.values_mut().filter_map(|arrived| arrived.waiting.take()).for_each(Waker::wake);
    }

    /// Returns the number of exchanges under way; none if the lane takes no further one.
    pub(super) fn load(&self) -> Option<usize> {
        let state = self.lock();
        (state.phase == LanePhase::Open && state.queue.len() <= QUEUE_MAX).then(|| state.exchanges.len())
    }

    /// Begins an exchange, if the lane is open and carries such a request. `user` counts the exchange on its connection.
    pub(super) fn begin(
        self: &Arc<Self>,
        user: &SharedUse,
        request: &Parts,
        allocation: &HeaderValue,
        body: &RequestBody,
    ) -> Option<LaneExchange> {
        let (length, data) = match body {
            RequestBody::None => (None, &[][..]),
            RequestBody::Buffered(whole) if whole.trailers.is_none() && whole.data.len() <= BODY_MAX => {
                (Some(BodyLength::Known(whole.data.len() as u64)), &whole.data[..])
            }
            RequestBody::Buffered(_) | RequestBody::Client(_) | RequestBody::Tunnelled(_) => return None,
        };
        let fields = &request.headers;
        if fields.len() > REQUEST_FIELDS_MAX || fields.contains_key(UPGRADE) || wire::has_own_fields(fields) {
            return None;
        }
        // A frame has one byte for the length of the name.
        if allocation.len() > usize::from(u8::MAX) {
            return None;
        }
        let mut state = self.lock();
        if state.phase != LanePhase::Open || state.queue.len() > QUEUE_MAX {
            return None;
        }
        let id = state.next;
        state.next += 1;
        let position = state.queue.position();
        state.exchanges.insert(id, Arrived::new(position));
        state.queue.put(FrameKind::Request, true, id, |out| {
            WrittenRequest::put(allocation.as_bytes(), out, |out| {
                head::write(request, length, out);
                out.put_slice(data);
            });
        });
        drop(state);
        Some(LaneExchange { lane: Arc::clone(self), id, is_over: false, taken: 0, _user: SharedUse::clone(user) })
    }
}

impl Arrived {
    fn new(position: u64) -> Self {
        Self { frames: VecDeque::new(), waiting: None, credit: CREDIT as usize, is_complete: false, position }
    }

    /// Adds a frame. A peer that sends more than it may breaks the lane.
    fn add(&mut self, frame: LaneFrame) -> Result<(), BadFrame> {
        if self.is_complete {
            return Err(BadFrame);
        }
        self.is_complete = frame.is_last;
        if frame.kind == FrameKind::Data {
            self.credit = self.credit.checked_sub(frame.payload.len()).ok_or(BadFrame)?;
            if let Some(last) = self.frames.back_mut()
                && last.kind == FrameKind::Data
                && last.payload.len() + frame.payload.len() <= JOINED_MAX
            {
                join(last, &frame);
                return Ok(());
            }
        }
        if frame.kind == FrameKind::Interim && !frame.is_last && self.frames.len() >= INTERIMS_MAX {
            return Ok(());
        }
        if self.frames.len() >= FRAMES_MAX {
            return Err(BadFrame);
        }
        self.frames.push_back(frame);
        Ok(())
    }
}

/// Adds the payload of a frame to an unread frame, in memory of its own.
fn join(unread: &mut LaneFrame, frame: &LaneFrame) {
    let length = unread.payload.len() + frame.payload.len();
    if unread.payload.capacity() < length {
        let mut joined = BytesMut::with_capacity(JOINED_MAX);
        joined.extend_from_slice(&unread.payload);
        unread.payload = joined;
    }
    unread.payload.extend_from_slice(&frame.payload);
    unread.is_last = frame.is_last;
}

impl LaneState {
    fn receive(&mut self, frame: LaneFrame) -> Result<(), BadFrame> {
        if frame.kind == FrameKind::Leaving {
            self.phase = LanePhase::Leaving;
            return Ok(());
        }
        // The frames of a cancelled exchange have no reader.
        let Some(exchange) = self.exchanges.get_mut(&frame.exchange) else { return Ok(()) };
        exchange.add(frame)?;
        exchange.waiting.take().into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Removes an exchange. The task of a lane that leaves waits for the last one.
    fn remove(&mut self, exchange: u64) -> bool {
        let is_known = self.exchanges.remove(&exchange).is_some();
        if self.phase == LanePhase::Leaving && self.exchanges.is_empty() {
            self.queue.wake();
        }
        is_known
    }
}

/// Request on a lane. Dropping an exchange that is under way cancels it.
pub(crate) struct LaneExchange {
    lane: Arc<Lane>,
    id: u64,
    is_over: bool,
    /// Bytes of the body that were taken, and not yet granted again.
    taken: u32,
    _user: SharedUse,
}

impl LaneExchange {
    /// Waits for the head of the response. `body` is the body of the request.
    pub(crate) async fn response(
        mut self,
        method: &Method,
        body: RequestBody,
        interims: Option<&dyn InterimSink>,
    ) -> Result<Response<LaneBody>, SendFailure> {
        loop {
            let mut frame = match std::future::poll_fn(|cx| self.poll_next(cx)).await {
                Ok(frame) => frame,
                Err(LaneLost::Unsent) => return Err(SendFailure::Unsent(body)),
                Err(lost @ LaneLost::Sent) => return Err(SendFailure::Sent(lost.to_string())),
            };
            let head = match head::read(&mut frame.payload, method) {
                Ok(Some(head)) if matches!(frame.kind, FrameKind::Head | FrameKind::Interim) => head,
                _ if frame.kind == FrameKind::Broken => {
                    return Err(SendFailure::Sent("the other machine's router broke off the request".to_owned()));
                }
                _ => return Err(SendFailure::Sent(BadFrame.to_string())),
            };
            let mut response = Response::new(());
            (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
            if frame.kind == FrameKind::Interim {
                if let Some(interims) = interims {
                    wire::strip(response.headers_mut());
                    headers::strip_hop(response.headers_mut());
                    interims.add(response.status(), response.headers());
                }
                continue;
            }
            let mut status = response.status();
            return match wire::read_response(response.headers_mut(), &mut status) {
                Ok(()) => {
                    let length = response.headers().get(CONTENT_LENGTH);
                    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
                    Ok(response.map(|()| LaneBody { exchange: self, length }))
                }
                Err((TunnelRefusal::Broken, why)) => Err(SendFailure::Sent(why)),
                Err(_) => Err(SendFailure::Refused(body)),
            };
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<LaneFrame, LaneLost>> {
        let mut state = self.lane.lock();
        let LaneState { phase, queue, exchanges, .. } = &mut *state;
        let Some(arrived) = exchanges.get_mut(&self.id) else { return Poll::Ready(Err(LaneLost::Sent)) };
        let Some(frame) = arrived.frames.pop_front() else {
            if *phase == LanePhase::Closed {
                let is_unsent = queue.is_unsent(arrived.position);
                return Poll::Ready(Err(if is_unsent { LaneLost::Unsent } else { LaneLost::Sent }));
            }
            arrived.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if frame.is_last {
            self.is_over = true;
            state.remove(self.id);
        }
        Poll::Ready(Ok(frame))
    }

    /// Lets the peer send as many bytes as were taken.
    fn take(&mut self, bytes: usize) {
        self.taken += u32::try_from(bytes).unwrap_or_default();
        if self.taken >= CREDIT / 2 && !self.is_over {
            let granted = std::mem::take(&mut self.taken);
            let mut state = self.lane.lock();
            if let Some(arrived) = state.exchanges.get_mut(&self.id) {
                arrived.credit += granted as usize;
                state.queue.put_credit(self.id, granted);
            }
        }
    }
}

impl Drop for LaneExchange {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.lane.lock();
        if state.remove(self.id) && state.phase != LanePhase::Closed {
            state.queue.put(FrameKind::Cancel, true, self.id, |_| {});
        }
    }
}

/// Body of a response on a lane.
pub(crate) struct LaneBody {
    exchange: LaneExchange,
    length: Option<u64>,
}

impl LaneBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        if self.exchange.is_over {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.exchange.poll_next(cx)) {
            Ok(frame) => frame,
            Err(lost) => return Poll::Ready(Some(Err(lost.into()))),
        };
        match frame.kind {
            FrameKind::Data => {
                self.exchange.take(frame.payload.len());
                if let Some(left) = &mut self.length {
                    *left = left.saturating_sub(frame.payload.len() as u64);
                }
                Poll::Ready(Some(Ok(Frame::data(frame.payload.freeze()))))
            }
            FrameKind::End => Poll::Ready(trailers(frame.payload).transpose()),
            FrameKind::Broken => Poll::Ready(Some(Err("the instance broke off its response".into()))),
            _ => Poll::Ready(Some(Err(BadFrame.into()))),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.exchange.is_over
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.length {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

/// Reads the fields behind a body.
fn trailers(mut fields: BytesMut) -> Result<Option<Frame<Bytes>>, BodyError> {
    match ChunkDecoder::Trailers.next(&mut fields)? {
        ChunkPiece::Trailers(trailers) => Ok(Some(Frame::trailers(trailers))),
        ChunkPiece::Ended => Ok(None),
        ChunkPiece::Data(_) | ChunkPiece::Wanting => Err(BadFrame.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: FrameKind, is_last: bool, payload: &[u8]) -> LaneFrame {
        LaneFrame { kind, is_last, exchange: 0, payload: BytesMut::from(payload) }
    }

    #[tokio::test]
    async fn a_request_that_was_not_sent_is_whole_when_its_lane_breaks() {
        let lane = Arc::new(Lane::default());
        lane.lock().phase = LanePhase::Open;
        let (request, ()) = http::Request::post("/").body(()).expect("a request").into_parts();
        let allocation = HeaderValue::from_static("shop.v1.web-1");
        let exchange = lane.begin(&SharedUse::default(), &request, &allocation, &RequestBody::None).expect("begun");
        lane.close();
        let failure = exchange.response(&request.method, RequestBody::None, None).await.err();
        assert!(matches!(failure, Some(SendFailure::Unsent(RequestBody::None))));
        assert!(lane.lock().exchanges.is_empty());
    }

    #[test]
    fn unread_bodies_take_no_more_than_their_credit() {
        let mut arrived = Arrived::new(0);
        assert_eq!(arrived.add(frame(FrameKind::Head, false, b"head")), Ok(()));
        for _ in 0..CREDIT {
            assert_eq!(arrived.add(frame(FrameKind::Data, false, b"x")), Ok(()));
        }
        assert!(arrived.frames.len() <= 1 + CREDIT as usize / JOINED_MAX, "{}", arrived.frames.len());
        assert_eq!(arrived.frames.iter().skip(1).map(|frame| frame.payload.len()).sum::<usize>(), CREDIT as usize);
        assert_eq!(arrived.add(frame(FrameKind::Data, false, b"x")), Err(BadFrame), "beyond the credit");
    }

    #[test]
    fn joined_frames_keep_their_end() {
        let mut arrived = Arrived::new(0);
        assert_eq!(arrived.add(frame(FrameKind::Data, false, b"a")), Ok(()));
        assert_eq!(arrived.add(frame(FrameKind::Data, true, b"b")), Ok(()));
        assert_eq!(arrived.frames, [frame(FrameKind::Data, true, b"ab")]);
        assert_eq!(arrived.add(frame(FrameKind::End, true, b"\r\n")), Err(BadFrame), "behind the end");
    }

    #[test]
    fn interim_responses_beyond_a_number_are_dropped() {
        let mut arrived = Arrived::new(0);
        for _ in 0..2 * FRAMES_MAX {
            assert_eq!(arrived.add(frame(FrameKind::Interim, false, b"")), Ok(()));
        }
        assert_eq!(arrived.frames.len(), INTERIMS_MAX);
        assert_eq!(arrived.add(frame(FrameKind::Head, true, b"")), Ok(()));
    }
}
