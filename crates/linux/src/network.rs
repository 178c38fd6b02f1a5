//! The machine's bridge, over netlink. The veth pair of a container is in [`crate::link`].

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, RouteMessageBuilder, new_connection};

use crate::LinuxError;
use crate::link::{HARDWARE, hardware_address};

type Netlink<T> = Result<T, rtnetlink::Error>;

/// Converts an error of netlink by its text, because its own type contains whole packets.
fn explained<T>(result: Netlink<T>, action: impl FnOnce() -> String) -> Result<T, LinuxError> {
    result.map_err(|error| {
        let source = match &error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => std::io::Error::other(other.to_string()),
        };
        LinuxError { action: action(), source }
    })
}

/// Runs `work` with a netlink connection of the network namespace that the calling thread is in.
///
/// # Errors
/// When no netlink socket can be opened.
async fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T, LinuxError>) -> Result<T, LinuxError> {
    let (connection, handle, _) =
        new_connection().map_err(|source| LinuxError { action: "open a netlink socket".to_owned(), source })?;
    let driver = tokio::spawn(connection);
    let result = work(handle).await;
    driver.abort();
    result
}

async fn index_of(handle: &Handle, name: &str) -> Netlink<Option<u32>> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkDevice {
    /// Name of the device.
    pub name: String,
    /// Index of the device.
    pub index: u32,
    /// Index of the bridge that has the device as a port.
    pub controller: Option<u32>,
    /// True if the device is up.
    pub is_up: bool,
    /// True if the device is a bridge.
    pub is_bridge: bool,
    /// True if the device is a bridge of [`ensure_bridge`], by its hardware address.
    pub is_own: bool,
    /// Alias that [`set_alias`] wrote.
    pub alias: Option<String>,
    /// IPv4 addresses of the device, with their prefix lengths.
    pub addresses: Vec<(Ipv4Addr, u8)>,
}

/// Returns every device of the machine, with its addresses.
///
/// # Errors
/// Any error of netlink.
pub async fn devices() -> Result<Vec<NetworkDevice>, LinuxError> {
    let action = || "list the network devices".to_owned();
    with_netlink(async |handle| {
        let links: Vec<LinkMessage> = explained(handle.link().get().execute().try_collect().await, action)?;
        let addresses: Vec<AddressMessage> = explained(handle.address().get().execute().try_collect().await, action)?;
        Ok(links.iter().map(|link| device(link, &addresses)).collect())
    })
    .await
}

fn device(link: &LinkMessage, addresses: &[AddressMessage]) -> NetworkDevice {
    let index = link.header.index;
    let own = |message: &&AddressMessage| message.header.family == AddressFamily::Inet && message.header.index == index;
    let address = |message: &AddressMessage| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some((*address, message.header.prefix_len)),
            _ => None,
        })
    };
    let mut device = NetworkDevice {
        name: String::new(),
        index,
        controller: None,
        is_up: link.header.flags.contains(LinkFlags::Up),
        is_bridge: false,
        is_own: false,
        alias: None,
        addresses: addresses.iter().filter(own).filter_map(address).collect(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Controller(controller) => device.controller = Some(*controller),
            LinkAttribute::IfAlias(alias) => device.alias = Some(alias.clone()),
            LinkAttribute::Address(address) => device.is_own = address.starts_with(&HARDWARE),
            LinkAttribute::LinkInfo(infos) => device.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => {}
        }
    }
    device
}

/// Writes the owner of a device into its alias.
///
/// # Errors
/// Any error of netlink.
pub async fn set_alias(name: &str, alias: &str) -> Result<(), LinuxError> {
    let action = || format!("label the device {name} with its owner");
    with_netlink(async |handle| {
        let index = explained(index_of(&handle, name).await, action)?.unwrap_or_default();
        let link = LinkUnspec::new_with_index(index).alias(alias).build();
        explained(handle.link().set(link).execute().await, action)
    })
    .await
}

/// Makes devices ports of a bridge again, and brings them up. Skips devices that are gone.
///
/// # Errors
/// Any error of netlink.
pub async fn attach(names: &[String], bridge: &str) -> Result<(), LinuxError> {
    let action = || format!("reconnect containers to the bridge {bridge}");
    with_netlink(async |handle| {
        let Some(bridge) = explained(index_of(&handle, bridge).await, action)? else {
            return Err(LinuxError { action: action(), source: std::io::ErrorKind::NotFound.into() });
        };
        for name in names {
            let Some(index) = explained(index_of(&handle, name).await, action)? else { continue };
            let link = LinkUnspec::new_with_index(index).controller(bridge).up().build();
            match handle.link().set(link).execute().await {
                Err(error) if is_gone(&error) => {}
                result => explained(result, action)?,
            }
        }
        Ok(())
    })
    .await
}

