//! Openings: exceptions for containers and builds to what the rules close. An opening is a range of this machine's
//! ports, or a metadata address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 addresses at which clouds serve a machine's own secrets. The rules close them.
pub(super) const CLOSED4: [(Ipv4Addr, u8); 4] = [
    // Link-local: AWS, Google, Azure, Hetzner, DigitalOcean, OpenStack, Oracle and most others.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    // Alibaba.
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    // Azure's WireServer.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    // Oracle's classic cloud.
    (Ipv4Addr::new(192, 0, 0, 192), 32),
];

/// IPv6 addresses at which clouds serve a machine's own secrets. The rules close them.
pub(super) const CLOSED6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    // AWS: metadata, credentials of pods, names, time.
    (Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0), 32),
    // Google.
    (Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254), 128),
    // Scaleway.
    (Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042), 128),
];

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Ports of this machine that containers and builds may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPorts {
    /// The protocol of the ports.
    pub protocol: PortProtocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// The only address of the machine at which the ports are open; `None` means every address.
    pub address: Option<IpAddr>,
}

impl HostPorts {
    /// The TCP port of a Gantry service that listens at `address`; `None` if containers cannot reach that address.
    #[must_use]
    pub fn of_service(address: std::net::SocketAddr) -> Option<Self> {
        let ip = address.ip().to_canonical();
        let own = (!ip.is_unspecified()).then_some(ip);
        let port = address.port();
        (!ip.is_loopback()).then_some(Self { protocol: PortProtocol::Tcp, first: port, last: port, address: own })
    }

    /// Parses `5432`, `8125/udp` or `9000-9010`.
    ///
    /// # Errors
    /// When the text is not a port or a range of ports.
    pub fn parse(text: &str) -> Result<Self, OpeningError> {
        let wrong = || OpeningError::Port(text.to_owned());
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), PortProtocol::Tcp),
            Some((ports, "udp")) => (ports, PortProtocol::Udp),
            Some(_) => return Err(wrong()),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(wrong());
        }
        Ok(Self { protocol, first, last, address: None })
    }
}

impl fmt::Display for HostPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        f.write_str(if self.protocol == PortProtocol::Udp { "/udp" } else { "" })
    }
}

/// A closed metadata address, or a network of them, that the settings open to containers and builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataAddress {
    /// The address.
    pub address: IpAddr,
    /// The prefix length.
    pub prefix: u8,
}

impl MetadataAddress {
    /// Parses `169.254.169.254` or `169.254.0.0/16`.
    ///
    /// # Errors
    /// When the text is not an address, or when the rules do not close the address.
    pub fn parse(text: &str) -> Result<Self, OpeningError> {
        let wrong = || OpeningError::Address(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        let is_closed = match address {
            IpAddr::V4(own) => CLOSED4.iter().any(|(net, length)| {
                prefix >= *length && (u32::from(own) ^ u32::from(*net)).leading_zeros() >= u32::from(*length)
            }),
            IpAddr::V6(own) => CLOSED6.iter().any(|(net, length)| {
                prefix >= *length && (u128::from(own) ^ u128::from(*net)).leading_zeros() >= u32::from(*length)
            }),
        };
        match (prefix <= longest, is_closed) {
            (false, _) => Err(wrong()),
            (true, false) => Err(OpeningError::Open(text.to_owned())),
            (true, true) => Ok(Self { address, prefix }),
        }
    }
}

impl fmt::Display for MetadataAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Reason why a text is not a valid opening.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// The text is not a port.
    #[error("{0:?} is not a port; write for example 5432, 8125/udp or 9000-9010")]
    Port(String),
    /// The text is not an address.
    #[error("{0:?} is not an address; write for example 169.254.169.254")]
    Address(String),
    /// Containers reach the address anyway.
    #[error("{0} is not a metadata address; containers reach it without this setting")]
    Open(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints_ports() {
        for (text, written) in
            [("5432", "5432"), ("53/udp", "53/udp"), ("9000-9010/tcp", "9000-9010"), ("1-65535/udp", "1-65535/udp")]
        {
            assert_eq!(HostPorts::parse(text).map(|ports| ports.to_string()), Ok(written.to_owned()), "{text}");
        }
        for text in ["", "0", "65536", "x", "5432/sctp", "10-9", "5432/", "-", "+5", "1-2-3"] {
            let result = HostPorts::parse(text);
            assert!(text == "+5" || result == Err(OpeningError::Port(text.to_owned())), "{text}: {result:?}");
        }
    }

    #[test]
    fn opens_only_the_listening_address_of_a_service() {
        let of = |text: &str| {
            HostPorts::of_service(text.parse().expect("an address")).map(|ports| (ports.first, ports.address))
        };
        assert_eq!(of("0.0.0.0:80"), Some((80, None)));
        assert_eq!(of("[::]:80"), Some((80, None)));
        assert_eq!(of("203.0.113.9:8080"), Some((8080, Some(IpAddr::from([203, 0, 113, 9])))));
        assert_eq!(of("127.0.0.1:80"), None);
        assert_eq!(of("[::ffff:127.0.0.1]:80"), None);
    }

    #[test]
    fn accepts_only_closed_metadata_addresses() {
        for text in ["169.254.169.254", "169.254.0.0/16", "168.63.129.16", "fd00:ec2::254", "fe80::a9fe:a9fe"] {
            assert!(MetadataAddress::parse(text).is_ok(), "{text}");
        }
        for text in ["10.0.0.1", "169.254.0.0/15", "0.0.0.0/0", "::/0", "fd00:ec3::1", "100.100.100.201"] {
            assert_eq!(MetadataAddress::parse(text), Err(OpeningError::Open(text.to_owned())));
        }
        for text in ["", "x", "169.254.169.254/33", "169.254.169", "fe80::1/129", "fe80::1%eth0"] {
            assert_eq!(MetadataAddress::parse(text), Err(OpeningError::Address(text.to_owned())));
        }
    }
}
