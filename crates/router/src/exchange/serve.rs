//! Entry point of a request.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};

use crate::client::body::ClientBody;
use crate::client::peer::ClientPeer;
use crate::client::upgrade::StreamUpgrade;
use crate::exchange::error_response;
use crate::exchange::http_exchange::HttpExchange;
use crate::exchange::response_body::ResponseBody;
use crate::exchange::router_state::RouterState;
use crate::http2::responder::Http2Responder;

/// Response to a request. The box has the whole state of the request, so that a connection without a request takes no
/// memory for one, and hyper moves only a pointer.
type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

/// Stream of a request over HTTP/2.
pub(crate) struct RequestStream {
    pub(crate) responder: Http2Responder,
    /// The stream of an extended CONNECT.
    pub(crate) switch: Option<StreamUpgrade>,
}

/// Serves a request. During a shutdown, each response tells an HTTP/1 client to reconnect: closing the connection
/// between two requests would race with the second request.
pub(crate) fn serve(
    router: &Arc<RouterState>,
    peer: &Arc<ClientPeer>,
    request: Request<ClientBody>,
    stream: Option<RequestStream>,
) -> ResponseFuture {
    let keeps_alive = request.version() <= Version::HTTP_11;
    let exchange = HttpExchange::begin(router, peer, request, stream);
    let router = Arc::clone(router);
    let finish = move |mut response: Response<ResponseBody>| {
        let ending = router.ending.load(Ordering::Relaxed);
        if ending && keeps_alive && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    };
    match exchange {
        Ok(mut exchange) => Box::pin(async move {
            let is_grpc = exchange.is_grpc();
            let outcome = exchange.run(is_grpc).await;
            let mut response = exchange.respond(outcome);
            if is_grpc {
                error_response::into_grpc(&mut response);
                if !keeps_alive {
                    error_response::end_as_grpc(&mut response);
                }
            }
            finish(response)
        }),
        Err(refused) => Box::pin(std::future::ready(finish(*refused))),
    }
}
