//! The tunnels of the cluster's machines: where the routers of other machines reach each machine's router.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{MachineName, TunnelAddress};

/// Tunnel addresses of each machine that has a tunnel. Clones share the addresses, because every plan and every routing
/// table has them.
#[derive(Debug, Clone, Default, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<MachineName, Vec<TunnelAddress>>", into = "BTreeMap<MachineName, Vec<TunnelAddress>>")]
pub struct MachineTunnels(Arc<BTreeMap<MachineName, Vec<TunnelAddress>>>);

impl MachineTunnels {
    /// The machines with their addresses.
    #[must_use]
    pub fn machines(&self) -> &BTreeMap<MachineName, Vec<TunnelAddress>> {
        &self.0
    }

    /// Sets the addresses of a machine; a machine without addresses has no tunnel.
    pub fn set(&mut self, machine: &MachineName, addresses: &[TunnelAddress]) {
        if self.0.get(machine).map_or(&[][..], Vec::as_slice) == addresses {
            return;
        }
        let machines = Arc::make_mut(&mut self.0);
        if addresses.is_empty() {
            machines.remove(machine);
        } else {
            machines.insert(machine.clone(), addresses.to_vec());
        }
    }

    /// Reports whether no machine has a tunnel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Clones that share their addresses are equal without a look at the addresses.
impl PartialEq for MachineTunnels {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl From<BTreeMap<MachineName, Vec<TunnelAddress>>> for MachineTunnels {
    fn from(machines: BTreeMap<MachineName, Vec<TunnelAddress>>) -> Self {
        Self(Arc::new(machines))
    }
}

impl From<MachineTunnels> for BTreeMap<MachineName, Vec<TunnelAddress>> {
    fn from(tunnels: MachineTunnels) -> Self {
        Arc::unwrap_or_clone(tunnels.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_addresses_has_no_tunnel() {
        let machine = MachineName::parse("m1").expect("a name");
        let address: TunnelAddress = "10.0.0.7:7001".parse().expect("an address");
        let mut tunnels = MachineTunnels::default();
        tunnels.set(&machine, std::slice::from_ref(&address));
        let before = tunnels.clone();
        tunnels.set(&machine, &[address]);
        assert!(Arc::ptr_eq(&tunnels.0, &before.0), "nothing changed");
        assert_eq!(serde_json::to_value(&tunnels).expect("written"), serde_json::json!({ "m1": ["10.0.0.7:7001"] }));
        tunnels.set(&machine, &[]);
        assert!(tunnels.is_empty() && tunnels != before);
    }
}