/// Adds the route to a bridge's own network, just as the kernel adds this route with the address.
///
/// # Errors
/// Any error of netlink.
pub async fn ensure_route(bridge: &str, address: Ipv4Addr, network: Ipv4Addr, prefix: u8) -> Result<(), LinuxError> {
    let action = || format!("add the route to the bridge {bridge}");
    with_netlink(async |handle| {
        let index = explained(index_of(&handle, bridge).await, action)?.unwrap_or_default();
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network, prefix)
            .output_interface(index)
            .pref_source(address)
            .scope(RouteScope::Link)
            .protocol(RouteProtocol::Kernel)
            .build();
        match handle.route().add(route).execute().await {
            // EEXIST
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -17 => Ok(()),
            result => explained(result, action),
        }
    })
    .await
}

/// Returns the generation of the nftables rules, which changes with each change of the rules by any process.
///
/// # Errors
/// Any error of netlink.
pub fn rules_generation() -> Result<u32, LinuxError> {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
    };
    let ask = || -> std::io::Result<u32> {
        let protocol = Some(netlink::NETFILTER);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(GENERATION_TIMEOUT))?;
        send(&socket, &generation_question(), SendFlags::empty())?;
        let mut answer = [0; 256];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        generation_of(&answer[..length]).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    };
    ask().map_err(|source| LinuxError { action: "ask nftables for its generation".to_owned(), source })
}

/// Timeout of the kernel's answer.
const GENERATION_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// Message types `NFT_MSG_NEWGEN` and `NFT_MSG_GETGEN` of the subsystem `NFNL_SUBSYS_NFTABLES`.
const NEW_GENERATION: u16 = (10 << 8) | 15;
const GET_GENERATION: u16 = (10 << 8) | 16;

/// Attribute `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;

/// Length of netlink's header and of nfnetlink's header after it.
const HEADERS: usize = 16 + 4;

