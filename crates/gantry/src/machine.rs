//! Translates arguments into the settings of each service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use gantry_agent::HostPorts;
use gantry_error_codes::ErrorCode;
use gantry_model::{AppUrl, ClusterPolicy, MachineName, MachineSubnet, PolicyKey, TunnelAddress};
use gantry_store::StoreAddress;
use gantry_trust::Credentials;
use serde::{Deserialize, Serialize};

use crate::args::{FirstPolicy, Machine};
use crate::coded::{WithCode, coded, fail};
use crate::server_folder;

/// Fails unless this process runs as root, which containers, networks and control groups require.
pub(crate) fn require_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let message = "this needs root: it makes containers, a bridge, and control groups; run it with sudo";
    Err(coded(ErrorCode::RootRequired, message))
}

impl Machine {
    /// The machine's name: from `--machine`, or else derived from the host name.
    pub(crate) fn name(&self) -> anyhow::Result<MachineName> {
        if let Some(name) = &self.machine {
            return Ok(name.clone());
        }
        let host = host();
        // A data folder keeps its first machine name as long as the machine's host name stays the same.
        let known = match self.known() {
            Some(known) => (known.host == host).then_some(known.name),
            // An earlier version of Gantry created the folder. That version recorded no name, and dropped digits.
            None if self.data.join("machine-token").exists() => name_without_digits(&host),
            None => None,
        };
        known
            .or_else(|| name_of(&host))
            .with_context(|| format!("the host name {host:?} cannot be a machine's name; give one with --machine"))
            .with_code(ErrorCode::InvalidMachineName)
    }

    fn known(&self) -> Option<KnownName> {
        serde_json::from_slice(&std::fs::read(self.data.join(NAME_FILE)).ok()?).ok()
    }

    /// Records the machine's name in the data folder.
    pub(crate) fn keep_name(&self) -> anyhow::Result<()> {
        let (path, known) = (self.data.join(NAME_FILE), KnownName { name: self.name()?, host: host() });
        if self.known().as_ref() == Some(&known) {
            return Ok(());
        }
        gantry_ledger::replace_json(&path, &known)
            .with_context(|| format!("cannot write {}", path.display()))
            .with_code(ErrorCode::FileUnwritable)
    }

