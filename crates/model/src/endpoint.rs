//! Endpoints and addresses of allocations. An address is meaningful on one machine alone.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::role::AppProtocol;
use crate::{AllocationId, MachineName};

/// Address on a machine's own network. Other machines may have the same address for something else, so only the machine
/// itself gets to see the address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineAddress {
    machine: MachineName,
    address: Ipv4Addr,
}

impl MachineAddress {
    /// The address `address` on the network of `machine`.
    #[must_use]
    pub fn new(machine: MachineName, address: Ipv4Addr) -> Self {
        Self { machine, address }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &MachineName {
        &self.machine
    }

    /// The address, if `here` is its machine.
    #[must_use]
    pub fn address_on(&self, here: &MachineName) -> Option<Ipv4Addr> {
        (self.machine == *here).then_some(self.address)
    }
}

/// An allocation that accepts requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The allocation.
    pub allocation: AllocationId,
    /// The machine of the allocation, and the allocation's address there.
    #[serde(flatten)]
    pub at: MachineAddress,
    /// The allocation's port.
    pub port: u16,
    /// The protocol on the port.
    #[serde(default)]
    pub protocol: AppProtocol,
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn only_the_machine_itself_sees_the_address() {
        let machine = |name: &str| MachineName::parse(name).expect("a name");
        let here = MachineAddress::new(machine("m1"), Ipv4Addr::new(10, 83, 0, 2));
        assert_eq!(here.address_on(&machine("m1")), Some(Ipv4Addr::new(10, 83, 0, 2)));
        assert_eq!(here.address_on(&machine("m2")), None);
    }

    #[test]
    fn an_endpoint_is_one_flat_object() {
        let text = json!({ "allocation": "shop.v1.web-1.2", "machine": "m1", "address": "10.83.0.2", "port": 80,
            "protocol": "h2c" });
        let endpoint: Endpoint = from_value(text.clone()).expect("read");
        assert_eq!((endpoint.allocation.number, endpoint.at.machine().as_str()), (2, "m1"));
        assert_eq!(to_value(&endpoint).expect("written"), text);
    }
}
