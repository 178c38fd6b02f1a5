//! Other firewalls of the machine: which chain drops what Gantry needs, and the command that mends it.
//!
//! ```text
//! nft -j list ruleset, iptables-save ─► Ruleset ─► walk with each Packet ─► Drop ─► remedy ─► NetworkFault
//! ```
//! A verdict of another base chain is final: no rule of Gantry's own can take a drop back. So Gantry names the chain and
//! the command, and leaves other people's chains alone.
//!
//! - `packet`: the packets that must pass.
//! - `ruleset`: chains and rules, whoever made them; `nft` and `iptables` read them.
//! - `walk`: what becomes of a packet.
//! - `remedy`: the command that mends it, in the words of the tool that manages the chain.
//!
//! Rules with conditions that are not understood count neither as a drop nor, where they accept, as none: a drop is told
//! only where it is certain.

mod iptables;
mod nft;
mod packet;
mod remedy;
mod ruleset;
mod walk;

use std::net::Ipv4Addr;

use gantry_model::NetworkFault;

pub(super) use self::ruleset::Ruleset;

/// What the packets depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) bridge: String,
    pub(super) gateway: Ipv4Addr,
    pub(super) prefix: u8,
    /// The device of the machine's default route.
    pub(super) uplink: Option<String>,
    /// The machine's firewalls see what containers say to each other (`bridge-nf-call-iptables`).
    pub(super) bridged_packets_are_seen: bool,
}

/// Reads the answers of `nft -j list ruleset` and of each `iptables-save`, with the name of the command that changes its rules.
pub(super) fn read(nft: &str, iptables: &[(String, String)]) -> Ruleset {
    let mut ruleset = nft::read(nft, !iptables.is_empty());
    for (command, text) in iptables {
        ruleset.chains.extend(iptables::read(command, text));
    }
    ruleset
}

/// Everything that is dropped and must pass: one fault for each chain and kind of traffic.
pub(super) fn faults(ruleset: &Ruleset, network: &Network) -> Vec<NetworkFault> {
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
