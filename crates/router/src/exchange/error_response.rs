//! Error responses of the router: plain, short, and with the reason.

use gantry_model::{ClosedReason, ClosedRoute, HostName, Seconds};
use http::header::HeaderName;
use http::{HeaderValue, Response, StatusCode, header};

use crate::exchange::response_body::{ResponseBody, text};
use crate::routes::admission::ExceededLimit;

/// gRPC codes for HTTP statuses (gRPC's `statuscodes.md`).
const GRPC: [(StatusCode, &str); 4] = [
    (StatusCode::TOO_MANY_REQUESTS, "8"),
    (StatusCode::GATEWAY_TIMEOUT, "4"),
    (StatusCode::BAD_REQUEST, "13"),
    (StatusCode::REQUEST_TIMEOUT, "13"),
];

/// UNAVAILABLE: the code for every other status.
const GRPC_UNAVAILABLE: &str = "14";

fn respond(status: StatusCode, message: &str) -> Response<ResponseBody> {
    let mut response = Response::new(text(format!("{} {message}\n", status.as_u16())));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Turns an error response into its gRPC form: status 200, with code and message in fields. Leaves responses of
/// instances unchanged.
pub(crate) fn into_grpc(response: &mut Response<ResponseBody>) {
    let ResponseBody::Text(message_text) = response.body() else { return };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let status = response.status();
    let message_text =
        message_text.clone().into_inner().map(|bytes| encoded(bytes.trim_ascii_end())).unwrap_or_default();
    let code = GRPC.iter().find(|(of, _)| *of == status).map_or(GRPC_UNAVAILABLE, |(_, code)| code);
    *response.body_mut() = text(String::new());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    // The encoded text has only printable characters.
    headers.insert("grpc-message", HeaderValue::from_str(&message_text).unwrap_or(HeaderValue::from_static("")));
}

/// Lets a gRPC response end with the status UNAVAILABLE if the connection to the instance is lost. Without a router
/// between them, a gRPC client reports a lost connection by this status too, and may repeat such a call.
pub(crate) fn end_as_grpc(response: &mut Response<ResponseBody>) {
    // gRPC-Web has its trailers in the body.
    let is_grpc = response.headers().get(header::CONTENT_TYPE).is_some_and(|content_type| {
        let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    });
    if let ResponseBody::Relayed(relayed) = response.body_mut()
        && is_grpc
    {
        let message_value = HeaderValue::from_static("the instance broke off the response");
        let fields = [("grpc-status", HeaderValue::from_static(GRPC_UNAVAILABLE)), ("grpc-message", message_value)];
        let trailers = fields.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect();
        relayed.on_loss = Some(Box::new(trailers));
    }
}

/// Percent-encodes the value of `grpc-message`.
fn encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut escaped, byte| {
        match byte {
            b' '..=b'~' if *byte != b'%' => escaped.push(char::from(*byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

/// Error response for a host name without an app.
pub(crate) fn unknown_host(host: &str, domain: Option<&HostName>) -> Response<ResponseBody> {
    let shown: String = host.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
    let apps = domain.map(|domain| format!("; apps are at <app>.{domain}")).unwrap_or_default();
    respond(StatusCode::NOT_FOUND, &format!("no app is served at {shown}{apps}"))
}

/// Error response for an app that serves no request and has no instance about to be ready.
pub(crate) fn closed(route: &ClosedRoute) -> Response<ResponseBody> {
    let app = &route.app;
    let (status, message) = match route.reason {
        ClosedReason::NoRelease => (StatusCode::SERVICE_UNAVAILABLE, format!("{app} has no release yet")),
        ClosedReason::ScaledToZero => (StatusCode::SERVICE_UNAVAILABLE, format!("{app} is scaled to 0")),
        ClosedReason::NoWebRole => (StatusCode::NOT_FOUND, format!("{app} has no web role")),
    };
    respond(status, &message)
}

/// Error response for a request that names no host, or several.
pub(crate) fn no_host() -> Response<ResponseBody> {
    respond(StatusCode::BAD_REQUEST, "the request must name exactly one host")
}

/// Error response for `CONNECT`: tunnels are for forward proxies.
pub(crate) fn no_tunnel() -> Response<ResponseBody> {
    respond(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not supported")
}

/// Error response for an extended `CONNECT` to anything but a websocket (RFC 9220, section 3).
pub(crate) fn unknown_protocol() -> Response<ResponseBody> {
    respond(StatusCode::NOT_IMPLEMENTED, "CONNECT opens websockets only")
}

/// Error response for a request that is malformed or incomplete.
pub(crate) fn bad_request(why: &str) -> Response<ResponseBody> {
    respond(StatusCode::BAD_REQUEST, why)
}

/// Error response for a client that stopped in the middle of its request.
pub(crate) fn slow_client(timeout: Seconds) -> Response<ResponseBody> {
    respond(StatusCode::REQUEST_TIMEOUT, &format!("no more of the request arrived within {} s", timeout.0))
}

/// Error response if no instance was ready in time, or too many requests wait already.
pub(crate) fn unavailable(app: &str, why: &str) -> Response<ResponseBody> {
    let mut response = respond(StatusCode::SERVICE_UNAVAILABLE, &format!("{app}: {why}; try again shortly"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// Error response for an app under maintenance.
pub(crate) fn maintenance(app: &str, message: &str) -> Response<ResponseBody> {
    let mut response = respond(StatusCode::SERVICE_UNAVAILABLE, &format!("{app}: {message}"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    response
}

/// Error response for a request beyond the limits of the app.
pub(crate) fn over_limit(app: &str, limit: ExceededLimit) -> Response<ResponseBody> {
    let mut response = respond(StatusCode::TOO_MANY_REQUESTS, &format!("{app}: {limit}"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Error response for an instance that took too long.
pub(crate) fn too_slow(app: &str, timeout: Seconds) -> Response<ResponseBody> {
    respond(StatusCode::GATEWAY_TIMEOUT, &format!("{app}: no response within {} s", timeout.0))
}

/// Error response for an instance that failed during the request.
pub(crate) fn bad_gateway(app: &str, why: &str) -> Response<ResponseBody> {
    respond(StatusCode::BAD_GATEWAY, &format!("{app}: {why}"))
}
