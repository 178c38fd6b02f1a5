//! Proxying of one request, from its arrival to the last byte of the response.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use gantry_model::{InstanceId, RequestFailure};
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, TE, TRAILER, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;

use crate::access::Entry;
use crate::body::{Answer, Done, InstanceBody, Outgoing, Relayed, Streamed, Upload, text};
use crate::client::ClientBody;
use crate::collect::{Collected, Collecting};
use crate::gate::Admitted;
use crate::interim::Interims;
use crate::origin::Origin;
use crate::pool::Sender;
use crate::routing::{Active, Route, Target};
use crate::timer::{self, Timers};
use crate::tunnel::Tunnel;
use crate::{Router, circuit, headers, origin, page, upgrade, wire};

/// Longest time that a connection to an instance may take; instances are on this machine's own network.
const CONNECT: Duration = Duration::from_secs(3);

/// Longest logged name of an unknown host: the longest name there may be (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 255;

/// Poll interval while every instance is ejected: an instance may recover without a change of the table.
const LOOK: Duration = Duration::from_millis(50);

/// Client side of a connection.
pub(crate) struct Peer {
    tls: bool,
    /// Address of the client; IPv4 even where the socket is IPv6.
    pub(crate) address: IpAddr,
    /// The address as header text for applications.
    pub(crate) text: HeaderValue,
    /// Queue of interim responses to the client.
    pub(crate) interims: Arc<Interims>,
    timers: Timers,
}

impl Peer {
    /// Returns the origin of the connection's requests.
    pub(crate) fn origin(&self, trusted: bool) -> Origin<'_> {
        Origin { peer: &self.text, tls: self.tls, trusted }
    }

    pub(crate) fn new(address: IpAddr, tls: bool) -> Self {
        let address = address.to_canonical();
        // The text of an address is always a valid header value.
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("-"));
        Self { tls, address, text, interims: Arc::default(), timers: Timers::default() }
    }
}

/// Response to a request. The box has the whole state of the request, so that a connection without a request takes no
/// memory for one, and hyper moves only a pointer.
type Serving = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

/// Serves a request. During a shutdown, each response tells an HTTP/1 client to reconnect: closing the connection
/// between two requests would race with the second request.
pub(crate) fn serve(router: &Arc<Router>, peer: &Arc<Peer>, request: Request<Incoming>) -> Serving {
    let keeps_alive = request.version() <= Version::HTTP_11;
    let exchange = Exchange::begin(router, peer, request);
    let router = Arc::clone(router);
    let finish = move |mut response: Response<Answer>| {
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
            let mut response = exchange.end(outcome);
            if is_grpc {
                page::say_in_grpc(&mut response);
            }
            finish(response)
        }),
        Err(refused) => Box::pin(std::future::ready(finish(*refused))),
    }
}

fn told(mut entry: Entry, response: Response<Answer>) -> Response<Answer> {
    entry.status = response.status().as_u16();
    response
}

struct Exchange {
    router: Arc<Router>,
    peer: Arc<Peer>,
    /// Route at the time of the last search for an instance.
    route: Arc<Route>,
    entry: Entry,
    admitted: Admitted,
    /// Head of the request, as sent to the instance.
    request: Parts,
    /// Body of the request, until an instance may have received a part.
    body: Outgoing,
    /// The client's connection for a change of protocol.
    client: Option<OnUpgrade>,
    /// The client accepts interim responses.
    takes_interims: bool,
    /// The route may have changed since this request read the route.
    stale: bool,
    /// The request went out once, and no response came back.
    repeated: bool,
    tried: Vec<InstanceId>,
    /// Time of the last search for an instance.
    now: Instant,
    /// End of the search for an instance, however often a chosen instance does not take the request.
    deadline: Instant,
}

/// Chosen instance, and the guard that counts the request.
struct Way {
    target: Arc<Target>,
    active: Active,
}

/// Both ends of a connection whose protocol changed.
struct Switched {
    head: http::response::Parts,
    client: OnUpgrade,
    instance: (wire::Stream, OwnedWriteHalf),
    tunnel: Tunnel,
}

/// Guard of a request that may be the half-open probe. If the request ends without an outcome, another probe may start.
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

