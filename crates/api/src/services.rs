//! Services of the cluster, as the containers of all apps see them at `GANTRY_API`.

use std::net::Ipv4Addr;

use gantry_model::{AppName, MachineName, RoleName};
use serde::{Deserialize, Serialize};

/// The ready instances of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// The app.
    pub app: AppName,
    /// The role.
    pub role: RoleName,
    /// Revision of the app's routes, for a watch.
    pub revision: u64,
    /// The port of the role.
    pub port: u16,
    /// The ready instances.
    pub instances: Vec<ServiceInstance>,
}

/// A ready instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInstance {
    /// The instance's machine.
    pub machine: MachineName,
    /// The address; none if the instance is on another machine, where the address leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}
