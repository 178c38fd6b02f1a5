//! Rewriting of header fields between client and instance. Pure.

use std::borrow::Cow;

use http::header::{CONNECTION, COOKIE, HOST, HeaderName};
use http::{HeaderMap, HeaderValue, Request};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns whether the field concerns a single connection (RFC 9110, section 7.6.1, and similar fields).
/// `http2-settings` belongs to an upgrade to cleartext HTTP/2, which the router does not offer.
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

/// Returns the requested host: lower case, without port and trailing dot. None if the request names no host, or two:
/// two programs might each choose another host (RFC 9112, section 3.2).
pub(crate) fn host_of<B>(request: &Request<B>) -> Option<Cow<'_, str>> {
    let mut named = request.headers().get_all(HOST).iter();
    let first = named.next();
    if named.next().is_some() {
        return None;
    }
    // The host in the request target takes precedence over `Host` (RFC 9112, section 3.2.2).
    let text = match request.uri().authority() {
        // The next program might take the part before the `@` for the host.
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

/// Removes the fields that concern a single connection, including the fields that `Connection` names.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    // Most messages have at most one such field, so each name is checked only once.
    let mut gone: Vec<HeaderName> = headers.keys().filter(|name| is_hop(name)).cloned().collect();
    if gone.contains(&CONNECTION) {
        let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named = values.flat_map(|value| value.split(',')).map(str::trim);
        // These tokens name no field, or a field that is removed anyway.
        let named =
            named.filter(|token| !["close", "keep-alive", "upgrade"].iter().any(|t| token.eq_ignore_ascii_case(t)));
        // `Host` routes the request and is meant for every hop (RFC 9110, section 7.6.1).
        gone.extend(named.filter_map(|token| token.parse().ok()).filter(|name| *name != HOST));
    }
    for name in gone {
        headers.remove(name);
    }
}

/// Joins the cookie fields. HTTP/2 clients send several; HTTP/1.1 allows one (RFC 9113, section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    // No field occurs twice, as in most requests.
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

/// Returns the request's own id if it is valid, else a new id.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        !id.is_empty() && id.len() <= 128 && id.as_bytes().iter().all(known)
    };
    if let Some(given) = headers.get(&REQUEST_ID).filter(plain) {
        return given.clone();
    }
    let mut text = [0; 32];
    // The buffer has the right length, and hexadecimal digits are valid in a header.
    let _ = hex::encode_to_slice(rand::random::<[u8; 16]>(), &mut text);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_host_in_target_or_field() {
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
    fn removes_hop_by_hop_fields() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Secret"), ("x-secret", "1"), ("te", "gzip"), ("accept", "*/*")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn joins_cookie_fields() {
        let mut headers = HeaderMap::new();
        for value in ["a=1", "b=2", "c=3"] {
            headers.append(COOKIE, HeaderValue::from_static(value));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn keeps_a_valid_request_id() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc"));
        assert_eq!(request_id(&headers), "abc");
        headers.insert(REQUEST_ID, HeaderValue::from_static("bad id\""));
        assert_eq!(request_id(&headers).len(), 32);
    }
}
