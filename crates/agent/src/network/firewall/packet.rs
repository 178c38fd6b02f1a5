//! The packets that must pass.

use std::net::Ipv4Addr;

use gantry_model::Flow;

use super::Network;

/// A hook of the kernel, at which base chains begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// The device that a packet comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Device {
    Named(String),
    /// An unknown device other than the bridge.
    Elsewhere,
    /// A packet has no such device at this hook.
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    New,
    Established,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// One packet at one hook.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) hook: Hook,
    pub(super) bridge: String,
    pub(super) from: Device,
    pub(super) to: Device,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    /// Whether the destination is an address of this machine.
    pub(super) is_local: bool,
    pub(super) protocol: Protocol,
    pub(super) source_port: u16,
    pub(super) port: u16,
    pub(super) state: State,
}

/// A documentation address (RFC 5737), which stands for any address outside.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 113);

/// A client port, from the range that the kernel assigns.
const CLIENT: u16 = 40_000;

/// All packets that must pass, with the kind of traffic they belong to.
pub(super) fn needed(network: &Network) -> Vec<(Flow, Packet)> {
    let bridge = || Device::Named(network.bridge.clone());
    let uplink = || network.uplink.clone().map_or(Device::Elsewhere, Device::Named);
    let container = Ipv4Addr::from(u32::from(network.gateway) + 1);
    let neighbour = Ipv4Addr::from(u32::from(network.gateway) + 2);
    let out = Packet {
        hook: Hook::Forward,
        bridge: network.bridge.clone(),
        from: bridge(),
        to: uplink(),
        source: container,
        destination: OUTSIDE,
        is_local: false,
        protocol: Protocol::Tcp,
        source_port: CLIENT,
        port: 443,
        state: State::New,
    };
    let between = Packet { to: bridge(), destination: neighbour, port: 8080, ..out.clone() };
    let names = Packet { to: Device::Absent, destination: network.gateway, is_local: true, port: 53, ..out.clone() };
    let check = Packet {
        from: Device::Absent,
        to: bridge(),
        source: network.gateway,
        destination: container,
        port: 8080,
        ..out.clone()
    };
    let mut packets = Vec::new();
    let mut add = |flow, hooks: &[Hook], packet: &Packet| {
        packets.extend(hooks.iter().map(|hook| (flow, at(*hook, packet))));
    };
    let forwarded = [Hook::Prerouting, Hook::Forward, Hook::Postrouting];
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        add(Flow::Names, &[Hook::Prerouting, Hook::Input], &Packet { protocol, ..names.clone() });
    }
    add(Flow::Names, &[Hook::Output], &answer(&names));
    add(Flow::Requests, &[Hook::Output, Hook::Postrouting], &check);
    add(Flow::Requests, &[Hook::Prerouting, Hook::Input], &answer(&check));
    add(Flow::Outside, &forwarded, &out);
    add(Flow::Outside, &forwarded, &answer(&out));
    if network.bridged_packets_are_seen {
        add(Flow::Between, &forwarded, &between);
        add(Flow::Between, &forwarded, &answer(&between));
    }
    packets
}

/// The packet as a hook sees it.
fn at(hook: Hook, packet: &Packet) -> Packet {
    let mut packet = Packet { hook, ..packet.clone() };
    match hook {
        Hook::Prerouting => packet.to = Device::Absent,
        Hook::Postrouting => packet.from = Device::Absent,
        Hook::Input | Hook::Forward | Hook::Output => {}
    }
    packet
}

/// The reply to a packet.
fn answer(packet: &Packet) -> Packet {
    Packet {
        from: packet.to.clone(),
        to: packet.from.clone(),
        source: packet.destination,
        destination: packet.source,
        // The reply goes to a container, or to the machine if the machine sent the request.
        is_local: packet.from == Device::Absent,
        source_port: packet.port,
        port: packet.source_port,
        state: State::Established,
        ..packet.clone()
    }
}
