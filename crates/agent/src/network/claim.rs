//! Ownership of the bridge. Each cloud labels its bridge with its control group and its folders. A second cloud with
//! one of the same resources is refused before it changes anything. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use gantry_linux::network::NetworkDevice;
use gantry_model::NetworkFault;

use crate::AgentSettings;

/// The resources that a cloud must not share with another cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CloudClaim {
    cgroup: String,
    run: PathBuf,
    data: PathBuf,
}

/// The first part of a claim's text.
const CLAIM_PREFIX: &str = "gantry";

/// The separator between the parts of a claim.
const SEPARATOR: char = '|';

impl CloudClaim {
    /// The claim of these settings. Symbolic links are resolved, so that equal folders have equal names.
    pub(super) fn of(settings: &AgentSettings) -> Self {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Self { cgroup: settings.cgroup.clone(), run: real(&settings.run), data: real(&settings.data) }
    }

    fn parse(alias: &str) -> Option<Self> {
        let mut parts = alias.splitn(4, SEPARATOR);
        let (mark, cgroup, run, data) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        (mark == CLAIM_PREFIX).then(|| Self { cgroup: cgroup.to_owned(), run: run.into(), data: data.into() })
    }
}

impl fmt::Display for CloudClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (run, data) = (self.run.display(), self.data.display());
        write!(f, "{CLAIM_PREFIX}{SEPARATOR}{}{SEPARATOR}{run}{SEPARATOR}{data}", self.cgroup)
    }
}

/// Reason why this machine's network cannot be as the settings say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkTaken {
    /// Another cloud has the bridge.
    #[error(
        "the bridge {bridge} belongs to the cloud with the data folder {data}; give this one a --bridge and a --network of \
         its own, or end the other one: gantry down --data {data}"
    )]
    Bridge {
        /// The bridge.
        bridge: String,
        /// The other cloud's data folder.
        data: PathBuf,
    },
    /// Another cloud has the control group.
    #[error(
        "the control group {cgroup} belongs to the cloud with the data folder {data}; give this one a --cgroup of its own"
    )]
    Cgroup {
        /// The control group.
        cgroup: String,
        /// The other cloud's data folder.
        data: PathBuf,
    },
    /// Another cloud has the run-time folder.
    #[error(
        "the run-time folder {run} belongs to the cloud with the data folder {data}; give this one a --run of its own"
    )]
    Run {
        /// The folder.
        run: PathBuf,
        /// The other cloud's data folder.
        data: PathBuf,
    },
    /// A device that Gantry did not create has the bridge's name.
    #[error("device {0} already exists and Gantry did not create it; choose another name with --bridge")]
    Device(String),
    /// The network of another device overlaps.
    #[error(
        "the network {wanted} overlaps with {network} of the device {device}; choose another with --network, for example \
         10.97.0.1/16"
    )]
    Network {
        /// The network that the settings name.
        wanted: String,
        /// The other device's network.
        network: String,
        /// The name of the other device.
        device: String,
    },
}

/// Checks that no other cloud uses the resources that the settings name. `exists` says whether a folder exists: a cloud
/// whose data folder is gone claims nothing.
pub(super) fn check(
    settings: &AgentSettings,
    own: &CloudClaim,
    devices: &[NetworkDevice],
    exists: impl Fn(&Path) -> bool,
) -> Result<(), NetworkTaken> {
    let others = devices.iter().filter_map(|device| {
        let claim = CloudClaim::parse(device.alias.as_deref()?)?;
        (claim.data != own.data && exists(&claim.data)).then_some((device, claim))
    });
    for (device, CloudClaim { cgroup, run, data }) in others {
        if device.name == settings.bridge {
            return Err(NetworkTaken::Bridge { bridge: device.name.clone(), data });
        }
        if cgroup == own.cgroup {
            return Err(NetworkTaken::Cgroup { cgroup, data });
        }
        if run == own.run {
            return Err(NetworkTaken::Run { run, data });
        }
    }
    let bridge = devices.iter().find(|device| device.name == settings.bridge);
    if bridge.is_some_and(|device| !device.is_bridge || !(device.is_own || device.alias.is_some())) {
        return Err(NetworkTaken::Device(settings.bridge.clone()));
    }
    // A cloud that already runs continues; the status reports the overlap.
    let has_network = bridge.is_some_and(|device| device.addresses.contains(&(settings.gateway, settings.prefix)));
    let inside = |(_, address, prefix): &(&NetworkDevice, Ipv4Addr, u8)| {
        *prefix <= 30 && network_of(*address, settings.prefix) == network_of(settings.gateway, settings.prefix)
    };
    match overlapping(settings, devices).find(inside) {
        Some((device, address, prefix)) if !has_network => Err(NetworkTaken::Network {
            wanted: format!("{}/{}", network_of(settings.gateway, settings.prefix), settings.prefix),
            network: format!("{}/{prefix}", network_of(address, prefix)),
            device: device.name.clone(),
        }),
        _ => Ok(()),
    }
}

