//! Other firewalls of the machine: finds the chain that drops packets which Gantry needs, and the command that repairs
//! it.
//!
//! ```text
//! nft -j list ruleset, iptables-save ─► Ruleset ─► walk with each Packet ─► Drop ─► remedy ─► NetworkFault
//! ```
//! A drop in another base chain is final: no rule of Gantry's own can undo that drop. So Gantry names the chain and the
//! command, and does not change the chains of other programs.
//!
//! - `packet`: the packets that must pass.
//! - `ruleset`: chains and rules of any tool; `nft` and `iptables` parse them.
//! - `walk`: the fate of a packet.
//! - `remedy`: the repair command, in the syntax of the tool that manages the chain.
//!
//! Gantry reports a drop only if the drop is certain. A rule with an unknown condition never counts as a drop. If such
//! a rule accepts, the packet may have passed, so later drops do not count either.

mod iptables;
mod nft;
mod packet;
mod remedy;
mod ruleset;
mod walk;

use std::net::Ipv4Addr;

use gantry_model::NetworkFault;

pub(super) use self::ruleset::Ruleset;

/// The properties of the machine's network that the packets depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkFacts {
    pub(super) bridge: String,
    pub(super) gateway: Ipv4Addr,
    pub(super) prefix: u8,
    /// The device of the machine's default route.
    pub(super) uplink: Option<String>,
    /// True if the machine's firewalls see traffic between containers (`bridge-nf-call-iptables`).
    pub(super) bridged_packets_are_seen: bool,
}

/// Parses the output of `nft -j list ruleset` and of each `iptables-save`. Each `iptables-save` output comes with the
/// name of the command that changes its rules.
pub(super) fn read(nft: &str, iptables: &[(String, String)]) -> Ruleset {
    let mut ruleset = nft::read(nft, !iptables.is_empty());
    for (command, text) in iptables {
        ruleset.chains.extend(iptables::read(command, text));
    }
    ruleset
}

/// All faults: one for each chain and kind of traffic that must pass and is dropped.
pub(super) fn faults(ruleset: &Ruleset, network: &NetworkFacts) -> Vec<NetworkFault> {
    let mut faults = Vec::new();
    for (flow, packet) in packet::needed(network) {
        for chain in ruleset.base_chains(packet.hook, &network.bridge) {
            let Some(drop) = walk::walk(ruleset, chain, &packet) else { continue };
            let fault = NetworkFault::Dropped {
                flow,
                chain: chain.to_string(),
                by: drop.to_string(),
                remedy: remedy::remedy(ruleset, chain, flow, &packet, network),
            };
            let is_same = |other: &NetworkFault| match (other, &fault) {
                (
                    NetworkFault::Dropped { flow, chain, .. },
                    NetworkFault::Dropped { flow: own_flow, chain: own_chain, .. },
                ) => (flow, chain) == (own_flow, own_chain),
                _ => false,
            };
            if !faults.iter().any(is_same) {
                faults.push(fault);
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests;
