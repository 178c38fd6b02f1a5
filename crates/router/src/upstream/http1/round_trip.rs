//! One request and the head of its response, in the task of the request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Body;
use tokio::net::tcp::OwnedReadHalf;
use tokio_util::io::poll_read_buf;
use tokio_util::task::AbortOnDropHandle;

use super::chunks::ChunkDecoder;
use super::connection::Http1Connection;
use super::head::{self, BadHead, BodyLength, ResponseHead};
use super::response::{BodyFraming, Http1Body, READ_SIZES, ReadSide, RequestRest};
use super::upload::{RequestUpload, UploadError};
use crate::headers;
use crate::message::InterimSink;
use crate::request::request_body::RequestBody;
use crate::request::send_failure::SendFailure;

impl Http1Connection {
    /// Sends a request, and waits for the head of its response. An instance may respond before it has the whole
    /// request, so the upload may still be under way afterwards.
    pub(crate) async fn send_request(
        self,
        request: &Parts,
        body: RequestBody,
        interims: Option<&dyn InterimSink>,
    ) -> Result<Response<Http1Body>, SendFailure> {
        let Self { from, to, mut out, received } = self;
        let length = length(&body);
        out.clear();
        head::write(request, length, &mut out);
        let upload = RequestUpload::new(to, out, body, length);
        Self::converse(upload, from, received, &request.method, interims).await
    }

    /// Sends a request that is written already, head and body, and waits for the head of its response.
    pub(crate) async fn send_written(
        self,
        request: &[u8],
        method: &Method,
        interims: Option<&dyn InterimSink>,
    ) -> Result<Response<Http1Body>, SendFailure> {
        let Self { from, to, mut out, received } = self;
        out.clear();
        out.extend_from_slice(request);
        let upload = RequestUpload::new(to, out, RequestBody::None, None);
        Self::converse(upload, from, received, method, interims).await
    }

    async fn converse(
        mut upload: RequestUpload,
        mut from: OwnedReadHalf,
        mut received: BytesMut,
        method: &Method,
        interims: Option<&dyn InterimSink>,
    ) -> Result<Response<Http1Body>, SendFailure> {
        let mut sending = Poll::Pending;
        let head = std::future::poll_fn(|cx| {
            loop {
                if sending.is_pending() {
                    sending = upload.poll(cx);
                }
                match &sending {
                    // An instance that reads no more may have sent a response with the reason.
                    Poll::Ready(Err(UploadError::Instance(_))) if upload.begun => {}
                    Poll::Ready(Err(UploadError::Instance(_))) => return Poll::Ready(Err(NoHead::NotSent)),
                    // The instance has no complete request, so no response is expected.
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(NoHead::NotSent)),
                    _ => {}
                }
                match ready!(poll_head(&mut from, &mut received, method, cx)) {
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
            Err(_) if let Poll::Ready(Err(why @ (UploadError::Client(_) | UploadError::Length))) = sending => {
                return Err(SendFailure::Client(why.to_string()));
            }
            Err(_)
                if !upload.begun
                    && let Some((body, _)) = upload.body.take() =>
            {
                return Err(SendFailure::Unsent(body));
            }
            Err(why) => return Err(SendFailure::Sent(why.to_string())),
        };
        let source = ReadSide { from, received, room: READ_SIZES.0 };
        // An instance that responds before it has the whole request often closes the connection after the response.
        let keeps = head.keeps && matches!(sending, Poll::Ready(Ok(_)));
        #[expect(clippy::disallowed_methods, reason = "the instance sees the end of the upload")]
        let rest = match sending {
            // The instance responded without the body that its client still withholds, so the body is never sent.
            Poll::Pending if upload.word.is_some() => RequestRest::Unsent,
            Poll::Pending => RequestRest::Uploading { _task: AbortOnDropHandle::new(tokio::spawn(upload.finish())) },
            Poll::Ready(_) => RequestRest::Sent { to: upload.to, out: upload.out },
        };
        let decoding = match head.length {
            BodyLength::Known(bytes) => BodyFraming::Known(bytes),
            BodyLength::Chunked => BodyFraming::Chunked(ChunkDecoder::default()),
            BodyLength::UntilClosed => BodyFraming::UntilClosed,
        };
        let mut response = Response::new(Http1Body { source, rest, decoding, keeps });
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }
}

/// Returns the length of a request's body; none if there is no body.
fn length(body: &RequestBody) -> Option<BodyLength> {
    (!body.is_end_stream()).then(|| body.size_hint().exact().map_or(BodyLength::Chunked, BodyLength::Known))
}

/// Returns whether the response is an interim response (RFC 9110, section 15.2).
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Reason why an instance sent no head.
#[derive(Debug, thiserror::Error)]
enum NoHead {
    #[error("the instance closed the connection before it responded")]
    Closed,
    #[error("the connection to the instance broke before it responded: {0}")]
    Broken(std::io::Error),
    #[error(transparent)]
    Malformed(#[from] BadHead),
    /// The request was not sent to its end; the upload has the reason.
    #[error("the whole request was not sent")]
    NotSent,
}

/// Reads until a head is complete.
fn poll_head(
    from: &mut OwnedReadHalf,
    received: &mut BytesMut,
    request_method: &Method,
    cx: &mut Context<'_>,
) -> Poll<Result<ResponseHead, NoHead>> {
    loop {
        if !received.is_empty() {
            match head::read(received, request_method) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        received.reserve(READ_SIZES.0);
        match ready!(poll_read_buf(Pin::new(from), cx, received)) {
            Ok(0) => return Poll::Ready(Err(NoHead::Closed)),
            Ok(_) => {}
            Err(error) => return Poll::Ready(Err(NoHead::Broken(error))),
        }
    }
}
