//! The agent: makes this machine match its part of the plan, and checks health.
//!
//! ```text
//! plan (long poll, last one on disk) ─► supervisor ─► one task per instance ─► sandbox
//!                                                        │ status
//! server ◄── report, at each change and every 2 s ◄──────┘
//! ```
//! - [`run`]: sets the machine's network up, finds the containers that run, follows the plan. Begin there.
//! - `supervisor`: which instances there are to be; starts their tasks.
//! - `instance`: one instance, from its image to its removal.
//! - `records`: what is kept on disk of an instance, so that any agent finds it again.
//! - `health`: probes, and what to say when they fail.
//! - `container`: an instance as a container's specification.
//! - `collect`: what is of no use any more.
//! - `images`, `network`, `sessions`: what the tasks need, and what people ask for.
//!
//! Containers do not depend on it: it can stop, be killed, or be replaced; the next one finds them. It chooses nothing
//! that the plan chooses.

mod collect;
mod container;
mod disk;
#[cfg(fuzzing)]
pub mod fuzz;
mod health;
mod images;
mod instance;
mod listening;
mod network;
mod once;
mod records;
mod sessions;
mod status;
mod supervisor;
mod users;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_api::Client;
use gantry_image::Layers;
use gantry_model::MachineName;

pub use network::check as check_network;
pub use network::{HostPorts, Metadata, NetworkTaken, OpeningError, PortProtocol, take_down};

/// The agent's settings, complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This machine.
    pub machine: MachineName,
    /// Where layers, logs, volumes and records are.
    pub data: PathBuf,
    /// What a reboot empties.
    pub run: PathBuf,
    /// The control group that everything of Gantry's is in.
    pub cgroup: String,
    /// The machine's bridge.
    pub bridge: String,
    /// Its address: gateway and name server of every container.
    pub gateway: Ipv4Addr,
    /// The prefix length of its network.
    pub prefix: u8,
    /// Ports of the machine that containers reach: the router's, and what the settings open.
    pub host_ports: Vec<HostPorts>,
    /// Metadata addresses that containers reach.
    pub metadata: Vec<Metadata>,
    /// How long what is of no use is kept, and how often it is looked for.
    pub collect: Collect,
}

#[cfg(test)]
impl Settings {
    /// A cloud that is nowhere.
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
            collect: Collect {
                every: std::time::Duration::from_secs(600),
                grace: std::time::Duration::from_secs(3600),
                reserve: 0,
            },
        }
    }
}

/// The pace of collection.
#[derive(Debug, Clone, Copy)]
pub struct Collect {
    /// Between two rounds.
    pub every: std::time::Duration,
    /// What is younger is not touched: it may be on its way to be of use.
    pub grace: std::time::Duration,
    /// Bytes of the disk that images leave free.
    pub reserve: u64,
}

/// Everything that a task may need.
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    pub(crate) layers: Layers,
    /// Held while a layer is fetched and unpacked.
    pub(crate) unpacking: tokio::sync::Mutex<()>,
    pub(crate) init: PathBuf,
    pub(crate) status: status::Board,
    pub(crate) addresses: network::Addresses,
    pub(crate) users: users::Users,
    pub(crate) disk: disk::Disk,
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A folder or file of the agent's.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The machine's network.
    #[error("the machine's network cannot be set up: {0}")]
    Network(String),
    /// What the settings name is another cloud's.
    #[error(transparent)]
    Taken(#[from] NetworkTaken),
    /// The unpacked layers.
    #[error(transparent)]
    Layers(#[from] gantry_image::LayersError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] gantry_sandbox::SandboxError),
}

/// Runs the agent until `shutdown`. Containers run on.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    settings: Settings,
    client: Client,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    for folder in [&settings.data, &settings.run] {
        std::fs::create_dir_all(folder).map_err(|source| AgentError::File {
            action: "make",
            path: folder.clone(),
            source,
        })?;
    }
    network::set_up(&settings).await?;
    gantry_linux::step!("agent.networked");
    let layers = Layers::in_folder(&settings.data.join("layers"), settings.collect.reserve)?;
    let mapped = gantry_sandbox::probe_users(&settings.data.join("layers")).await;
    if let Err(why) = &mapped {
        tracing::warn!(why, "owners cannot be mapped here: users in containers are the machine's");
    }
    gantry_linux::step!("agent.probed");
    let agent = Arc::new(Agent {
        client,
        layers,
        unpacking: tokio::sync::Mutex::default(),
        init: gantry_sandbox::install_init(&settings.data.join("init"))?,
        status: status::Board::default(),
        addresses: network::Addresses::new(settings.gateway, settings.prefix),
        users: users::Users::load(&settings.data, mapped.is_ok(), &records::apps(&settings)),
        disk: disk::Disk::default(),
        settings,
    });
    tracing::info!(machine = %agent.settings.machine, "the agent runs");
    gantry_linux::step!("agent.loaded");
    agent.layers.sweep();
    gantry_linux::step!("agent.swept");
    let mut supervisor = supervisor::Supervisor::new(Arc::clone(&agent));
    supervisor.adopt().await;
    gantry_linux::step!("agent.adopted");
    tokio::select! {
        () = supervisor.follow() => {}
        () = status::report(&agent) => {}
        () = network::watch(&agent) => {}
        () = sessions::serve(&agent) => {}
        () = collect::run(&agent) => {}
        () = disk::run(Arc::clone(&agent)) => {}
        () = shutdown => {}
    }
    Ok(())
}
