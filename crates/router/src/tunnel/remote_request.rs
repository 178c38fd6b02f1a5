//! One request to an allocation of another machine.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::{Body, SizeHint};
use tokio_util::task::AbortOnDropHandle;

use crate::headers;
use crate::http2::body::{BodyReceiver, BodySender, Http2Reader, Http2Writer, SendBodyError, SharedUse};
use crate::message::{InterimSink, PolledFrame};
use crate::request::request_body::RequestBody;
use crate::request::send_failure::SendFailure;
use crate::tunnel::lane::{LaneBody, LaneExchange};
use crate::tunnel::peer::PeerConnection;
use crate::tunnel::wire::{self, SentBody, Service, TunnelRefusal};

/// State of the request's body.
enum Upload {
    /// The client's body, until the peer asks for it: a refused request is still whole.
    Held(RequestBody, SendStream<Bytes>),
    Sending(BodySender<RequestBody>),
    /// The sending direction of a changed protocol.
    Switch(SendStream<Bytes>),
    Over,
}

/// Reason why no head arrived.
enum NoHead {
    Stream(h2::Error),
    Client(String),
}

impl PeerConnection {
    /// Sends a short request on a lane; none if the request needs a stream of its own.
    pub(crate) fn begin_exchange(
        &self,
        request: &Parts,
        allocation: &HeaderValue,
        body: &RequestBody,
    ) -> Option<LaneExchange> {
        self.lanes().begin(&self.user, request, allocation, body)
    }

    /// Waits for the head of a response on a lane. `body` is the body of the request.
    pub(crate) async fn send_on_lane(
        self,
        exchange: LaneExchange,
        request: &Parts,
        body: RequestBody,
        interims: Option<&dyn InterimSink>,
    ) -> Result<Response<LaneBody>, SendFailure> {
        let response = exchange.response(&request.method, body, interims).await;
        response.map_err(|failure| match (failure, self.given_up()) {
            (SendFailure::Sent(why), Some(silence)) => SendFailure::Sent(format!("{why}: {silence}")),
            (failure, _) => failure,
        })
    }

    /// Sends a request to an allocation on a stream of its own, and waits for the head of its response.
    pub(crate) async fn send_request(
        self,
        request: &Parts,
        allocation: &HeaderValue,
        body: RequestBody,
        interims: Option<&dyn InterimSink>,
    ) -> Result<Response<TunnelBody>, SendFailure> {
        let mut sender = SendRequest::clone(&self.sender);
        if std::future::poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
            self.retire();
            return Err(SendFailure::Unsent(body));
        }
        // After the head of an upgraded request, the stream carries the other protocol. A request with a body keeps its
        // own: a server may ignore `Upgrade` (RFC 9110, section 7.8).
        let is_empty = body.is_end_stream();
        let protocol = request.headers.get(UPGRADE).filter(|_| is_empty);
        let sent = match protocol {
            Some(_) => SentBody::Switch,
            None if is_empty => SentBody::None,
            None => {
                let holds = matches!(body, RequestBody::Client(_) | RequestBody::Tunnelled(_));
                SentBody::Follows { length: body.size_hint().exact(), holds }
            }
        };
        let is_whole = sent == SentBody::None;
        let (mut response, stream) = match sender.send_request(wire::request(request, allocation, sent), is_whole) {
            Ok(sent) => sent,
            Err(error) if error.is_remote() || error.is_io() || error.is_go_away() => {
                self.retire();
                return Err(SendFailure::Unsent(body));
            }
            Err(error) => return Err(SendFailure::Client(format!("the request cannot be sent: {error}"))),
        };
        let again = match &body {
            RequestBody::Buffered(whole) => Some(whole.again()),
            RequestBody::None | RequestBody::Client(_) | RequestBody::Tunnelled(_) => None,
        };
        let mut upload = match body {
            _ if protocol.is_some() => Upload::Switch(stream),
            RequestBody::None => Upload::Over,
            body @ RequestBody::Buffered(_) => Upload::Sending(BodySender::to_router(body, stream)),
            body @ (RequestBody::Client(_) | RequestBody::Tunnelled(_)) => Upload::Held(body, stream),
        };
        let head = std::future::poll_fn(|cx| poll_head(&mut response, &mut upload, interims, cx)).await;
        // Gives the body back, if the other machine's instance cannot have seen a part of it.
        let whole = |upload: Upload| match (upload, again) {
            (Upload::Held(body, _), _) => Some(body),
            (_, Some(again)) => Some(RequestBody::Buffered(again)),
            (Upload::Over | Upload::Switch(_), None) => Some(RequestBody::None),
            (Upload::Sending(_), None) => None,
        };
        let mut response = match head {
            Ok(response) => response,
            Err(NoHead::Client(why)) => return Err(SendFailure::Client(why)),
            Err(NoHead::Stream(error)) => {
                // The peer processed none of the streams after its GOAWAY (RFC 9113, sections 6.8 and 8.7).
                let unprocessed = error.is_remote() && (error.is_go_away() || is_refused(&error));
                self.retire_if(error.is_go_away() || error.is_io());
                return Err(match whole(upload) {
                    Some(body) if unprocessed => SendFailure::Unsent(body),
                    _ => {
                        let why = self.given_up().map_or_else(|| error.to_string(), |silence| silence.to_string());
                        SendFailure::Sent(format!("the connection to the other machine's router broke: {why}"))
                    }
                });
            }
        };
        let mut status = response.status();
        match wire::read_response(response.headers_mut(), &mut status) {
            Ok(()) => {}
            Err((TunnelRefusal::Broken, why)) => return Err(SendFailure::Sent(why)),
            Err((_, why)) => {
                return Err(whole(upload).map_or(SendFailure::Sent(why), SendFailure::Refused));
            }
        }
        self.lanes().open(&self.sender);
        let (mut head, stream) = response.into_parts();
        head.status = status;
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let mut body =
            TunnelBody { body: BodyReceiver::new(stream), length, switch: None, _upload: None, _user: self.user };
        match upload {
            Upload::Switch(stream) if status == StatusCode::SWITCHING_PROTOCOLS => {
                head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                head.headers.extend(protocol.cloned().map(|protocol| (UPGRADE, protocol)));
                body.switch = Some(stream);
            }
            // The instance declined, so nothing follows the request.
            Upload::Switch(mut stream) => drop(stream.send_data(Bytes::new(), true)),
            Upload::Sending(mut sender) => {
                let sending = async move { drop(std::future::poll_fn(|cx| sender.poll(cx)).await) };
                #[expect(clippy::disallowed_methods, reason = "the other machine's router sees the end of the upload")]
                let sending = tokio::spawn(sending);
                body._upload = Some(AbortOnDropHandle::new(sending));
            }
            Upload::Held(..) | Upload::Over => {}
        }
        Ok(Response::from_parts(head, body))
    }

    /// Opens a connection to a copy of a role on the other machine; none if the machine has no copy that takes it.
    pub(crate) async fn join(self, service: &Service) -> Option<(Http2Reader, Http2Writer)> {
        let mut sender = SendRequest::clone(&self.sender);
        if std::future::poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
            self.retire();
            return None;
        }
        let (response, stream) = sender.send_request(service.request(), false).ok()?;
        let (mut head, body) = response.await.ok()?.into_parts();
        wire::read_response(&mut head.headers, &mut head.status).ok()?;
        let is_open = head.status == StatusCode::SWITCHING_PROTOCOLS;
        is_open.then(|| (Http2Reader::new(BodyReceiver::new(body), Some(self.user)), Http2Writer(stream)))
    }

    fn retire_if(&self, broken: bool) {
        if broken {
            self.retire();
        }
    }
}

