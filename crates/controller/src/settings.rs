//! What the server is told when it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use gantry_model::{HostName, MachineName};
use gantry_planner::Policy;
use gantry_store::Address;

use crate::follow::Until;

/// The server's settings, complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This server among its like: a server of the same name takes the lead over from one that was killed.
    pub name: String,
    /// Where the API is served.
    pub listen: SocketAddr,
    /// Where the store is.
    pub store: Address,
    /// Where blobs, repositories, logs of builds are.
    pub data: PathBuf,
    /// For sockets; empty after a reboot.
    pub run: PathBuf,
    /// This program, for git's hooks.
    pub program: PathBuf,
    /// The machine that the tokens of agent and router are made for.
    pub machine: MachineName,
    /// The planner's rules.
    pub policy: Policy,
    /// How far whoever asks for a deploy follows it, unless they say so themselves.
    pub until: Until,
    /// The port at which apps are reached, for their URLs.
    pub http_port: u16,
    /// The control group that everything of Gantry's is in.
    pub cgroup: String,
    /// How long what is of no use is kept, and how often it is looked for.
    pub collect: Collect,
    /// What `container/compile` may use.
    pub compile: gantry_build::CompileLimits,
    /// The machine's network, for builds.
    pub network: Network,
}

/// The pace of collection, and what the disk must have free.
#[derive(Debug, Clone, Copy)]
pub struct Collect {
    /// Between two rounds.
    pub every: std::time::Duration,
    /// What is younger is not touched: it may be on its way to be of use.
    pub grace: std::time::Duration,
    /// Bytes that a build must find free.
    pub reserve: u64,
}

/// The machine's network, as builds use it.
#[derive(Debug, Clone)]
pub struct Network {
    /// The bridge.
    pub bridge: String,
    /// Its address: gateway and name server of every container.
    pub gateway: Ipv4Addr,
    /// The prefix length.
    pub prefix: u8,
}

impl Settings {
    /// Where an app, or a held release of it, is reached.
    #[must_use]
    pub fn url(&self, host: &str) -> String {
        let domain: &HostName = &self.policy.domain;
        match self.http_port {
            80 => format!("http://{host}.{domain}/"),
            port => format!("http://{host}.{domain}:{port}/"),
        }
    }
}