    /// Checks that HTTPS has an address, a certificate and a key.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.https.is_some() && (self.tls_cert.is_none() || self.tls_key.is_none()) {
            fail!(InvalidArguments, "--https needs a certificate and its key: --tls-cert FILE --tls-key FILE");
        }
        Ok(())
    }

    pub(crate) fn store(&self) -> StoreAddress {
        self.store.clone().unwrap_or_else(|| StoreAddress::File(self.server_data().join("store.db")))
    }

    /// The server's data folder: below the data folder, where `gantry up` runs the server. Otherwise the data folder
    /// itself, as that of a server started by hand, or one of an earlier version.
    pub(crate) fn server_data(&self) -> PathBuf {
        let own = self.data.join(server_folder::NAME);
        let folder = if own.is_dir() { own } else { self.data.clone() };
        // Links on the way may be hidden from the server's user.
        folder.canonicalize().unwrap_or(folder)
    }

    pub(crate) fn server(&self) -> anyhow::Result<gantry_server::ServerSettings> {
        let machine = self.name()?;
        Ok(gantry_server::ServerSettings {
            name: machine.to_string(),
            listen: self.listen,
            store: self.store(),
            job_store: self.job_store.clone(),
            data: self.server_data(),
            run: self.run.clone(),
            program: program()?,
            machine,
            policy: ClusterPolicy { app_url: Some(self.app_url()), ..self.policy.rules() },
            cluster_listen: self.cluster_listen,
            advertise: self.advertise.clone(),
        })
    }

    pub(crate) fn agent(&self) -> anyhow::Result<gantry_agent::AgentSettings> {
        Ok(gantry_agent::AgentSettings {
            machine: self.name()?,
            data: self.data.clone(),
            run: self.run.clone(),
            cgroup: self.cgroup.clone(),
            bridge: self.bridge.clone(),
            gateway: self.network.0,
            prefix: self.network.1,
            host_ports: self.reachable_ports(),
            metadata: self.metadata.clone(),
            jobs: self.jobs(),
            addresses: self.tunnel_addresses(),
            subnet: self.tunnel.and_then(|_| MachineSubnet::containing(self.network.0, self.network.1)),
        })
    }

    /// How the apps are reached through the router of this machine.
    fn app_url(&self) -> AppUrl {
        match self.https {
            Some(https) => AppUrl { port: https.port(), ..AppUrl::HTTPS },
            None => AppUrl { port: self.http.port(), ..AppUrl::HTTP },
        }
    }

    /// Addresses at which other machines' routers reach this machine's router; none in a cloud of one machine.
    fn tunnel_addresses(&self) -> Vec<TunnelAddress> {
        let host = self.advertise.as_deref().zip(self.tunnel);
        host.and_then(|(host, tunnel)| host_port(host, tunnel.port()).parse().ok()).into_iter().collect()
    }

    /// Maximum number of container jobs at the same time: by default four for each processor.
    fn jobs(&self) -> u16 {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.jobs.unwrap_or_else(|| u16::try_from(processors * 4).unwrap_or(u16::MAX))
    }

    /// Ports of this machine that containers can reach. The router's ports are among them, because an app reaches
    /// another app's public name through this machine's router.
    fn reachable_ports(&self) -> Vec<HostPorts> {
        let routers = [Some(self.http), self.https].into_iter().flatten().filter_map(HostPorts::of_service);
        routers.chain(self.host_ports.iter().copied()).collect()
    }

    pub(crate) fn router(&self, credentials: Option<Credentials>) -> anyhow::Result<gantry_router::RouterSettings> {
        Ok(gantry_router::RouterSettings {
            machine: self.name()?,
            number: crate::handover::router_number(),
            data: self.data.join("router"),
            layers: self.data.join(gantry_agent::SHARED_LAYERS),
            resolver: Some(self.network.0),
            credentials,
            certificate: self.tls_cert.clone().zip(self.tls_key.clone()),
            wait: Duration::from_secs(30),
            drain: Duration::from_millis(gantry_model::defaults::DRAIN_TIME.millis()),
        })
    }

    /// URL of the server, for the agent and the router on this machine.
    pub(crate) fn server_url(&self) -> String {
        url_of(self.listen)
    }
}

/// An address of host and port; an IPv6 address stands in brackets.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// URL of a server that listens at this address, as seen from its own machine.
pub(crate) fn url_of(listen: SocketAddr) -> String {
    format!("http://{}", own_address(listen))
}

/// Address of a server that listens at this address, as seen from its own machine.
pub(crate) fn own_address(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

/// Name of the file in the data folder that records the machine's name and its host name at that time.
const NAME_FILE: &str = "machine.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownName {
    name: MachineName,
    host: String,
}

/// This machine's host name, in lower case.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
}

/// Maximum length of a machine's name.
const NAME_MAX: usize = 40;

/// Derives a machine's name from its host name: the part before the first dot, with digits. Different parts give
/// different names: a name that was shortened or changed ends in a checksum of the part.
fn name_of(host: &str) -> Option<MachineName> {
    let first = host.split('.').next().unwrap_or_default();
    if let Ok(name) = MachineName::parse(first) {
        return Some(name);
    }
    let kept: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let kept = kept.trim_matches('-');
    // A machine's name must begin with a letter.
    let begin = if kept.starts_with(|c: char| c.is_ascii_lowercase()) { "" } else { "m-" };
    let end = format!("-{:08x}", checksum(first));
    let room = NAME_MAX - begin.len() - end.len();
    let middle: String = kept.chars().take(room).collect();
    let named = !middle.is_empty();
    named.then(|| MachineName::parse(&format!("{begin}{middle}{end}")).ok()).flatten()
}

/// Checksum by FNV-1a, which is the same on every machine and in every version.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The name that earlier versions derived from a host name, without digits.
fn name_without_digits(host: &str) -> Option<MachineName> {
    let first = host.split('.').next().unwrap_or_default();
    let kept: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(NAME_MAX).collect();
    MachineName::parse(kept.trim_matches(|c: char| !c.is_ascii_lowercase())).ok()
}

