//! One request, from its arrival to the last byte of its answer.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gantry_model::{InstanceId, RequestFailure};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Empty;
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::access::Entry;
use crate::body::{Answer, Done, InstanceBody, Outgoing, Relayed, Upload, text};
use crate::gate::Admitted;
use crate::pool::Sender;
use crate::routing::{Active, Route, Target};
use crate::timer::{self, Timers};
use crate::tunnel::Tunnel;
use crate::{Router, circuit, headers, page, wire};

/// The longest that a connection to an instance, on this machine's own network, may take.
const CONNECT: Duration = Duration::from_secs(3);

/// The most of an unknown host's name that is logged: the longest name there may be (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 255;

/// Between two looks while every instance is ejected: the table may not change when one comes back.
const LOOK: Duration = Duration::from_millis(50);

/// Where a connection's requests come from.
pub(crate) struct Peer {
    tls: bool,
    /// The address as applications are told it.
    pub(crate) text: HeaderValue,
    timers: Timers,
}

impl Peer {
    pub(crate) fn new(address: IpAddr, tls: bool) -> Self {
        // An address is always right for a header.
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("-"));
        Self { tls, text, timers: Timers::default() }
    }
}

/// Answers a request. While the router ends, each answer tells an HTTP/1 client to make a new connection: one that was
/// closed between two requests would race with the second.
pub(crate) fn serve(
    router: &Arc<Router>,
    peer: &Arc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + Send + use<> {
    let keeps_alive = request.version() <= Version::HTTP_11;
    let router = Arc::clone(router);
    let begun = Exchange::begin(&router, peer, request);
    async move {
        let mut response = match begun {
            Ok(exchange) => exchange.run().await,
            Err(refused) => refused.response,
        };
        let ending = router.ending.load(Ordering::Relaxed);
        if ending && keeps_alive && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

fn told(mut entry: Entry, response: Response<Answer>) -> Response<Answer> {
    entry.status = response.status().as_u16();
    response
}

/// A request that no instance is asked. Its body is let go with the answer and not before: what has come of it by then is
/// passed over, and the connection is kept.
struct Refused {
    response: Response<Answer>,
    _request: Request<Incoming>,
}

struct Exchange {
    router: Arc<Router>,
    peer: Arc<Peer>,
    /// As it was when an instance was last looked for.
    route: Arc<Route>,
    entry: Entry,
    admitted: Admitted,
    /// As the instance gets it.
    request: Parts,
    /// Until an instance may have got some of it.
    body: Outgoing,
    /// Where a websocket goes on.
    client: Option<OnUpgrade>,
    /// It went out once, and nothing came back.
    repeated: bool,
    tried: Vec<InstanceId>,
    /// When an instance was last looked for.
    now: Instant,
    /// Until then an instance is looked for, however often one that was found does not take the request.
    deadline: Instant,
}

/// A request on its way to an instance.
struct Way {
    target: Arc<Target>,
    active: Active,
}

/// A request that may be the one which tries an instance again: when it ends and nothing is known, another may.
struct Trial(Arc<Target>, Instant);

impl Trial {
    fn of(target: &Arc<Target>, asked: Instant) -> Option<Self> {
        target.circuit.is_troubled().then(|| Self(Arc::clone(target), asked))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.circuit.given_up(self.1.into_std());
    }
}

/// Why an instance gave no answer.
enum Failure {
    /// It did not get the request: another may.
    Unsent(Outgoing),
    /// It may have got it.
    Sent(String),
    /// It has had it for too long.
    Slow,
    /// The client broke off, or was silent for too long, before the request was whole.
    Client(Response<Answer>),
}

impl Exchange {
    /// A request that goes on; or what is answered without asking an instance.
    fn begin(router: &Arc<Router>, peer: &Arc<Peer>, mut request: Request<Incoming>) -> Result<Self, Box<Refused>> {
        let now = Instant::now();
        let (entry, route, admitted) = match Self::admit(router, peer, &request, now) {
            Ok(admitted) => admitted,
            Err(response) => return Err(Box::new(Refused { response: *response, _request: request })),
        };
        let client = headers::asks_for_websocket(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let (request, body) = outgoing(request, peer, &entry.id, client.is_some());
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
            tried: Vec::new(),
            repeated: false,
            now,
            deadline,
        })
    }

    fn admit(
        router: &Router,
        peer: &Arc<Peer>,
        request: &Request<Incoming>,
        now: Instant,
    ) -> Result<(Entry, Arc<Route>, Admitted), Box<Response<Answer>>> {
        let id = headers::request_id(request.headers());
        let path = request.uri().path_and_query().cloned();
        let mut entry = router.access.begin(now.into_std(), request.method().clone(), path, Arc::clone(peer), id);
        let Some(host) = headers::host_of(request) else {
            return Err(Box::new(told(entry, page::no_host())));
        };
        if request.method() == Method::CONNECT {
            return Err(Box::new(told(entry, page::no_tunnel())));
        }
        let Some(route) = router.routing.now().routes.get(host.as_ref()).cloned() else {
            let page = page::unknown_host(&host, router.settings.domain.as_str());
            entry.host = host.chars().take(HOST_MAX).collect();
            return Err(Box::new(told(entry, page)));
        };
        entry.route = Some(Arc::clone(&route));
        if let Some(message) = &route.traffic.maintenance {
            return Err(Box::new(told(entry, page::maintenance(route.app.as_str(), message))));
        }
        match route.gate.admit(&route.traffic, now.into_std()) {
            Ok(admitted) => Ok((entry, route, admitted)),
            Err(why) => {
                entry.failure = Some(RequestFailure::Limited);
                Err(Box::new(told(entry, page::over_limit(route.app.as_str(), &why))))
            }
        }
    }

    async fn run(mut self) -> Response<Answer> {
        let repeatable = is_repeatable(&self.request, &self.body);
        loop {
            let way = match self.find().await {
                Ok(way) => way,
                Err(page) => {
                    let wanted = self.route.traffic.paused || self.route.traffic.maintenance.is_some();
                    let unavailable = page.status() == StatusCode::SERVICE_UNAVAILABLE && !wanted;
                    self.entry.failure = unavailable.then_some(RequestFailure::NoInstance);
                    return told(self.entry, *page);
                }
            };
            let circuit = &way.target.circuit;
            let _trial = Trial::of(&way.target, self.now);
            match self.exchange(&way.target).await {
                Ok(response) => {
                    circuit.worked();
                    return match self.client.take() {
                        _ if response.status() != StatusCode::SWITCHING_PROTOCOLS => self.relayed(way, response),
                        Some(client) => self.joined(way, client, response),
                        None => self.failed("it changed the protocol, and was not asked to"),
                    };
                }
                Err(Failure::Unsent(unsent)) => {
                    circuit.failed(circuit::Failure::Unreachable, self.now.into_std(), Instant::now().into_std());
                    self.body = unsent;
                }
                Err(Failure::Sent(why)) => {
                    circuit.failed(circuit::Failure::Broken, self.now.into_std(), Instant::now().into_std());
                    // Once more, elsewhere if there is an elsewhere: nothing was answered, and asking twice is harmless.
                    if !repeatable || std::mem::replace(&mut self.repeated, true) {
                        return self.failed(&why);
                    }
                    self.deadline = Instant::now() + self.router.settings.wait;
                }
                Err(Failure::Client(page)) => return told(self.entry, page),
                Err(Failure::Slow) => {
                    circuit.failed(circuit::Failure::Broken, self.now.into_std(), Instant::now().into_std());
                    self.entry.failure = Some(RequestFailure::Slow);
                    let page = page::too_slow(self.route.app.as_str(), self.route.patience.answer);
                    return told(self.entry, page);
                }
            }
            self.tried.push(way.target.endpoint.instance.clone());
        }
    }

    fn failed(mut self, why: &str) -> Response<Answer> {
        self.entry.failure = Some(RequestFailure::Broken);
        let page = page::bad_gateway(self.route.app.as_str(), why);
        told(self.entry, page)
    }

    /// An instance to ask; waits for one while there is none.
    async fn find(&mut self) -> Result<Way, Box<Response<Answer>>> {
        if self.tried.is_empty() {
            if let Some(way) = self.choose() {
                return Ok(way);
            }
        } else if let Some(way) = self.look()? {
            return Ok(way);
        }
        let Some(place) = self.route.gate.wait() else {
            return Err(Box::new(page::unavailable(self.route.app.as_str(), "too many requests wait for an instance")));
        };
        let mut changes = self.router.routing.changes();
        loop {
            // Each was tried and did not take the request: begin anew with all of them.
            self.tried.clear();
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
            if let Some(way) = self.look()? {
                place.found();
                return Ok(way);
            }
        }
    }

    /// Looks in the table as it is now: of what was there when the request came, an address may be another app's.
    fn look(&mut self) -> Result<Option<Way>, Box<Response<Answer>>> {
        let Some(route) = self.router.routing.now().routes.get(&self.route.host).cloned() else {
            return Err(Box::new(page::unknown_host(&self.route.host, self.router.settings.domain.as_str())));
        };
        self.entry.route = Some(Arc::clone(&route));
        self.route = route;
        let app = self.route.app.as_str();
        self.now = Instant::now();
        if self.now >= self.deadline {
            let paused = self.route.traffic.paused;
            let why = if paused { "paused for maintenance" } else { "no instance is ready" };
            return Err(Box::new(page::unavailable(app, why)));
        }
        if let Some(message) = &self.route.traffic.maintenance {
            return Err(Box::new(page::maintenance(app, message)));
        }
        Ok(self.choose())
    }

    fn choose(&self) -> Option<Way> {
        if self.route.traffic.paused {
            return None;
        }
        let target = self.route.choose(&self.tried, self.now.into_std())?;
        Some(Way { target: Arc::clone(target), active: target.begin() })
    }

    async fn exchange(&mut self, target: &Arc<Target>) -> Result<Response<InstanceBody>, Failure> {
        self.entry.target = Some(Arc::clone(target));
        let mut body = std::mem::replace(&mut self.body, Outgoing::None(Empty::new()));
        // A kept connection may have been closed meanwhile; then the body comes back and a new one is made.
        // The second time, and after a failure, nothing is left to chance: whoever takes a new connection lives.
        let kept =
            if self.repeated || target.circuit.is_troubled() { None } else { target.pool.take(self.now.into_std()) };
        if let Some(sender) = kept {
            match self.ask(target, sender, body, self.now).await {
                Err(Failure::Unsent(unsent)) => body = unsent,
                outcome => return outcome,
            }
        }
        match connect(target).await {
            Ok(sender) => {
                target.circuit.reached();
                target.pool.share(&sender);
                self.ask(target, sender, body, Instant::now()).await
            }
            Err(error) => {
                tracing::debug!(instance = %target.endpoint.instance, %error, "cannot be reached");
                Err(Failure::Unsent(body))
            }
        }
    }

    /// Sends a request and waits for the head of its answer, for as long as the role says from the request's last byte on. A
    /// client has as long for each piece of it.
    async fn ask(
        &self,
        target: &Target,
        sender: Sender,
        body: Outgoing,
        now: Instant,
    ) -> Result<Response<InstanceBody>, Failure> {
        let patience = Duration::from_millis(self.route.patience.answer.millis());
        let upload = match &body {
            Outgoing::Client(_, upload) => Some(Arc::clone(upload)),
            Outgoing::None(_) => None,
        };
        let mut asking = pin!(sender.ask(&self.request, body));
        let mut deadline = now + patience;
        let mut timer = self.peer.timers.take(deadline);
        let outcome = loop {
            match timer::within(&mut timer, asking.as_mut()).await {
                Some(Ok(response)) => break Ok(response),
                Some(Err(wire::Failure::Unsent(body))) => break Err(Failure::Unsent(body)),
                Some(Err(wire::Failure::Sent(why))) => break Err(Failure::Sent(why)),
                Some(Err(wire::Failure::Client(why))) => break Err(Failure::Client(page::bad_request(&why))),
                None => match upload.as_ref().map(|upload| (upload.last() + patience, upload.is_awaited())) {
                    Some((later, _)) if later > deadline => {
                        deadline = later;
                        timer.as_mut().reset(later);
                    }
                    Some((_, true)) => break Err(Failure::Client(page::slow_client(self.route.patience.answer))),
                    // It has all of it, or does not take what there is.
                    _ => {
                        target.pool.distrust();
                        break Err(Failure::Slow);
                    }
                },
            }
        };
        self.peer.timers.keep(timer);
        outcome
    }

    /// The answer, streamed to the client.
    fn relayed(mut self, way: Way, response: Response<InstanceBody>) -> Response<Answer> {
        let (mut parts, body) = response.into_parts();
        headers::strip_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        self.entry.status = parts.status.as_u16();
        self.entry.failure = parts.status.is_server_error().then_some(RequestFailure::ServerError);
        let (admitted, entry) = (self.admitted, self.entry);
        let done = Done { target: way.target, active: way.active, admitted, entry };
        Response::from_parts(parts, Answer::Relayed(Box::new(Relayed { body, done: Some(done) })))
    }

    /// Both sides changed the protocol: bytes go to and fro until either ends.
    fn joined(mut self, way: Way, client: OnUpgrade, response: Response<InstanceBody>) -> Response<Answer> {
        let (parts, body) = response.into_parts();
        let InstanceBody::One(answer) = body else { return self.failed("it changed the protocol of HTTP/2") };
        let Some(instance) = answer.into_stream() else {
            return self.failed("it changed the protocol before it had all of the request");
        };
        self.entry.status = 101;
        let tunnel = Tunnel { leaving: way.target.leaving() };
        tokio::spawn(async move {
            let mut counted = (self.entry, way, self.admitted);
            if let Ok(client) = client.await {
                tunnel.carry(client, instance, &mut counted.0.bytes).await;
            }
        });
        Response::from_parts(parts, text(String::new()))
    }
}

/// The request as an instance gets it: HTTP/1.1, without what concerned the client's connection.
fn outgoing(request: Request<Incoming>, peer: &Peer, id: &HeaderValue, websocket: bool) -> (Parts, Outgoing) {
    let (mut parts, body) = request.into_parts();
    rewrite(&mut parts, peer, id, websocket);
    parts.extensions.clear();
    let body = if body.is_end_stream() {
        Outgoing::None(Empty::new())
    } else {
        Outgoing::Client(body, Arc::new(Upload::begin()))
    };
    (parts, body)
}

/// The head alone.
pub(crate) fn rewrite(parts: &mut Parts, peer: &Peer, id: &HeaderValue, websocket: bool) {
    headers::strip_hop(&mut parts.headers);
    // What a request was routed by is what the application is told (RFC 9112, section 3.2.2).
    let host = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    if let Some(Ok(host)) = host {
        parts.headers.insert(HOST, host);
    }
    headers::join_cookies(&mut parts.headers);
    headers::forward(&mut parts.headers, &peer.text, peer.tls, id);
    if websocket {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
}

async fn connect(target: &Target) -> std::io::Result<Sender> {
    let address = SocketAddr::from((target.endpoint.address, target.endpoint.port));
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Sender::begin(stream, target.endpoint.protocol).await.map_err(std::io::Error::other)
}

/// Asking twice does no more than asking once, and there is no body that was sent half.
fn is_repeatable(request: &Parts, body: &Outgoing) -> bool {
    let safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    safe && body.is_end_stream() && !request.headers.contains_key(UPGRADE)
}
