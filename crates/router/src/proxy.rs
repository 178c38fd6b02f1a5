//! One request, from its arrival to the last byte of its answer.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gantry_model::role::Protocol;
use gantry_model::{InstanceId, Seconds};
use http::header::{CONNECTION, HOST, TE, UPGRADE};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::access::Entry;
use crate::body::{Answer, Done, Outgoing, Relayed, Upload};
use crate::gate::Admitted;
use crate::pool::Sender;
use crate::routing::{Active, Route, Target};
use crate::tunnel::Tunnel;
use crate::{Router, circuit, headers, page};

/// The longest that a connection to an instance, on this machine's own network, may take.
const CONNECT: Duration = Duration::from_secs(3);

/// Between two looks while every instance is ejected: the table may not change when one comes back.
const LOOK: Duration = Duration::from_millis(50);

/// Where a connection's requests come from.
pub(crate) struct Peer {
    address: IpAddr,
    tls: bool,
    /// The address as applications are told it.
    text: HeaderValue,
}

impl Peer {
    pub(crate) fn new(address: IpAddr, tls: bool) -> Self {
        // An address is always right for a header.
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("-"));
        Self { address, tls, text }
    }
}

/// Answers a request. While the router ends, each answer tells an HTTP/1 client to make a new connection: one that was
/// closed between two requests would race with the second.
pub(crate) async fn serve(router: Arc<Router>, peer: Arc<Peer>, request: Request<Incoming>) -> Response<Answer> {
    let keeps_alive = request.version() <= Version::HTTP_11;
    let mut response = answer(Arc::clone(&router), peer, request).await;
    let ending = router.ending.load(Ordering::Relaxed);
    if ending && keeps_alive && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(router: Arc<Router>, peer: Arc<Peer>, request: Request<Incoming>) -> Response<Answer> {
    let id = headers::request_id(request.headers());
    let path = request.uri().path_and_query().cloned();
    let mut entry = router.access.begin(request.method().clone(), path, peer.address, id);
    let Some(host) = headers::host_of(&request) else {
        return told(entry, page::no_host());
    };
    let Some(route) = router.routing.now().routes.get(host.as_ref()).cloned() else {
        let page = page::unknown_host(&host, router.settings.domain.as_str());
        entry.host = host.into_owned();
        return told(entry, page);
    };
    entry.route = Some(Arc::clone(&route));
    if let Some(message) = &route.traffic.maintenance {
        return told(entry, page::maintenance(route.app.as_str(), message));
    }
    let now = Instant::now();
    match route.gate.admit(&route.traffic, now.into_std()) {
        Ok(admitted) => {
            let deadline = now + router.settings.wait;
            Exchange { router, peer, route, entry, admitted, tried: Vec::new(), deadline }.run(request).await
        }
        Err(why) => told(entry, page::over_limit(route.app.as_str(), &why)),
    }
}

fn told(mut entry: Entry, response: Response<Answer>) -> Response<Answer> {
    entry.status = response.status().as_u16();
    response
}

struct Exchange {
    router: Arc<Router>,
    peer: Arc<Peer>,
    /// As it was when the request came.
    route: Arc<Route>,
    entry: Entry,
    admitted: Admitted,
    tried: Vec<InstanceId>,
    /// Until then an instance is looked for, however often one that was found does not take the request.
    deadline: Instant,
}

/// A request on its way to an instance.
struct Way {
    target: Arc<Target>,
    active: Active,
}

/// Why an instance gave no answer.
enum Failure {
    /// It did not get the request: another may.
    Unsent(Box<Request<Outgoing>>),
    /// It may have got it.
    Sent(String),
    /// It has had it for too long.
    Slow,
}

impl Exchange {
    async fn run(mut self, mut request: Request<Incoming>) -> Response<Answer> {
        let upgrade = headers::upgrade_of(request.headers());
        let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let mut request = self.outgoing(request, upgrade.as_ref());
        let mut again = is_repeatable(&request).then(|| copy(&request));
        loop {
            let way = match self.find().await {
                Ok(way) => way,
                Err(page) => return told(self.entry, page),
            };
            let circuit = &way.target.circuit;
            match self.exchange(&way.target, request).await {
                Ok((response, sender)) => {
                    circuit.worked();
                    return match client {
                        Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                            self.joined(way, client, upgrade, response)
                        }
                        _ => self.relayed(way, sender, response),
                    };
                }
                Err(Failure::Unsent(unsent)) => {
                    circuit.failed(circuit::Failure::Unreachable, Instant::now().into_std());
                    request = *unsent;
                }
                Err(Failure::Sent(why)) => {
                    circuit.failed(circuit::Failure::Broken, Instant::now().into_std());
                    // Once more, elsewhere if there is an elsewhere: nothing was answered, and asking twice is harmless.
                    match again.take() {
                        Some(copy) => request = copy,
                        None => return told(self.entry, page::bad_gateway(self.route.app.as_str(), &why)),
                    }
                }
                Err(Failure::Slow) => {
                    circuit.failed(circuit::Failure::Broken, Instant::now().into_std());
                    let page = page::too_slow(self.route.app.as_str(), self.route.patience.answer);
                    return told(self.entry, page);
                }
            }
            self.tried.push(way.target.endpoint.instance.clone());
        }
    }

    /// The request as the instance gets it: HTTP/1.1, without what concerned the client's connection.
    fn outgoing(&self, request: Request<Incoming>, upgrade: Option<&HeaderValue>) -> Request<Outgoing> {
        let (mut parts, body) = request.into_parts();
        headers::strip_hop(&mut parts.headers);
        // What a request was routed by is what the application is told (RFC 9112, section 3.2.2).
        let host = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        if let Some(Ok(host)) = host {
            parts.headers.insert(HOST, host);
        }
        headers::join_cookies(&mut parts.headers);
        headers::forward(&mut parts.headers, &self.peer.text, self.peer.tls, &self.route.host, &self.entry.id);
        if let Some(protocol) = upgrade {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol.clone());
        }
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let body = if body.is_end_stream() {
            Outgoing::None(Empty::new())
        } else {
            Outgoing::Client(body, Arc::new(Upload::begin()))
        };
        Request::from_parts(parts, body)
    }

    /// An instance to ask; waits for one while there is none.
    async fn find(&mut self) -> Result<Way, Response<Answer>> {
        let now = Instant::now();
        if let Some(way) = self.try_route(&self.route).filter(|_| self.tried.is_empty() || now < self.deadline) {
            return Ok(way);
        }
        let app = self.route.app.as_str();
        let Some(place) = self.route.gate.wait() else {
            return Err(page::unavailable(app, "too many requests wait for an instance"));
        };
        let mut changes = self.router.routing.changes();
        loop {
            let state = self.router.routing.now();
            let route = state.routes.get(&self.route.host);
            if Instant::now() >= self.deadline {
                let paused = route.is_some_and(|route| route.traffic.paused);
                let why = if paused { "paused for maintenance" } else { "no instance is ready" };
                return Err(page::unavailable(app, why));
            }
            if let Some(message) = route.and_then(|route| route.traffic.maintenance.as_ref()) {
                return Err(page::maintenance(app, message));
            }
            if let Some(way) = route.and_then(|route| self.try_route(route)) {
                place.found();
                return Ok(way);
            }
            // Each was tried and did not take the request: begin anew with all of them.
            self.tried.clear();
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        }
    }

    fn try_route(&self, route: &Route) -> Option<Way> {
        if route.traffic.paused {
            return None;
        }
        let target = route.choose(&self.tried, Instant::now().into_std())?;
        Some(Way { target: Arc::clone(target), active: target.begin() })
    }

    async fn exchange(
        &mut self,
        target: &Arc<Target>,
        mut request: Request<Outgoing>,
    ) -> Result<(Response<Incoming>, Sender), Failure> {
        self.entry.target = Some(Arc::clone(target));
        match target.endpoint.protocol {
            Protocol::H2c => into_http2(&mut request, &self.route.host),
            Protocol::Http1 => into_http1(&mut request),
        }
        let patience = self.route.patience.answer;
        // A kept connection may have been closed meanwhile; then the request comes back and a new one is made.
        if let Some(mut sender) = target.pool.take(Instant::now().into_std()) {
            match send(&mut sender, request, patience).await {
                Ok(response) => return Ok((response, sender)),
                Err(Failure::Unsent(unsent)) => request = *unsent,
                Err(failure) => return Err(failure),
            }
        }
        let mut sender = match connect(target).await {
            Ok(sender) => sender,
            Err(error) => {
                tracing::debug!(instance = %target.endpoint.instance, %error, "cannot be reached");
                return Err(Failure::Unsent(Box::new(request)));
            }
        };
        Ok((send(&mut sender, request, patience).await?, sender))
    }

    /// The answer, streamed to the client.
    fn relayed(mut self, way: Way, sender: Sender, response: Response<Incoming>) -> Response<Answer> {
        let (mut parts, body) = response.into_parts();
        headers::strip_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        self.entry.status = parts.status.as_u16();
        let (admitted, entry) = (self.admitted, self.entry);
        let done = Done { target: way.target, sender: Some(sender), active: way.active, admitted, entry };
        Response::from_parts(parts, Relayed { body, done: Some(done) }.boxed())
    }

    /// Both sides changed the protocol: bytes go to and fro until either ends.
    fn joined(
        mut self,
        way: Way,
        client: hyper::upgrade::OnUpgrade,
        protocol: Option<HeaderValue>,
        mut response: Response<Incoming>,
    ) -> Response<Answer> {
        self.entry.status = 101;
        let instance = hyper::upgrade::on(&mut response);
        let (parts, _) = response.into_parts();
        let websocket = protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let tunnel = Tunnel { websocket, leaving: way.target.leaving() };
        tokio::spawn(async move {
            let mut counted = (self.entry, way, self.admitted);
            if let (Ok(client), Ok(instance)) = tokio::join!(client, instance) {
                tunnel.carry(client, instance, &mut counted.0.bytes).await;
            }
        });
        Response::from_parts(parts, Empty::new().map_err(|never| match never {}).boxed())
    }
}