fn generation_question() -> [u8; HEADERS] {
    let mut message = [0; HEADERS];
    message[0..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    // NLM_F_REQUEST.
    message[6..8].copy_from_slice(&1_u16.to_ne_bytes());
    message
}

fn generation_of(answer: &[u8]) -> Option<u32> {
    let short = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if short(4)? != NEW_GENERATION {
        return None;
    }
    let mut at = HEADERS;
    loop {
        let (length, kind) = (usize::from(short(at)?), short(at + 2)?);
        if kind == GENERATION_ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        // Attributes begin at multiples of four.
        at += length.max(4).next_multiple_of(4);
    }
}

/// Ensures that the bridge `name` exists and is up, with `address` as its only IPv4 address. A second call changes
/// nothing.
///
/// # Errors
/// Any error of netlink.
pub async fn ensure_bridge(name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), LinuxError> {
    let action = || format!("set up the bridge {name}");
    with_netlink(async |handle| {
        if explained(index_of(&handle, name).await, action)?.is_none() {
            explained(handle.link().add(LinkBridge::new(name).up().build()).execute().await, action)?;
        }
        let index = explained(index_of(&handle, name).await, action)?.unwrap_or_default();
        let link = LinkUnspec::new_with_index(index).address(hardware_address(address).to_vec()).up().build();
        explained(handle.link().set(link).execute().await, action)?;
        explained(remove_other_addresses(&handle, index, address, prefix).await, action)?;
        match handle.address().add(index, IpAddr::V4(address), prefix).execute().await {
            // EEXIST
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -17 => Ok(()),
            result => explained(result, action),
        }
    })
    .await
}

/// Removes the bridge's other IPv4 addresses. An address of another network would make that network's hosts
/// unreachable, and a container could get the same address. They are removed before the right address is added, because
/// the kernel removes the addresses of one network together.
async fn remove_other_addresses(handle: &Handle, index: u32, address: Ipv4Addr, prefix: u8) -> Netlink<()> {
    let found = handle.address().get().set_link_index_filter(index).execute();
    let found: Vec<AddressMessage> = found.try_collect().await?;
    let own = AddressAttribute::Local(IpAddr::V4(address));
    for message in found {
        let is_own = message.header.prefix_len == prefix && message.attributes.contains(&own);
        if message.header.family == AddressFamily::Inet && !is_own {
            handle.address().del(message).execute().await?;
        }
    }
    Ok(())
}

/// Removes a bridge and the links that are connected to it; a missing bridge is not an error. The kernel removes a
/// container's link only some time after the last process ended. A caller who asks for the removal should not see such
/// a link.
///
/// # Errors
/// Any error of netlink.
pub async fn remove_bridge(name: &str) -> Result<(), LinuxError> {
    let action = || format!("remove the bridge {name}");
    with_netlink(async |handle| {
        let Some(bridge) = explained(index_of(&handle, name).await, action)? else {
            return Ok(());
        };
        let links: Vec<LinkMessage> = explained(handle.link().get().execute().try_collect().await, action)?;
        for link in links.iter().filter(|link| link.attributes.contains(&LinkAttribute::Controller(bridge))) {
            explained(delete_index(&handle, link.header.index).await, action)?;
        }
        explained(delete_index(&handle, bridge).await, action)
    })
    .await
}

/// Removes a link; a missing link is not an error. The kernel may remove the link at the same time, with the last
/// process at its other end.
async fn delete_index(handle: &Handle, index: u32) -> Netlink<()> {
    match handle.link().del(index).execute().await {
        Err(error) if is_gone(&error) => Ok(()),
        result => result,
    }
}

/// Recognizes `ENODEV`: there is no such link.
fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -19)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Tests of other processes change rules meanwhile: the test can only require that the generation differs after its
    /// own change.
    #[test]
    fn changes_the_generation_with_the_rules() {
        let table = format!("gtgen{}", std::process::id());
        let nft = |word: &str| {
            let words = [word, "table", "ip", &table];
            assert!(std::process::Command::new("nft").args(words).status().expect("nft").success());
        };
        let before = rules_generation().expect("a number");
        nft("add");
        let after = rules_generation().expect("a number");
        nft("delete");
        assert_ne!(before, after);
        assert_eq!(generation_of(&[0; 20]), None);
        assert_eq!(generation_of(&[]), None);
    }

    #[tokio::test]
    async fn attaches_a_port_that_lost_its_bridge() {
        let bridge = format!("gta{:x}", std::process::id());
        let (near, far) = (format!("{bridge}n"), format!("{bridge}f"));
        let ip = |arguments: &[&str]| {
            assert!(std::process::Command::new("ip").args(arguments).status().expect("ip").success())
        };
        let address = Ipv4Addr::new(198, 18, 99, 1);
        ensure_bridge(&bridge, address, 24).await.expect("a bridge");
        set_alias(&bridge, "whose it is").await.expect("written");
        ip(&["route", "delete", "198.18.99.0/24", "dev", &bridge]);
        // A second call changes nothing.
        for _ in 0..2 {
            ensure_route(&bridge, address, Ipv4Addr::new(198, 18, 99, 0), 24).await.expect("a route");
        }
        // The command fails if the route is missing.
        ip(&[
            "route",
            "delete",
            "198.18.99.0/24",
            "dev",
            &bridge,
            "src",
            "198.18.99.1",
            "proto",
            "kernel",
            "scope",
            "link",
        ]);
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far]);
        attach(&[near.clone(), "nobody".to_owned()], &bridge).await.expect("attached");
        let devices = devices().await.expect("devices");
        remove_bridge(&bridge).await.expect("removed");
        let find = |name: &str| devices.iter().find(|device| device.name == name).expect("it is there").clone();
        let (bridge, port) = (find(&bridge), find(&near));
        assert!(bridge.is_bridge && bridge.is_own && bridge.is_up, "{bridge:?}");
        assert_eq!((bridge.alias.as_deref(), bridge.addresses.as_slice()), (Some("whose it is"), &[(address, 24)][..]));
        assert!(port.controller == Some(bridge.index) && port.is_up && !port.is_bridge && !port.is_own, "{port:?}");
    }

    /// Removes links concurrently, as the kernel does with the links of a container that ended.
    #[tokio::test]
    async fn accepts_that_a_device_was_removed_concurrently() {
        let bridge = format!("gtr{:x}", std::process::id());
        let (near, far) = (format!("{bridge}n"), format!("{bridge}f"));
        let ip = |arguments: &[&str]| std::process::Command::new("ip").args(arguments).status().expect("ip").success();
        for _ in 0..30 {
            assert!(ip(&["link", "add", &bridge, "type", "bridge"]));
            assert!(ip(&["link", "add", &near, "master", &bridge, "type", "veth", "peer", "name", &far]));
            let remove = || remove_bridge(&bridge);
            let (one, two, three, four) = tokio::join!(remove(), remove(), remove(), remove());
            for removed in [one, two, three, four] {
                removed.expect("the bridge is gone");
            }
            assert!(!Path::new("/sys/class/net").join(&near).exists(), "what was connected to it stays");
        }
    }
}