impl FirstPolicy {
    /// The values that were given, by rule. Each is valid.
    pub(crate) fn given_rules(&self) -> impl Iterator<Item = (PolicyKey, &str)> {
        let Self { domain, bake_time, wait_for, drain, deadline, compile_time, compile_memory, .. } = self;
        let Self { compile_disk, builds, collect_every, collect_grace, reserve, .. } = self;
        let all = [
            (PolicyKey::Domain, domain),
            (PolicyKey::BakeTime, bake_time),
            (PolicyKey::WaitFor, wait_for),
            (PolicyKey::Drain, drain),
            (PolicyKey::Deadline, deadline),
            (PolicyKey::CompileTime, compile_time),
            (PolicyKey::CompileMemory, compile_memory),
            (PolicyKey::CompileDisk, compile_disk),
            (PolicyKey::Builds, builds),
            (PolicyKey::CollectEvery, collect_every),
            (PolicyKey::CollectGrace, collect_grace),
            (PolicyKey::Reserve, reserve),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }

    /// The policy with the rules that the arguments set.
    pub(crate) fn rules(&self) -> ClusterPolicy {
        let mut policy = ClusterPolicy::default();
        for (key, text) in self.given_rules() {
            // The command line was refused if the value is invalid.
            let _ = policy.set(key, text);
        }
        policy
    }
}

/// Path of the running program, for git's hooks and for the services that `up` starts.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("this program's own path cannot be found")?;
    // After an update, the path of the running program ends in " (deleted)". The new program has the path without that
    // suffix.
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or(path.clone(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(host: &str) -> String {
        name_of(host).map(|name| name.to_string()).unwrap_or_default()
    }

    #[test]
    fn two_host_names_make_two_machine_names() {
        for (host, named) in [
            ("web01", "web01"),
            ("web02.example.org", "web02"),
            ("ip-10-0-0-1", "ip-10-0-0-1"),
            ("node-7", "node-7"),
            ("a", "a"),
        ] {
            assert_eq!(name(host), named);
        }
        let long = |end: &str| format!("{}{end}", "x".repeat(45));
        let hosts =
            ["1web", "2web", "web_1", "web-1", "web_2", "10", "11", &long("1"), &long("2"), "wéb", "web-", "web"];
        let names: std::collections::BTreeSet<String> = hosts.iter().map(|host| name(host)).collect();
        assert_eq!(names.len(), hosts.len(), "{names:?}");
        assert!(names.iter().all(|name| !name.is_empty() && name.len() <= NAME_MAX), "{names:?}");
        assert_eq!((name_of(""), name_of("---"), name_of(".x")), (None, None, None));
    }

    #[test]
    fn a_data_folder_keeps_the_name_it_was_begun_with() {
        use clap::Parser;
        let folder = tempfile::tempdir().expect("a folder");
        let words = ["gantry", "up", "--data", folder.path().to_str().expect("text")];
        let crate::args::Command::Up(machine) = crate::args::Args::parse_from(words).command else { panic!("up") };
        let (fresh, old) = (name_of(&host()), name_without_digits(&host()));
        assert_eq!(machine.name().ok(), fresh);
        // A data folder of an earlier version.
        std::fs::write(folder.path().join("machine-token"), "x").expect("written");
        assert_eq!(machine.name().ok(), old.or_else(|| fresh.clone()));
        let keep = |name: &str, host: String| {
            let known = KnownName { name: MachineName::parse(name).expect("a name"), host };
            std::fs::write(folder.path().join(NAME_FILE), serde_json::to_vec(&known).expect("JSON")).expect("written");
            machine.name().ok().map(|name| name.to_string())
        };
        assert_eq!(keep("kept", host()).as_deref(), Some("kept"));
        // A folder copied to a machine with another host name. The machine gets its own name, and the server then
        // refuses the folder.
        assert_eq!(keep("kept", "elsewhere".to_owned()), fresh.map(|name| name.to_string()));
    }
}
