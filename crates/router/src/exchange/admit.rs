//! Admission: finds the route of a request, and applies the limits of its app.

use std::sync::Arc;

use gantry_model::RequestFailure;
use http::{Method, Request, Response, Version};
use tokio::time::Instant;

use crate::client::body::ClientBody;
use crate::client::peer::ClientPeer;
use crate::client::upgrade::ClientUpgrade;
use crate::exchange::forward::{is_grpc, outgoing};
use crate::exchange::http_exchange::HttpExchange;
use crate::exchange::log_entry::AccessLogEntry;
use crate::exchange::origin::RequestOrigin;
use crate::exchange::response_body::ResponseBody;
use crate::exchange::router_state::RouterState;
use crate::exchange::serve::RequestStream;
use crate::exchange::{error_response, origin, upgrade};
use crate::headers;
use crate::routes::admission::AdmittedRequest;
use crate::routes::route::AppRoute;

/// Longest logged name of an unknown host: the longest name there may be (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 255;

impl HttpExchange {
    /// Admits a request, or returns the response that needs no instance. `stream` is the stream of a request over
    /// HTTP/2.
    pub(super) fn begin(
        router: &Arc<RouterState>,
        peer: &Arc<ClientPeer>,
        mut request: Request<ClientBody>,
        stream: Option<RequestStream>,
    ) -> Result<Self, Box<Response<ResponseBody>>> {
        let now = Instant::now();
        let (mut entry, route, admitted) = match Self::admit(router, peer, &request, now) {
            Ok(admitted) => admitted,
            Err(mut response) => {
                if is_grpc(request.headers()) {
                    error_response::into_grpc(&mut response);
                }
                return Err(response);
            }
        };
        let (responder, switch) = stream.map(|stream| (stream.responder, stream.switch)).unzip();
        let takes_interims = request.version() >= Version::HTTP_11;
        let over_http2 = upgrade::take_extended_connect(&mut request);
        let protocol =
            if over_http2 { Some(upgrade::WEBSOCKET) } else { upgrade::requested_protocol(request.headers()) };
        let client = protocol.is_some().then(|| match switch.flatten() {
            Some(switch) => ClientUpgrade::Http2(switch),
            None => ClientUpgrade::Http1(hyper::upgrade::on(&mut request)),
        });
        let trusted = route.trusted_proxies.contains(peer.address);
        let (request, body) =
            outgoing(request, RequestOrigin { peer: &peer.text, tls: peer.tls, trusted }, &entry.id, protocol.as_ref());
        if trusted {
            entry.client = origin::client(&request.headers, &route.trusted_proxies);
        }
        let (router, peer, deadline) = (Arc::clone(router), Arc::clone(peer), now + router.settings.wait);
        Ok(Self {
            router,
            peer,
            route,
            entry,
            admitted,
            request,
            body,
            client,
            over_http2,
            responder,
            takes_interims,
            stale: false,
            tried: Vec::new(),
            repeated: false,
            now,
            deadline,
        })
    }

    fn admit(
        router: &RouterState,
        peer: &Arc<ClientPeer>,
        request: &Request<ClientBody>,
        now: Instant,
    ) -> Result<(AccessLogEntry, Arc<AppRoute>, AdmittedRequest), Box<Response<ResponseBody>>> {
        let id = headers::request_id(request.headers());
        let path = request.uri().path_and_query().cloned();
        let mut entry =
            AccessLogEntry::begin(&router.access, now.into_std(), request.method().clone(), path, Arc::clone(peer), id);
        let Some(host) = headers::host_of(request) else {
            return Err(Box::new(entry.answered(error_response::no_host())));
        };
        if request.method() == Method::CONNECT {
            match upgrade::extended_connect(request) {
                Some(protocol) if protocol.as_bytes().eq_ignore_ascii_case(upgrade::WEBSOCKET.as_bytes()) => {}
                Some(_) => return Err(Box::new(entry.answered(error_response::unknown_protocol()))),
                None => return Err(Box::new(entry.answered(error_response::no_tunnel()))),
            }
        }
        let Some(route) = router.routes.now().routes.get(host.as_ref()).cloned() else {
            let response = router.no_route(&host);
            entry.host = host.chars().take(HOST_MAX).collect();
            return Err(Box::new(entry.answered(response)));
        };
        entry.route = Some(Arc::clone(&route));
        if let Some(message) = &route.traffic.maintenance {
            return Err(Box::new(entry.answered(error_response::maintenance(route.app.as_str(), message))));
        }
        match route.gate.admit(&route.traffic, now.into_std()) {
            Ok(admitted) => Ok((entry, route, admitted)),
            Err(why) => {
                entry.failure = Some(RequestFailure::Limited);
                Err(Box::new(entry.answered(error_response::over_limit(route.app.as_str(), why))))
            }
        }
    }
}
