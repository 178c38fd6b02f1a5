//! The veth pair of a container. Needs no runtime: a worker of the sandbox has one thread.

use std::net::Ipv4Addr;

use crate::netlink::{Netlink, Requests};
use crate::{LinuxError, WithAction};

/// Name of the pair's end inside a container.
const INSIDE: &str = "eth0";

/// The loopback device's index in every network namespace.
const LOOPBACK: u32 = 1;

/// Prefix of Gantry's hardware addresses.
pub(crate) const HARDWARE: [u8; 2] = [0x02, 0x67];

/// `VETH_INFO_PEER`, an attribute of the pair.
const PEER: u16 = 1;

/// Returns the hardware address that belongs to an IPv4 address (locally administered, IEEE 802). A host's ARP cache
/// stays valid when another container gets the same IPv4 address. And a bridge keeps its hardware address when its
/// ports change.
pub(crate) fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let ([one, two], [a, b, c, d]) = (HARDWARE, address.octets());
    [one, two, a, b, c, d]
}

/// An address inside a container's network.
#[derive(Debug, Clone, Copy)]
pub struct InsideAddress {
    /// The container's address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// Address of the gateway.
    pub gateway: Ipv4Addr,
}

/// The links of a network namespace. The owner of the socket makes links there from any other
/// namespace.
#[derive(Debug)]
pub struct Links(Netlink);

impl Links {
    /// Opens the links of the namespace that the calling thread is in.
    ///
    /// # Errors
    /// Any error of netlink.
    pub fn open() -> Result<Self, LinuxError> {
        Netlink::open().with_action(|| "open a socket of netlink".to_owned()).map(Self)
    }

    /// Creates a veth pair: `name` here, on `bridge`, and `eth0` for `address` inside the network namespace of `pid`. The
    /// kernel creates the far end directly in the namespace; moving it there would cost an RCU grace period (20 ms against
    /// 1.4 ms, measured).
    ///
    /// # Errors
    /// Any error of netlink.
    pub fn connect(&self, name: &str, bridge: &str, pid: i32, address: Ipv4Addr) -> Result<(), LinuxError> {
        let action = || format!("connect {name} to the bridge {bridge}");
        let netlink = &self.0;
        let bridge = netlink.index_of(bridge).with_action(action)?;
        let pair = pair(name, bridge, pid, address);
        match netlink.send(&pair) {
            // A link of the same name is left over from a killed process and blocks the new link.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                remove(netlink, name).and_then(|()| netlink.send(&pair)).with_action(action)
            }
            result => result.with_action(action),
        }
    }
}

fn pair(name: &str, bridge: u32, pid: i32, address: Ipv4Addr) -> Requests {
    let mut requests = Requests::default();
    requests.add(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |link| {
        link.link(0, libc::IFF_UP).text(libc::IFLA_IFNAME, name).put(libc::IFLA_MASTER, &bridge.to_ne_bytes()).nest(
            libc::IFLA_LINKINFO,
            |info| {
                info.put(libc::IFLA_INFO_KIND, b"veth").nest(libc::IFLA_INFO_DATA, |data| {
                    data.nest(PEER, |far| {
                        far.link(0, 0)
                            .text(libc::IFLA_IFNAME, INSIDE)
                            .put(libc::IFLA_ADDRESS, &hardware_address(address))
                            .put(libc::IFLA_NET_NS_PID, &pid.to_ne_bytes());
                    });
                });
            },
        );
    });
    requests
}

/// Removes a link. The kernel may remove the link at the same time, with the last process at its other end.
fn remove(netlink: &Netlink, name: &str) -> std::io::Result<()> {
    let mut requests = Requests::default();
    requests.add(libc::RTM_DELLINK, 0, |link| {
        link.link(0, 0).text(libc::IFLA_IFNAME, name);
    });
    match netlink.send(&requests) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => result,
    }
}

