//! Passing a tunnelled request on to the instance: on a kept connection, or else on a new one.

use std::sync::Arc;

use http::Response;
use http::request::Parts;
use tokio::time::Instant;

use crate::message::InterimSink;
use crate::request::request_body::RequestBody;
use crate::request::send_failure::SendFailure;
use crate::routes::circuit::InstanceFailure;
use crate::routes::target::RouteTarget;
use crate::tunnel::frames::WrittenRequest;
use crate::tunnel::wire::TunnelRefusal;
use crate::upstream::response_body::InstanceBody;

/// Request of another router, as it arrived.
pub(super) enum PassedRequest<'a> {
    /// From a stream of its own.
    Parsed(&'a Parts, RequestBody),
    /// From a lane.
    Written(&'a WrittenRequest),
}

/// Returns the instance's response, or the reason why there is none.
pub(super) async fn pass_on(
    target: &Arc<RouteTarget>,
    request: PassedRequest<'_>,
    interims: &dyn InterimSink,
    now: Instant,
) -> Result<Response<InstanceBody>, (TunnelRefusal, String)> {
    let outcome = attempt(target, request, interims, now).await;
    match &outcome {
        Ok(_) => target.circuit.record_success(),
        Err((refusal, _)) => {
            let how = match refusal {
                TunnelRefusal::Unreachable => InstanceFailure::Unreachable,
                _ => InstanceFailure::Broken,
            };
            target.circuit.record_failure(how, now.into_std(), Instant::now().into_std());
        }
    }
    outcome
}

async fn attempt(
    target: &Arc<RouteTarget>,
    mut request: PassedRequest<'_>,
    interims: &dyn InterimSink,
    now: Instant,
) -> Result<Response<InstanceBody>, (TunnelRefusal, String)> {
    let mut kept = if target.circuit.is_troubled() { None } else { target.take_kept(now.into_std()) };
    loop {
        let is_kept = kept.is_some();
        let connection = match kept.take() {
            Some(connection) => connection,
            None => {
                let connected = Box::pin(target.connect()).await;
                connected.map_err(|error| (TunnelRefusal::Unreachable, error.to_string()))?
            }
        };
        let sent = match &mut request {
            PassedRequest::Parsed(head, body) => {
                connection.send_request(head, std::mem::replace(body, RequestBody::None), Some(interims)).await
            }
            PassedRequest::Written(written) => connection.send_written(written, interims).await,
        };
        match sent {
            Ok(response) => return Ok(response),
            Err(SendFailure::Unsent(unsent)) if is_kept => {
                if let PassedRequest::Parsed(_, body) = &mut request {
                    *body = unsent;
                }
            }
            Err(SendFailure::Unsent(_) | SendFailure::Refused(_)) => {
                return Err((TunnelRefusal::Unreachable, "the instance took no request".to_owned()));
            }
            Err(SendFailure::Sent(why) | SendFailure::Client(why)) => return Err((TunnelRefusal::Broken, why)),
        }
    }
}

/// Keeps the connection of a complete response for the next request.
pub(super) fn keep(target: &RouteTarget, body: InstanceBody) {
    if let InstanceBody::Http1(answer) = body
        && let Some(connection) = answer.into_connection()
    {
        target.keep(connection);
    }
}
