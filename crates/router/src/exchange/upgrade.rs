//! Protocols to which a request may change its connection. Pure.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue};

/// Protocols in which a client could send requests past the router, without limits and with any header fields.
const REFUSED: [&str; 5] = ["h2c", "h2", "http", "tls", "ssl"];

/// Longest name of a protocol.
const NAME_MAX: usize = 64;

/// Returns whether the protocol is a websocket. The router knows websocket frames, and closes a websocket when its
/// instance leaves.
pub(crate) fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// Returns the protocol that a request asks for. The request must name exactly one protocol, and none that carries
/// requests.
pub(crate) fn asked(headers: &HeaderMap) -> Option<HeaderValue> {
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
    fn accepts_one_protocol_that_carries_no_requests() {
        let of = |upgrade: &str, connection: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, upgrade.parse().expect("a value"));
            headers.insert(CONNECTION, connection.parse().expect("a value"));
            asked(&headers).is_some()
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
