//! Headers on their way through. Pure.

use std::borrow::Cow;

use http::header::{CONNECTION, COOKIE, HOST, HeaderName};
use http::{HeaderMap, HeaderValue, Request};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers that are about one connection (RFC 9110, section 7.6.1), and their like; `http2-settings` is of an upgrade to
/// HTTP/2 in the clear, which is not offered.
fn is_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "upgrade"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
    )
}

/// The longest chain of proxies that is believed, in bytes.
const CHAIN_MAX: usize = 1024;

/// The host that a request asks for: lower case, without port and trailing dot. None when it asks for none, or for two:
/// two programs may each take another one (RFC 9112, section 3.2).
pub(crate) fn host_of<B>(request: &Request<B>) -> Option<Cow<'_, str>> {
    let mut named = request.headers().get_all(HOST).iter();
    let first = named.next();
    if named.next().is_some() {
        return None;
    }
    // What a request is routed by, when its target names it too (RFC 9112, section 3.2.2).
    let text = match request.uri().authority() {
        // Whoever reads it next might take the part before for the host.
        Some(authority) if authority.as_str().contains('@') => return None,
        Some(authority) => authority.host(),
        None => {
            let text = first?.to_str().ok()?;
            text.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(text, |(h, _)| h)
        }
    };
    let text = text.trim_end_matches('.');
    let upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if upper { Cow::Owned(text.to_ascii_lowercase()) } else { Cow::Borrowed(text) })
}

/// Takes away what is about one connection, with whatever `Connection` names.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    // Each name is looked at once: most messages have one of these, or none.
    let mut gone: Vec<HeaderName> = headers.keys().filter(|name| is_hop(name)).cloned().collect();
    if gone.contains(&CONNECTION) {
        let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named = values.flat_map(|value| value.split(',')).map(str::trim);
        // These name no field of their own, or one that goes anyway.
        let named =
            named.filter(|token| !["close", "keep-alive", "upgrade"].iter().any(|t| token.eq_ignore_ascii_case(t)));
        // What a request is routed by is for every hop (RFC 9110, section 7.6.1).
        gone.extend(named.filter_map(|token| token.parse().ok()).filter(|name| *name != HOST));
    }
    for name in gone {
        headers.remove(name);
    }
}

/// HTTP/2 clients send cookies in several fields, which HTTP/1.1 has in one (RFC 9113, section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    // No field comes twice, as in most requests.
    if headers.len() == headers.keys_len() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Says where a request came from. A proxy before this one may have said so in a line of its own, behind its client's.
pub(crate) fn forward(headers: &mut HeaderMap, peer: &HeaderValue, tls: bool, id: &HeaderValue) {
    // Programs that read headers as variables (CGI, WSGI, Rack) take `X_Forwarded_For` for the same name.
    let own = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, REQUEST_ID];
    let is_own = |name: &str| own.iter().any(|own| own.as_str() == name);
    let alike = |name: &&HeaderName| name.as_str().contains('_') && is_own(&name.as_str().replace('_', "-"));
    let alike: Vec<HeaderName> = headers.keys().filter(alike).cloned().collect();
    for name in alike {
        headers.remove(name);
    }
    headers.reserve(4);
    let chain = match headers.contains_key(&FORWARDED_FOR) {
        true => {
            let mut all: Vec<_> = headers.get_all(&FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
            all.push(peer.as_bytes());
            HeaderValue::from_bytes(&all.join(&b", "[..])).ok().filter(|chain| chain.len() <= CHAIN_MAX)
        }
        false => None,
    };
    headers.insert(FORWARDED_FOR, chain.unwrap_or_else(|| peer.clone()));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if tls { "https" } else { "http" }));
    if let Some(asked) = headers.get(HOST).cloned() {
        headers.insert(FORWARDED_HOST, asked);
    }
    headers.insert(REQUEST_ID, id.clone());
}

/// The request's own id, if it is one, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        !id.is_empty() && id.len() <= 128 && id.as_bytes().iter().all(known)
    };
    if let Some(given) = headers.get(&REQUEST_ID).filter(plain) {
        return given.clone();
    }
    let mut text = [0; 32];
    // The length is right, and hexadecimal digits are right for a header.
    let _ = hex::encode_to_slice(rand::random::<[u8; 16]>(), &mut text);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_wherever_it_stands() {
        let host =
            |builder: http::request::Builder| host_of(&builder.body(()).expect("a request")).map(Cow::into_owned);
        assert_eq!(host(Request::get("/").header(HOST, "Shop.Localhost:8080")).as_deref(), Some("shop.localhost"));
        assert_eq!(host(Request::get("http://a.example./x")).as_deref(), Some("a.example"));
        assert_eq!(host(Request::get("/").header(HOST, "[::1]:80")).as_deref(), Some("[::1]"));
        assert_eq!(host(Request::get("http://a.example/x").header(HOST, "b.example")).as_deref(), Some("a.example"));
        assert_eq!(host(Request::get("/").header(HOST, "a").header(HOST, "b")), None);
        assert_eq!(host(Request::get("/")), None);
    }

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Secret"), ("x-secret", "1"), ("te", "gzip"), ("accept", "*/*")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn nobody_else_says_where_a_request_came_from() {
        let mut headers = HeaderMap::new();
        for name in ["x_forwarded_for", "x-forwarded_proto", "x_request_id", "x_forwarded_for_me", "x_own"] {
            headers.append(name, HeaderValue::from_static("forged"));
        }
        let said = HeaderValue::from_static("192.0.2.1");
        forward(&mut headers, &said, false, &said);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-forwarded-for", "x-forwarded-proto", "x-request-id", "x_forwarded_for_me", "x_own"]);
    }

    #[test]
    fn cookies_come_in_one_field() {
        let mut headers = HeaderMap::new();
        for value in ["a=1", "b=2", "c=3"] {
            headers.append(COOKIE, HeaderValue::from_static(value));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_request_says_where_it_came_from() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("shop.localhost:80"));
        headers.append("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
        headers.append("x-forwarded-for", HeaderValue::from_static("1.2.3.4"));
        let (peer, id) = (HeaderValue::from_static("127.0.0.1"), HeaderValue::from_static("abc"));
        forward(&mut headers, &peer, false, &id);
        assert_eq!(headers["x-forwarded-for"], "6.6.6.6, 1.2.3.4, 127.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop.localhost:80");
        assert_eq!(request_id(&headers), "abc");
        headers.insert("x-request-id", HeaderValue::from_static("bad id\""));
        assert_eq!(request_id(&headers).len(), 32);
    }
}
