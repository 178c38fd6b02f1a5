//! Origin of a request, as forwarded to the application: from the connection's own address and protocol, or from the
//! headers of a trusted proxy. Pure.
//!
//! | header | from a trusted proxy | from anyone else |
//! |---|---|---|
//! | `X-Forwarded-For` | kept, the proxy's address added | replaced by the peer's address |
//! | `X-Forwarded-Proto` | kept if `http` or `https` | replaced by the connection's |
//! | `X-Forwarded-Host` | kept | replaced by `Host` |
//! | `Forwarded` (RFC 7239) | kept, the proxy added; fills in what the three above lack | removed |
//! | `X-Real-IP`, other `X-Forwarded-*` | kept | removed |

use std::net::{IpAddr, SocketAddr};

use gantry_model::TrustedProxies;
use http::header::{FORWARDED, HOST, HeaderName};
use http::{HeaderMap, HeaderValue};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Longest accepted chain of proxies, in bytes.
const CHAIN_MAX: usize = 1024;

/// The other end of a connection.
#[derive(Clone, Copy)]
pub(crate) struct RequestOrigin<'a> {
    /// Address of the peer, as header text.
    pub(crate) peer: &'a HeaderValue,
    /// The connection, or a trusted proxy's client, uses TLS.
    pub(crate) tls: bool,
    /// The peer is a trusted proxy.
    pub(crate) trusted: bool,
}

/// Writes the headers of the table above.
pub(crate) fn forward(headers: &mut HeaderMap, origin: RequestOrigin<'_>) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(name, origin.trusted)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
    headers.reserve(4);
    let forwarded_fields = if origin.trusted { ForwardedFields::read(headers) } else { ForwardedFields::default() };
    let chain = forwarded_fields.chain.map(|chain| [&chain[..], b", ", origin.peer.as_bytes()].concat());
    let chain = chain.filter(|chain| chain.len() <= CHAIN_MAX).and_then(|chain| HeaderValue::from_bytes(&chain).ok());
    let proto = forwarded_fields.proto.unwrap_or(if origin.tls { "https" } else { "http" });
    let host = forwarded_fields.host.or_else(|| headers.get(HOST).cloned());
    headers.insert(FORWARDED_FOR, chain.unwrap_or_else(|| origin.peer.clone()));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host);
    }
    if let Some(forwarded) = forwarded_fields.forwarded {
        let element = element_of(origin.peer);
        let all = [&forwarded[..], b", for=", element.as_bytes()].concat();
        match HeaderValue::from_bytes(&all).ok().filter(|all| all.len() <= CHAIN_MAX) {
            Some(all) => drop(headers.insert(FORWARDED, all)),
            None => drop(headers.remove(FORWARDED)),
        }
    }
}

/// Returns the client's address for the access log: the last address in the chain that is not a trusted proxy.
pub(crate) fn client(headers: &HeaderMap, trusted: &TrustedProxies) -> Option<HeaderValue> {
    let chain = headers.get(&FORWARDED_FOR)?.to_str().ok()?;
    let mut last = None;
    for address in chain.rsplit(',').map(address_of) {
        // An unreadable hop hides all hops before it.
        let Some(address) = address else { break };
        last = Some(address);
        if !trusted.contains(address) {
            break;
        }
    }
    HeaderValue::from_str(&last?.to_canonical().to_string()).ok()
}

/// Returns whether the application must not see the field. Programs that read headers as variables (CGI, WSGI, Rack)
/// take `X_Forwarded_For` for `X-Forwarded-For`, so forwarding names with an underscore are always unwanted.
fn is_unwanted(name: &HeaderName, trusted: bool) -> bool {
    let name = name.as_str();
    let is_forwarding = |name: &str| name.starts_with("x-forwarded-") || name == "forwarded" || name == "x-real-ip";
    let known = |name: &str| is_forwarding(name) || name == "x-request-id";
    if name.contains('_') { known(&name.replace('_', "-")) } else { !trusted && is_forwarding(name) }
}

/// Forwarding headers of a trusted proxy.
#[derive(Default)]
struct ForwardedFields {
    chain: Option<Vec<u8>>,
    proto: Option<&'static str>,
    host: Option<HeaderValue>,
    forwarded: Option<Vec<u8>>,
}

impl ForwardedFields {
    fn read(headers: &HeaderMap) -> Self {
        let joined = |name: &HeaderName| {
            let all: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            (!all.is_empty()).then(|| all.join(&b", "[..]))
        };
        let forwarded = joined(&FORWARDED);
        let text = forwarded.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        let elements = elements(text);
        let first = |key: &str| elements.first().and_then(|element| value_of(element, key));
        let chain = || {
            let hops = elements.iter().filter_map(|element| address_of(&value_of(element, "for")?));
            let hops: Vec<String> = hops.map(|address| address.to_string()).collect();
            (!hops.is_empty()).then(|| hops.join(", ").into_bytes())
        };
        let proto = joined(&FORWARDED_PROTO).and_then(|all| scheme(all.split(|byte| *byte == b',').next()?));
        let host = headers.get(FORWARDED_HOST).filter(|host| host.to_str().is_ok_and(|text| !text.is_empty()));
        Self {
            chain: joined(&FORWARDED_FOR).or_else(chain),
            proto: proto.or_else(|| scheme(first("proto")?.as_bytes())),
            host: host.cloned().or_else(|| HeaderValue::from_str(&first("host")?).ok()),
            forwarded,
        }
    }
}

fn scheme(text: &[u8]) -> Option<&'static str> {
    let text = text.trim_ascii();
    ["http", "https"].into_iter().find(|known| text.eq_ignore_ascii_case(known.as_bytes()))
}

/// Splits at `separator`, but not within quoted strings.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c: char| {
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        c == separator && !quoted
    })
    .collect()
}

