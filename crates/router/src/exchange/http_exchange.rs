//! State of one request, and the order of its steps.

use std::sync::Arc;

use gantry_model::{AllocationId, RequestFailure};
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Body;
use tokio::time::Instant;

use crate::client::peer::ClientPeer;
use crate::client::upgrade::ClientUpgrade;
use crate::exchange::error_response;
use crate::exchange::forward::{is_grpc, is_repeatable};
use crate::exchange::log_entry::AccessLogEntry;
use crate::exchange::response_body::ResponseBody;
use crate::exchange::router_state::RouterState;
use crate::http2::responder::Http2Responder;
use crate::message::InterimSink;
use crate::request::request_body::RequestBody;
use crate::routes::admission::AdmittedRequest;
use crate::routes::circuit::InstanceFailure;
use crate::routes::route::AppRoute;
use crate::routes::target::{ActiveRequest, RouteTarget};
use crate::upstream::response_body::InstanceBody;

/// Response of an instance and its target, or the error response of the router.
pub(super) type Outcome = Result<(ChosenTarget, Response<InstanceBody>), Box<Response<ResponseBody>>>;

/// State of a request.
pub(super) struct HttpExchange {
    pub(super) router: Arc<RouterState>,
    pub(super) peer: Arc<ClientPeer>,
    /// Route at the time of the last search for an instance.
    pub(super) route: Arc<AppRoute>,
    pub(super) entry: AccessLogEntry,
    pub(super) admitted: AdmittedRequest,
    /// Head of the request, as sent to the instance.
    pub(super) request: Parts,
    /// Body of the request, until an instance may have received a part.
    pub(super) body: RequestBody,
    /// The client's connection for a change of protocol.
    pub(super) client: Option<ClientUpgrade>,
    /// The client asked for a websocket over HTTP/2 (extended CONNECT).
    pub(super) over_http2: bool,
    /// The response's side of a request over HTTP/2.
    pub(super) responder: Option<Http2Responder>,
    /// The client accepts interim responses.
    pub(super) takes_interims: bool,
    /// The route may have changed since this request read the route.
    pub(super) stale: bool,
    /// The request went out once, and no response came back.
    pub(super) repeated: bool,
    pub(super) tried: Vec<AllocationId>,
    /// Time of the last search for an instance.
    pub(super) now: Instant,
    /// End of the search for an instance, however often a chosen instance does not take the request.
    pub(super) deadline: Instant,
}

/// Chosen instance, and the guard that counts the request.
pub(super) struct ChosenTarget {
    pub(super) target: Arc<RouteTarget>,
    pub(super) active: ActiveRequest,
}

/// Guard of a request that may be the half-open probe. If the request ends without an outcome, another probe may start.
pub(super) struct HalfOpenProbe(Arc<RouteTarget>, Instant);

impl HalfOpenProbe {
    fn of(target: &Arc<RouteTarget>, sent: Instant) -> Option<Self> {
        target.circuit.is_troubled().then(|| Self(Arc::clone(target), sent))
    }
}

impl Drop for HalfOpenProbe {
    fn drop(&mut self) {
        self.0.circuit.record_no_outcome(self.1.into_std());
    }
}

/// Reason why an instance gave no response.
pub(super) enum AttemptFailure {
    /// The instance did not get the request, so another instance may.
    Unsent(RequestBody),
    /// The router of the instance's machine did not pass the request on.
    Refused(RequestBody),
    /// The instance may have received the request.
    Sent(String),
    /// The instance exceeded the response timeout.
    Slow,
    /// The client broke off, or was silent for too long, before the request was complete.
    Client(Box<Response<ResponseBody>>),
}

impl HttpExchange {
    /// Returns whether the request is a gRPC call with a body.
    pub(super) fn is_grpc(&self) -> bool {
        !self.body.is_end_stream() && is_grpc(&self.request.headers)
    }

    /// Returns the receiver of the instance's interim responses; none if the client accepts none.
    pub(super) fn interims(&self) -> Option<&dyn InterimSink> {
        match &self.responder {
            Some(responder) => Some(responder),
            None => self.takes_interims.then_some(&*self.peer.interims as &dyn InterimSink),
        }
    }

    /// Gets the response of an instance, or the error response of the router.
    pub(super) async fn run(&mut self, is_grpc: bool) -> Outcome {
        if matches!(self.body, RequestBody::Client(_)) && !is_grpc {
            self.buffer_body().await?;
        }
        let repeatable = is_repeatable(&self.request, &self.body);
        loop {
            let chosen = self.find().await.inspect_err(|response| {
                let is_deliberate = self.route.traffic.paused || self.route.traffic.maintenance.is_some();
                let unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE && !is_deliberate;
                self.entry.failure = unavailable.then_some(RequestFailure::NoInstance);
            })?;
            let _probe = HalfOpenProbe::of(&chosen.target, self.now);
            let again = match &self.body {
                RequestBody::Buffered(whole) if repeatable && !self.repeated => Some(whole.again()),
                _ => None,
            };
            let outcome = self.attempt(&chosen.target).await;
            if self.peer.interims.are_pending() {
                self.peer.interims.written().await;
            }
            match outcome {
                Ok(response) => {
                    chosen.target.circuit.record_success();
                    return Ok((chosen, response));
                }
                Err(AttemptFailure::Unsent(unsent) | AttemptFailure::Refused(unsent)) => {
                    chosen.target.record_failure(InstanceFailure::Unreachable, self.now.into_std());
                    self.body = unsent;
                }
                Err(AttemptFailure::Sent(why)) => {
                    chosen.target.record_failure(InstanceFailure::Broken, self.now.into_std());
                    // Retry once, on another instance if there is one: no response came, and a second request is
                    // harmless.
                    if !repeatable || std::mem::replace(&mut self.repeated, true) {
                        return Err(self.broken_instance(&why));
                    }
                    self.deadline = Instant::now() + self.router.settings.wait;
                    if let Some(whole) = &again {
                        self.body = RequestBody::Buffered(whole.again());
                    }
                }
                Err(AttemptFailure::Client(response)) => return Err(response),
                Err(AttemptFailure::Slow) => {
                    chosen.target.record_failure(InstanceFailure::Broken, self.now.into_std());
                    self.entry.failure = Some(RequestFailure::Slow);
                    return Err(Box::new(error_response::too_slow(
                        self.route.app.as_str(),
                        self.route.timeouts.response,
                    )));
                }
            }
            self.tried.push(chosen.target.endpoint.allocation.clone());
        }
    }

    /// Returns the error response for a broken instance.
    pub(super) fn broken_instance(&mut self, why: &str) -> Box<Response<ResponseBody>> {
        self.entry.error = Some(why.to_owned());
        self.entry.failure = Some(RequestFailure::Broken);
        Box::new(error_response::bad_gateway(self.route.app.as_str(), why))
    }
}
