//! Settings of the router.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use gantry_model::MachineName;
use gantry_trust::Credentials;

/// All settings of the router.
#[derive(Debug, Clone)]
pub struct RouterSettings {
    /// The machine that the router runs on.
    pub machine: MachineName,
    /// Number of the router on its machine. Two routers run while a new router replaces an old one.
    pub number: u64,
    /// Directory of the table and the access log.
    pub data: PathBuf,
    /// Directory of the layers that this machine's agent has verified, for other machines.
    pub layers: PathBuf,
    /// Address of the name resolver; none for no resolver.
    pub resolver: Option<Ipv4Addr>,
    /// Key and certificates of this machine, for tunnels to and from the routers of other machines; none without
    /// tunnels.
    pub credentials: Option<Credentials>,
    /// Certificate chain and key for HTTPS, as PEM files.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Longest time that a request waits for an instance.
    pub wait: Duration,
    /// Longest time that connections may take to end when the router shuts down; an app's longer drain extends this
    /// time.
    pub drain: Duration,
}