/// The request in the form of HTTP/1.1 again, if it was on its way to an instance that speaks HTTP/2.
fn into_http1(request: &mut Request<Outgoing>) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    let uri = std::mem::take(request.uri_mut());
    if let Some(Ok(host)) = uri.authority().map(|authority| HeaderValue::from_str(authority.as_str())) {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = Uri::from(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().remove(TE);
}

/// The request in the form of HTTP/2: host and scheme in its address, and trailers welcome, as gRPC asks.
fn into_http2(request: &mut Request<Outgoing>, host: &str) {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    if let Ok(uri) = format!("http://{host}{path}").parse() {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
    for name in [HOST, CONNECTION, UPGRADE] {
        request.headers_mut().remove(name);
    }
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
}

/// Sends a request and waits for the head of its answer: `patience` long from the request's last byte on.
async fn send(
    sender: &mut Sender,
    request: Request<Outgoing>,
    patience: Seconds,
) -> Result<Response<Incoming>, Failure> {
    let patience = Duration::from_millis(patience.millis());
    let upload = match request.body() {
        Outgoing::Client(_, upload) => Some(Arc::clone(upload)),
        Outgoing::None(_) => None,
    };
    let mut sending = pin!(sender.send(request));
    let mut deadline = Instant::now() + patience;
    loop {
        match tokio::time::timeout_at(deadline, &mut sending).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut error)) => {
                return Err(match error.take_message() {
                    Some(unsent) => Failure::Unsent(Box::new(unsent)),
                    None => Failure::Sent(error.into_error().to_string()),
                });
            }
            Err(_) => match upload.as_ref().map(|upload| upload.last() + patience) {
                Some(later) if later > deadline => deadline = later,
                _ => return Err(Failure::Slow),
            },
        }
    }
}

async fn connect(target: &Target) -> std::io::Result<Sender> {
    let address = SocketAddr::from((target.endpoint.address, target.endpoint.port));
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Sender::begin(stream, target.endpoint.protocol).await.map_err(std::io::Error::other)
}

/// Asking twice does no more than asking once, and there is no body that was sent half.
fn is_repeatable(request: &Request<Outgoing>) -> bool {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    safe && request.body().is_end_stream() && !request.headers().contains_key(UPGRADE)
}

fn copy(request: &Request<Outgoing>) -> Request<Outgoing> {
    let mut again = Request::new(Outgoing::None(Empty::new()));
    again.method_mut().clone_from(request.method());
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    again
}
