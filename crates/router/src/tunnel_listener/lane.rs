//! Lanes: the half of the allocation's machine. `tunnel::lane` describes lanes.
//!
//! Each exchange has a task of its own, which ends when the entry router cancels the exchange, and with the lane.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gantry_model::MachineName;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Body;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::exchange::router_state::RouterState;
use crate::http2::body::BodyReceiver;
use crate::message::{BodyError, InterimSink};
use crate::tunnel::frame_queue::FrameQueue;
use crate::tunnel::frames::{self, BadFrame, CREDIT, FrameKind, LaneFrame, WrittenRequest};
use crate::tunnel::wire::{self, TunnelRefusal};
use crate::tunnel_listener::attempt::{self, PassedRequest};
use crate::upstream::http1::head;
use crate::upstream::response_body::InstanceBody;

/// Maximum number of exchanges at once: more than a router sends.
const EXCHANGES_MAX: usize = 256;

/// Number of waiting bytes above which the bodies of responses wait, and further requests.
const QUEUE_MAX: usize = 256 << 10;

/// Largest part of a body in a frame.
const DATA_MAX: usize = 64 << 10;

/// Lane of another machine's router.
struct ServedLane {
    router: Arc<RouterState>,
    /// Machine of the other router.
    machine: Arc<MachineName>,
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    queue: FrameQueue,
    exchanges: HashMap<u64, Exchange>,
    /// Exchanges that wait until the queue is shorter.
    waiting: Vec<Waker>,
}

/// Exchange that is under way.
struct Exchange {
    task: AbortHandle,
    /// Number of bytes of the body that the entry router still takes.
    credit: usize,
    /// Waker of an exchange without credit.
    waiting: Option<Waker>,
}

/// Serves a lane to its end.
pub(super) async fn serve(
    router: Arc<RouterState>,
    machine: Arc<MachineName>,
    from: BodyReceiver,
    mut respond: SendResponse<Bytes>,
    ending: watch::Receiver<()>,
) {
    let Ok(to) = respond.send_response(wire::lane_opened(), false) else { return };
    let lane = Arc::new(ServedLane { router, machine, state: Mutex::default() });
    if let Err(cause) = lane.run(from, to, ending).await {
        tracing::debug!(machine = %lane.machine, %cause, "a lane has ended");
    }
    lane.lock().exchanges.values().for_each(|exchange| exchange.task.abort());
}

impl ServedLane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the lane until the entry router has ended it, and the last exchange is over.
    async fn run(
        self: &Arc<Self>,
        mut from: BodyReceiver,
        mut to: SendStream<Bytes>,
        mut ending: watch::Receiver<()>,
    ) -> Result<(), BodyError> {
        let (mut received, mut is_over) = (BytesMut::new(), false);
        let mut working = std::pin::pin!(std::future::poll_fn(|cx| {
            let is_sent = self.lock().poll_send(&mut to, cx)?.is_ready();
            // An entry router that reads no responses gets no further ones.
            if !is_over && self.lock().queue.len() <= QUEUE_MAX {
                is_over = self.poll_receive(&mut from, &mut received, cx)?.is_ready();
            }
            if !(is_sent && is_over && self.lock().is_done()) {
                return Poll::Pending;
            }
            to.send_data(Bytes::new(), true)?;
            Poll::Ready(Ok::<(), BodyError>(()))
        }));
        tokio::select! {
            biased;
            ended = working.as_mut() => return ended,
            _ = ending.changed() => {}
        }
        self.lock().queue.put(FrameKind::Leaving, false, 0, |_| {});
        working.await
    }

    /// Takes the arrived frames. Resolves once the entry router sends no more.
    fn poll_receive(
        self: &Arc<Self>,
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
            while let Some(frame) = frames::take(received)? {
                self.receive(frame)?;
            }
        }
    }

    fn receive(self: &Arc<Self>, mut frame: LaneFrame) -> Result<(), BadFrame> {
        let mut state = self.lock();
        match frame.kind {
            FrameKind::Request
                if state.exchanges.len() < EXCHANGES_MAX && !state.exchanges.contains_key(&frame.exchange) =>
            {
                // The frames are in order, so the other requests of the lane go on.
                let Ok(request) = WrittenRequest::read(frame.payload) else {
                    let refusal = wire::refuse(TunnelRefusal::Broken, "the request is not one of a router's");
                    state.queue.put(FrameKind::Head, true, frame.exchange, |out| put_head(&refusal, out));
                    return Ok(());
                };
                #[expect(clippy::disallowed_methods, reason = "the entry router sees the end of the exchange")]
                let task = tokio::spawn(answer(Arc::clone(self), frame.exchange, request)).abort_handle();
                let exchange = Exchange { task, credit: CREDIT as usize, waiting: None };
                state.exchanges.insert(frame.exchange, exchange);
            }
            FrameKind::Cancel => {
                if let Some(exchange) = state.exchanges.remove(&frame.exchange) {
                    exchange.task.abort();
                }
            }
            FrameKind::Credit if frame.payload.len() == size_of::<u32>() => {
                if let Some(exchange) = state.exchanges.get_mut(&frame.exchange) {
                    exchange.credit = exchange.credit.saturating_add(frame.payload.get_u32() as usize);
                    exchange.waiting.take().into_iter().for_each(Waker::wake);
                }
            }
            _ => return Err(BadFrame),
        }
        Ok(())
    }

    /// Adds a frame of an exchange, unless the exchange is cancelled. The exchange ends with its last frame.
    fn put(&self, exchange: u64, kind: FrameKind, is_last: bool, write: impl FnOnce(&mut BytesMut)) {
        let mut state = self.lock();
        let is_known =
            if is_last { state.exchanges.remove(&exchange).is_some() } else { state.exchanges.contains_key(&exchange) };
        if is_known {
            state.queue.put(kind, is_last, exchange, write);
        }
    }

    fn put_head(&self, exchange: u64, kind: FrameKind, is_last: bool, response: &Response<()>) {
        self.put(exchange, kind, is_last, |out| put_head(response, out));
    }

    fn refuse(&self, exchange: u64, refusal: TunnelRefusal, reason: &str) {
        self.put_head(exchange, FrameKind::Head, true, &wire::refuse(refusal, reason));
    }

    /// Resolves to the number of bytes of a body that may be sent now, up to `wanted`.
    fn poll_room(&self, exchange: u64, wanted: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let mut state = self.lock();
        if state.queue.len() > QUEUE_MAX {
            state.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        match state.exchanges.get_mut(&exchange) {
            Some(exchange) if exchange.credit > 0 => {
                let room = exchange.credit.min(wanted).min(DATA_MAX);
                exchange.credit -= room;
                Poll::Ready(room)
            }
            Some(exchange) => {
                exchange.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
            // The exchange is cancelled, and its task about to end.
            None => Poll::Pending,
        }
    }
}

impl LaneState {
    /// Returns whether every exchange is over, and all of it sent.
    fn is_done(&self) -> bool {
        self.exchanges.is_empty() && self.queue.len() == 0
    }

    fn poll_send(&mut self, to: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let sent = self.queue.poll_send(to, cx);
        if self.queue.len() <= QUEUE_MAX {
            self.waiting.drain(..).for_each(Waker::wake);
        }
        sent
    }
}

/// Interim responses of an exchange.
struct Interims<'a>(&'a ServedLane, u64);