/// Configures the network inside a container's namespace: brings loopback up. Given an address, also brings `eth0` up
/// with this address and a default route.
///
/// # Errors
/// Any error of netlink.
pub fn configure(inside: Option<InsideAddress>) -> Result<(), LinuxError> {
    let action = || "configure the container's network".to_owned();
    let netlink = Netlink::open().with_action(action)?;
    let mut requests = Requests::default();
    bring_up(&mut requests, LOOPBACK);
    if let Some(inside) = inside {
        let index = netlink.index_of(INSIDE).with_action(action)?;
        add_address(&mut requests, index, inside);
        bring_up(&mut requests, index);
        add_route(&mut requests, inside.gateway);
    }
    netlink.send(&requests).with_action(action)
}

fn bring_up(requests: &mut Requests, index: u32) {
    requests.add(libc::RTM_NEWLINK, 0, |link| {
        link.link(index, libc::IFF_UP);
    });
}

fn add_address(requests: &mut Requests, index: u32, InsideAddress { address, prefix, .. }: InsideAddress) {
    let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or_default();
    let broadcast = Ipv4Addr::from(u32::from(address) | hosts);
    requests.add(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |body| {
        // Family, prefix length, flags, scope; index.
        let family = u8::try_from(libc::AF_INET).unwrap_or_default();
        body.raw(&[family, prefix, 0, 0]).raw(&index.to_ne_bytes());
        body.put(libc::IFA_LOCAL, &address.octets()).put(libc::IFA_ADDRESS, &address.octets());
        body.put(libc::IFA_BROADCAST, &broadcast.octets());
    });
}

fn add_route(requests: &mut Requests, gateway: Ipv4Addr) {
    requests.add(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |body| {
        // Family, both prefix lengths, type of service; table, protocol, scope, type; flags.
        let family = u8::try_from(libc::AF_INET).unwrap_or_default();
        body.raw(&[
            family,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        body.raw(&[0; 4]).put(libc::RTA_GATEWAY, &gateway.octets());
    });
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    fn ip(arguments: &[&str]) -> String {
        let output = Command::new("ip").args(arguments).output().expect("ip");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A thread in a network namespace of its own stands for a container.
    #[test]
    fn connects_a_namespace_even_if_a_link_of_its_name_is_left() {
        let bridge = format!("gtl{:x}", std::process::id());
        let near = format!("{bridge}n");
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&["link", "set", &bridge, "up"]);
        // Left over from a container before.
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &format!("{bridge}f")]);
        let (apart, is_apart) = mpsc::channel();
        let (connected, is_connected) = mpsc::channel();
        let inside = InsideAddress { address: [198, 18, 98, 7].into(), prefix: 24, gateway: [198, 18, 98, 1].into() };
        let container = std::thread::spawn(move || {
            crate::process::unshare(rustix::thread::UnshareFlags::NEWNET).expect("a namespace");
            apart.send(rustix::thread::gettid()).expect("sent");
            is_connected.recv().expect("connected");
            configure(Some(inside)).expect("configured");
            [ip(&["-o", "addr", "show"]), ip(&["route", "show"]), ip(&["-o", "link", "show", "eth0"])]
        });
        let thread = is_apart.recv().expect("apart").as_raw_nonzero().get();
        let links = Links::open().expect("opened");
        links.connect(&near, &bridge, thread, inside.address).expect("connected");
        let outside = ip(&["-o", "link", "show", "master", &bridge]);
        connected.send(()).expect("sent");
        let [addresses, routes, link] = container.join().expect("configured");
        ip(&["link", "delete", &bridge]);
        assert!(outside.contains(&near) && outside.contains(",UP"), "{outside}");
        assert!(
            addresses.contains("inet 198.18.98.7/24 brd 198.18.98.255") && addresses.contains("127.0.0.1/8"),
            "{addresses}"
        );
        assert!(routes.contains("default via 198.18.98.1 dev eth0"), "{routes}");
        assert!(link.contains("02:67:c6:12:62:07") && link.contains(",UP"), "{link}");
        assert!(links.connect(&near, "gantry-none", thread, inside.address).is_err(), "there is no such bridge");
    }
}
