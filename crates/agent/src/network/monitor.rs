//! Monitor of the machine's network. Repairs parts that another program removed, and reports firewalls that block
//! traffic of containers.
//!
//! ```text
//! devices, forwarding, rules ─► missing ─► repair ─► NetworkFault ─► report
//! other firewalls ─► firewall::faults ──────────────────┘
//! ```
//! A poll costs two lists over netlink and three small files. Rules are listed only when their generation number has
//! changed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_linux::network::{self, NetworkDevice};
use gantry_model::{NetworkFault, NetworkPart};
use gantry_supervision::{Backoff, ReconcileLoop};
use serde_json::Value;
use tokio::time::Instant;

use super::{claim, firewall, read, rules};
use crate::{AgentContext, AgentSettings, status};

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Minimum interval between two readings of other programs' rules: a machine may have thousands of rules, and change
/// them often.
const FIREWALLS_EVERY: Duration = Duration::from_secs(4);

/// Interval between two readings where changes of the rules cannot be detected.
const FIREWALLS_UNSEEN: Duration = Duration::from_secs(30);

/// Time that a repair stays in the report.
const RECENT: Duration = Duration::from_secs(600);

/// Monitors the machine's network, for ever.
pub(crate) async fn monitor(agent: &Arc<AgentContext>) {
    let mut monitor = NetworkMonitor::default();
    let pass = async || {
        let faults = monitor.poll(&agent.settings).await;
        for fault in faults.iter().filter(|fault| !monitor.told.contains(fault)) {
            tracing::warn!("the machine's network: {fault}");
        }
        monitor.told.clone_from(&faults);
        agent.status.set_network(faults);
        Ok::<_, Infallible>(())
    };
    ReconcileLoop::new("network monitor", POLL_INTERVAL, Backoff::constant(POLL_INTERVAL)).run(pass).await;
}

#[derive(Default)]
struct NetworkMonitor {
    /// The generation number of the rules at the last poll.
    generation: Option<u32>,
    /// Gantry's own table, as listed after its creation.
    table: Option<Value>,
    firewalls: FirewallMonitor,
    repairs: BTreeMap<NetworkPart, RepairCount>,
    told: Vec<NetworkFault>,
}

#[derive(Clone, Copy)]
struct RepairCount {
    at: Instant,
    fault_at: gantry_model::Moment,
    times: u32,
}

/// The drops of other firewalls, from the last reading of the rules.
#[derive(Default)]
struct FirewallMonitor {
    read: Option<(Instant, Option<u32>, firewall::NetworkFacts)>,
    faults: Vec<NetworkFault>,
}

impl NetworkMonitor {
    async fn poll(&mut self, settings: &AgentSettings) -> Vec<NetworkFault> {
        let mut faults = Vec::new();
        match network::devices().await {
            Ok(devices) => {
                let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
                let network = claim::network_of(settings.gateway, settings.prefix);
                let is_routed = read::has_route(&routes, &settings.bridge, network, settings.prefix);
                for (part, ports) in missing(settings, &devices, is_routed, &forwarding(settings)) {
                    faults.extend(self.repaired(settings, part, repair(settings, part, &ports).await));
                }
                faults.extend(claim::overlaps(settings, &devices));
            }
            Err(error) => tracing::debug!(error = %ErrorChain(&error), "cannot list the machine's network devices"),
        }
        faults.extend(self.rules(settings).await);
        faults.extend(self.firewalls.poll(settings, self.generation).await.iter().cloned());
        let recent = self.repairs.iter().filter(|(_, repair)| repair.at.elapsed() < RECENT);
        faults.extend(recent.map(|(part, repair)| NetworkFault::Repaired {
            part: *part,
            name: name(settings, *part),
            at: repair.fault_at,
            times: repair.times,
        }));
        faults
    }

    /// Counts a successful repair; returns the fault of a failed one.
    fn repaired(
        &mut self,
        settings: &AgentSettings,
        part: NetworkPart,
        result: Result<(), RepairError>,
    ) -> Option<NetworkFault> {
        match result {
            Ok(()) => {
                let times = self.repairs.get(&part).map_or(0, |repair| repair.times) + 1;
                self.repairs.insert(part, RepairCount { at: Instant::now(), fault_at: status::now(), times });
                None
            }
            Err(error) => {
                Some(NetworkFault::Broken { part, name: name(settings, part), why: ErrorChain(&error).to_string() })
            }
        }
    }