/// Other networks of this machine that share addresses with the containers' network.
pub(super) fn overlaps(settings: &AgentSettings, devices: &[NetworkDevice]) -> Vec<NetworkFault> {
    let fault = |(device, address, prefix): (&NetworkDevice, Ipv4Addr, u8)| NetworkFault::Overlaps {
        device: device.name.clone(),
        network: format!("{}/{prefix}", network_of(address, prefix)),
    };
    overlapping(settings, devices).map(fault).collect()
}

fn overlapping<'a>(
    settings: &'a AgentSettings,
    devices: &'a [NetworkDevice],
) -> impl Iterator<Item = (&'a NetworkDevice, Ipv4Addr, u8)> {
    let others = devices.iter().filter(|device| device.name != settings.bridge);
    let networks =
        others.flat_map(|device| device.addresses.iter().map(move |(address, prefix)| (device, *address, *prefix)));
    networks.filter(|(_, address, prefix)| {
        let shorter = settings.prefix.min(*prefix);
        network_of(*address, shorter) == network_of(settings.gateway, shorter)
    })
}

pub(super) fn network_of(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or_default();
    Ipv4Addr::from(u32::from(address) & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, network: &str, alias: Option<&str>) -> NetworkDevice {
        let (address, prefix) = network.split_once('/').expect("a network");
        NetworkDevice {
            name: name.to_owned(),
            index: 1,
            controller: None,
            is_up: true,
            is_bridge: name != "eth0",
            is_own: alias.is_some(),
            alias: alias.map(str::to_owned),
            addresses: vec![(address.parse().expect("an address"), prefix.parse().expect("a number"))],
        }
    }

    fn checked(devices: &[NetworkDevice]) -> Result<(), NetworkTaken> {
        let settings = AgentSettings::for_tests();
        check(&settings, &CloudClaim::of(&settings), devices, |path| path != Path::new("/gone"))
    }

    #[test]
    fn parses_the_claim_that_it_printed() {
        let claim = CloudClaim::of(&AgentSettings::for_tests());
        assert_eq!(claim.to_string(), "gantry|gantry|/nowhere/run|/nowhere/data");
        assert_eq!(CloudClaim::parse(&claim.to_string()), Some(claim));
        assert_eq!(CloudClaim::parse("a cable to the printer"), None);
    }

    #[test]
    fn refuses_resources_of_another_cloud() {
        let data = PathBuf::from("/other");
        let cases = [
            (
                device("gantry0", "10.9.0.1/16", Some("gantry|g|/r|/other")),
                NetworkTaken::Bridge { bridge: "gantry0".into(), data: data.clone() },
            ),
            (
                device("b", "10.9.0.1/16", Some("gantry|gantry|/r|/other")),
                NetworkTaken::Cgroup { cgroup: "gantry".into(), data: data.clone() },
            ),
            (
                device("b", "10.9.0.1/16", Some("gantry|g|/nowhere/run|/other")),
                NetworkTaken::Run { run: "/nowhere/run".into(), data },
            ),
        ];
        for (device, expected) in cases {
            assert_eq!(checked(&[device]), Err(expected));
        }
        assert_eq!(checked(&[device("eth0", "192.0.2.1/24", None)]), Ok(()));
        for network in ["10.83.0.1/16", "10.83.7.1/24", "10.83.0.9/8"] {
            let taken = checked(&[device("eth0", network, None)]);
            assert!(matches!(taken, Err(NetworkTaken::Network { .. })), "{network}: {taken:?}");
        }
        let foreign = NetworkDevice { is_own: false, ..device("gantry0", "192.0.2.1/24", None) };
        assert_eq!(checked(&[foreign]), Err(NetworkTaken::Device("gantry0".to_owned())));
    }

    #[test]
    fn accepts_own_and_abandoned_resources() {
        let own = device("gantry0", "10.83.0.1/16", Some("gantry|gantry|/nowhere/run|/nowhere/data"));
        let earlier = NetworkDevice { is_own: true, ..device("gantry0", "10.83.0.1/16", None) };
        let gone = device("gantry0", "10.83.0.1/16", Some("gantry|gantry|/r|/gone"));
        for device in [own.clone(), earlier, gone] {
            assert_eq!(checked(&[device]), Ok(()));
        }
        // Networks that appear later are reported, and stop nothing.
        let later = [own, device("eth0", "10.83.7.1/24", None), device("tun0", "10.83.9.9/32", None)];
        assert_eq!((checked(&later), overlaps(&AgentSettings::for_tests(), &later).len()), (Ok(()), 2));
        assert_eq!(checked(&[device("tun0", "10.83.9.9/32", None), device("eth0", "10.0.0.5/8", None)]), Ok(()));
    }
}
