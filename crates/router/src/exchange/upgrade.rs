//! Protocols to which a request may change its connection. Pure.
//!
//! A client of HTTP/2 asks for a websocket with extended CONNECT (RFC 8441). Instances get the same request as from a
//! client of HTTP/1.1.

use h2::ext::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request};

pub(crate) const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

pub(crate) const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// Protocols in which a client could send requests past the router, without limits and with any header fields.
const REFUSED: [&str; 5] = ["h2c", "h2", "http", "tls", "ssl"];

/// Longest name of a protocol.
const NAME_MAX: usize = 64;

/// Returns whether the protocol is a websocket. The router knows websocket frames, and closes a websocket when its
/// instance leaves.
pub(crate) fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// Returns whether two fields name the same protocol.
pub(crate) fn is_same_protocol(one: &HeaderValue, other: &HeaderValue) -> bool {
    one.as_bytes().eq_ignore_ascii_case(other.as_bytes())
}

/// Protocol of an extended CONNECT.
pub(crate) fn extended_connect<B>(request: &Request<B>) -> Option<&str> {
    let protocol = request.extensions().get::<Protocol>().filter(|_| request.method() == Method::CONNECT);
    protocol.map(Protocol::as_str)
}

/// Turns an extended CONNECT into the request that opens a websocket over HTTP/1.1; false for any other request.
pub(crate) fn take_extended_connect<B>(request: &mut Request<B>) -> bool {
    if extended_connect(request).is_none() {
        return false;
    }
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(WEBSOCKET_KEY, websocket_key());
    true
}

/// A random key: 16 bytes in base64 (RFC 6455, section 4.1).
fn websocket_key() -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u8| ALPHABET[usize::from(value % 64)];
    let mut text = [b'='; 24];
    let random = rand::random::<[u8; 22]>();
    text.iter_mut().zip(random).for_each(|(text, value)| *text = digit(value));
    // The last digit holds the last 2 of 128 bits.
    text[21] = digit(random[21] % 4 * 16);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// Returns the protocol that a request asks for. The request must name exactly one protocol, and none that carries
/// requests.
pub(crate) fn requested_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let wants = values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let text = protocol.to_str().ok()?;
    let named = (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._+/".contains(&byte));
    let name = text.split('/').next().unwrap_or_default();
    let refused = REFUSED.iter().any(|refused| name.eq_ignore_ascii_case(refused));
    let single = headers.get_all(UPGRADE).iter().count() == 1;
    (wants && named && !refused && single).then(|| protocol.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_connect_becomes_a_websocket_request() {
        let connect = |protocol: Option<&'static str>| {
            let builder = Request::connect("http://a.localhost/chat").header("content-length", "0");
            let mut request = builder.header("sec-websocket-key", "forged").body(()).expect("a request");
            if let Some(protocol) = protocol {
                request.extensions_mut().insert(Protocol::from_static(protocol));
            }
            request
        };
        let mut request = connect(Some("websocket"));
        assert_eq!(extended_connect(&request), Some("websocket"));
        assert!(take_extended_connect(&mut request));
        assert_eq!((request.method(), request.headers().len()), (&Method::GET, 1));
        let key = request.headers()[&WEBSOCKET_KEY].to_str().expect("text");
        assert!(key.len() == 24 && key.ends_with("==") && "AQgw".contains(&key[21..22]), "{key}");
        assert!(!take_extended_connect(&mut connect(None)));
    }

    #[test]
    fn accepts_one_protocol_that_carries_no_requests() {
        let of = |upgrade: &str, connection: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, upgrade.parse().expect("a value"));
            headers.insert(CONNECTION, connection.parse().expect("a value"));
            requested_protocol(&headers).is_some()
        };
        for protocol in ["websocket", "WebSocket", "echo", "tcp", "SPDY/3.1", "x-y+z.1"] {
            assert!(of(protocol, "keep-alive, Upgrade"), "{protocol}");
            assert!(!of(protocol, "close"), "{protocol}");
        }
        for protocol in ["h2c", "H2C", "HTTP/2.0", "http/1.1", "TLS/1.0", "", "a, b", "a b", "websocket, h2c", "a;b"] {
            assert!(!of(protocol, "upgrade"), "{protocol}");
        }
        assert!(!of(&"x".repeat(65), "upgrade"));
    }
}
