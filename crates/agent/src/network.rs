//! The machine's network: a bridge, the addresses on that bridge, and the way out through an nftables table of our own.
//!
//! - `rules`: the table. Begin there.
//! - `openings`: exceptions to the rules that close host ports and metadata addresses.
//! - `claim`: ownership of the bridge; refuses two clouds with the same settings.
//! - `monitor`: repairs parts of the network that another program removed.
//! - `firewall`: detects other firewalls that drop needed packets; `read` reads their rules.

mod claim;
mod firewall;
mod monitor;
mod openings;
mod read;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use gantry_error::ErrorChain;
use gantry_linux::network::{devices, ensure_bridge, remove_bridge, set_alias};
use gantry_model::AppName;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

pub use self::claim::NetworkTaken;
pub(crate) use self::monitor::monitor;
pub use self::openings::{HostPorts, MetadataAddress, OpeningError, PortProtocol};
use crate::{AgentError, AgentSettings};

/// Number of addresses at the top of the network that are not given to instances. Builds use them.
const RESERVED: u32 = 256;

/// Timeout of a change of the rules.
const NFT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// Sets up the bridge, forwarding and the table. Idempotent.
pub(crate) async fn set_up(settings: &AgentSettings) -> Result<(), AgentError> {
    check(settings).await?;
    make_bridge(settings).await?;
    gantry_failpoint::failpoint!("agent.bridged");
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    std::fs::write(path, "1").map_err(|source| AgentError::File { action: "write", path: path.to_owned(), source })?;
    Ok(apply_rules(&rules::rules(settings)).await?)
}

/// Checks that no one else uses the bridge, the network and the folders that the settings name.
///
/// # Errors
/// When another cloud, or another network of the machine's, uses one of them.
pub async fn check(settings: &AgentSettings) -> Result<(), AgentError> {
    let devices = devices().await?;
    Ok(claim::check(settings, &claim::CloudClaim::of(settings), &devices, Path::exists)?)
}

/// Creates the bridge if needed, brings the bridge up with its address, and labels the bridge with the cloud's claim.
async fn make_bridge(settings: &AgentSettings) -> Result<(), gantry_linux::LinuxError> {
    ensure_bridge(&settings.bridge, settings.gateway, settings.prefix).await?;
    if let Err(error) = set_alias(&settings.bridge, &claim::CloudClaim::of(settings).to_string()).await {
        // The kernel limits an alias to 255 bytes.
        tracing::warn!(error = %ErrorChain(&error), "cannot label the bridge: a second cloud with the same settings would not be detected");
    }
    Ok(())
}

/// Removes the bridge and the table.
///
/// # Errors
/// When the kernel refuses.
pub async fn take_down(settings: &AgentSettings) -> Result<(), AgentError> {
    let bridge = &settings.bridge;
    apply_rules(&rules::removal(bridge)).await?;
    Ok(remove_bridge(bridge).await?)
}

/// Reason why nft did not change the rules.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program could not be run.
    #[error("cannot run nft; install it (apt-get install nftables)")]
    Run(#[from] std::io::Error),
    /// The program did not end in time.
    #[error("nft did not end within {} s", NFT_TIMEOUT.as_secs())]
    Timeout,
    /// The program refused the rules: its output.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

async fn apply_rules(rules: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules.as_bytes()).await?;
    }
    let output = tokio::time::timeout(NFT_TIMEOUT, child.wait_with_output()).await.map_err(|_| NftError::Timeout)??;
    if output.status.success() {
        return Ok(());
    }
    Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The allocator of container addresses.
pub(crate) struct AddressPool {
    first: u32,
    last: u32,
    used: Mutex<UsedAddresses>,
    /// The app whose container has an address. An address of a build, or of a container that is only removed, has none.
    owners: Mutex<BTreeMap<u32, AppName>>,
}

#[derive(Default)]
struct UsedAddresses {
    all: BTreeSet<u32>,
    /// The address given last.
    last: u32,
}

impl AddressPool {
    pub(crate) fn new(gateway: Ipv4Addr, prefix: u8) -> Self {
        let hosts = (1u32 << (32 - u32::from(prefix))) - 1;
        let gateway = u32::from(gateway);
        let last = (gateway | hosts) - 1;
        Self {
            first: gateway + 1,
            last: last.saturating_sub(RESERVED.min(hosts / 2)),
            used: Mutex::default(),
            owners: Mutex::default(),
        }
    }

    /// Reserves an address that is already in use.
    pub(crate) fn reserve(&self, address: Ipv4Addr) {
        self.lock().all.insert(u32::from(address));
    }

    /// Returns whether an address is in the range of the allocator.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&u32::from(address))
    }

    /// Allocates the next free address. A freed address is given again only after all others: until then, a client that
    /// still has the address reaches no other container.
    pub(crate) fn allocate(&self) -> Option<Ipv4Addr> {
        let mut used = self.lock();
        let after = (used.last + 1).clamp(self.first, self.last);
        let mut in_turn = (after..=self.last).chain(self.first..after);
        let address = in_turn.find(|address| !used.all.contains(address))?;
        used.all.insert(address);
        used.last = address;
        Some(Ipv4Addr::from(address))
    }

    /// Records whose container has an address.
    pub(crate) fn own(&self, address: Ipv4Addr, app: &AppName) {
        self.owners().insert(u32::from(address), app.clone());
    }

    /// Returns whose container has an address.
    pub(crate) fn owner(&self, address: Ipv4Addr) -> Option<AppName> {
        self.owners().get(&u32::from(address)).cloned()
    }

    fn owners(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, AppName>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees an address.
    pub(crate) fn release(&self, address: Ipv4Addr) {
        // The owner goes first: the next container with the address may be another app's.
        self.owners().remove(&u32::from(address));
        self.lock().all.remove(&u32::from(address));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UsedAddresses> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_address_has_no_owner() {
        let addresses = AddressPool::new(Ipv4Addr::new(10, 83, 0, 1), 16);
        let (address, app) = (addresses.allocate().expect("an address"), AppName::parse("shop").expect("a name"));
        addresses.own(address, &app);
        assert_eq!(addresses.owner(address), Some(app));
        addresses.release(address);
        assert_eq!(addresses.owner(address), None);
    }

    #[test]
    fn allocates_each_address_once() {
        let addresses = AddressPool::new(Ipv4Addr::new(10, 83, 0, 1), 16);
        addresses.reserve(Ipv4Addr::new(10, 83, 0, 2));
        assert_eq!(addresses.allocate(), Some(Ipv4Addr::new(10, 83, 0, 3)));
        addresses.release(Ipv4Addr::new(10, 83, 0, 3));
        assert_eq!(addresses.allocate(), Some(Ipv4Addr::new(10, 83, 0, 4)), "a freed address comes last");
        assert!(addresses.contains(Ipv4Addr::new(10, 83, 0, 2)) && !addresses.contains(Ipv4Addr::new(10, 84, 0, 2)));
        let small = AddressPool::new(Ipv4Addr::new(10, 0, 0, 1), 29);
        let all: Vec<_> = std::iter::from_fn(|| small.allocate()).collect();
        small.release(all[0]);
        assert_eq!((small.allocate(), small.allocate()), (Some(all[0]), None));
        assert!(all.len() <= 4 && !all.contains(&Ipv4Addr::new(10, 0, 0, 7)), "{all:?}");
    }
}
