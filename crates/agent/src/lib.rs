//! The agent: makes this machine match its part of the plan, and checks health.
//!
//! ```text
//! plan (control connection, last one on disk) ─► supervisor ─► one task per instance ─► workload engine ─► sandbox
//!                                                        │ status
//! server ◄── report, at each change and every 2 s ◄──────┘
//! ```
//! - [`run`]: sets up the machine's network, adopts running containers, follows the plan. Begin there.
//! - `control_link`: the connection to the server: plans, sessions, reports.
//! - `supervisor`: follows the plan and runs one task for each instance.
//! - `workload`: the workload engine. One life cycle for services, release steps and one-offs, and a table of kinds.
//! - `instance`: decides when an instance of the plan starts, is ready, and stops.
//! - `records`: the files of an instance, from which a restarted agent recovers.
//! - `health`: probes, and explanations of their failures.
//! - `container`: translates an instance into the contents of a container.
//! - `collect`: garbage collection of images, layers and logs.
//! - `trash`: folders of removed containers, until their files are deleted.
//! - `tasks`: the kinds of tasks, and what a shutdown does to each.
//! - `app_api`: services, keys and locks for the containers of this machine.
//! - `images`, `network`, `disk`, `users`: services that the tasks use. [`OfflineImages`]: images, beside the agent.
//! - `exchange`: layers from and for other machines.
//! - `builds`: builds of images and base images, for the server.
//! - `jobs`: container jobs, for the server's queue.
//! - `one_off`, `sessions`: `gantry run`, `exec` and `logs`. `opens`: the files that a one-off opens.
//! - `volumes`: the volumes of containers, and `gantry volume`.
//!
//! Containers do not depend on the agent. The agent can stop, be killed, or be replaced; the next agent adopts the
//! containers. The plan makes all choices; the agent makes none of them.

mod app_api;
mod builds;
mod collect;
mod container;
mod control_link;
mod disk;
mod exchange;
mod fence;
#[cfg(fuzzing)]
pub mod fuzz;
mod health;
mod images;
mod instance;
mod jobs;
mod listening;
mod machine;
mod network;
mod offline_images;
mod one_off;
mod opens;
mod policy;
mod records;
mod sessions;
mod status;
mod supervisor;
mod tasks;
mod trash;
mod users;
mod volumes;
mod workload;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gantry_api::Client;
use gantry_error::ErrorChain;
use gantry_image::Layers;
use gantry_model::{MachineName, MachineSubnet, TunnelAddress};
use gantry_supervision::TaskSet;
use gantry_trust::{Credentials, TrustError};
use tokio_rustls::rustls::ClientConfig;

pub use exchange::SHARED_LAYERS;
pub use machine::{keep_machine_id, machine_id};
pub use network::check as check_network;
pub use network::{HostPorts, MetadataAddress, NetworkTaken, NftError, OpeningError, PortProtocol, take_down};
pub use offline_images::OfflineImages;
pub use volumes::offline::{StoredVolume, keep_volumes, stored_volumes};

/// Folder of unpacked layers, in the data folder.
const LAYERS: &str = "layers";

/// Timeout of the agent's tasks at a shutdown. They are dropped where they wait, so this takes milliseconds.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The agent's settings, complete.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// The name of this machine.
    pub machine: MachineName,
    /// Folder of layers, logs, volumes and records.
    pub data: PathBuf,
    /// Folder of run-time state, which a reboot empties.
    pub run: PathBuf,
    /// The control group that contains every process of Gantry's.
    pub cgroup: String,
    /// Name of the machine's bridge.
    pub bridge: String,
    /// Address of the bridge: the gateway and name server of every container.
    pub gateway: Ipv4Addr,
    /// The prefix length of the bridge's network.
    pub prefix: u8,
    /// Ports of this machine that containers can reach: the router's, and those that the settings open.
    pub host_ports: Vec<HostPorts>,
    /// Metadata addresses that containers can reach.
    pub metadata: Vec<MetadataAddress>,
    /// Most container jobs at the same time.
    pub jobs: u16,
    /// Where peers reach the tunnel of this machine's router; empty in a cloud of one machine.
    pub addresses: Vec<TunnelAddress>,
    /// The network of this machine's containers, as the cluster assigned it; none in a cloud of one machine.
    pub subnet: Option<MachineSubnet>,
}

