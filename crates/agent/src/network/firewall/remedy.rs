//! The command that repairs a drop, in the syntax of the tool that manages the chain.

use std::net::Ipv4Addr;

use gantry_model::NetworkFlow;

use super::NetworkFacts;
use super::packet::{NetfilterHook, Packet, PacketDevice};
use super::ruleset::{FirewallTool, RuleChain, Ruleset};

/// The command, for a shell.
pub(super) fn remedy(
    ruleset: &Ruleset,
    chain: &RuleChain,
    flow: NetworkFlow,
    packet: &Packet,
    network: &NetworkFacts,
) -> String {
    let bridge = &network.bridge;
    let selectors = selectors(flow, packet, network);
    match &chain.table.tool {
        FirewallTool::Nft { .. } if chain.table.name == "firewalld" => {
            format!("firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload")
        }
        FirewallTool::Nft { family } => {
            let place = format!("{family} {} {}", chain.table.name, chain.name);
            joined(
                selectors.iter().map(|selector| format!("nft insert rule {place} {} accept", selector.nft())).collect(),
            )
        }
        FirewallTool::Iptables { .. } if is_of_ufw(ruleset, chain) => ufw(flow, packet.hook, bridge),
        FirewallTool::Iptables { command } => {
            let table = if chain.table.name == "filter" { String::new() } else { format!("-t {} ", chain.table.name) };
            // Docker evaluates the chain DOCKER-USER first, and leaves that chain to the machine's owner.
            let is_docker = packet.hook == NetfilterHook::Forward && ruleset.beside(chain, "DOCKER-USER").is_some();
            let name = if is_docker { "DOCKER-USER" } else { &chain.name };
            let rules = selectors.iter().flat_map(PacketSelector::iptables);
            joined(rules.map(|rule| format!("{command} {table}-I {name} {rule} -j ACCEPT")).collect())
        }
    }
}

/// The packets that one rule accepts.
#[derive(Debug, Default)]
struct PacketSelector {
    from: Option<String>,
    to: Option<String>,
    source: Option<String>,
    names: bool,
    established: bool,
}

/// The packets of one kind at one hook. A hook that packets pass in both directions gets one selector for each
/// direction.
fn selectors(flow: NetworkFlow, packet: &Packet, network: &NetworkFacts) -> Vec<PacketSelector> {
    let bridge = || Some(network.bridge.clone());
    let is_bridge = |device: &PacketDevice| *device == PacketDevice::Named(network.bridge.clone());
    let from = || PacketSelector { from: bridge(), ..PacketSelector::default() };
    let to = || PacketSelector { to: bridge(), ..PacketSelector::default() };
    match packet.hook {
        NetfilterHook::Forward => vec![from(), to()],
        NetfilterHook::Input if flow == NetworkFlow::Names => vec![PacketSelector { names: true, ..from() }],
        NetfilterHook::Input => vec![PacketSelector { established: true, ..from() }],
        NetfilterHook::Prerouting if is_bridge(&packet.from) => vec![from()],
        NetfilterHook::Prerouting => vec![PacketSelector { established: true, ..PacketSelector::default() }],
        NetfilterHook::Postrouting if !is_bridge(&packet.to) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix)).unwrap_or_default();
            let first = Ipv4Addr::from(u32::from(network.gateway) & mask);
            vec![PacketSelector { source: Some(format!("{first}/{}", network.prefix)), ..PacketSelector::default() }]
        }
        NetfilterHook::Output | NetfilterHook::Postrouting => vec![to()],
    }
}

impl PacketSelector {
    fn nft(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.from.iter().map(|name| format!("iifname {name}")));
        words.extend(self.to.iter().map(|name| format!("oifname {name}")));
        words.extend(self.source.iter().map(|net| format!("ip saddr {net}")));
        words.extend(self.names.then(|| "meta l4proto '{ tcp, udp }' th dport 53".to_owned()));
        words.extend(self.established.then(|| "ct state established,related".to_owned()));
        words.join(" ")
    }

    /// The conditions of one rule, or of two rules where each rule names one protocol.
    fn iptables(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.from.iter().map(|name| format!("-i {name}")));
        words.extend(self.to.iter().map(|name| format!("-o {name}")));
        words.extend(self.source.iter().map(|net| format!("-s {net}")));
        words.extend(self.established.then(|| "-m conntrack --ctstate ESTABLISHED,RELATED".to_owned()));
        let start = words.join(" ");
        match self.names {
            true => ["udp", "tcp"].map(|protocol| format!("{start} -p {protocol} --dport 53")).to_vec(),
            false => vec![start],
        }
    }
}

fn is_of_ufw(ruleset: &Ruleset, chain: &RuleChain) -> bool {
    ruleset.beside(chain, "ufw-before-input").is_some()
}

fn ufw(flow: NetworkFlow, hook: NetfilterHook, bridge: &str) -> String {
    match (hook, flow) {
        (NetfilterHook::Input, NetworkFlow::Names) => format!("ufw allow in on {bridge} to any port 53"),
        (NetfilterHook::Input | NetfilterHook::Prerouting, _) => format!("ufw allow in on {bridge}"),
        (NetfilterHook::Output | NetfilterHook::Postrouting, _) => format!("ufw allow out on {bridge}"),
        (NetfilterHook::Forward, _) => format!("ufw route allow in on {bridge} && ufw route allow out on {bridge}"),
    }
}

fn joined(commands: Vec<String>) -> String {
    commands.join(" && ")
}
