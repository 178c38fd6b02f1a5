//! One attempt: sends the request to the chosen instance, and waits for the head of the response.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use crate::exchange::error_response;
use crate::exchange::http_exchange::{AttemptFailure, HttpExchange};
use crate::request::request_body::RequestBody;
use crate::request::send_failure::SendFailure;
use crate::routes::target::RouteTarget;
use crate::timer;
use crate::upstream::connection::InstanceConnection;
use crate::upstream::response_body::InstanceBody;

impl HttpExchange {
    /// Sends the request on a kept connection, or else on a new connection.
    pub(super) async fn attempt(
        &mut self,
        target: &Arc<RouteTarget>,
    ) -> Result<Response<InstanceBody>, AttemptFailure> {
        self.entry.target = Some(Arc::clone(target));
        let mut body = std::mem::replace(&mut self.body, RequestBody::None);
        // The instance may have closed a kept connection meanwhile. Then the body comes back and goes out on a new
        // connection. A repeated request, or a request after a failure, uses a new connection at once: an instance that
        // accepts a connection is alive.
        let mut kept =
            if self.repeated || target.circuit.is_troubled() { None } else { target.take_kept(self.now.into_std()) };
        let mut is_first = true;
        loop {
            let mut is_kept = kept.is_some();
            let (sender, now) = match kept.take() {
                Some(sender) => (sender, self.now),
                None => match Box::pin(target.connect()).await {
                    Ok(sender) => {
                        // The connection to another machine's router may be an open one, and closed by now.
                        is_kept = sender.is_tunnel() && std::mem::take(&mut is_first);
                        (sender, Instant::now())
                    }
                    Err(error) => {
                        tracing::debug!(instance = %target.endpoint.allocation, %error, "no connection");
                        return Err(AttemptFailure::Unsent(body));
                    }
                },
            };
            match self.send_request(target, sender, body, now).await {
                Err(AttemptFailure::Unsent(unsent)) if is_kept => body = unsent,
                outcome => return outcome,
            }
        }
    }

    /// Sends a request and waits for the head of its response. The response timeout of the role starts at the last byte
    /// of the request. The client has the same time for each piece of the request.
    async fn send_request(
        &self,
        target: &RouteTarget,
        sender: InstanceConnection,
        body: RequestBody,
        now: Instant,
    ) -> Result<Response<InstanceBody>, AttemptFailure> {
        let timeout = Duration::from_millis(self.route.timeouts.response.millis());
        let upload = match &body {
            RequestBody::Client(client) => Some(Arc::clone(&client.upload)),
            RequestBody::Buffered(_) | RequestBody::Tunnelled(_) | RequestBody::None => None,
        };
        let mut sending = pin!(sender.send_request(&self.request, body, self.interims()));
        let mut deadline = now + timeout;
        let mut timer = self.peer.timers.take(deadline);
        let outcome = loop {
            match timer::within(&mut timer, sending.as_mut()).await {
                Some(Ok(response)) => break Ok(response),
                Some(Err(SendFailure::Unsent(body))) => break Err(AttemptFailure::Unsent(body)),
                Some(Err(SendFailure::Refused(body))) => break Err(AttemptFailure::Refused(body)),
                Some(Err(SendFailure::Sent(why))) => break Err(AttemptFailure::Sent(why)),
                Some(Err(SendFailure::Client(why))) => {
                    break Err(AttemptFailure::Client(Box::new(error_response::bad_request(&why))));
                }
                None => match upload.as_ref().map(|upload| (upload.last() + timeout, upload.is_awaited())) {
                    Some((later, _)) if later > deadline => {
                        deadline = later;
                        timer.as_mut().reset(later);
                    }
                    Some((_, true)) => {
                        break Err(AttemptFailure::Client(Box::new(error_response::slow_client(
                            self.route.timeouts.response,
                        ))));
                    }
                    // The instance has the whole request, or does not read what the client sent.
                    _ => {
                        target.retire_shared();
                        break Err(AttemptFailure::Slow);
                    }
                },
            }
        };
        self.peer.timers.keep(timer);
        outcome
    }
}
