//! The packets that must pass.

use std::net::Ipv4Addr;

use gantry_model::NetworkFlow;

use super::NetworkFacts;

/// A hook of the kernel, at which base chains begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetfilterHook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// The device that a packet comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PacketDevice {
    Named(String),
    /// An unknown device other than the bridge.
    Elsewhere,
    /// A packet has no such device at this hook.
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    New,
    Established,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PacketProtocol {
    Tcp,
    Udp,
}

/// One packet at one hook.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) hook: NetfilterHook,
    pub(super) bridge: String,
    pub(super) from: PacketDevice,
    pub(super) to: PacketDevice,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    /// True if the destination is an address of this machine.
    pub(super) is_local: bool,
    pub(super) protocol: PacketProtocol,
    pub(super) source_port: u16,
    pub(super) port: u16,
    pub(super) state: ConnectionState,
}

/// A documentation address (RFC 5737), which stands for any address outside.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 113);

/// A client port, from the range that the kernel assigns.
const CLIENT: u16 = 40_000;

/// All packets that must pass, with the kind of traffic they belong to.
pub(super) fn needed(network: &NetworkFacts) -> Vec<(NetworkFlow, Packet)> {
    let bridge = || PacketDevice::Named(network.bridge.clone());
    let uplink = || network.uplink.clone().map_or(PacketDevice::Elsewhere, PacketDevice::Named);
    let container = Ipv4Addr::from(u32::from(network.gateway) + 1);
    let neighbour = Ipv4Addr::from(u32::from(network.gateway) + 2);
    let out = Packet {
        hook: NetfilterHook::Forward,
        bridge: network.bridge.clone(),
        from: bridge(),
        to: uplink(),
        source: container,
        destination: OUTSIDE,
        is_local: false,
        protocol: PacketProtocol::Tcp,
        source_port: CLIENT,
        port: 443,
        state: ConnectionState::New,
    };
    let between = Packet { to: bridge(), destination: neighbour, port: 8080, ..out.clone() };
    let names =
        Packet { to: PacketDevice::Absent, destination: network.gateway, is_local: true, port: 53, ..out.clone() };
    let check = Packet {
        from: PacketDevice::Absent,
        to: bridge(),
        source: network.gateway,
        destination: container,
        port: 8080,
        ..out.clone()
    };
    let mut packets = Vec::new();
    let mut add = |flow, hooks: &[NetfilterHook], packet: &Packet| {
        packets.extend(hooks.iter().map(|hook| (flow, at(*hook, packet))));
    };
    let forwarded = [NetfilterHook::Prerouting, NetfilterHook::Forward, NetfilterHook::Postrouting];
    for protocol in [PacketProtocol::Udp, PacketProtocol::Tcp] {
        add(
            NetworkFlow::Names,
            &[NetfilterHook::Prerouting, NetfilterHook::Input],
            &Packet { protocol, ..names.clone() },
        );
    }
    add(NetworkFlow::Names, &[NetfilterHook::Output], &answer(&names));
    add(NetworkFlow::Requests, &[NetfilterHook::Output, NetfilterHook::Postrouting], &check);
    add(NetworkFlow::Requests, &[NetfilterHook::Prerouting, NetfilterHook::Input], &answer(&check));
    add(NetworkFlow::Outside, &forwarded, &out);
    add(NetworkFlow::Outside, &forwarded, &answer(&out));
    if network.bridged_packets_are_seen {
        add(NetworkFlow::Between, &forwarded, &between);
        add(NetworkFlow::Between, &forwarded, &answer(&between));
    }
    packets
}

/// The packet as a hook sees it.
fn at(hook: NetfilterHook, packet: &Packet) -> Packet {
    let mut packet = Packet { hook, ..packet.clone() };
    match hook {
        NetfilterHook::Prerouting => packet.to = PacketDevice::Absent,
        NetfilterHook::Postrouting => packet.from = PacketDevice::Absent,
        NetfilterHook::Input | NetfilterHook::Forward | NetfilterHook::Output => {}
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
        is_local: packet.from == PacketDevice::Absent,
        source_port: packet.port,
        port: packet.source_port,
        state: ConnectionState::Established,
        ..packet.clone()
    }
}
