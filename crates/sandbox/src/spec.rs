//! The description of a container.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use gantry_linux::cgroup::GroupLimits;
use gantry_linux::link::InsideAddress;
use serde::{Deserialize, Serialize};

/// A container to create. Unless a field says otherwise, each path is a host path that Gantry made, and no other user
/// may write there.
#[derive(Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Folder on the host for the state that outlives a caller: `container.json`. The folder exists.
    pub state: PathBuf,
    /// Path of the control group below the hierarchy's root.
    pub cgroup: String,
    /// The root file system.
    pub root: RootFilesystem,
    /// The host name, as `gethostname()` and `uname()` return the name.
    pub hostname: String,
    /// Program and arguments. When empty, the container idles, so that other processes can be run inside.
    pub args: Vec<String>,
    /// The complete environment.
    pub env: Vec<(String, String)>,
    /// Working folder of the application, as a path inside. If the folder is missing, the sandbox creates the folder
    /// for the user.
    pub cwd: String,
    /// The user and group of the application.
    pub user: ProcessUser,
    /// The application's supplementary groups.
    pub groups: Vec<u32>,
    /// The first of 65,536 host user ids that the container's users map to: root inside is an unprivileged user
    /// outside. None where the machine's file system supports no idmapped mounts; then users inside are the host's
    /// users.
    pub users: Option<u32>,
    /// The resource limits.
    pub limits: ContainerLimits,
    /// The network. None: the container has only a loopback device.
    pub network: Option<ContainerNetwork>,
    /// Files and folders of the host to mount inside, in this order.
    pub binds: Vec<BindMount>,
    /// The log of the application's output.
    pub log: LogFiles,
    /// File that init records the exit in.
    pub exit: PathBuf,
    /// True if init ends the container at the time since boot that is the modification time of `exit`. The caller makes
    /// the file before the launch, and sets the time again for as long as the container may run.
    #[serde(default)]
    pub fenced: bool,
    /// True if the exit record is on the disk before the container ends, for a caller that reads the record after a
    /// power loss.
    #[serde(default)]
    pub durable_exit: bool,
    /// Path of the static init on the host.
    pub init: PathBuf,
}

/// Names the environment without its values, which may be secret.
impl std::fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            state,
            cgroup,
            root,
            hostname,
            args,
            env,
            cwd,
            user,
            groups,
            users,
            limits,
            network,
            binds,
            log,
            exit,
            fenced,
            durable_exit,
            init,
        } = self;
        f.debug_struct("ContainerSpec")
            .field("state", state)
            .field("cgroup", cgroup)
            .field("root", root)
            .field("hostname", hostname)
            .field("args", args)
            .field("env", &variable_names(env))
            .field("cwd", cwd)
            .field("user", user)
            .field("groups", groups)
            .field("users", users)
            .field("limits", limits)
            .field("network", network)
            .field("binds", binds)
            .field("log", log)
            .field("exit", exit)
            .field("fenced", fenced)
            .field("durable_exit", durable_exit)
            .field("init", init)
            .finish()
    }
}

/// Returns the names of the variables of an environment.
pub(crate) fn variable_names(env: &[(String, String)]) -> Vec<&str> {
    env.iter().map(|(name, _)| name.as_str()).collect()
}

/// The root file system: an overlay of image layers and a writable folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootFilesystem {
    /// Unpacked layers, from the top down.
    pub layers: Vec<PathBuf>,
    /// Folder for the container's writes.
    pub upper: PathBuf,
    /// The overlay's work folder, on the same file system as `upper`.
    pub work: PathBuf,
    /// Empty folder to mount the overlay on, only in the container's mount namespace.
    pub mountpoint: PathBuf,
}

/// User and group ids, as the image's `/etc/passwd` numbers users and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Resource limits of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLimits {
    /// Bytes of memory, swap included.
    pub memory: u64,
    /// Processor time in thousandths of a processor.
    pub milli_cpu: u32,
    /// Number of processes and threads.
    pub pids: u32,
    /// Bytes of a single file. The caller has the folder and watches the size of all files together.
    #[serde(default)]
    pub disk: Option<u64>,
}

impl ContainerLimits {
    pub(crate) fn of_group(self) -> GroupLimits {
        GroupLimits { memory: self.memory, milli_cpu: self.milli_cpu, pids: self.pids }
    }
}

/// The parts of a container that a [`PreparedSlot`](crate::PreparedSlot) makes ahead.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlotSpec {
    /// Path of the slot's control groups until they get the container's name. The path has the container's parent.
    pub cgroup: String,
    /// The container's network ([`ContainerSpec::network`]).
    pub network: Option<ContainerNetwork>,
    /// Path of the static init on the host.
    pub init: PathBuf,
}

/// A network connection: a veth pair between the container and a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerNetwork {
    /// Name of the machine's bridge.
    pub bridge: String,
    /// Name of the pair's end on the bridge, at most 15 characters.
    pub link: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// The network's prefix length.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
}

impl ContainerNetwork {
    pub(crate) fn inside(&self) -> InsideAddress {
        InsideAddress { address: self.address, prefix: self.prefix, gateway: self.gateway }
    }
}

/// A file or folder of the host, mounted inside the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BindMount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside. The kernel resolves the path within the container's root, so no link leads outside.
    pub target: PathBuf,
    /// True if the container may write there.
    pub writable: bool,
}

/// The log files: two segments that `gantry-init` writes in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogFiles {
    /// Paths of the two segments.
    pub segments: [PathBuf; 2],
    /// Size in bytes at which a segment is full.
    pub limit: u64,
}
