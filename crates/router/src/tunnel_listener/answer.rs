//! One request of another router, for an allocation of this machine.
//!
//! The entry router has admitted, logged and rewritten the request. This router passes it on as it came: forwarding
//! headers and request id are the entry router's.

use std::sync::Arc;

use bytes::Bytes;
use gantry_model::MachineName;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::UPGRADE;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Body;
use tokio::time::Instant;

use crate::exchange::router_state::RouterState;
use crate::exchange::upgrade;
use crate::exchange::upgrade_tunnel::UpgradeTunnel;
use crate::http2::body::{BodyReceiver, BodySender, Http2Reader, Http2Writer};
use crate::http2::responder::Http2Responder;
use crate::message::InterimSink;
use crate::request::request_body::RequestBody;
use crate::request::tunnel_upload::TunnelUpload;
use crate::routes::store::RouteSnapshot;
use crate::routes::target::RouteTarget;
use crate::tunnel::wire::{self, LayerRequest, Service, TunnelRefusal, TunnelledRequest};
use crate::tunnel_listener::attempt::{self, PassedRequest};
use crate::tunnel_listener::layers;
use crate::upstream::response_body::InstanceBody;
use crate::virtual_address;

/// The response's side of a tunnelled request.
struct EntryRouter(Http2Responder);

impl EntryRouter {
    fn refuse(&self, refusal: TunnelRefusal, reason: &str) {
        let _ = self.0.lock().send_response(wire::refuse(refusal, reason), true);
    }
}

impl InterimSink for EntryRouter {
    fn add(&self, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        wire::strip(&mut headers);
        self.0.add(status, &headers);
    }
}

/// Answers a request of the router of `machine`.
pub(super) async fn answer(
    router: Arc<RouterState>,
    machine: Arc<MachineName>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let entry = EntryRouter(Http2Responder::new(respond));
    let routes = router.routes.now();
    if !routes.table.tunnels.machines().contains_key(&*machine) {
        return entry.refuse(TunnelRefusal::Untrusted, "this machine is not one of the cluster's");
    }
    let (parts, stream) = request.into_parts();
    if let Some(service) = Service::read(&parts) {
        return join(&router, &routes, &service, stream, entry).await;
    }
    if let Some(layer) = LayerRequest::read(&parts) {
        drop(routes);
        return send_layer(&router, layer, entry).await;
    }
    if !wire::is_valid(&parts) {
        return entry.refuse(TunnelRefusal::Broken, "the request is not one of a router's");
    }
    let TunnelledRequest { allocation, upgrades, holds, parts } = wire::read_request(parts);
    let allocation = allocation.as_ref().and_then(|allocation| allocation.to_str().ok());
    let now = Instant::now();
    let Some(target) = allocation.and_then(|id| routes.own(id, now.into_std())) else {
        return entry.refuse(TunnelRefusal::Unknown, "this machine has no such allocation");
    };
    drop(routes);
    let _active = target.begin();
    let (body, switch) = if upgrades {
        (RequestBody::None, Some(stream))
    } else if stream.is_end_stream() {
        (RequestBody::None, None)
    } else {
        let upload = TunnelUpload::new(stream, &parts.headers, holds.then(|| entry.0.clone()));
        (RequestBody::Tunnelled(Box::new(upload)), None)
    };
    let outcome = tokio::select! {
        outcome = attempt::pass_on(&target, PassedRequest::Parsed(&parts, body), &entry, now) => outcome,
        () = entry.0.abandoned() => return,
    };
    match outcome {
        Ok(response) => respond_with(response, &target, &parts, switch, entry).await,
        Err((refusal, why)) => entry.refuse(refusal, &why),
    }
}

/// Joins a stream with a copy of a role on this machine.
async fn join(router: &RouterState, routes: &RouteSnapshot, service: &Service, stream: RecvStream, entry: EntryRouter) {
    let copy = match virtual_address::connect_here(router, routes, service).await {
        Ok(copy) => copy,
        Err(error) => {
            return entry
                .refuse(TunnelRefusal::Unreachable, &format!("no copy on this machine takes connections: {error}"));
        }
    };
    let Ok(to_entry) = entry.0.lock().send_response(Service::opened(), false) else { return };
    drop(entry);
    let entry = tokio::io::join(Http2Reader::new(BodyReceiver::new(stream), None), Http2Writer(to_entry));
    virtual_address::copy_both(entry, copy).await;
}

/// Sends a layer to another machine's agent.
async fn send_layer(router: &RouterState, layer: Option<LayerRequest>, entry: EntryRouter) {
    let Some(layer) = layer else {
        return entry.refuse(TunnelRefusal::Unknown, "the request names no layer");
    };
    let open = match layers::open(router, &layer).await {
        Ok(open) => open,
        Err((refusal, reason)) => return entry.refuse(refusal, &reason),
    };
    let Ok(stream) = entry.0.lock().send_response(LayerRequest::response(open.length), open.length == 0) else {
        return;
    };
    drop(entry);
    open.send(Http2Writer(stream)).await;
}

/// Sends the instance's response, or joins both sides after a change of protocol.
async fn respond_with(
    response: Response<InstanceBody>,
    target: &Arc<RouteTarget>,
    request: &Parts,
    switch: Option<RecvStream>,
    entry: EntryRouter,
) {
    let (head, mut body) = response.into_parts();
    let is_switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if is_switched {
        let (Some(from_entry), Ok(instance)) = (switch, body.into_switched()) else {
            return entry.refuse(TunnelRefusal::Broken, "the instance changed the protocol without a request to do so");
        };
        let requested = request.headers.get(UPGRADE);
        if !head
            .headers
            .get(UPGRADE)
            .is_none_or(|answered| requested.is_some_and(|requested| upgrade::is_same_protocol(answered, requested)))
        {
            return entry.refuse(TunnelRefusal::Broken, "the instance changed to another protocol than requested");
        }
        let Ok(to_entry) = entry.0.lock().send_response(wire::response(head), false) else { return };
        let is_websocket = requested.is_some_and(upgrade::is_websocket);
        let tunnel = UpgradeTunnel { is_websocket, leaving: target.leaving() };
        let client = (Http2Reader::new(BodyReceiver::new(from_entry), None), Http2Writer(to_entry));
        return tunnel.copy_until_end(client, instance, &mut 0).await;
    }
    let is_over = body.is_end_stream();
    let sent = entry.0.lock().send_response(wire::response(head), is_over);
    drop(entry);
    let Ok(stream) = sent else { return };
    if !is_over {
        let mut sender = BodySender::to_router(body, stream);
        let sent = std::future::poll_fn(|cx| sender.poll(cx)).await;
        if sent.is_err() {
            return;
        }
        body = sender.body;
    }
    attempt::keep(target, body);
}
