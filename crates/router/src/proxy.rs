//! One request, from its arrival to the last byte of its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gantry_model::InstanceId;
use gantry_model::role::Protocol;
use http::header::{CONNECTION, HOST, TE, UPGRADE};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::access::Entry;
use crate::body::{Answer, Done, Outgoing, Relayed};
use crate::pool::Sender;
use crate::routing::{Active, Route, Target};
use crate::{Router, headers, page};

/// The longest that a connection to an instance, on this machine's own network, may take.
const CONNECT: Duration = Duration::from_secs(3);

/// Between two looks while every instance is ejected: the table may not change when one comes back.
const LOOK: Duration = Duration::from_millis(50);

/// Where a request comes from.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
}

/// Answers a request. While the router ends, each answer tells an HTTP/1 client to make a new connection: one that was
/// closed between two requests would race with the second.
pub(crate) async fn serve(router: Arc<Router>, peer: Peer, request: Request<Incoming>) -> Response<Answer> {
    let keeps_alive = request.version() <= Version::HTTP_11;
    let mut response = answer(Arc::clone(&router), peer, request).await;
    let ending = router.ending.load(Ordering::Relaxed);
    if ending && keeps_alive && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(router: Arc<Router>, peer: Peer, request: Request<Incoming>) -> Response<Answer> {
    let mut entry = router.access.begin();
    entry.method = request.method().to_string();
    entry.path = request.uri().path().chars().take(1000).collect();
    entry.peer = peer.address.ip().to_string();
    entry.id = headers::request_id(request.headers());
    let Some(host) = headers::host_of(&request) else {
        return told(entry, page::no_host());
    };
    entry.host.clone_from(&host);
    let Some(route) = router.routing.now().routes.get(&host).cloned() else {
        let page = page::unknown_host(&host, router.settings.domain.as_str());
        return told(entry, page);
    };
    entry.app = route.app.to_string();
    let deadline = Instant::now() + router.settings.wait;
    Exchange { router, peer, host, entry, tried: Vec::new(), deadline }.run(route, request).await
}

fn told(mut entry: Entry, response: Response<Answer>) -> Response<Answer> {
    entry.status = response.status().as_u16();
    response
}

struct Exchange {
    router: Arc<Router>,
    peer: Peer,
    host: String,
    entry: Entry,
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
}

impl Exchange {
    async fn run(mut self, route: Arc<Route>, mut request: Request<Incoming>) -> Response<Answer> {
        let upgrade = headers::upgrade_of(request.headers());
        let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let mut request = self.outgoing(request, upgrade.as_ref());
        let repeatable = is_repeatable(&request).then(|| copy(&request));
        let mut repeated = false;
        loop {
            let way = match self.find(&route).await {
                Ok(way) => way,
                Err(page) => return told(self.entry, page),
            };
            match self.exchange(&way.target, request).await {
                Ok((response, sender)) => {
                    way.target.worked();
                    return match client {
                        Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                            self.joined(way, client, response)
                        }
                        _ => self.relayed(way, sender, response),
                    };
                }
                Err(Failure::Unsent(again)) => {
                    way.target.failed();
                    self.tried.push(way.target.endpoint.instance.clone());
                    request = *again;
                }
                Err(Failure::Sent(why)) => {
                    // Once more, elsewhere if there is an elsewhere: nothing was answered, and asking twice is harmless.
                    match &repeatable {
                        Some(parts) if !repeated => {
                            repeated = true;
                            self.tried.push(way.target.endpoint.instance.clone());
                            request = copy(parts);
                        }
                        _ => {
                            let page = page::bad_gateway(&self.entry.app, &why);
                            return told(self.entry, page);
                        }
                    }
                }
            }
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
        headers::forward(&mut parts.headers, self.peer.address.ip(), self.peer.tls, &self.host, &self.entry.id);
        if let Some(protocol) = upgrade {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol.clone());
        }
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let body = if body.is_end_stream() { Outgoing::None(Empty::new()) } else { Outgoing::Client(body) };
        Request::from_parts(parts, body)
    }

    /// An instance to ask; waits for one while there is none.
    async fn find(&mut self, first: &Arc<Route>) -> Result<Way, Response<Answer>> {
        if let Some(way) = self.try_route(first).filter(|_| self.tried.is_empty() || Instant::now() < self.deadline) {
            return Ok(way);
        }
        let Some(place) = self.router.waiting.enter(&first.app) else {
            return Err(page::unavailable(&self.entry.app, "too many requests wait for an instance"));
        };
        let mut changes = self.router.routing.changes();
        loop {
            if Instant::now() >= self.deadline {
                return Err(page::unavailable(&self.entry.app, "no instance is ready"));
            }
            let state = self.router.routing.now();
            if let Some(way) = state.routes.get(&self.host).and_then(|route| self.try_route(route)) {
                drop(place);
                return Ok(way);
            }
            // Each was tried and did not take the request: begin anew with all of them.
            self.tried.clear();
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        }
    }

    fn try_route(&self, route: &Route) -> Option<Way> {
        let target = route.choose(&self.tried)?;
        let active = target.begin();
        Some(Way { target, active })
    }

    async fn exchange(
        &mut self,
        target: &Arc<Target>,
        mut request: Request<Outgoing>,
    ) -> Result<(Response<Incoming>, Sender), Failure> {
        self.entry.instance = target.endpoint.instance.to_string();
        match target.endpoint.protocol {
            Protocol::H2c => into_http2(&mut request, &self.host),
            Protocol::Http1 => into_http1(&mut request),
        }
        // A kept connection may have been closed meanwhile; then the request comes back and a new one is made.
        if let Some(mut sender) = target.pool.take() {
            match sender.send(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Sent(error.into_error().to_string())),
                },
            }
        }
        let mut sender = match connect(target).await {
            Ok(sender) => sender,
            Err(error) => {
                tracing::debug!(instance = %target.endpoint.instance, %error, "cannot be reached");
                return Err(Failure::Unsent(Box::new(request)));
            }
        };
        match sender.send(request).await {
            Ok(response) => Ok((response, sender)),
            Err(mut error) => Err(match error.take_message() {
                Some(unsent) => Failure::Unsent(Box::new(unsent)),
                None => Failure::Sent(error.into_error().to_string()),
            }),
        }
    }

    /// The answer, streamed to the client.
    fn relayed(mut self, way: Way, sender: Sender, response: Response<Incoming>) -> Response<Answer> {
        let (mut parts, body) = response.into_parts();
        headers::strip_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        self.entry.status = parts.status.as_u16();
        let done = Done { target: way.target, sender: Some(sender), active: way.active, entry: self.entry };
        Response::from_parts(parts, Relayed { body, done: Some(done) }.boxed())
    }

    /// Both sides changed the protocol: bytes go to and fro until either ends.
    fn joined(
        mut self,
        way: Way,
        client: hyper::upgrade::OnUpgrade,
        mut response: Response<Incoming>,
    ) -> Response<Answer> {
        self.entry.status = 101;
        let instance = hyper::upgrade::on(&mut response);
        let (parts, _) = response.into_parts();
        tokio::spawn(async move {
            let _counted = (way, self.entry);
            if let (Ok(client), Ok(instance)) = tokio::join!(client, instance) {
                let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut instance).await;
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
