//! Fields that routers add to tunnelled requests and responses. Only the listener of tunnels reads these fields, and it
//! takes requests of verified routers alone. Both routers remove whatever a client or an application sends under these
//! names. Pure.

use gantry_model::{AppName, Digest, RoleName};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, RANGE, TE, TRAILER, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use crate::headers;

/// Prefix of all names.
const PREFIX: &str = "gantry-tunnel-";

/// Request: the allocation.
const ALLOCATION: HeaderName = HeaderName::from_static("gantry-tunnel-allocation");

/// Request: the protocol that the client asked its connection to change to.
const UPGRADE_TO: HeaderName = HeaderName::from_static("gantry-tunnel-upgrade");

/// Request: the entry router sends the body after an interim response.
const HOLDS: HeaderName = HeaderName::from_static("gantry-tunnel-holds");

/// Request: the role and app to connect to, and the port.
const SERVICE: HeaderName = HeaderName::from_static("gantry-tunnel-service");

/// Request: the digest of a layer to send. Agents send this field; its name is part of the protocol between machines.
const LAYER: HeaderName = HeaderName::from_static("gantry-tunnel-layer");

/// Request: number of bytes of the layer to send. Without the field, the rest of the layer is sent.
const LAYER_LENGTH: HeaderName = HeaderName::from_static("gantry-tunnel-layer-length");

/// Request and response: the stream is a lane, whose frames have the named format.
const LANE: HeaderName = HeaderName::from_static("gantry-tunnel-lane");

/// Format of the frames of a lane. A router that reads another format only refuses the lane.
const LANE_FORMAT: &str = "1";

/// Response: the instance changed the protocol.
const SWITCHED: HeaderName = HeaderName::from_static("gantry-tunnel-switched");

/// Response: the request was not answered by the instance.
const REFUSED: HeaderName = HeaderName::from_static("gantry-tunnel-refused");

/// Response: the reason, in words.
const REASON: HeaderName = HeaderName::from_static("gantry-tunnel-reason");

/// Reason why a peer did not pass on the response of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelRefusal {
    /// The peer's machine has no such allocation, or no longer.
    Unknown,
    /// The peer does not accept requests of this machine.
    Untrusted,
    /// The instance took no connection.
    Unreachable,
    /// The instance may have received the request, and gave no response.
    Broken,
    /// The peer sends as many layers as it may already.
    Busy,
}

/// Each refusal, its word, and its status. A misdirected request (421) may be sent elsewhere (RFC 9110, section
/// 15.5.20).
const REFUSALS: [(TunnelRefusal, &str, StatusCode); 5] = [
    (TunnelRefusal::Unknown, "unknown", StatusCode::MISDIRECTED_REQUEST),
    (TunnelRefusal::Untrusted, "untrusted", StatusCode::FORBIDDEN),
    (TunnelRefusal::Unreachable, "unreachable", StatusCode::SERVICE_UNAVAILABLE),
    (TunnelRefusal::Broken, "broken", StatusCode::BAD_GATEWAY),
    (TunnelRefusal::Busy, "busy", StatusCode::SERVICE_UNAVAILABLE),
];

/// Body that follows the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SentBody {
    None,
    /// A body. The entry router may hold the body back until the peer's interim response.
    Follows {
        length: Option<u64>,
        holds: bool,
    },
    /// Another protocol, if the instance agrees.
    Switch,
}

