//! Settings of the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use gantry_model::{ClusterPolicy, MachineName};
use gantry_store::StoreAddress;

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
    /// The rules that the settings of this server name. They become the cluster policy of a cluster that has none.
    pub policy: ClusterPolicy,
    /// Port of the apps, for their URLs.
    pub http_port: u16,
    /// Address where machines and people reach the server over TLS; none in a cloud of one machine.
    pub cluster_listen: Option<SocketAddr>,
}

impl ServerSettings {
    /// Returns the address at which other servers reach this one.
    pub(crate) fn peer_address(&self) -> String {
        self.listen.to_string()
    }

    /// Returns the URL of an app, or of a held release, under the domain of a policy.
    #[must_use]
    pub fn url(&self, policy: &ClusterPolicy, host: &str) -> String {
        let domain = policy.domain();
        match self.http_port {
            80 => format!("http://{host}.{domain}/"),
            port => format!("http://{host}.{domain}:{port}/"),
        }
    }
}
