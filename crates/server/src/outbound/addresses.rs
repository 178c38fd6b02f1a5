//! Addresses that a request to a foreign URL may not reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use gantry_model::TrustedProxies;
use gantry_queue::ReceiverUrl;

/// A refused address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is a private address, which requests to subscribers and callbacks do not reach; an administrator may allow its \
     range with `gantry cluster policy set callback-private-addresses=RANGE`"
)]
pub(crate) struct RefusedAddress(pub(crate) IpAddr);

/// Private ranges that the cluster's policy allows. Clones share the ranges.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowedRanges(Arc<RwLock<TrustedProxies>>);

impl AllowedRanges {
    /// Replaces the ranges.
    pub(crate) fn set(&self, ranges: TrustedProxies) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    /// Refuses a private address, unless a range contains it.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), RefusedAddress> {
        check(&self.0.read().unwrap_or_else(PoisonError::into_inner), address)
    }

    /// The addresses that may be reached.
    pub(crate) fn filter(&self, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, RefusedAddress> {
        let (mut allowed, mut refused) = (Vec::new(), None);
        for address in found {
            match self.check(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(refusal) => refused = Some(refusal),
            }
        }
        match refused {
            Some(refusal) if allowed.is_empty() => Err(refusal),
            _ => Ok(allowed),
        }
    }
}

fn check(ranges: &TrustedProxies, address: IpAddr) -> Result<(), RefusedAddress> {
    if !is_private(address) || ranges.contains(address) { Ok(()) } else { Err(RefusedAddress(address)) }
}

/// Refuses a URL whose host is a private address, before anything is stored. A name is checked once it is resolved.
pub(crate) fn check_literal(ranges: &TrustedProxies, url: &ReceiverUrl) -> Result<(), RefusedAddress> {
    literal(url.as_str()).map_or(Ok(()), |address| check(ranges, address))
}

/// The address in a URL, in any spelling that the client understands: `http://127.1/` and `http://2130706433/` are one.
pub(super) fn literal(url: &str) -> Option<IpAddr> {
    let url = reqwest::Url::parse(url).ok()?;
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Reports whether an address belongs to this machine, its networks, or no place on the internet. An IPv6 address that
/// carries an IPv4 address is judged by that one.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    match address.octets() {
        // This host, private networks, loopback, link-local with the metadata services of clouds, and multicast and above.
        [0 | 10 | 127, ..] | [169, 254, ..] | [192, 168, ..] | [224..=255, ..] => true,
        // Private networks, addresses behind a carrier's translation, and benchmarks.
        [172, 16..=31, ..] | [100, 64..=127, ..] | [198, 18 | 19, ..] => true,
        // Protocol assignments, documentation, and the old 6to4 relay.
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => true,
        _ => false,
    }
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_private_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // NAT64 and 6to4 reach the IPv4 address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Teredo and other assignments, and documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, ..] => true,
        // The internet is in 2000::/3 (RFC 4291, 2.4, and IANA's registry). All else is of a machine, of a network, or of a
        // translation: loopback, unique local, link-local, multicast, IPv4-compatible, local NAT64, IPv4-translated.
        [first, ..] => !matches!(first, 0x2000..=0x3fff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn private_addresses_are_refused_in_every_form() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "203.0.113.9",
            "::1",
            "::",
            "::ffff:10.0.0.1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "::7f00:1",
            "2001:db8::1",
            "2001:0:53aa::1",
            "::ffff:0:10.0.0.1",
            "64:ff9b:1::a00:1",
            "fec0::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(is_private(ip(text)), "{text}");
        }
        for text in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::101:101",
            "2002:101:101::",
            "::ffff:1.1.1.1",
        ] {
            assert!(!is_private(ip(text)), "{text}");
        }
    }

    #[test]
    fn a_range_of_the_policy_is_allowed_and_no_other() {
        let ranges = TrustedProxies::new(vec!["10.1.0.0/16".parse().expect("a range")]);
        let allowed = AllowedRanges::default();
        allowed.set(ranges.clone());
        assert_eq!(allowed.check(ip("10.1.2.3")), Ok(()));
        assert_eq!(allowed.check(ip("10.2.2.3")), Err(RefusedAddress(ip("10.2.2.3"))));
        let socket = |text: &str| SocketAddr::new(ip(text), 80);
        let found = [socket("10.2.0.1"), socket("1.1.1.1")];
        assert_eq!(allowed.filter(found.into_iter()), Ok(vec![socket("1.1.1.1")]));
        assert!(allowed.filter([socket("10.2.0.1")].into_iter()).is_err());
        let url = |text: &str| text.parse::<ReceiverUrl>().expect("a URL");
        for text in
            ["http://127.0.0.1/", "http://127.1:8080/", "http://2130706433/", "http://0x7f.0.0.1/", "http://[::1]/"]
        {
            assert!(check_literal(&ranges, &url(text)).is_err(), "{text}");
        }
        for text in ["http://10.1.0.7/", "https://example.com/", "http://localhost/"] {
            assert_eq!(check_literal(&ranges, &url(text)), Ok(()), "{text}");
        }
    }
}