fn is_refused(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

/// Sends the body, and waits for the head.
fn poll_head(
    response: &mut ResponseFuture,
    upload: &mut Upload,
    interims: Option<&dyn InterimSink>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<h2::RecvStream>, NoHead>> {
    loop {
        if let Upload::Sending(sender) = upload {
            match sender.poll(cx) {
                Poll::Ready(Err(SendBodyError::Body(error))) => {
                    return Poll::Ready(Err(NoHead::Client(format!(
                        "the client did not send the whole request: {error}"
                    ))));
                }
                // A peer that reads no more may have sent a response with the reason.
                Poll::Ready(_) => *upload = Upload::Over,
                Poll::Pending => {}
            }
        }
        match ready!(response.poll_informational(cx)) {
            Some(Ok(interim)) if interim.status() == StatusCode::CONTINUE => {
                *upload = match std::mem::replace(upload, Upload::Over) {
                    Upload::Held(body, stream) => Upload::Sending(BodySender::to_router(body, stream)),
                    other => other,
                };
            }
            Some(Ok(mut interim)) => {
                if let Some(interims) = interims {
                    wire::strip(interim.headers_mut());
                    headers::strip_hop(interim.headers_mut());
                    interims.add(interim.status(), interim.headers());
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(NoHead::Stream(error))),
            None => return Pin::new(&mut *response).poll(cx).map_err(NoHead::Stream),
        }
    }
}

/// Body of a response from another machine.
pub(crate) struct TunnelBody {
    body: BodyReceiver,
    length: Option<u64>,
    /// The sending direction, after a change of protocol.
    switch: Option<SendStream<Bytes>>,
    /// The rest of the request, sent until the response ends.
    _upload: Option<AbortOnDropHandle<()>>,
    _user: SharedUse,
}

impl TunnelBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        let polled = self.body.poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(left)) = (&polled, &mut self.length)
            && let Some(data) = frame.data_ref()
        {
            *left = left.saturating_sub(data.len() as u64);
        }
        polled
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.length {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }

    /// Returns both directions after a change of protocol.
    pub(crate) fn into_stream(self) -> Option<(Http2Reader, Http2Writer)> {
        let Self { body, switch, _user, .. } = self;
        Some((Http2Reader::new(body, Some(_user)), Http2Writer(switch?)))
    }
}
