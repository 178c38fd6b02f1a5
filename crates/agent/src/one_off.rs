//! One-off containers, for `gantry run`. The container idles. The command runs in the container as `exec` does, and
//! both end together.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::{AppName, Bytes, InstanceSpec, ReleaseNumber};
use gantry_sandbox::{Container, ExecSpec, launch};
use serde::{Deserialize, Serialize};

use crate::container::{self, ContainerNames};
use crate::instance::{InstanceError, REMOVAL_RETRY};
use crate::records::{self, ContainerPaths};
use crate::tasks::REMOVAL;
use crate::{AgentContext, AgentSettings, images, supervisor, volumes};

/// Name of the file with a one-off's metadata.
const NOTE: &str = "once.json";

/// Metadata of a one-off container, besides its image. The disk accounting, the volumes and a restarted agent read it.
#[derive(Serialize, Deserialize)]
pub(crate) struct OneOffMetadata {
    pub(crate) disk: Bytes,
    pub(crate) address: Ipv4Addr,
    /// Folder of its volumes; `None` in metadata of an earlier version.
    #[serde(default)]
    pub(crate) volume_folder: Option<AppName>,
    /// Its volumes.
    #[serde(default)]
    pub(crate) volumes: BTreeSet<String>,
    /// Those of its volumes that no other container may have at the same time.
    #[serde(default)]
    pub(crate) alone: BTreeSet<String>,
}

/// A running one-off container.
pub(crate) struct OneOff {
    agent: Arc<AgentContext>,
    name: String,
    address: Ipv4Addr,
    volume_folder: AppName,
    volumes: BTreeSet<String>,
    pub(crate) container: Container,
    /// The specification of the command that runs in the container.
    pub(crate) exec: ExecSpec,
}

impl OneOff {
    pub(crate) async fn start(
        agent: &Arc<AgentContext>,
        app: AppName,
        release: ReleaseNumber,
        mut spec: InstanceSpec,
        alone: BTreeSet<String>,
        command: Vec<String>,
        terminal: bool,
    ) -> Result<Self, InstanceError> {
        let name = format!("run-{app}-{:08x}", rand::random::<u32>());
        let paths = ContainerPaths::named(&agent.settings, &name, agent.settings.data.join("containers").join(&name));
        let digest = spec.image.hex().to_owned();
        let _held = agent.layers.hold()?;
        let image = images::fetch(agent, &app, &spec.image).await?;
        let address = agent.addresses.allocate().ok_or(InstanceError::NoAddress)?;
        let volumes: BTreeSet<String> = spec.role.volumes.keys().cloned().collect();
        let disk = spec.role.limits.disk;
        let volume_folder = spec.volume_folder(&app).clone();
        let note = OneOffMetadata {
            disk,
            address,
            volume_folder: Some(volume_folder.clone()),
            volumes: volumes.clone(),
            alone,
        };
        let names =
            ContainerNames { app, short: "run".to_owned(), release: release.to_string(), role: "run".to_owned() };
        spec.role.command = gantry_model::RoleCommand::Argv(Vec::new());
        // The metadata comes first: the container has its volumes from then on, also for an agent that starts later.
        let noted = agent.volumes.claim(&agent.settings, &volume_folder, &note, &paths).and_then(|()| {
            std::fs::write(paths.folder.join("image"), digest)
                .and_then(|()| container::prepare_container(agent, &paths, &names, &spec, &image, address))
                .map_err(InstanceError::Prepare)
        });
        let started = match noted {
            Ok(made) => launch(&made).await.map(|container| (container, made)).map_err(InstanceError::Launch),
            Err(error) => Err(error),
        };
        match started {
            Ok((container, made)) => {
                let exec = ExecSpec {
                    cgroup: made.cgroup,
                    args: command,
                    env: made.env,
                    cwd: made.cwd,
                    user: made.user,
                    groups: made.groups,
                    terminal,
                };
                Ok(Self { agent: Arc::clone(agent), name, address, volume_folder, volumes, container, exec })
            }
            Err(error) => {
                remove_one_off(agent, name, address).await;
                Err(error)
            }
        }
    }

    pub(crate) async fn end(self) {
        for volume in &self.volumes {
            volumes::mark_used(&self.agent.settings, &self.volume_folder, volume);
        }
        remove_one_off(&self.agent, self.name, self.address).await;
    }
}

/// Removes a one-off and releases its address. The wait is limited to [`REMOVAL_RETRY`]; a container that the kernel does not
/// release keeps its address until the removal succeeds.
async fn remove_one_off(agent: &Arc<AgentContext>, name: String, address: Ipv4Addr) {
    let own = Arc::clone(agent);
    let removal = agent.tasks.spawn(REMOVAL, async move {
        supervisor::remove_leftover(&own, &name, |_| {}).await;
        own.addresses.release(address);
    });
    let _ = tokio::time::timeout(REMOVAL_RETRY, removal).await;
}

/// Writes the metadata of a one-off.
pub(crate) fn write_metadata(paths: &ContainerPaths, note: &OneOffMetadata) -> std::io::Result<()> {
    std::fs::create_dir_all(&paths.folder)?;
    std::fs::write(paths.folder.join(NOTE), serde_json::to_vec(note)?)
}

/// Names and metadata of all one-offs.
pub(crate) fn all_metadata(settings: &AgentSettings) -> Vec<(String, OneOffMetadata)> {
    let named = |name: String| {
        let note = read_metadata(&ContainerPaths::named(settings, &name, settings.data.join("logs")))?;
        Some((name, note))
    };
    records::one_off_names(settings).into_iter().filter_map(named).collect()
}

/// Reads the metadata of a one-off.
pub(crate) fn read_metadata(paths: &ContainerPaths) -> Option<OneOffMetadata> {
    serde_json::from_slice(&std::fs::read(paths.folder.join(NOTE)).ok()?).ok()
}
