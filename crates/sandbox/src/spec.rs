//! Everything a container is made of.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A container to be. Every path is the host's, made by Gantry, and not writable by anyone else, unless it says so.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The folder for what must be found again: `container.json`. It exists.
    pub state: PathBuf,
    /// The control group, below the hierarchy's root.
    pub cgroup: String,
    /// What its root is made of.
    pub root: Root,
    /// What `gethostname()` and `uname()` say.
    pub hostname: String,
    /// Program and arguments; empty: the container idles, for others to be run in it.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where the application starts, inside; made for its user where it is missing.
    pub cwd: String,
    /// Who it runs as.
    pub user: User,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// The first of the 65,536 numbers that its users have outside: its root is nobody there. None where the machine's file
    /// system cannot map owners; then its users are the host's.
    pub users: Option<u32>,
    /// What it may use.
    pub limits: Limits,
    /// None: loopback alone.
    pub network: Option<Network>,
    /// Put over paths inside, in this order.
    pub binds: Vec<Bind>,
    /// Where its output goes.
    pub log: Log,
    /// The file that its exit is recorded in.
    pub exit: PathBuf,
    /// The static init.
    pub init: PathBuf,
}

/// An overlay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Root {
    /// Unpacked layers, from the top down.
    pub layers: Vec<PathBuf>,
    /// What the container writes.
    pub upper: PathBuf,
    /// The overlay's own; on the same file system as `upper`.
    pub work: PathBuf,
    /// An empty folder that the overlay is mounted on, in the container's mount namespace alone.
    pub mountpoint: PathBuf,
}

/// Numbers as the image's `/etc/passwd` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes, swap included.
    pub memory: u64,
    /// Thousandths of a processor.
    pub milli_cpu: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes of one file. What all of them take is for the caller to watch: it has the folder.
    #[serde(default)]
    pub disk: Option<u64>,
}

/// A veth pair to a bridge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    /// The machine's bridge.
    pub bridge: String,
    /// The pair's end there, at most 15 characters.
    pub link: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// The network's prefix length.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
}

/// A file or folder of the host, seen inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Inside; resolved there, never followed out.
    pub target: PathBuf,
    /// May be written.
    pub writable: bool,
}

/// Two segments; see `gantry-init`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    /// The two files.
    pub segments: [PathBuf; 2],
    /// Bytes at which one is full.
    pub limit: u64,
}
