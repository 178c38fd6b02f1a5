//! Arguments to settings: each service's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use gantry_agent::HostPorts;
use gantry_controller::Network;
use gantry_model::{MachineName, Seconds};
use gantry_planner::Policy;
use gantry_store::Address;

use crate::args::{Machine, WaitFor};

/// Containers, networks and control groups are root's business.
pub(crate) fn require_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("this needs root: it makes containers, a bridge, and control groups; run it with sudo")
}

impl Machine {
    /// The machine's name: as told, else made of its host name.
    pub(crate) fn name(&self) -> anyhow::Result<MachineName> {
        if let Some(name) = &self.machine {
            return Ok(name.clone());
        }
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy().to_ascii_lowercase();
        let first = host.split('.').next().unwrap_or_default();
        let kept: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
        MachineName::parse(kept.trim_matches(|c: char| !c.is_ascii_lowercase()))
            .with_context(|| format!("the host name {host:?} cannot be a machine's name; give one with --machine"))
    }

    pub(crate) fn store(&self) -> Address {
        self.store.clone().unwrap_or_else(|| Address::File(self.data.join("store.db")))
    }

    pub(crate) fn server(&self) -> anyhow::Result<gantry_controller::Settings> {
        let machine = self.name()?;
        let mut policy = Policy::new(self.domain.clone());
        policy.watch = Seconds(self.watch);
        policy.drain = Seconds(self.drain);
        policy.progress = Seconds(self.deadline);
        Ok(gantry_controller::Settings {
            name: machine.to_string(),
            listen: self.listen,
            store: self.store(),
            data: self.data.clone(),
            run: self.run.clone(),
            program: program()?,
            machine,
            policy,
            until: match self.wait_for {
                WaitFor::Serving => gantry_controller::Until::Serving,
                WaitFor::Bake => gantry_controller::Until::Verdict,
            },
            http_port: self.http.port(),
            cgroup: self.cgroup.clone(),
            collect: gantry_controller::Collect {
                every: seconds(self.collect_every),
                grace: seconds(self.collect_grace),
                reserve: self.reserve.0,
            },
            compile: gantry_controller::CompileLimits {
                time: seconds(self.compile_time),
                memory: self.compile_memory.0,
                disk: self.compile_disk.0,
            },
            network: Network { bridge: self.bridge.clone(), gateway: self.network.0, prefix: self.network.1 },
        })
    }

    pub(crate) fn agent(&self) -> anyhow::Result<gantry_agent::Settings> {
        Ok(gantry_agent::Settings {
            machine: self.name()?,
            data: self.data.clone(),
            run: self.run.clone(),
            cgroup: self.cgroup.clone(),
            bridge: self.bridge.clone(),
            gateway: self.network.0,
            prefix: self.network.1,
            host_ports: self.reachable_ports(),
            metadata: self.metadata.clone(),
            collect: gantry_agent::Collect {
                every: seconds(self.collect_every),
                grace: seconds(self.collect_grace),
                reserve: self.reserve.0,
            },
        })
    }

    /// The ports of this machine that containers reach. The router's are among them: an app that asks another one by its
    /// public name is sent to this very machine.
    fn reachable_ports(&self) -> Vec<HostPorts> {
        let routers = [Some(self.http), self.https].into_iter().flatten().filter_map(HostPorts::of_service);
        routers.chain(self.host_ports.iter().copied()).collect()
    }

    pub(crate) fn router(&self) -> anyhow::Result<gantry_router::Settings> {
        Ok(gantry_router::Settings {
            machine: self.name()?,
            number: crate::handover::router_number(),
            data: self.data.join("router"),
            domain: self.domain.clone(),
            resolver: Some(self.network.0),
            certificate: self.tls_cert.clone().zip(self.tls_key.clone()),
            wait: Duration::from_secs(30),
            drain: Duration::from_secs(30),
        })
    }

    /// The server, as agent and router on this machine reach it.
    pub(crate) fn server_url(&self) -> String {
        let address = match self.listen.ip() {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        format!("http://{}", SocketAddr::new(address, self.listen.port()))
    }
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}

/// This very program, for git's hooks and for `up`'s children.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("this program's own path cannot be found")?;
    // After an update the running program's file is "… (deleted)"; its successor has the name.
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or(path.clone(), PathBuf::from))
}
