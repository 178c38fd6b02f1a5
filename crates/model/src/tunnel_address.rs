//! Addresses at which the routers of other machines reach a machine's router.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::HostName;

/// Address of a machine's tunnel: a host name or an IP address, and a port. Written `host:port`, with an IPv6 address in
/// brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TunnelAddress {
    host: TunnelHost,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum TunnelHost {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Name(HostName),
}

/// The text is no tunnel address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid tunnel address {0:?}: expected HOST:PORT, for example 10.0.0.7:7001 or [fd00::7]:7001")]
pub struct TunnelAddressError(String);

impl FromStr for TunnelAddress {
    type Err = TunnelAddressError;

    fn from_str(text: &str) -> Result<Self, TunnelAddressError> {
        let wrong = || TunnelAddressError(text.chars().take(100).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match (bracketed, host.parse()) {
            (Some(address), _) => TunnelHost::V6(address.parse().map_err(|_| wrong())?),
            (None, Ok(address)) => TunnelHost::V4(address),
            (None, Err(_)) => TunnelHost::Name(HostName::parse(host).map_err(|_| wrong())?),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for TunnelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            TunnelHost::V4(address) => write!(f, "{address}:{}", self.port),
            TunnelHost::V6(address) => write!(f, "[{address}]:{}", self.port),
            TunnelHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl TryFrom<String> for TunnelAddress {
    type Error = TunnelAddressError;

    fn try_from(text: String) -> Result<Self, TunnelAddressError> {
        text.parse()
    }
}

impl From<TunnelAddress> for String {
    fn from(address: TunnelAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_parses_to_its_own_text() {
        for text in ["10.0.0.7:7001", "[fd00::7]:7001", "m1.example:7001", "m1:7001"] {
            assert_eq!(text.parse::<TunnelAddress>().expect(text).to_string(), text);
        }
        for text in ["", "10.0.0.7", "10.0.0.7:0", "10.0.0.7:70000", "fd00::7:7001", "[10.0.0.7]:1", "a b:1", ":7001"] {
            let error = text.parse::<TunnelAddress>().expect_err(text).to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }
}
