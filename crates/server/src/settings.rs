//! Settings of the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use gantry_model::{ClusterPolicy, MachineName};
use gantry_queue_store::PostgresAddress;
use gantry_store::StoreAddress;
use serde::{Deserialize, Serialize};

/// Address at which other servers reach a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerAddress {
    /// Host and port.
    pub(crate) address: String,
    /// True for a cluster port, where servers speak mutual TLS. A server that has joined no cluster has its plain address
    /// alone, and only servers on the same computer use such an address.
    #[serde(default)]
    pub(crate) tls: bool,
}

/// An address of host and port; an IPv6 address stands in brackets.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(std::net::IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// Complete settings of the server.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Name of this server. A server takes over leadership at once from a killed server of the same name.
    pub name: String,
    /// Address of the API.
    pub listen: SocketAddr,
    /// Address of the store.
    pub store: StoreAddress,
    /// PostgreSQL database of the container jobs; none for a file in the data folder.
    pub job_store: Option<PostgresAddress>,
    /// Folder of blobs, repositories and build logs.
    pub data: PathBuf,
    /// Folder of sockets; empty after a reboot.
    pub run: PathBuf,
    /// Path of this program, for git's hooks.
    pub program: PathBuf,
    /// Machine whose agent and router this server makes a token for.
    pub machine: MachineName,
    /// The rules that the settings of this server name, and the address of the apps. They become the cluster policy of a
    /// cluster that has none.
    pub policy: ClusterPolicy,
    /// Address where machines and people reach the server over TLS; none in a cloud of one machine.
    pub cluster_listen: Option<SocketAddr>,
    /// Host name or IP address by which other machines reach this one; none in a cloud of one machine.
    pub advertise: Option<String>,
}

impl ServerSettings {
    /// Reports whether no other server can lead: the store is a file of this server.
    pub(crate) fn leads_alone(&self) -> bool {
        matches!(self.store, StoreAddress::File(_))
    }

    /// Returns the address at which other servers reach this one.
    pub(crate) fn peer_address(&self) -> PeerAddress {
        match (&self.advertise, self.cluster_listen) {
            (Some(host), Some(listen)) => PeerAddress { address: host_port(host, listen.port()), tls: true },
            _ => PeerAddress { address: self.listen.to_string(), tls: false },
        }
    }

    /// Returns the URL of this server's API, as others reach the API.
    pub(crate) fn api_url(&self) -> String {
        let PeerAddress { address, tls } = self.peer_address();
        match tls {
            true => format!("https://{address}"),
            false if self.listen.ip().is_unspecified() => {
                format!("http://{}", host_port(self.machine.as_str(), self.listen.port()))
            }
            false => format!("http://{address}"),
        }
    }
}