/// Turns a request for an instance into its tunnelled form.
pub(crate) fn request(parts: &Parts, allocation: &HeaderValue, body: SentBody) -> Request<()> {
    let mut out = Request::new(());
    out.method_mut().clone_from(&parts.method);
    *out.version_mut() = Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    // The host is a field as sent to the instance; the authority is not used.
    uri.authority = Some(Authority::from_static("tunnel"));
    uri.path_and_query = parts.uri.path_and_query().cloned().or(Some(PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(uri) {
        *out.uri_mut() = uri;
    }
    let headers = out.headers_mut();
    headers.clone_from(&parts.headers);
    strip(headers);
    headers.remove(CONNECTION);
    let protocol = headers.remove(UPGRADE);
    match body {
        SentBody::None => {}
        SentBody::Follows { length, holds } => {
            headers.remove(CONTENT_LENGTH);
            headers.extend(length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
            headers.extend(holds.then_some((HOLDS, HeaderValue::from_static("1"))));
        }
        SentBody::Switch => {
            headers.remove(CONTENT_LENGTH);
            headers.extend(protocol.map(|protocol| (UPGRADE_TO, protocol)));
        }
    }
    headers.insert(ALLOCATION, allocation.clone());
    out
}

/// A role to connect to by TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) app: AppName,
    pub(crate) role: RoleName,
    pub(crate) port: u16,
}

impl Service {
    /// Makes the request that opens a connection.
    pub(crate) fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://tunnel/");
        *request.version_mut() = Version::HTTP_2;
        if let Ok(value) = HeaderValue::from_str(&format!("{}.{}:{}", self.role, self.app, self.port)) {
            request.headers_mut().insert(SERVICE, value);
        }
        request
    }

    /// Reads the request that opens a connection; none if the request asks for something else.
    pub(crate) fn read(parts: &Parts) -> Option<Self> {
        let (name, port) = parts.headers.get(SERVICE)?.to_str().ok()?.rsplit_once(':')?;
        let (role, app) = name.rsplit_once('.')?;
        let (app, role) = (AppName::parse(app).ok()?, RoleName::parse(role).ok()?);
        Some(Self { app, role, port: port.parse().ok()? })
    }

    /// Makes the response for an open connection.
    pub(crate) fn opened() -> Response<()> {
        let mut response = Response::new(());
        response.headers_mut().insert(SWITCHED, HeaderValue::from_static("1"));
        response
    }
}

/// A request of another machine's agent for a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerRequest {
    pub(crate) digest: Digest,
    /// Number of bytes that the agent has already.
    pub(crate) offset: u64,
    /// Maximum number of bytes to send; none for the rest of the layer.
    pub(crate) length: Option<u64>,
}

impl LayerRequest {
    /// Reads the request; none if the request asks for something else. A malformed digest is `Some(None)`.
    pub(crate) fn read(parts: &Parts) -> Option<Option<Self>> {
        let digest = parts.headers.get(LAYER)?;
        Some(digest.to_str().ok().and_then(|text| text.parse().ok()).and_then(|digest| {
            let offset = match parts.headers.get(RANGE) {
                None => 0,
                Some(range) => range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?,
            };
            let length = match parts.headers.get(LAYER_LENGTH) {
                None => None,
                Some(length) => Some(length.to_str().ok()?.parse().ok()?),
            };
            Some(Self { digest, offset, length })
        }))
    }

    /// Makes the head of the response with the rest of the layer.
    pub(crate) fn response(length: u64) -> Response<()> {
        let mut response = Response::new(());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

/// Makes the request that opens a lane.
pub(crate) fn lane_request() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("http://tunnel/");
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert(LANE, HeaderValue::from_static(LANE_FORMAT));
    request
}

/// Makes the response for an open lane.
pub(crate) fn lane_opened() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(LANE, HeaderValue::from_static(LANE_FORMAT));
    response
}

/// Returns whether a request opens a lane of this router's format, or a response has opened one.
pub(crate) fn is_lane(headers: &HeaderMap) -> bool {
    headers.get(LANE).is_some_and(|format| format == LANE_FORMAT)
}

/// A tunnelled request, as its peer reads it.
pub(crate) struct TunnelledRequest {
    pub(crate) allocation: Option<HeaderValue>,
    /// The request asks for a change of protocol.
    pub(crate) upgrades: bool,
    /// The entry router sends the body after an interim response.
    pub(crate) holds: bool,
    /// The request for the instance.
    pub(crate) parts: Parts,
}

/// Restores the request for the instance.
pub(crate) fn read_request(mut parts: Parts) -> TunnelledRequest {
    let headers = &mut parts.headers;
    let (allocation, protocol) = (headers.remove(ALLOCATION), headers.remove(UPGRADE_TO));
    let holds = headers.contains_key(HOLDS);
    strip(headers);
    let upgrades = protocol.is_some();
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    } else if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    TunnelledRequest { allocation, upgrades, holds, parts }
}

