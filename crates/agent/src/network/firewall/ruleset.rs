//! Chains and rules, independent of the tool that created them.

use std::fmt;
use std::net::Ipv4Addr;

use super::packet::{ConnectionState, NetfilterHook, Packet, PacketDevice, PacketProtocol};

/// All chains that may drop a packet.
#[derive(Debug, Default)]
pub(in super::super) struct Ruleset {
    pub(super) chains: Vec<RuleChain>,
}

impl Ruleset {
    /// The base chains at a hook, without Gantry's own.
    pub(super) fn base_chains(&self, hook: NetfilterHook, own: &str) -> impl Iterator<Item = &RuleChain> {
        self.chains
            .iter()
            .filter(move |chain| chain.hook == Some(hook) && !(chain.table.is_nft() && chain.table.name == own))
    }

    /// The chain of this name in the same table.
    pub(super) fn beside(&self, chain: &RuleChain, name: &str) -> Option<&RuleChain> {
        self.chains.iter().find(|other| other.table == chain.table && other.name == name)
    }
}

/// A table, and the tool that changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleTable {
    pub(super) tool: FirewallTool,
    pub(super) name: String,
}

impl RuleTable {
    fn is_nft(&self) -> bool {
        matches!(self.tool, FirewallTool::Nft { .. })
    }
}

/// The program that changes a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FirewallTool {
    Nft {
        family: String,
    },
    /// `iptables`, `iptables-legacy`.
    Iptables {
        command: String,
    },
}

#[derive(Debug)]
pub(super) struct RuleChain {
    pub(super) table: RuleTable,
    pub(super) name: String,
    pub(super) hook: Option<NetfilterHook>,
    /// True if the chain's policy is to drop.
    pub(super) drops: bool,
    pub(super) rules: Vec<FirewallRule>,
}

impl fmt::Display for RuleChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.table.tool {
            FirewallTool::Nft { family } => write!(f, "{} of nft's table {family} {}", self.name, self.table.name),
            FirewallTool::Iptables { command } => write!(f, "{} of {command}'s table {}", self.name, self.table.name),
        }
    }
}

#[derive(Debug)]
pub(super) struct FirewallRule {
    /// The rule in the notation of its tool, so that a person finds it.
    pub(super) text: String,
    /// The conditions, which must all be true.
    pub(super) tests: Vec<RuleTest>,
    pub(super) action: RuleAction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RuleAction {
    Verdict(Verdict),
    /// The verdict of the first entry whose test is true.
    Map(Vec<(RuleTest, Verdict)>),
    /// Counts, logs or marks; the next rule follows.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// The verdict is unknown.
    Unknown,
}

/// A condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RuleTest {
    /// The packet matches at least one pattern.
    Is(Vec<PacketPattern>),
    /// The packet matches no pattern.
    IsNot(Vec<PacketPattern>),
}

/// A set of packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PacketPattern {
    /// From a device; `eth*` matches every name with that prefix.
    From(String),
    /// To a device.
    To(String),
    /// From an address.
    Source(Ipv4Addr, u8),
    /// To an address.
    Destination(Ipv4Addr, u8),
    /// To an address of this machine.
    Local,
    Protocol(PacketProtocol),
    SourcePort(u16, u16),
    Port(u16, u16),
    State(ConnectionState),
    /// Matches no packet that must pass: another protocol, IPv6, or a translated address.
    Never,
    /// An unknown condition.
    Unknown,
}

impl RuleTest {
    /// Returns whether the test is true of a packet; `None` if unknown.
    pub(super) fn of(&self, packet: &Packet) -> Option<bool> {
        let (patterns, expected) = match self {
            Self::Is(patterns) => (patterns, true),
            Self::IsNot(patterns) => (patterns, false),
        };
        let mut found = Some(false);
        for pattern in patterns {
            match pattern.of(packet) {
                Some(true) => return Some(expected),
                Some(false) => {}
                None => found = None,
            }
        }
        found.map(|found| found == expected)
    }
}

impl PacketPattern {
    fn of(&self, packet: &Packet) -> Option<bool> {
        Some(match self {
            Self::From(name) => return device(&packet.from, name, packet),
            Self::To(name) => return device(&packet.to, name, packet),
            Self::Source(net, prefix) => within(packet.source, *net, *prefix),
            Self::Destination(net, prefix) => within(packet.destination, *net, *prefix),
            Self::Local => packet.is_local,
            Self::Protocol(protocol) => packet.protocol == *protocol,
            Self::SourcePort(first, last) => (*first..=*last).contains(&packet.source_port),
            Self::Port(first, last) => (*first..=*last).contains(&packet.port),
            Self::State(state) => packet.state == *state,
            Self::Never => false,
            Self::Unknown => return None,
        })
    }
}

fn device(device: &PacketDevice, name: &str, packet: &Packet) -> Option<bool> {
    let is = |own: &str| match name.strip_suffix(['*', '+']) {
        Some(start) => own.starts_with(start),
        None => own == name,
    };
    match device {
        PacketDevice::Named(own) => Some(is(own)),
        // The device is any device but the bridge.
        PacketDevice::Elsewhere => (name == packet.bridge).then_some(false),
        PacketDevice::Absent => Some(false),
    }
}

fn within(address: Ipv4Addr, net: Ipv4Addr, prefix: u8) -> bool {
    prefix == 0 || (u32::from(address) ^ u32::from(net)) >> (32 - u32::from(prefix.min(32))) == 0
}
