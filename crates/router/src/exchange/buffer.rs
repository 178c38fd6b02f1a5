//! Buffering of the request body, before an instance is chosen.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Response;
use http::header::EXPECT;
use tokio::time::Instant;

use crate::client::buffer::{BodyBuffer, BufferOutcome};
use crate::exchange::error_response;
use crate::exchange::forward::{detach, streams};
use crate::exchange::http_exchange::HttpExchange;
use crate::exchange::response_body::ResponseBody;
use crate::request::request_body::RequestBody;

impl HttpExchange {
    /// Buffers the client's body, up to the limit of the role.
    pub(super) async fn buffer_body(&mut self) -> Result<(), Box<Response<ResponseBody>>> {
        let RequestBody::Client(client) = &mut self.body else { return Ok(()) };
        let most = usize::try_from(self.route.timeouts.request_buffer.0).unwrap_or(usize::MAX);
        // If the body is longer than the buffer, the instance decides on the client's `Expect: 100-continue`.
        let is_large_upload = client.rest.waits() && client.size_hint().exact().is_none_or(|bytes| bytes > most as u64);
        let changes = self.client.is_some() && client.size_hint().exact().is_none();
        if most == 0 || is_large_upload || changes || streams(&self.request.headers) {
            return Ok(());
        }
        let (upload, timeout) = (Arc::clone(&client.upload), self.route.timeouts.response);
        let silence = Duration::from_millis(timeout.millis());
        let mut collecting = BodyBuffer::new(most, &self.router.budget);
        let at_once = std::future::poll_fn(|cx| {
            let polled = collecting.poll(&mut client.rest, || upload.record_piece(), cx);
            Poll::Ready(if let Poll::Ready(done) = polled { Some(done) } else { None })
        })
        .await;
        let collected = if at_once.is_some() {
            at_once
        } else {
            // Buffering may take long, and the read buffer of the head is much larger than its content.
            detach(&mut self.request);
            self.entry.detach();
            let mut timer = self.peer.timers.take(upload.last() + silence);
            let collected = std::future::poll_fn(|cx| {
                if let Poll::Ready(done) = collecting.poll(&mut client.rest, || upload.record_piece(), cx) {
                    return Poll::Ready(Some(done));
                }
                while timer.as_mut().poll(cx).is_ready() {
                    if upload.last() + silence <= Instant::now() {
                        return Poll::Ready(None);
                    }
                    timer.as_mut().reset(upload.last() + silence);
                }
                Poll::Pending
            })
            .await;
            self.peer.timers.keep(timer);
            self.stale = true;
            self.now = Instant::now();
            self.deadline = self.now + self.router.settings.wait;
            collected
        };
        match collected {
            None => return Err(Box::new(error_response::slow_client(timeout))),
            Some(Err(error)) => {
                let why = format!("the client did not send the whole request: {error}");
                self.entry.error = Some(why.clone());
                return Err(Box::new(error_response::bad_request(&why)));
            }
            Some(Ok(BufferOutcome::Partial(begun))) => client.begun = Some(begun),
            Some(Ok(BufferOutcome::Complete(whole))) => {
                self.request.headers.remove(EXPECT);
                self.body = if whole.is_empty() { RequestBody::None } else { RequestBody::Buffered(whole) };
            }
        }
        Ok(())
    }
}