/// Returns whether the request can be one of a router's: a router sends a host, and never a CONNECT.
pub(crate) fn is_valid(parts: &Parts) -> bool {
    parts.method != Method::CONNECT && parts.headers.get_all(HOST).iter().count() == 1
}

/// Turns the head of an instance's response into its tunnelled form.
pub(crate) fn response(mut head: http::response::Parts) -> Response<()> {
    strip(&mut head.headers);
    // Only announced trailers may follow a body of HTTP/1.1 to the client.
    let announced = head.headers.remove(TRAILER);
    headers::strip_hop(&mut head.headers);
    head.headers.extend(announced.map(|announced| (TRAILER, announced)));
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        head.status = StatusCode::OK;
        head.headers.remove(CONTENT_LENGTH);
        head.headers.insert(SWITCHED, HeaderValue::from_static("1"));
    }
    head.version = Version::HTTP_2;
    head.extensions.clear();
    Response::from_parts(head, ())
}

/// Makes the response of a peer that has none of an instance.
pub(crate) fn refuse(refusal: TunnelRefusal, reason: &str) -> Response<()> {
    let mut response = Response::new(());
    if let Some((_, word, status)) = REFUSALS.iter().find(|(of, ..)| *of == refusal) {
        *response.status_mut() = *status;
        response.headers_mut().insert(REFUSED, HeaderValue::from_static(word));
    }
    if let Ok(reason) = HeaderValue::from_str(reason) {
        response.headers_mut().insert(REASON, reason);
    }
    response
}

/// Reads the head of a tunnelled response: the instance's head, or the refusal of the peer with its reason.
pub(crate) fn read_response(headers: &mut HeaderMap, status: &mut StatusCode) -> Result<(), (TunnelRefusal, String)> {
    let (refused, reason) = (headers.remove(REFUSED), headers.remove(REASON));
    let switched = headers.remove(SWITCHED);
    strip(headers);
    if let Some(word) = refused {
        let known = REFUSALS.iter().find(|(_, known, _)| known.as_bytes() == word.as_bytes());
        let refusal = known.map_or(TunnelRefusal::Broken, |(refusal, ..)| *refusal);
        let reason = reason.as_ref().and_then(|reason| reason.to_str().ok());
        return Err((refusal, reason.unwrap_or("the peer gave no reason").to_owned()));
    }
    if switched.is_some() {
        *status = StatusCode::SWITCHING_PROTOCOLS;
    }
    Ok(())
}

/// Returns whether there are fields of tunnels.
pub(crate) fn has_own_fields(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX))
}

