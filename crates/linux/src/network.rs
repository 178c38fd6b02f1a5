//! The machine's bridge, and a container's end of a veth pair, over netlink.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use crate::LinuxError;

type Netlink<T> = Result<T, rtnetlink::Error>;

/// An error of netlink, by its text: its own type carries whole packets.
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

/// An address on the wire that follows from the one above it (locally administered, IEEE 802). Whoever has it in its ARP
/// cache still has the right one when another container gets the same address; and a bridge's own stays when its ports
/// change.
fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    [&[0x02, 0x67], &address.octets()[..]].concat()
}

/// The bridge `name` is there, up, with `address` as its own and no other. Done again it changes nothing.
///
/// # Errors
/// What the kernel said.
pub async fn ensure_bridge(name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), LinuxError> {
    let action = || format!("set up the bridge {name}");
    with_netlink(async |handle| {
        if explained(index_of(&handle, name).await, action)?.is_none() {
            explained(handle.link().add(LinkBridge::new(name).up().build()).execute().await, action)?;
        }
        let index = explained(index_of(&handle, name).await, action)?.unwrap_or_default();
        let link = LinkUnspec::new_with_index(index).address(hardware_address(address)).up().build();
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

/// Another network's address would keep its hosts out of reach, and could be given to a container. They go before the right one comes:
/// the kernel takes those of one network away together.
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

/// Removes a bridge and what is connected to it; not an error if there is none. The kernel takes a container's link away
/// some time after the last of its processes; nobody who asks for an end should see it meanwhile.
///
/// # Errors
/// What the kernel said.
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

/// The link `name` is gone.
async fn delete(handle: &Handle, name: &str) -> Netlink<()> {
    match index_of(handle, name).await? {
        Some(index) => delete_index(handle, index).await,
        None => Ok(()),
    }
}

/// The link is gone. The kernel may be taking it away itself meanwhile, with the last process of its other end.
async fn delete_index(handle: &Handle, index: u32) -> Netlink<()> {
    match handle.link().del(index).execute().await {
        Err(error) if is_gone(&error) => Ok(()),
        result => result,
    }
}

/// `ENODEV`: there is no such link.
fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -19)
}

/// Makes a veth pair: `name` here, on `bridge`, and `eth0` inside the network namespace of `pid`, for `address`. The far end is made
/// where it belongs; moving it there would cost an RCU grace period (20 ms against 1.4 ms, measured).
///
/// # Errors
/// What the kernel said.
pub async fn connect(name: &str, bridge: &str, pid: i32, address: Ipv4Addr) -> Result<(), LinuxError> {
    let action = || format!("connect {name} to the bridge {bridge}");
    with_netlink(async |handle| {
        let Some(bridge) = explained(index_of(&handle, bridge).await, action)? else {
            return Err(LinuxError { action: action(), source: std::io::ErrorKind::NotFound.into() });
        };
        // One left over from a process that was killed half-way is in the way and of no use.
        explained(delete(&handle, name).await, action)?;
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name("eth0")
            .address(hardware_address(address))
            .setns_by_pid(pid.unsigned_abs())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .controller(bridge)
            .up()
            .build();
        explained(handle.link().add(pair).execute().await, action)
    })
    .await
}

/// Inside a container's network namespace: loopback up and, given an address, `eth0` up with it and a default route.
///
/// # Errors
/// What the kernel said.
pub async fn configure(address: Option<(Ipv4Addr, u8, Ipv4Addr)>) -> Result<(), LinuxError> {
    let action = || "configure the container's network".to_owned();
    with_netlink(async |handle| {
        let up = async |index: u32| {
            explained(handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await, action)
        };
        // The loopback device of a network namespace always has index 1.
        up(1).await?;
        let Some((address, prefix, gateway)) = address else {
            return Ok(());
        };
        let index = explained(index_of(&handle, "eth0").await, action)?.unwrap_or_default();
        explained(handle.address().add(index, IpAddr::V4(address), prefix).execute().await, action)?;
        up(index).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        explained(handle.route().add(route).execute().await, action)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// As the kernel does with the links of a container that ended.
    #[tokio::test]
    async fn what_somebody_else_removes_is_removed() {
        let bridge = format!("gtr{:x}", std::process::id());
        let (near, far) = (format!("{bridge}n"), format!("{bridge}f"));
        let ip = |arguments: &[&str]| std::process::Command::new("ip").args(arguments).status().expect("ip").success();
        for _ in 0..30 {
            assert!(ip(&["link", "add", &bridge, "type", "bridge"]));
            assert!(ip(&["link", "add", &near, "master", &bridge, "type", "veth", "peer", "name", &far]));
            let remove = || remove_bridge(&bridge);
            let (one, two, three, four) = tokio::join!(remove(), remove(), remove(), remove());
            for removed in [one, two, three, four] {
                removed.expect("it is gone, whoever did it");
            }
            assert!(!Path::new("/sys/class/net").join(&near).exists(), "what was connected to it stays");
        }
    }
}
