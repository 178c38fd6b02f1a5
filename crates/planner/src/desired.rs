//! The desired state, as the planner reads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{App, AppName, Deploy, MachineTunnels, Release, ReleaseNumber, TrustedProxies};

/// The desired state: apps with their releases and deploys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DesiredCluster {
    /// Apps by name.
    pub apps: BTreeMap<AppName, DesiredApp>,
    /// Proxies that every app trusts.
    pub trusted_proxies: TrustedProxies,
    /// Tunnel addresses of the machines.
    pub tunnels: MachineTunnels,
}

/// One app, its releases and its deploys.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredApp {
    /// The app.
    pub app: App,
    /// Releases by number: at least the current release and those that an unfinished deploy names.
    pub releases: BTreeMap<ReleaseNumber, Arc<Release>>,
    /// The deploys that are not final, oldest first.
    pub deploys: Vec<Deploy>,
}