/// The elements of a `Forwarded` field, each with its `key=value` pairs (RFC 7239, section 4).
fn elements(text: &str) -> Vec<Vec<(&str, &str)>> {
    let pairs = |element| {
        let pairs = split(element, ';').into_iter().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.trim(), value.trim())).collect()
    };
    if text.is_empty() { Vec::new() } else { split(text, ',').into_iter().map(pairs).collect() }
}

fn value_of(element: &[(&str, &str)], key: &str) -> Option<String> {
    let (_, value) = element.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?;
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(quoted) => Some(quoted.replace('\\', "")),
        None => Some((*value).to_owned()),
    }
}

/// Parses an address with or without a port; none for `unknown` and for names that hide an address.
fn address_of(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Formats a peer as the value of `for=`; an IPv6 address gets brackets and quotes.
fn element_of(peer: &HeaderValue) -> String {
    let text = peer.to_str().unwrap_or("unknown");
    if text.contains(':') { format!("\"[{text}]\"") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: bool = false;
    const PROXY: bool = true;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("shop.localhost:80"));
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    /// Returns the fields after `forward`, sorted, without `host`.
    fn forwarded(fields: &[(&'static str, &str)], peer: &str, trusted: bool) -> Vec<(String, String)> {
        let mut headers = headers(fields);
        let peer = HeaderValue::from_str(peer).expect("a value");
        forward(&mut headers, RequestOrigin { peer: &peer, tls: false, trusted });
        headers.remove(HOST);
        let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
        let mut all: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort_unstable();
        all
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn ignores_forwarding_headers_of_strangers() {
        let forged: Vec<(&'static str, &str)> = [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-real-ip",
            "x_forwarded_for",
            "x-forwarded_proto",
            "x_real_ip",
            "x_request_id",
        ]
        .map(|name| (name, "for=6.6.6.6;proto=https"))
        .into_iter()
        .chain([("x-forwarded-for", "6.6.6.7"), ("x_own", "stays")])
        .collect();
        let expected = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "shop.localhost:80"),
            ("x-forwarded-proto", "http"),
            ("x_own", "stays"),
        ];
        assert_eq!(forwarded(&forged, "192.0.2.1", STRANGER), pairs(&expected));
    }

    #[test]
    fn believes_a_trusted_proxy_field_by_field() {
        let forwarded_fields = [
            ("forwarded", "for=203.0.113.9;proto=https"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "203.0.113.9"),
            ("x_forwarded_for", "6.6.6.6"),
        ];
        let expected = [
            ("forwarded", "for=203.0.113.9;proto=https, for=10.0.0.7"),
            ("x-forwarded-for", "203.0.113.9, 10.0.0.7"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "203.0.113.9"),
        ];
        assert_eq!(forwarded(&forwarded_fields, "10.0.0.7", PROXY), pairs(&expected));
        let silent =
            [("x-forwarded-for", "10.0.0.7"), ("x-forwarded-host", "shop.localhost:80"), ("x-forwarded-proto", "http")];
        assert_eq!(forwarded(&[], "10.0.0.7", PROXY), pairs(&silent));
        for wrong in ["gopher", "", "https2", "http,https"] {
            let proto = forwarded(&[("x-forwarded-proto", wrong)], "10.0.0.7", PROXY).pop().expect("a proto").1;
            assert_eq!(proto, "http", "{wrong}");
        }
    }

    #[test]
    fn fills_forwarding_headers_from_forwarded() {
        for (value, chain, host, proto) in [
            ("for=203.0.113.9;proto=https;host=shop.example", "203.0.113.9, ::1", "shop.example", "https"),
            ("For=\"[2001:db8::17]:4711\";Proto=HTTPS, for=192.0.2.60", "2001:db8::17, 192.0.2.60, ::1", "", "https"),
            ("for=unknown;proto=http, for=_hidden", "::1", "", "http"),
            ("by=\"a,b;c\\\"d\";for=203.0.113.9:99", "203.0.113.9, ::1", "", "http"),
            ("nonsense", "::1", "", "http"),
        ] {
            let host = if host.is_empty() { "shop.localhost:80" } else { host };
            let all = format!("{value}, for=\"[::1]\"");
            let expected = [
                ("forwarded", &*all),
                ("x-forwarded-for", chain),
                ("x-forwarded-host", host),
                ("x-forwarded-proto", proto),
            ];
            assert_eq!(forwarded(&[("forwarded", value)], "::1", PROXY), pairs(&expected), "{value}");
        }
    }

    #[test]
    fn drops_an_overlong_chain() {
        let long = "1.1.1.1, ".repeat(200);
        let fields = forwarded(&[("x-forwarded-for", &long), ("forwarded", &long)], "10.0.0.7", PROXY);
        assert_eq!(fields.first(), Some(&("x-forwarded-for".to_owned(), "10.0.0.7".to_owned())));
    }

    #[test]
    fn logs_the_last_address_before_the_trusted_proxies() {
        let trusted = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a range")]);
        for (chain, expected) in [
            ("6.6.6.6, 203.0.113.9, 10.0.0.7", Some("203.0.113.9")),
            ("203.0.113.9:4711, 10.0.0.8, 10.0.0.7", Some("203.0.113.9")),
            ("::ffff:203.0.113.9, 10.0.0.7", Some("203.0.113.9")),
            ("10.0.0.9, 10.0.0.7", Some("10.0.0.9")),
            ("203.0.113.9, unknown, 10.0.0.7", Some("10.0.0.7")),
            ("unknown", None),
        ] {
            let found = client(&headers(&[("x-forwarded-for", chain)]), &trusted);
            assert_eq!(found.as_ref().and_then(|value| value.to_str().ok()), expected, "{chain}");
        }
    }
}