/// Removes all fields of tunnels.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(builder: http::request::Builder) -> Parts {
        builder.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn a_tunnelled_request_arrives_unchanged() {
        let allocation = HeaderValue::from_static("shop.v1.web-1");
        for (method, path) in [("GET", "/a?b=c"), ("POST", "/"), ("OPTIONS", "*"), ("DELETE", "//x/%2e")] {
            let sent = Request::builder().method(method).uri(path).header("host", "shop.localhost:80");
            let sent = parts(sent.header("connection", "te").header("te", "trailers").header("x-forwarded-for", "::1"));
            let over = request(&sent, &allocation, SentBody::Follows { length: None, holds: true });
            assert_eq!(over.headers().get("connection"), None);
            let read = read_request(over.into_parts().0);
            assert!(read.holds);
            assert_eq!((read.allocation.as_ref(), read.upgrades), (Some(&allocation), false));
            assert_eq!((&read.parts.method, &read.parts.uri), (&sent.method, &sent.uri), "{method} {path}");
            assert_eq!(read.parts.headers, sent.headers);
        }
        let sent =
            Request::get("/chat").header("host", "a").header("connection", "upgrade").header("upgrade", "websocket");
        let sent = parts(sent);
        let read = read_request(request(&sent, &allocation, SentBody::Switch).into_parts().0);
        assert!(read.upgrades);
        assert_eq!(read.parts.headers, sent.headers);
    }

    #[test]
    fn ignores_tunnel_fields_of_clients_and_applications() {
        let forged =
            [ALLOCATION, UPGRADE_TO, HOLDS, REFUSED, REASON, SWITCHED, HeaderName::from_static("gantry-tunnel-x")];
        let mut sent = parts(Request::get("/").header("host", "a"));
        let mut head = Response::new(()).into_parts().0;
        for name in &forged {
            sent.headers.insert(name.clone(), HeaderValue::from_static("forged"));
            head.headers.insert(name.clone(), HeaderValue::from_static("forged"));
        }
        let over = request(&sent, &HeaderValue::from_static("shop.v1.web-1"), SentBody::None);
        assert_eq!(over.headers().len(), 2, "{:?}", over.headers());
        assert_eq!(over.headers()[ALLOCATION], "shop.v1.web-1");
        let mut over = response(head);
        let mut status = over.status();
        assert_eq!(read_response(over.headers_mut(), &mut status), Ok(()));
        assert_eq!((status, over.headers().len()), (StatusCode::OK, 0));
    }

    #[test]
    fn reads_the_range_of_a_layer() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let read = |range: Option<&str>, length: Option<&str>| {
            let mut request = Request::get("http://tunnel/").header(LAYER, &digest);
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            if let Some(length) = length {
                request = request.header(LAYER_LENGTH, length);
            }
            LayerRequest::read(&parts(request)).expect("a layer").map(|layer| (layer.offset, layer.length))
        };
        assert_eq!(read(None, None), Some((0, None)));
        assert_eq!(read(Some("bytes=7-"), None), Some((7, None)));
        assert_eq!(read(Some("bytes=7-"), Some("3")), Some((7, Some(3))));
        for (range, length) in [("bytes=7-9", None), ("7-", None), ("bytes=7-", Some("-3")), ("bytes=7-", Some(""))] {
            assert_eq!(read(Some(range), length), None, "{range} {length:?}");
        }
        assert_eq!(LayerRequest::read(&parts(Request::get("/"))), None);
        assert_eq!(LayerRequest::read(&parts(Request::get("/").header(LAYER, "sha256:../x"))), Some(None));
    }

    #[test]
    fn a_service_round_trips() {
        for role in ["web", ".shell"] {
            let (app, role) = (AppName::parse("shop").expect("a name"), RoleName::parse(role).expect("a name"));
            let service = Service { app, role, port: 6379 };
            assert_eq!(Service::read(&service.request().into_parts().0), Some(service));
        }
        for wrong in ["", "shop:1", "web.shop", "web.shop:70000", "a b.shop:1"] {
            let request = parts(Request::post("/").header(SERVICE, wrong));
            assert_eq!(Service::read(&request), None, "{wrong}");
        }
    }

    #[test]
    fn a_refusal_round_trips() {
        for (refusal, _, status) in REFUSALS {
            let mut response = refuse(refusal, "no such allocation");
            let mut read = response.status();
            assert_eq!(read, status);
            let read = read_response(response.headers_mut(), &mut read);
            assert_eq!(read, Err((refusal, "no such allocation".to_owned())));
        }
    }

    #[test]
    fn a_lane_of_another_format_is_no_lane() {
        assert!(is_lane(lane_request().headers()) && is_lane(lane_opened().headers()));
        for other in ["2", "", "1, 2"] {
            let mut request = lane_request();
            request.headers_mut().insert(LANE, HeaderValue::from_static(other));
            assert!(!is_lane(request.headers()), "{other}");
        }
    }

    #[test]
    fn a_change_of_protocol_has_its_own_field() {
        let mut head = Response::new(()).into_parts().0;
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        head.headers.insert(UPGRADE, HeaderValue::from_static("echo"));
        head.headers.insert("sec-websocket-accept", HeaderValue::from_static("x"));
        let mut over = response(head);
        assert_eq!(over.status(), StatusCode::OK);
        let mut status = over.status();
        assert_eq!(read_response(over.headers_mut(), &mut status), Ok(()));
        assert_eq!((status, over.headers().len()), (StatusCode::SWITCHING_PROTOCOLS, 1));
    }
}