    /// Recreates the table if another program removed or changed it.
    async fn rules(&mut self, settings: &AgentSettings) -> Option<NetworkFault> {
        let generation = network::rules_generation().ok();
        if generation.is_some() && generation == self.generation {
            return None;
        }
        let found = table(settings).await;
        let is_whole = match (&self.table, &found) {
            (Some(made), Some(found)) => made == found,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_whole {
            (self.table, self.generation) = (found, generation);
            return None;
        }
        let result = super::apply_rules(&rules::rules(settings)).await.map_err(RepairError::from);
        if result.is_ok() {
            self.generation = network::rules_generation().ok();
            self.table = table(settings).await.or_else(|| self.table.take());
        }
        self.repaired(settings, NetworkPart::Rules, result)
    }
}

/// Gantry's own table as nft lists it, without metadata and handles: an identical table that is created again has other
/// handles.
async fn table(settings: &AgentSettings) -> Option<Value> {
    let text = read::printed("nft", &["-j", "list", "table", "inet", &settings.bridge]).await?;
    let mut listed: Value = serde_json::from_str(&text).ok()?;
    let objects = listed.get_mut("nftables")?.as_array_mut()?;
    objects.retain(|object| object.get("metainfo").is_none());
    for object in objects.iter_mut().filter_map(Value::as_object_mut).flat_map(|object| object.values_mut()) {
        if let Some(fields) = object.as_object_mut() {
            fields.remove("handle");
        }
    }
    Some(listed)
}

impl FirewallMonitor {
    async fn poll(&mut self, settings: &AgentSettings, generation: Option<u32>) -> &[NetworkFault] {
        let network = surroundings(settings);
        let is_due = self.read.as_ref().is_none_or(|(at, known, before)| {
            let pace = if generation.is_none() || read::has_legacy_tables() { FIREWALLS_UNSEEN } else { Duration::MAX };
            let has_changed = *known != generation || *before != network;
            (has_changed && at.elapsed() >= FIREWALLS_EVERY) || at.elapsed() >= pace
        });
        if is_due {
            if let Some(ruleset) = read::ruleset().await {
                self.faults = firewall::faults(&ruleset, &network);
            }
            self.read = Some((Instant::now(), generation, network));
        }
        &self.faults
    }
}

fn surroundings(settings: &AgentSettings) -> firewall::NetworkFacts {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    firewall::NetworkFacts {
        bridge: settings.bridge.clone(),
        gateway: settings.gateway,
        prefix: settings.prefix,
        uplink: read::uplink(&text("/proc/net/route")),
        bridged_packets_are_seen: text("/proc/sys/net/bridge/bridge-nf-call-iptables").trim() == "1",
    }
}

/// The kernel's switches that must be on.
fn switches(settings: &AgentSettings) -> [PathBuf; 2] {
    let bridge = format!("/proc/sys/net/ipv4/conf/{}/forwarding", settings.bridge);
    ["/proc/sys/net/ipv4/ip_forward".into(), bridge.into()]
}

/// The switches that are off. An unreadable switch does not count: it belongs to a bridge that is gone.
fn forwarding(settings: &AgentSettings) -> Vec<PathBuf> {
    let is_off = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
    switches(settings).into_iter().filter(is_off).collect()
}

/// The missing parts, in order of repair, with the container devices that lost their bridge. Pure.
fn missing(
    settings: &AgentSettings,
    devices: &[NetworkDevice],
    is_routed: bool,
    off: &[PathBuf],
) -> Vec<(NetworkPart, Vec<String>)> {
    let bridge = devices.iter().find(|device| device.name == settings.bridge);
    let mut missing = Vec::new();
    match bridge {
        Some(device) if device.is_up => {
            if !device.addresses.contains(&(settings.gateway, settings.prefix)) {
                missing.push((NetworkPart::Address, Vec::new()));
            } else if !is_routed {
                missing.push((NetworkPart::Route, Vec::new()));
            }
        }
        _ => missing.push((NetworkPart::Bridge, Vec::new())),
    }
    let index = bridge.map(|device| device.index);
    let lost = |device: &&NetworkDevice| {
        is_container(settings, &device.name) && (index.is_none() || device.controller != index || !device.is_up)
    };
    let lost: Vec<String> = devices.iter().filter(lost).map(|device| device.name.clone()).collect();
    if !lost.is_empty() {
        missing.push((NetworkPart::Ports, lost));
    }
    if !off.is_empty() {
        missing.push((NetworkPart::Forwarding, Vec::new()));
    }
    missing
}

/// Returns whether the device belongs to a container or a build. Such a device is named after its address.
fn is_container(settings: &AgentSettings, name: &str) -> bool {
    let number = name.strip_prefix("gt").or_else(|| name.strip_prefix("gb")).filter(|rest| rest.len() == 8);
    let address = number.and_then(|number| u32::from_str_radix(number, 16).ok()).map(Ipv4Addr::from);
    let network = |address| claim::network_of(address, settings.prefix);
    address.is_some_and(|address| network(address) == network(settings.gateway))
}

/// Reason why a repair failed.
#[derive(Debug, thiserror::Error)]
enum RepairError {
    #[error(transparent)]
    Kernel(#[from] gantry_linux::LinuxError),
    #[error(transparent)]
    Rules(#[from] super::NftError),
    #[error("cannot write {path}")]
    Switch { path: PathBuf, source: std::io::Error },
}

async fn repair(settings: &AgentSettings, part: NetworkPart, ports: &[String]) -> Result<(), RepairError> {
    match part {
        NetworkPart::Bridge | NetworkPart::Address => super::make_bridge(settings).await?,
        NetworkPart::Route => {
            let net = claim::network_of(settings.gateway, settings.prefix);
            network::ensure_route(&settings.bridge, settings.gateway, net, settings.prefix).await?;
        }
        NetworkPart::Ports => network::attach(ports, &settings.bridge).await?,
        NetworkPart::Forwarding => {
            for path in switches(settings) {
                std::fs::write(&path, "1").map_err(|source| RepairError::Switch { path, source })?;
            }
        }
        NetworkPart::Rules => {}
    }
    Ok(())
}

fn name(settings: &AgentSettings, part: NetworkPart) -> String {
    let bridge = &settings.bridge;
    match part {
        NetworkPart::Bridge | NetworkPart::Address | NetworkPart::Route | NetworkPart::Ports => {
            format!("the bridge {bridge}")
        }
        NetworkPart::Rules => format!("nft's table inet {bridge}"),
        NetworkPart::Forwarding => "forwarding (net.ipv4.ip_forward)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, index: u32, controller: Option<u32>) -> NetworkDevice {
        let addresses = if name == "gantry0" { vec![(Ipv4Addr::new(10, 83, 0, 1), 16)] } else { Vec::new() };
        NetworkDevice {
            name: name.to_owned(),
            index,
            controller,
            is_up: true,
            is_bridge: controller.is_none(),
            is_own: controller.is_none(),
            alias: None,
            addresses,
        }
    }

    /// A bridge, an instance, a build, another cloud's instance, and an unrelated device.
    fn whole() -> Vec<NetworkDevice> {
        [
            ("gantry0", 3, None),
            ("gt0a530002", 4, Some(3)),
            ("gb0a53fffe", 5, Some(3)),
            ("gt0a540002", 6, Some(9)),
            ("gtface", 7, Some(9)),
        ]
        .map(|(name, index, controller)| device(name, index, controller))
        .to_vec()
    }

    #[test]
    fn finds_every_missing_part() {
        let settings = AgentSettings::for_tests();
        let parts = |devices: &[NetworkDevice], off: &[PathBuf]| missing(&settings, devices, true, off);
        assert_eq!(parts(&whole(), &[]), []);
        let ports =
            |names: &[&str]| (NetworkPart::Ports, names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let mut deleted = whole();
        deleted.remove(0);
        deleted.iter_mut().for_each(|device| device.controller = device.controller.filter(|index| *index != 3));
        assert_eq!(parts(&deleted, &[]), [(NetworkPart::Bridge, vec![]), ports(&["gt0a530002", "gb0a53fffe"])]);
        let mut down = whole();
        down[0].is_up = false;
        assert_eq!(parts(&down, &[]), [(NetworkPart::Bridge, vec![])]);
        let mut flushed = whole();
        flushed[0].addresses = vec![(Ipv4Addr::new(10, 83, 0, 1), 24)];
        assert_eq!(parts(&flushed, &[]), [(NetworkPart::Address, vec![])]);
        let mut port_down = whole();
        port_down[1].is_up = false;
        port_down[2].controller = None;
        assert_eq!(parts(&port_down, &[]), [ports(&["gt0a530002", "gb0a53fffe"])]);
        assert_eq!(missing(&settings, &whole(), false, &[]), [(NetworkPart::Route, vec![])]);
        assert_eq!(parts(&whole(), &[PathBuf::from("ip_forward")]), [(NetworkPart::Forwarding, vec![])]);
    }
}
