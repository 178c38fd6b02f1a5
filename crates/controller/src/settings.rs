//! Settings of the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use gantry_model::{HostName, MachineName};
use gantry_planner::PlannerPolicy;
use gantry_store::StoreAddress;

use crate::follow::FollowLimit;

/// Complete settings of the server.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Name of this server. A server takes over leadership at once from a killed server of the same name.
    pub name: String,
    /// Address of the API.
    pub listen: SocketAddr,
    /// Address of the store.
    pub store: StoreAddress,
    /// Folder of blobs, repositories and build logs.
    pub data: PathBuf,
    /// Folder of sockets; empty after a reboot.
    pub run: PathBuf,
    /// Path of this program, for git's hooks.
    pub program: PathBuf,
    /// Machine whose agent and router this server makes a token for.
    pub machine: MachineName,
    /// Rules of the planner.
    pub policy: PlannerPolicy,
    /// Point up to which a client follows a deploy, unless the client names another.
    pub until: FollowLimit,
    /// Port of the apps, for their URLs.
    pub http_port: u16,
    /// Settings of garbage collection, and the disk reserve.
    pub collect: GcSettings,
    /// Resources that `container/compile` may use.
    pub compile: gantry_api::builds::CompileLimits,
}

/// Pace of garbage collection, and the disk reserve.
#[derive(Debug, Clone, Copy)]
pub struct GcSettings {
    /// Interval between two rounds.
    pub every: std::time::Duration,
    /// Age below which data is never collected: a record may be about to reference the data.
    pub grace: std::time::Duration,
    /// Disk reserve: bytes that must be free before a build.
    pub reserve: u64,
}

impl ServerSettings {
    /// Returns the URL of an app, or of a held release.
    #[must_use]
    pub fn url(&self, host: &str) -> String {
        let domain: &HostName = &self.policy.domain;
        match self.http_port {
            80 => format!("http://{host}.{domain}/"),
            port => format!("http://{host}.{domain}:{port}/"),
        }
    }
}