/// Reason why an instance gave no response.
enum Failure {
    /// The instance did not get the request, so another instance may.
    Unsent(Outgoing),
    /// The instance may have received the request.
    Sent(String),
    /// The instance exceeded the response timeout.
    Slow,
    /// The client broke off, or was silent for too long, before the request was complete.
    Client(Box<Response<Answer>>),
}

impl Exchange {
    /// Admits a request, or returns the response that needs no instance.
    fn begin(
        router: &Arc<Router>,
        peer: &Arc<Peer>,
        mut request: Request<Incoming>,
    ) -> Result<Self, Box<Response<Answer>>> {
        let now = Instant::now();
        let (mut entry, route, admitted) = match Self::admit(router, peer, &request, now) {
            Ok(admitted) => admitted,
            Err(mut response) => {
                if is_grpc(request.headers()) {
                    page::say_in_grpc(&mut response);
                }
                let waits = waits(&request);
                drop(ClientBody::new(request.into_body(), waits));
                return Err(response);
            }
        };
        let takes_interims = request.version() == Version::HTTP_11;
        let protocol = upgrade::asked(request.headers());
        let client = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let trusted = route.trusted_proxies.contains(peer.address);
        let (request, body) = outgoing(request, peer.origin(trusted), &entry.id, protocol.as_ref());
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
            takes_interims,
            stale: false,
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
            let page = absent(router, &host);
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

    fn is_grpc(&self) -> bool {
        !self.body.is_end_stream() && is_grpc(&self.request.headers)
    }

    /// Gets the response of an instance, or the error response of the router.
    async fn run(&mut self, is_grpc: bool) -> Result<(Way, Response<InstanceBody>), Box<Response<Answer>>> {
        if matches!(self.body, Outgoing::Client(_)) && !is_grpc {
            self.collect().await?;
        }
        let repeatable = is_repeatable(&self.request, &self.body);
        loop {
            let way = self.find().await.inspect_err(|page| {
                let wanted = self.route.traffic.paused || self.route.traffic.maintenance.is_some();
                let unavailable = page.status() == StatusCode::SERVICE_UNAVAILABLE && !wanted;
                self.entry.failure = unavailable.then_some(RequestFailure::NoInstance);
            })?;
            let circuit = &way.target.circuit;
            let _trial = Trial::of(&way.target, self.now);
            let again = match &self.body {
                Outgoing::Whole(whole) if repeatable && !self.repeated => Some(whole.again()),
                _ => None,
            };
            let outcome = self.exchange(&way.target).await;
            if self.peer.interims.are_pending() {
                self.peer.interims.written().await;
            }
            match outcome {
                Ok(response) => {
                    circuit.worked();
                    return Ok((way, response));
                }
                Err(Failure::Unsent(unsent)) => {
                    circuit.failed(circuit::Failure::Unreachable, self.now.into_std(), Instant::now().into_std());
                    self.body = unsent;
                }
                Err(Failure::Sent(why)) => {
                    circuit.failed(circuit::Failure::Broken, self.now.into_std(), Instant::now().into_std());
                    // Retry once, on another instance if there is one: no response came, and a second request is
                    // harmless.
                    if !repeatable || std::mem::replace(&mut self.repeated, true) {
                        return Err(self.failed(&why));
                    }
                    self.deadline = Instant::now() + self.router.settings.wait;
                    if let Some(whole) = &again {
                        self.body = Outgoing::Whole(whole.again());
                    }
                }
                Err(Failure::Client(page)) => return Err(page),
                Err(Failure::Slow) => {
                    circuit.failed(circuit::Failure::Broken, self.now.into_std(), Instant::now().into_std());
                    self.entry.failure = Some(RequestFailure::Slow);
                    return Err(Box::new(page::too_slow(self.route.app.as_str(), self.route.timeouts.response)));
                }
            }
            self.tried.push(way.target.endpoint.instance.clone());
        }
    }

    /// Turns the outcome of [`Self::run`] into the response to the client.
    fn end(mut self, outcome: Result<(Way, Response<InstanceBody>), Box<Response<Answer>>>) -> Response<Answer> {
        let response = match outcome {
            Ok((way, response)) if response.status() != StatusCode::SWITCHING_PROTOCOLS => {
                return self.relayed(way, response);
            }
            Ok((way, response)) => match self.switched(&way, response) {
                Ok(switched) => return self.joined(way, switched),
                Err(why) => self.failed(why),
            },
            Err(page) => page,
        };
        told(self.entry, *response)
    }

    /// Returns the error response for a broken instance.
    fn failed(&mut self, why: &str) -> Box<Response<Answer>> {
        self.entry.error = Some(why.to_owned());
        self.entry.failure = Some(RequestFailure::Broken);
        Box::new(page::bad_gateway(self.route.app.as_str(), why))
    }

    /// Buffers the client's body, up to the limit of the role.
    async fn collect(&mut self) -> Result<(), Box<Response<Answer>>> {
        let Outgoing::Client(client) = &mut self.body else { return Ok(()) };
        let most = usize::try_from(self.route.timeouts.request_buffer.0).unwrap_or(usize::MAX);
        // If the body is longer than the buffer, the instance decides on the client's `Expect: 100-continue`.
        let asks = client.rest.waits() && client.size_hint().exact().is_none_or(|bytes| bytes > most as u64);
        let changes = self.client.is_some() && client.size_hint().exact().is_none();
        if most == 0 || asks || changes || streams(&self.request.headers) {
            return Ok(());
        }
        let (upload, patience) = (Arc::clone(&client.upload), self.route.timeouts.response);
        let silence = Duration::from_millis(patience.millis());
        let mut collecting = Collecting::new(most, &self.router.budget);
        let at_once = std::future::poll_fn(|cx| {
            let polled = collecting.poll(&mut client.rest, || upload.came(), cx);
            Poll::Ready(if let Poll::Ready(done) = polled { Some(done) } else { None })
        })
        .await;
        let collected = if at_once.is_some() {
            at_once
        } else {
            // Buffering may take long, and the read buffer of the head is much larger than its content.
            own(&mut self.request);
            self.entry.own();
            let mut timer = self.peer.timers.take(upload.last() + silence);
            let collected = std::future::poll_fn(|cx| {
                if let Poll::Ready(done) = collecting.poll(&mut client.rest, || upload.came(), cx) {
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
            None => return Err(Box::new(page::slow_client(patience))),
            Some(Err(error)) => {
                let why = format!("the client did not send all of the request: {error}");
                self.entry.error = Some(why.clone());
                return Err(Box::new(page::bad_request(&why)));
            }
            Some(Ok(Collected::Begun(begun))) => client.begun = Some(begun),
            Some(Ok(Collected::Whole(whole))) => {
                self.request.headers.remove(EXPECT);
                self.body = if whole.is_empty() { Outgoing::None } else { Outgoing::Whole(whole) };
            }
        }
        Ok(())
    }

    /// Finds an instance; waits while there is none.
    async fn find(&mut self) -> Result<Way, Box<Response<Answer>>> {
        if self.tried.is_empty() && !std::mem::take(&mut self.stale) {
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
            // Each instance was tried and did not take the request: begin anew with all instances.
            self.tried.clear();
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
            if let Some(way) = self.look()? {
                place.found();
                return Ok(way);
            }
        }
    }

    /// Searches the current table: an address of the table that the request first saw may belong to another app by now.
    fn look(&mut self) -> Result<Option<Way>, Box<Response<Answer>>> {
        let Some(route) = self.router.routing.now().routes.get(&self.route.host).cloned() else {
            return Err(Box::new(absent(&self.router, &self.route.host)));
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
        let mut body = std::mem::replace(&mut self.body, Outgoing::None);
        // The instance may have closed a kept connection meanwhile. Then the body comes back and goes out on a new
        // connection. A repeated request, or a request after a failure, uses a new connection at once: an instance that
        // accepts a connection is alive.
        let mut kept =
            if self.repeated || target.circuit.is_troubled() { None } else { target.pool.take(self.now.into_std()) };
        loop {
            let is_kept = kept.is_some();
            let (sender, now) = match kept.take() {
                Some(sender) => (sender, self.now),
                None => match Box::pin(connect(target)).await {
                    Ok(sender) => {
                        target.circuit.reached();
                        target.pool.share(&sender);
                        (sender, Instant::now())
                    }
                    Err(error) => {
                        tracing::debug!(instance = %target.endpoint.instance, %error, "cannot be reached");
                        return Err(Failure::Unsent(body));
                    }
                },
            };
            match self.ask(target, sender, body, now).await {
                Err(Failure::Unsent(unsent)) if is_kept => body = unsent,
                outcome => return outcome,
            }
        }
    }

    /// Sends a request and waits for the head of its response. The response timeout of the role starts at the last byte
    /// of the request. The client has the same time for each piece of the request.
    async fn ask(
        &self,
        target: &Target,
        sender: Sender,
        body: Outgoing,
        now: Instant,
    ) -> Result<Response<InstanceBody>, Failure> {
        let patience = Duration::from_millis(self.route.timeouts.response.millis());
        let upload = match &body {
            Outgoing::Client(client) => Some(Arc::clone(&client.upload)),
            Outgoing::Whole(_) | Outgoing::None => None,
        };
        let mut asking = pin!(sender.ask(&self.request, body, self.takes_interims.then_some(&*self.peer.interims)));
        let mut deadline = now + patience;
        let mut timer = self.peer.timers.take(deadline);
        let outcome = loop {
            match timer::within(&mut timer, asking.as_mut()).await {
                Some(Ok(response)) => break Ok(response),
                Some(Err(wire::Failure::Unsent(body))) => break Err(Failure::Unsent(body)),
                Some(Err(wire::Failure::Sent(why))) => break Err(Failure::Sent(why)),
                Some(Err(wire::Failure::Client(why))) => break Err(Failure::Client(Box::new(page::bad_request(&why)))),
                None => match upload.as_ref().map(|upload| (upload.last() + patience, upload.is_awaited())) {
                    Some((later, _)) if later > deadline => {
                        deadline = later;
                        timer.as_mut().reset(later);
                    }
                    Some((_, true)) => {
                        break Err(Failure::Client(Box::new(page::slow_client(self.route.timeouts.response))));
                    }
                    // The instance has the whole request, or does not read what the client sent.
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

    /// Streams the response to the client.
    fn relayed(mut self, way: Way, response: Response<InstanceBody>) -> Response<Answer> {
        let (mut parts, body) = response.into_parts();
        // Only announced trailers may follow a body of HTTP/1.1.
        let announced = if body.size_hint().exact().is_none() { parts.headers.get(TRAILER).cloned() } else { None };
        headers::strip_hop(&mut parts.headers);
        if let Some(announced) = announced {
            parts.headers.insert(TRAILER, announced);
        }
        parts.version = Version::HTTP_11;
        self.entry.status = parts.status.as_u16();
        self.entry.failure = parts.status.is_server_error().then_some(RequestFailure::ServerError);
        let (admitted, entry) = (self.admitted, self.entry);
        let done = Done { target: way.target, active: way.active, admitted, entry };
        Response::from_parts(parts, Answer::Relayed(Box::new(Relayed { body, done: Some(done) })))
    }

    /// Checks a change of protocol: the client asked for the protocol, and both directions are free.
    fn switched(&mut self, way: &Way, response: Response<InstanceBody>) -> Result<Switched, &'static str> {
        let client = self.client.take().ok_or("it changed the protocol, and was not asked to")?;
        let (head, body) = response.into_parts();
        let InstanceBody::One(answer) = body else { return Err("it changed the protocol of HTTP/2") };
        let instance = answer.into_stream().ok_or("it changed the protocol before it had all of the request")?;
        let asked = self.request.headers.get(UPGRADE);
        if !head.headers.get(UPGRADE).is_none_or(|said| asked.is_some_and(|asked| alike(said, asked))) {
            return Err("it changed to another protocol than it was asked for");
        }
        let is_websocket = asked.is_some_and(upgrade::is_websocket);
        Ok(Switched { head, client, instance, tunnel: Tunnel { is_websocket, leaving: way.target.leaving() } })
    }

    /// Joins client and instance after a change of protocol, and copies bytes in both directions until either side
    /// ends.
    fn joined(mut self, way: Way, switched: Switched) -> Response<Answer> {
        let Switched { head, client, instance, tunnel } = switched;
        self.entry.status = 101;
        tokio::spawn(async move {
            let mut counted = (self.entry, way, self.admitted);
            if let Ok(client) = client.await {
                tunnel.carry(client, instance, &mut counted.0.bytes).await;
            }
        });
        Response::from_parts(head, text(String::new()))
    }
}

/// Prepares the request for an instance: HTTP/1.1, without the fields of the client's connection.
fn outgoing(
    request: Request<Incoming>,
    origin: Origin<'_>,
    id: &HeaderValue,
    protocol: Option<&HeaderValue>,
) -> (Parts, Outgoing) {
    let waits = waits(&request);
    let (mut parts, body) = request.into_parts();
    let announced = if body.size_hint().exact().is_none() { parts.headers.get(TRAILER).cloned() } else { None };
    let takes_trailers = parts.headers.get(TE).is_some_and(|te| says(te, "trailers"));
    rewrite(&mut parts, origin, id, protocol);
    parts.extensions.clear();
    if let Some(announced) = announced {
        parts.headers.insert(TRAILER, announced);
    }
    if takes_trailers && protocol.is_none() {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
        parts.headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    let body = if body.is_end_stream() {
        Outgoing::None
    } else {
        let upload = Arc::new(Upload::begin());
        Outgoing::Client(Box::new(Streamed { begun: None, rest: ClientBody::new(body, waits), upload }))
    };
    (parts, body)
}

/// Copies the parts of a head, so that their read buffer is freed.
fn own(request: &mut Parts) {
    for value in request.headers.values_mut() {
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = copy;
        }
    }
    if let Some(path) = request.uri.path_and_query().and_then(owned) {
        request.uri = Uri::from(path);
    }
}

/// Copies a path into its own memory.
pub(crate) fn owned(path: &PathAndQuery) -> Option<PathAndQuery> {
    PathAndQuery::from_maybe_shared(bytes::Bytes::copy_from_slice(path.as_str().as_bytes())).ok()
}

/// Returns whether the client waits for `100 Continue` before it sends the body (RFC 9110, section 10.1.1).
fn waits(request: &Request<Incoming>) -> bool {
    let has_body = request.version() == Version::HTTP_11 && !request.body().is_end_stream();
    has_body && request.headers().get(EXPECT).is_some_and(|word| word.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Returns whether the body is gRPC, in which both sides may send at once.
fn is_grpc(headers: &HeaderMap) -> bool {
    has_type(headers, &["application/grpc"])
}

/// Returns whether the body is part of a dialogue: the instance may respond before the client sends its next message.
fn streams(headers: &HeaderMap) -> bool {
    has_type(headers, &["application/grpc", "application/connect+"])
}

fn has_type(headers: &HeaderMap, prefixes: &[&str]) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|said| {
        let said = said.as_bytes();
        prefixes
            .iter()
            .any(|prefix| said.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix.as_bytes())))
    })
}

fn alike(one: &HeaderValue, other: &HeaderValue) -> bool {
    one.as_bytes().eq_ignore_ascii_case(other.as_bytes())
}

/// Returns whether the list contains the word, with or without parameters.
fn says(list: &HeaderValue, word: &str) -> bool {
    let words = list.to_str().unwrap_or_default().split(',');
    words.map(|said| said.split(';').next().unwrap_or_default().trim()).any(|said| said.eq_ignore_ascii_case(word))
}

/// Rewrites the head for an instance.
pub(crate) fn rewrite(parts: &mut Parts, origin: Origin<'_>, id: &HeaderValue, protocol: Option<&HeaderValue>) {
    headers::strip_hop(&mut parts.headers);
    // The application gets the host that routed the request (RFC 9112, section 3.2.2).
    let host = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    if let Some(Ok(host)) = host {
        parts.headers.insert(HOST, host);
    }
    headers::join_cookies(&mut parts.headers);
    origin::forward(&mut parts.headers, origin);
    parts.headers.insert(headers::REQUEST_ID, id.clone());
    if let Some(protocol) = protocol {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol.clone());
    }
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
}

/// The response for a host name without a route.
fn absent(router: &Router, host: &str) -> Response<Answer> {
    match router.routing.now().closed.get(host) {
        Some(closed) => page::closed(closed),
        None => page::unknown_host(host, router.settings.domain.as_str()),
    }
}

async fn connect(target: &Target) -> std::io::Result<Sender> {
    let address = SocketAddr::from((target.endpoint.address, target.endpoint.port));
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Sender::begin(stream, target.endpoint.protocol).await.map_err(std::io::Error::other)
}

/// Returns whether a second attempt is harmless: a safe method, no streamed body, and no change of protocol.
fn is_repeatable(request: &Parts, body: &Outgoing) -> bool {
    let safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    safe && !matches!(body, Outgoing::Client(_)) && !request.headers.contains_key(UPGRADE)
}