impl InterimSink for Interims<'_> {
    /// Sends an interim response; drops one of many that wait already.
    fn add(&self, status: StatusCode, headers: &HeaderMap) {
        if self.0.lock().queue.len() > QUEUE_MAX {
            return;
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().clone_from(headers);
        wire::strip(response.headers_mut());
        self.0.put_head(self.1, FrameKind::Interim, false, &response);
    }
}

/// Guard of an exchange: tells the entry router of an exchange that ends without its last frame.
struct ExchangeEnd(Arc<ServedLane>, u64);

impl Drop for ExchangeEnd {
    fn drop(&mut self) {
        self.0.put(self.1, FrameKind::Broken, true, |_| {});
    }
}

/// Answers a request on a lane.
async fn answer(lane: Arc<ServedLane>, exchange: u64, request: WrittenRequest) {
    let _end = ExchangeEnd(Arc::clone(&lane), exchange);
    let routes = lane.router.routes.now();
    if !routes.table.tunnels.machines().contains_key(&*lane.machine) {
        return lane.refuse(exchange, TunnelRefusal::Untrusted, "this machine is not one of the cluster's");
    }
    let now = Instant::now();
    let Some(target) = routes.own(&request.allocation, now.into_std()) else {
        return lane.refuse(exchange, TunnelRefusal::Unknown, "this machine has no such allocation");
    };
    drop(routes);
    let _active = target.begin();
    let interims = Interims(&lane, exchange);
    let response = match attempt::pass_on(&target, PassedRequest::Written(&request), &interims, now).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let reason = "the instance changed the protocol without a request to do so";
            return lane.refuse(exchange, TunnelRefusal::Broken, reason);
        }
        Ok(response) => response,
        Err((refusal, reason)) => return lane.refuse(exchange, refusal, &reason),
    };
    // The request is a part of a read buffer.
    drop(request);
    let (head, mut body) = response.into_parts();
    let is_over = body.is_end_stream();
    lane.put_head(exchange, FrameKind::Head, is_over, &wire::response(head));
    if is_over || send_body(&lane, exchange, &mut body).await.is_ok() {
        attempt::keep(&target, body);
    }
}

/// Sends a body to its end.
async fn send_body(lane: &ServedLane, exchange: u64, body: &mut InstanceBody) -> Result<(), BodyError> {
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.transpose()? {
            Some(frame) => match frame.into_data() {
                Ok(mut data) => {
                    while !data.is_empty() {
                        let room = std::future::poll_fn(|cx| lane.poll_room(exchange, data.len(), cx)).await;
                        let part = data.split_to(room);
                        let is_last = data.is_empty() && body.is_end_stream();
                        lane.put(exchange, FrameKind::Data, is_last, |out| out.put_slice(&part));
                        if is_last {
                            return Ok(());
                        }
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    lane.put(exchange, FrameKind::End, true, |out| put_trailers(&trailers, out));
                    return Ok(());
                }
            },
            None => {
                lane.put(exchange, FrameKind::End, true, |out| put_trailers(&HeaderMap::new(), out));
                return Ok(());
            }
        }
    }
}

fn put_head(response: &Response<()>, out: &mut BytesMut) {
    head::write_response(response.status(), response.headers(), out);
}

fn put_trailers(trailers: &HeaderMap, out: &mut BytesMut) {
    head::write_fields(trailers, out);
    out.put_slice(b"\r\n");
}
