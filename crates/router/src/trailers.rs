//! Trailers: fields behind a body (RFC 9110, section 6.5). Pure.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use hyper::body::Frame;

/// Fields that control how a message is framed, routed, authorized or read, and are too late behind the body (RFC 9110,
/// section 6.5.1). A program that takes trailers for headers would believe these fields.
const FORBIDDEN: [&str; 36] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "warning",
    "www-authenticate",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-http-method-override",
    "x-real-ip",
    "x-request-id",
];

/// Forbidden prefixes of names: conditions, and fields between proxies.
const PREFIXES: [&str; 3] = ["if-", "proxy-", "x-forwarded-"];

/// Turns a frame without data into a frame of its allowed trailers.
pub(crate) fn allowed(frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
    frame.into_trailers().ok().map(|mut fields: HeaderMap| {
        keep_allowed(&mut fields);
        Frame::trailers(fields)
    })
}

/// Removes the forbidden fields from trailers.
pub(crate) fn keep_allowed(trailers: &mut HeaderMap) {
    let gone: Vec<HeaderName> = trailers.keys().filter(|name| !is_allowed(name)).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
}

fn is_allowed(name: &HeaderName) -> bool {
    // Programs that read headers as variables do not distinguish `_` from `-`.
    let name = name.as_str().replace('_', "-");
    FORBIDDEN.binary_search(&name.as_str()).is_err() && !PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_forbidden_trailers() {
        assert!(FORBIDDEN.is_sorted());
        let mut trailers = HeaderMap::new();
        let forbidden =
            ["content-length", "transfer_encoding", "host", "cookie", "x_forwarded_for", "if-match", "x-forwarded-ssl"];
        for name in
            forbidden.into_iter().chain(["grpc-status", "grpc-message", "server-timing", "x-checksum", "digest"])
        {
            trailers.insert(HeaderName::from_bytes(name.as_bytes()).expect("a name"), "1".parse().expect("a value"));
        }
        keep_allowed(&mut trailers);
        let mut left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["digest", "grpc-message", "grpc-status", "server-timing", "x-checksum"]);
    }
}