#[cfg(test)]
impl AgentSettings {
    /// Settings of a cloud without any files.
    pub(crate) fn for_tests() -> Self {
        Self {
            machine: MachineName::parse("m").expect("a name"),
            data: PathBuf::from("/nowhere/data"),
            run: PathBuf::from("/nowhere/run"),
            cgroup: "gantry".to_owned(),
            bridge: "gantry0".to_owned(),
            gateway: Ipv4Addr::new(10, 83, 0, 1),
            prefix: 16,
            host_ports: Vec::new(),
            metadata: Vec::new(),
            jobs: 2,
            addresses: Vec::new(),
            subnet: None,
        }
    }
}

/// Services that all tasks share.
pub(crate) struct AgentContext {
    pub(crate) settings: AgentSettings,
    pub(crate) client: Client,
    pub(crate) layers: Layers,
    /// Held while a layer is fetched and unpacked.
    pub(crate) unpacking: tokio::sync::Mutex<()>,
    /// Compressed bytes of layers that this agent has unpacked.
    pub(crate) unpacked: Arc<AtomicU64>,
    pub(crate) init: PathBuf,
    pub(crate) status: status::StatusReporter,
    pub(crate) addresses: network::AddressPool,
    pub(crate) users: users::UserRanges,
    pub(crate) disk: disk::DiskOverruns,
    pub(crate) builds: builds::Builds,
    pub(crate) jobs: jobs::Jobs,
    pub(crate) prepared: workload::prepared::PreparedSlots,
    pub(crate) tasks: TaskSet,
    pub(crate) trash: trash::Trash,
    pub(crate) volumes: volumes::Volumes,
    pub(crate) policy: policy::AgentPolicy,
    pub(crate) fence: fence::Fence,
    pub(crate) exchange: exchange::LayerExchange,
}

impl AgentContext {
    /// Opens the folders of the settings. `mapped` says whether the machine's file system supports idmapped mounts.
    fn open(
        settings: AgentSettings,
        client: Client,
        tls: Option<Arc<ClientConfig>>,
        mapped: bool,
    ) -> Result<Self, AgentError> {
        let data = &settings.data;
        let file = |action, name: &str| {
            let path = data.join(name);
            move |source| AgentError::File { action, path, source }
        };
        let policy = policy::AgentPolicy::load(data);
        Ok(Self {
            client,
            layers: Layers::in_folder(&data.join(LAYERS), policy.reserve())?,
            unpacking: tokio::sync::Mutex::default(),
            unpacked: Arc::default(),
            init: gantry_sandbox::install_init(&data.join("init"))?,
            status: status::StatusReporter::default(),
            addresses: network::AddressPool::new(settings.gateway, settings.prefix),
            users: users::UserRanges::load(data, mapped, &records::apps_on_machine(&settings)),
            disk: disk::DiskOverruns::default(),
            builds: builds::Builds::new(policy.now().builds),
            jobs: jobs::Jobs::new(settings.jobs),
            prepared: workload::prepared::PreparedSlots::new(settings.jobs),
            tasks: TaskSet::default(),
            trash: trash::Trash::open(data).map_err(file("make", "trash"))?,
            volumes: volumes::Volumes::default(),
            policy,
            fence: fence::Fence::default(),
            exchange: exchange::LayerExchange::open(data, tls).map_err(file("empty", SHARED_LAYERS))?,
            settings,
        })
    }

    /// Allocates an address for a container. If all are in use, a slot without a job gives up its own.
    pub(crate) fn allocate_address(&self) -> Option<Ipv4Addr> {
        self.addresses.allocate().or_else(|| self.prepared.give_up_address())
    }
}

