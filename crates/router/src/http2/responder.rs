//! The response's side of a request over HTTP/2.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};

use crate::message::InterimSink;

/// The response's side of a stream. The task of the request and the body of the request share it: the body sends the
/// interim response that asks for the body.
#[derive(Clone)]
pub(crate) struct Http2Responder(Arc<Mutex<SendResponse<Bytes>>>);

impl Http2Responder {
    pub(crate) fn new(respond: SendResponse<Bytes>) -> Self {
        Self(Arc::new(Mutex::new(respond)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SendResponse<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the body of a request that waits for `100 Continue`.
    pub(crate) fn ask_for_body(&self) {
        self.add(StatusCode::CONTINUE, &HeaderMap::new());
    }

    /// Resolves once the other side has given the request up.
    pub(crate) async fn abandoned(&self) {
        let _ = std::future::poll_fn(|cx| self.lock().poll_reset(cx)).await;
    }
}

impl InterimSink for Http2Responder {
    /// Sends an interim response; drops one that comes after the response.
    fn add(&self, status: StatusCode, headers: &HeaderMap) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().clone_from(headers);
        let _ = self.lock().send_informational(response);
    }
}
