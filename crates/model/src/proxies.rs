//! Trusted proxies: the addresses whose `X-Forwarded-*`, `Forwarded` and PROXY protocol headers count.
//!
//! Anyone can send these headers. A router believes them from a listed address only, and replaces them otherwise.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Longest list of trusted proxies.
pub const PROXIES_MAX: usize = 100;

/// A range of addresses, written `10.0.0.0/8`, `2001:db8::/32`, or as a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(IpNet);

/// Reason why a text is not an address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// The text is neither an address nor a range.
    #[error("invalid address range {0:?}: write for example 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1")]
    Syntax(String),
    /// Bits behind the prefix are set: the address or the prefix length is a mistake.
    #[error("{given} has bits set behind its prefix; write {network}, or the address without a prefix")]
    HostBits {
        /// The text.
        given: String,
        /// The range that holds the address.
        network: String,
    },
}

impl Subnet {
    /// Reports whether the range contains the address. An IPv4-mapped address (`::ffff:a.b.c.d`) of an IPv6 socket
    /// counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_canonical().into()));
        }
        let shown = || text.chars().take(60).collect::<String>();
        let net: IpNet = text.parse().map_err(|_| SubnetError::Syntax(shown()))?;
        match net.trunc() {
            network if network == net => Ok(Self(net)),
            network => Err(SubnetError::HostBits { given: shown(), network: network.to_string() }),
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;
    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// A list of address ranges whose proxies are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustedProxies(Vec<Subnet>);

impl TrustedProxies {
    /// Creates a sorted list without duplicates.
    #[must_use]
    pub fn new(mut subnets: Vec<Subnet>) -> Self {
        subnets.sort_unstable();
        subnets.dedup();
        Self(subnets)
    }

    /// Reports whether one of the ranges contains the address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|subnet| subnet.contains(address))
    }

    /// The ranges of both lists.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied().collect())
    }

    /// Reports whether no proxy is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Subnet> {
        self.0.iter()
    }

    /// Number of ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let ranges: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_range_contains_its_addresses_in_either_notation() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::1", "::1", "127.0.0.1"),
            ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.3"),
        ] {
            let proxies = TrustedProxies::new(vec![subnet(range)]);
            assert!(proxies.contains(inside.parse().expect("an address")), "{range} holds {inside}");
            assert!(!proxies.contains(outside.parse().expect("an address")), "{range} does not hold {outside}");
        }
    }

    #[test]
    fn refuses_an_invalid_range_with_the_remedy() {
        for bad in ["", "10.0.0.0/33", "10.0.0", "::/129", "a", "10.0.0.0/8 "] {
            assert!(matches!(bad.parse::<Subnet>(), Err(SubnetError::Syntax(_))), "{bad}");
        }
        let error = "10.1.2.3/8".parse::<Subnet>().expect_err("host bits");
        assert_eq!(
            error.to_string(),
            "10.1.2.3/8 has bits set behind its prefix; write 10.0.0.0/8, or the address without a prefix"
        );
    }

    #[test]
    fn a_list_round_trips_through_json() {
        let proxies = TrustedProxies::new(vec![subnet("192.0.2.1/32"), subnet("10.0.0.0/8"), subnet("10.0.0.0/8")]);
        assert_eq!(proxies.to_string(), "10.0.0.0/8,192.0.2.1");
        let text = serde_json::to_string(&proxies).expect("JSON");
        assert_eq!(text, r#"["10.0.0.0/8","192.0.2.1"]"#);
        assert_eq!(serde_json::from_str::<TrustedProxies>(&text).expect("a list"), proxies);
        assert!(serde_json::from_str::<TrustedProxies>(r#"["x"]"#).is_err());
    }
}
