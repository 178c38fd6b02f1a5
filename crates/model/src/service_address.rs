//! Virtual addresses of services: a stable address for each app and role, the same on every machine.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use crate::{AppName, AppNames, RoleName};

/// The network of virtual addresses. No network of the Internet has these addresses (RFC 2544).
pub const VIRTUAL_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 19, 0, 0), 16);

/// Port of the router, at the bridge's address, to which each machine redirects connections to virtual addresses.
pub const VIRTUAL_PORT: u16 = 7002;

/// Number of addresses in the network.
const SIZE: u32 = 1 << (32 - VIRTUAL_NETWORK.1 as u32);

/// Virtual addresses of all roles. Each machine computes them from the same names. An address follows from the names of
/// app and role; only two roles whose names lead to one address depend on each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VirtualAddresses {
    by_address: HashMap<Ipv4Addr, (AppName, RoleName)>,
    by_role: HashMap<AppName, BTreeMap<RoleName, Ipv4Addr>>,
}

impl VirtualAddresses {
    /// Assigns an address to each role.
    #[must_use]
    pub fn of(names: &BTreeMap<AppName, AppNames>) -> Self {
        let mut assigned = Self::default();
        let roles = names.iter().flat_map(|(app, names)| names.roles.keys().map(move |role| (app, role)));
        for (app, role) in roles.take(SIZE as usize / 2) {
            let sum = checksum(&format!("{role}.{app}"));
            let mut place = (sum ^ sum >> 16) % SIZE;
            let address = loop {
                let address = Ipv4Addr::from(u32::from(VIRTUAL_NETWORK.0) + place);
                if !assigned.by_address.contains_key(&address) {
                    break address;
                }
                place = (place + 1) % SIZE;
            };
            assigned.by_address.insert(address, (app.clone(), role.clone()));
            assigned.by_role.entry(app.clone()).or_default().insert(role.clone(), address);
        }
        assigned
    }

    /// The role at an address.
    #[must_use]
    pub fn role_at(&self, address: Ipv4Addr) -> Option<&(AppName, RoleName)> {
        self.by_address.get(&address)
    }

    /// The address of a role.
    #[must_use]
    pub fn of_role(&self, app: &AppName, role: &RoleName) -> Option<Ipv4Addr> {
        self.by_role.get(app)?.get(role).copied()
    }
}

/// Checksum by FNV-1a, which is the same on every machine and in every version.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> BTreeMap<AppName, AppNames> {
        let app = |number: usize| {
            let roles = ["web", "redis"].map(|role| (RoleName::parse(role).expect("a name"), Vec::new()));
            let names = AppNames { roles: BTreeMap::from(roles), ..AppNames::default() };
            (AppName::parse(&format!("app-{number}")).expect("a name"), names)
        };
        (0..count).map(app).collect()
    }

    #[test]
    fn each_role_has_an_address_of_its_own() {
        let all = VirtualAddresses::of(&names(5000));
        assert_eq!(all.by_address.len(), 10_000);
        for (address, (app, role)) in &all.by_address {
            assert_eq!(all.of_role(app, role), Some(*address));
            assert_eq!(u32::from(*address) >> 16, u32::from(VIRTUAL_NETWORK.0) >> 16, "{address}");
        }
    }

    #[test]
    fn an_address_seldom_depends_on_other_apps() {
        let (few, all) = (VirtualAddresses::of(&names(100)), VirtualAddresses::of(&names(1000)));
        let moved = few.by_address.iter().filter(|(address, (app, role))| all.of_role(app, role) != Some(**address));
        assert!(moved.count() <= 20);
    }
}
