//! The index over the routes of one app: the instances, addresses and machines that the routes name. One look-up per copy
//! instead of a search through all copies.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{AllocationId, AppNames, AppRoutes, Generation, MachineAddress, MachineName, RoleName};

/// Everything that the routes of an app lead to.
#[derive(Debug, Default)]
pub(crate) struct NamedInstances<'a> {
    /// The revision of the routes.
    pub(crate) revision: Generation,
    /// The instances of the endpoints, each with the first of its addresses.
    pub(crate) routed: BTreeMap<&'a AllocationId, &'a MachineAddress>,
    /// Addresses that the names lead to.
    addresses: BTreeSet<&'a MachineAddress>,
    /// The machines of these addresses.
    machines: BTreeSet<&'a MachineName>,
}

impl<'a> NamedInstances<'a> {
    /// Builds the index of an app's routes.
    pub(crate) fn of(routes: &'a AppRoutes) -> Self {
        let mut routed = BTreeMap::new();
        for endpoint in routes.endpoints() {
            routed.entry(&endpoint.allocation).or_insert(&endpoint.at);
        }
        let addresses: BTreeSet<&MachineAddress> = routes.addresses().collect();
        let machines = addresses.iter().map(|address| address.machine()).collect();
        Self { revision: routes.revision, routed, addresses, machines }
    }

    /// Reports whether a route leads to an instance.
    pub(crate) fn has_instance(&self, id: &AllocationId) -> bool {
        self.routed.contains_key(id)
    }

    /// Reports whether a name leads to an address.
    pub(crate) fn has_address(&self, address: &MachineAddress) -> bool {
        self.addresses.contains(address)
    }

    /// Reports whether a name leads to a machine.
    pub(crate) fn has_machine(&self, machine: &MachineName) -> bool {
        self.machines.contains(machine)
    }
}

/// The addresses of a role on a machine.
type RoleAddresses<'a> = BTreeMap<(&'a RoleName, &'a MachineName), Vec<&'a MachineAddress>>;

/// The addresses of an app's names, by role and machine.
pub(crate) fn addresses_by_machine(names: &AppNames) -> RoleAddresses<'_> {
    let mut by_machine = RoleAddresses::new();
    for (role, addresses) in &names.roles {
        for address in addresses {
            by_machine.entry((role, address.machine())).or_default().push(address);
        }
    }
    by_machine
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use gantry_model::role::AppProtocol;
    use gantry_model::{AppName, Endpoint, HostName, ReleaseNumber, RequestTimeouts, Route, TrafficPolicy};

    use super::*;

    fn machine(name: &str) -> MachineName {
        MachineName::parse(name).expect("a name")
    }

    fn role(name: &str) -> RoleName {
        RoleName::parse(name).expect("a name")
    }

    fn id(text: &str) -> AllocationId {
        AllocationId::parse(text).expect("an id")
    }

    fn at(name: &str, last: u8) -> MachineAddress {
        MachineAddress::new(machine(name), Ipv4Addr::new(10, 0, 0, last))
    }

    fn names() -> AppNames {
        let roles = [(role("web"), vec![at("a", 1), at("b", 1), at("a", 2)]), (role("worker"), vec![at("a", 3)])];
        AppNames { roles: roles.into(), ..AppNames::default() }
    }

    #[test]
    fn routes_name_the_instances_of_their_endpoints_and_the_addresses_of_their_names() {
        let endpoint = |at| Endpoint { allocation: id("shop.v1.web-1"), at, port: 1, protocol: AppProtocol::default() };
        let route = Route {
            app: AppName::parse("shop").expect("a name"),
            release: ReleaseNumber(1),
            held: false,
            endpoints: vec![endpoint(at("a", 1)), endpoint(at("c", 9))],
            traffic: TrafficPolicy::default(),
            timeouts: RequestTimeouts::default(),
        };
        let routes = [(HostName::parse("shop.localhost").expect("a name"), route)].into();
        let routes = AppRoutes { revision: Generation(7), routes, names: Some(names()), ..AppRoutes::default() };
        let named = NamedInstances::of(&routes);
        assert_eq!(named.revision, Generation(7));
        assert_eq!(named.routed[&id("shop.v1.web-1")], &at("a", 1), "the first address of an instance");
        for (text, expected) in [("shop.v1.web-1", true), ("shop.v1.web-2", false)] {
            assert_eq!(named.has_instance(&id(text)), expected, "{text}");
        }
        for (address, expected) in [(at("a", 1), true), (at("a", 3), true), (at("b", 2), false), (at("c", 9), false)] {
            assert_eq!(named.has_address(&address), expected, "{address:?}");
        }
        for (name, expected) in [("a", true), ("b", true), ("c", false)] {
            assert_eq!(named.has_machine(&machine(name)), expected, "{name}");
        }
    }

    #[test]
    fn addresses_of_names_are_found_by_role_and_machine() {
        let names = names();
        let found = addresses_by_machine(&names);
        let of = |on: &str, of: &str| {
            let (role, machine) = (role(of), machine(on));
            let addresses = found.get(&(&role, &machine));
            addresses.map(|addresses| addresses.iter().copied().cloned().collect::<Vec<_>>())
        };
        assert_eq!(of("a", "web"), Some(vec![at("a", 1), at("a", 2)]));
        assert_eq!(of("b", "web"), Some(vec![at("b", 1)]));
        assert_eq!(of("a", "worker"), Some(vec![at("a", 3)]));
        assert_eq!(of("b", "worker"), None);
    }
}
