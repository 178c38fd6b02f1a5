//! The networks of the machines' containers. Each machine has its own, and no two overlap.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The network of a machine's containers: `10.64.16.0/20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineSubnet {
    network: u32,
    prefix: u8,
}

/// The text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid network: write it as 10.64.16.0/20, with 8 to 30 bits before the slash's number")]
pub struct MachineSubnetError;

impl MachineSubnet {
    /// The network with this prefix length that contains an address; `None` unless the prefix has 8 to 30 bits.
    #[must_use]
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let mask = u32::MAX << (32 - u32::from(prefix).clamp(8, 30));
        (8..=30).contains(&prefix).then(|| Self { network: u32::from(address) & mask, prefix })
    }

    /// The address of the machine's bridge: the first address of the network.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    /// Length of the prefix.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Reports whether two networks have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let mask = u32::MAX << (32 - u32::from(self.prefix.min(other.prefix)));
        self.network & mask == other.network & mask
    }

    /// The first network with this prefix length in the range `self` that overlaps none of the taken ones.
    #[must_use]
    pub fn first_free(self, prefix: u8, taken: &[Self]) -> Option<Self> {
        let count = 1_u32.checked_shl(u32::from(prefix.checked_sub(self.prefix)?))?;
        let candidate = |n: u32| Self { network: self.network + (n << (32 - u32::from(prefix))), prefix };
        let free = |subnet: &Self| !taken.iter().any(|other| subnet.overlaps(*other));
        (prefix <= 30).then(|| (0..count).map(candidate).find(free)).flatten()
    }
}

impl fmt::Display for MachineSubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

impl FromStr for MachineSubnet {
    type Err = MachineSubnetError;
    fn from_str(text: &str) -> Result<Self, MachineSubnetError> {
        let (address, prefix) = text.split_once('/').ok_or(MachineSubnetError)?;
        let address: Ipv4Addr = address.parse().map_err(|_| MachineSubnetError)?;
        let prefix = prefix.parse().map_err(|_| MachineSubnetError)?;
        let subnet = Self::containing(address, prefix).ok_or(MachineSubnetError)?;
        if subnet.network == u32::from(address) { Ok(subnet) } else { Err(MachineSubnetError) }
    }
}

impl TryFrom<String> for MachineSubnet {
    type Error = MachineSubnetError;
    fn try_from(text: String) -> Result<Self, MachineSubnetError> {
        text.parse()
    }
}

impl From<MachineSubnet> for String {
    fn from(subnet: MachineSubnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> MachineSubnet {
        text.parse().expect(text)
    }

    #[test]
    fn a_subnet_parses_to_its_own_text() {
        let own = subnet("10.64.16.0/20");
        assert_eq!(
            (own.to_string().as_str(), own.gateway(), own.prefix()),
            ("10.64.16.0/20", "10.64.16.1".parse().expect("an address"), 20)
        );
        assert_eq!(
            MachineSubnet::containing("10.83.0.1".parse().expect("an address"), 16),
            Some(subnet("10.83.0.0/16"))
        );
        for wrong in ["", "10.0.0.0", "10.0.0.1/20", "10.0.0.0/7", "10.0.0.0/31", "10.0.0.0/x", "::/20"] {
            assert_eq!(wrong.parse::<MachineSubnet>(), Err(MachineSubnetError), "{wrong}");
        }
    }

    #[test]
    fn the_first_free_network_overlaps_no_other() {
        let range = subnet("10.64.0.0/10");
        let mut taken = vec![subnet("10.83.0.0/16")];
        for _ in 0..320 {
            let free = range.first_free(20, &taken).expect("free");
            assert!(range.overlaps(free) && !taken.iter().any(|other| other.overlaps(free)), "{free}");
            taken.push(free);
        }
        assert_eq!(taken[1], subnet("10.64.0.0/20"));
        assert_eq!(taken[305], subnet("10.84.0.0/20"), "the first machine's network is passed over");
        assert_eq!(subnet("10.0.0.0/30").first_free(30, &[subnet("10.0.0.0/8")]), None);
        assert_eq!(subnet("10.0.0.0/20").first_free(16, &[]), None);
    }
}
