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
//! - `context`: the services that all tasks share.
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

mod agent_error;
mod app_api;
mod builds;
mod collect;
mod container;
mod context;
mod control_link;
mod disk;
mod exchange;
mod fence;
mod file_age;
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
mod settings;
mod status;
mod supervisor;
mod tasks;
mod trash;
mod users;
mod volumes;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use gantry_api::Client;
use gantry_error::ErrorChain;
use gantry_trust::Credentials;

pub use agent_error::AgentError;
use context::{AgentContext, LAYERS};
pub use exchange::SHARED_LAYERS;
pub use machine::{keep_machine_id, machine_id};
pub use network::check as check_network;
pub use network::{HostPorts, MetadataAddress, NetworkTaken, NftError, OpeningError, PortProtocol, take_down};
pub use offline_images::OfflineImages;
pub use records::{INSTANCE_FILE, PLAN_FILE};
pub use settings::AgentSettings;
pub use volumes::offline::{StoredVolume, keep_volumes, stored_volumes};

/// Timeout of the agent's tasks at a shutdown. They are dropped where they wait, so this takes milliseconds.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

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
    records::check_versions(&settings)?;
    for folder in [settings.data.join(LAYERS), settings.run.clone()] {
        let made = std::fs::create_dir_all(&folder);
        made.map_err(|source| AgentError::File { action: "make", path: folder, source })?;
    }
    network::set_up(&settings).await?;
    gantry_failpoint::failpoint!("agent.networked");
    let init = gantry_sandbox::install_init(&settings.data.join("init"))?;
    let mapped = gantry_sandbox::probe_users(&settings.data.join(LAYERS), &init).await;
    if let Err(why) = &mapped {
        tracing::warn!(why = %ErrorChain(why), "idmapped mounts unsupported: containers share the host's user ids");
    }
    gantry_failpoint::failpoint!("agent.probed");
    let tls = credentials.map(|credentials| credentials.client_config(&[b"h2"])).transpose()?;
    let agent = Arc::new(AgentContext::open(settings, client, tls, init, mapped.is_ok())?);
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
    let inherited_jobs = jobs::adopt(&agent);
    let mut supervisor = supervisor::InstanceSupervisor::new(Arc::clone(&agent));
    supervisor.adopt().await;
    jobs::resume(&agent, inherited_jobs);
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
