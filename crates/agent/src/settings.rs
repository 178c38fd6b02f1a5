//! Settings of the agent.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use gantry_model::{MachineName, MachineSubnet, TunnelAddress};

use crate::network::{HostPorts, MetadataAddress};

/// The agent's settings, complete.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// The name of this machine.
    pub machine: MachineName,
    /// Folder of layers, logs, volumes and records.
    pub data: PathBuf,
    /// Folder of run-time state, which a reboot empties.
    pub run: PathBuf,
    /// The control group that contains every process of Gantry's.
    pub cgroup: String,
    /// Name of the machine's bridge.
    pub bridge: String,
    /// Address of the bridge: the gateway and name server of every container.
    pub gateway: Ipv4Addr,
    /// The prefix length of the bridge's network.
    pub prefix: u8,
    /// Ports of this machine that containers can reach: the router's, and those that the settings open.
    pub host_ports: Vec<HostPorts>,
    /// Metadata addresses that containers can reach.
    pub metadata: Vec<MetadataAddress>,
    /// Maximum number of container jobs at the same time.
    pub jobs: u16,
    /// Addresses of the tunnel of this machine's router; empty in a cloud of one machine.
    pub addresses: Vec<TunnelAddress>,
    /// The network of this machine's containers, as the cluster assigned it; none in a cloud of one machine.
    pub subnet: Option<MachineSubnet>,
}

#[cfg(test)]
impl AgentSettings {
    /// Settings of a cloud without any files.
    pub(crate) fn for_tests() -> Self {
        Self {
            machine: MachineName::parse("m").expect("a name"),
            data: PathBuf::from("/nowhere/data"),
            run: PathBuf::from("/nowhere/run"),
            cgroup: "gantry".to_owned(),
            bridge: "gantry0".to_owned(),
            gateway: Ipv4Addr::new(10, 83, 0, 1),
            prefix: 16,
            host_ports: Vec::new(),
            metadata: Vec::new(),
            jobs: 2,
            addresses: Vec::new(),
            subnet: None,
        }
    }
}