/// Reason why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A folder or file of the agent's failed.
    #[error("cannot {action} {path}")]
    File {
        /// The attempted action.
        action: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The machine's network could not be set up or removed.
    #[error("cannot change the machine's network")]
    Network(#[from] gantry_linux::LinuxError),
    /// The firewall rules could not be changed.
    #[error("cannot change the machine's network")]
    Rules(#[from] NftError),
    /// Another cloud owns a resource that the settings name.
    #[error(transparent)]
    Taken(#[from] NetworkTaken),
    /// The store of unpacked layers failed.
    #[error(transparent)]
    Layers(#[from] gantry_image::LayersError),
    /// The machine's certificate cannot be used.
    #[error("cannot use this machine's certificate for connections to other machines")]
    Trust(#[from] TrustError),
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] gantry_sandbox::SandboxError),
}

/// Runs the agent until `shutdown`. Containers keep running afterwards. With `credentials`, the agent fetches layers from
/// other machines of the cluster, too.
///
/// # Errors
/// When the agent cannot start.
pub async fn run(
    settings: AgentSettings,
    credentials: Option<Credentials>,
    client: Client,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    for folder in [settings.data.join(LAYERS), settings.run.clone()] {
        let made = std::fs::create_dir_all(&folder);
        made.map_err(|source| AgentError::File { action: "make", path: folder, source })?;
    }
    network::set_up(&settings).await?;
    gantry_failpoint::failpoint!("agent.networked");
    let mapped = gantry_sandbox::probe_users(&settings.data.join(LAYERS)).await;
    if let Err(why) = &mapped {
        tracing::warn!(why = %ErrorChain(why), "idmapped mounts unsupported: containers share the host's user ids");
    }
    gantry_failpoint::failpoint!("agent.probed");
    let tls = credentials.map(|credentials| credentials.client_config(&[b"h2"])).transpose()?;
    let agent = Arc::new(AgentContext::open(settings, client, tls, mapped.is_ok())?);
    tracing::info!(machine = %agent.settings.machine, "agent started");
    gantry_failpoint::failpoint!("agent.loaded");
    // Builds of servers before builds ran as workloads of the agent.
    for error in gantry_sandbox::kill_all(&format!("{}/build", agent.settings.cgroup)).await {
        tracing::error!(error = %ErrorChain(&error), "cannot end a build of an earlier version");
    }
    agent.layers.sweep();
    volumes::sweep(&agent.settings);
    builds::sweep_caches(&agent.settings.data);
    workload::prepared::sweep(&agent.settings).await;
    gantry_failpoint::failpoint!("agent.swept");
    let left_jobs = jobs::adopt(&agent);
    let mut supervisor = supervisor::InstanceSupervisor::new(Arc::clone(&agent));
    supervisor.adopt().await;
    jobs::go_on(&agent, left_jobs);
    gantry_failpoint::failpoint!("agent.adopted");
    let (known, (plans, arrived)) = (supervisor.plan().cloned(), tokio::sync::watch::channel(None));
    tokio::select! {
        () = control_link::follow(&agent, known, &plans) => {}
        () = supervisor.follow(arrived) => {}
        () = network::monitor(&agent) => {}
        () = app_api::run(&agent) => {}
        () = collect::run(&agent) => {}
        () = exchange::run(&agent) => {}
        () = disk::run(Arc::clone(&agent)) => {}
        () = trash::run(&agent) => {}
        () = workload::prepared::run(&agent) => {}
        () = shutdown => {}
    }
    let left = agent.tasks.shut_down(SHUTDOWN_TIMEOUT).await;
    if left > 0 {
        tracing::warn!(left, "tasks of the agent are still running at the end of the shutdown");
    }
    // The seeds end by themselves, too. Their control groups would stay until the next start.
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, workload::prepared::close(&agent)).await;
    Ok(())
}
