//! The request as forwarded: its head without the fields of the client's connection, and its body. Pure.

use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, TE, TRAILER, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use hyper::body::Body;

use crate::client::body::ClientBody;
use crate::exchange::origin::{self, RequestOrigin};
use crate::headers;
use crate::request::request_body::{RequestBody, StreamedBody, UploadProgress};

/// Prepares the request for an instance: HTTP/1.1, without the fields of the client's connection.
pub(super) fn outgoing(
    request: Request<ClientBody>,
    origin: RequestOrigin<'_>,
    id: &HeaderValue,
    protocol: Option<&HeaderValue>,
) -> (Parts, RequestBody) {
    let (mut parts, body) = request.into_parts();
    let announced = if body.size_hint().exact().is_none() { parts.headers.get(TRAILER).cloned() } else { None };
    let takes_trailers = parts.headers.get(TE).is_some_and(|te| list_contains(te, "trailers"));
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
        RequestBody::None
    } else {
        let upload = Arc::new(UploadProgress::begin());
        RequestBody::Client(Box::new(StreamedBody { begun: None, rest: body, upload }))
    };
    (parts, body)
}

/// Copies the parts of a head, so that their read buffer is freed.
pub(super) fn detach(request: &mut Parts) {
    for value in request.headers.values_mut() {
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = copy;
        }
    }
    if let Some(path) = request.uri.path_and_query().and_then(copied_path) {
        request.uri = Uri::from(path);
    }
}

/// Copies a path into its own memory.
pub(crate) fn copied_path(path: &PathAndQuery) -> Option<PathAndQuery> {
    PathAndQuery::from_maybe_shared(bytes::Bytes::copy_from_slice(path.as_str().as_bytes())).ok()
}

/// Returns whether the body is gRPC, in which both sides may send at once.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    has_type(headers, &["application/grpc"])
}

/// Returns whether the body is part of a dialogue: the instance may respond before the client sends its next message.
pub(super) fn streams(headers: &HeaderMap) -> bool {
    has_type(headers, &["application/grpc", "application/connect+"])
}

fn has_type(headers: &HeaderMap, prefixes: &[&str]) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|content_type| {
        let content_type = content_type.as_bytes();
        prefixes.iter().any(|prefix| {
            content_type.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix.as_bytes()))
        })
    })
}

/// Returns whether the list contains the word, with or without parameters.
fn list_contains(list: &HeaderValue, word: &str) -> bool {
    let words = list.to_str().unwrap_or_default().split(',');
    words.map(|entry| entry.split(';').next().unwrap_or_default().trim()).any(|name| name.eq_ignore_ascii_case(word))
}

/// Rewrites the head for an instance.
pub(crate) fn rewrite(parts: &mut Parts, origin: RequestOrigin<'_>, id: &HeaderValue, protocol: Option<&HeaderValue>) {
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

/// Returns whether a second attempt is harmless: a safe method, no streamed body, and no change of protocol.
pub(super) fn is_repeatable(request: &Parts, body: &RequestBody) -> bool {
    let safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    safe && !matches!(body, RequestBody::Client(_)) && !request.headers.contains_key(UPGRADE)
}
