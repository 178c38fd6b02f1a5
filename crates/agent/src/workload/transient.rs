//! Workloads outside the plan. A transient workload ends together with its owner; a restarted agent removes the
//! leftovers of its predecessor, and continues jobs.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_model::{AppName, Bytes, Digest};
use gantry_sandbox::{Container, ContainerSpec};
use serde::{Deserialize, Serialize};

use super::{ContainerParts, Workload, WorkloadKind};
use crate::instance::{InstanceError, REMOVAL_RETRY};
use crate::records::{self, ContainerPaths};
use crate::tasks::REMOVAL;
use crate::{AgentContext, AgentSettings};

/// Name of the file with a transient workload's metadata.
const METADATA: &str = "once.json";

/// Metadata of a transient workload, besides its image. The disk accounting, the volumes and a restarted agent read it.
#[derive(Serialize, Deserialize)]
pub(crate) struct TransientMetadata {
    pub(crate) disk: Bytes,
    pub(crate) address: Ipv4Addr,
    /// Folder of its volumes; `None` without volumes, and in metadata of an earlier version.
    #[serde(default)]
    pub(crate) volume_folder: Option<AppName>,
    /// Its volumes.
    #[serde(default)]
    pub(crate) volumes: BTreeSet<String>,
    /// Those of its volumes that no other container may have at the same time.
    #[serde(default)]
    pub(crate) alone: BTreeSet<String>,
}

/// The volumes of a transient workload.
pub(crate) struct VolumeClaim {
    /// Folder of the volumes.
    pub(crate) folder: AppName,
    pub(crate) volumes: BTreeSet<String>,
    /// Those that no other container may have at the same time.
    pub(crate) alone: BTreeSet<String>,
}

/// A workload outside the plan, with its address.
pub(crate) struct TransientWorkload {
    agent: Arc<AgentContext>,
    workload: Workload,
    address: Ipv4Addr,
}

impl TransientWorkload {
    /// Takes an address for a workload. `name` is unique.
    pub(crate) fn begin(agent: &Arc<AgentContext>, kind: WorkloadKind, name: &str) -> Result<Self, InstanceError> {
        let address = agent.addresses.allocate().ok_or(InstanceError::NoAddress)?;
        Ok(Self { agent: Arc::clone(agent), workload: Workload::named(&agent.settings, kind, name), address })
    }

    /// Continues a workload, with the address that the previous agent gave it, or begins it.
    pub(crate) fn resume(agent: &Arc<AgentContext>, kind: WorkloadKind, name: &str) -> Result<Self, InstanceError> {
        let workload = Workload::named(&agent.settings, kind, name);
        match read_metadata(workload.paths()).map(|metadata| metadata.address) {
            Some(address) if agent.addresses.contains(address) => {
                agent.addresses.reserve(address);
                Ok(Self { agent: Arc::clone(agent), workload, address })
            }
            _ => Self::begin(agent, kind, name),
        }
    }

    /// Reserves the address that the previous agent gave to a workload.
    pub(crate) fn reserve_address(agent: &AgentContext, name: &str) {
        let (_, address) = Self::left(agent, name);
        address.into_iter().for_each(|address| agent.addresses.reserve(address));
    }

    /// Adopts what the previous agent left under this name, in order to remove it.
    pub(crate) fn left(agent: &AgentContext, name: &str) -> (Workload, Option<Ipv4Addr>) {
        let workload = Workload::leftover(&agent.settings, name);
        let address = read_metadata(workload.paths()).map(|metadata| metadata.address);
        (workload, address)
    }

    /// Records that the container is one of this app, for the API for applications.
    pub(crate) fn own(&self, app: &AppName) {
        self.agent.addresses.own(self.address, app);
    }

    pub(crate) fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Creates an empty folder for temporary files. The folder goes with the workload.
    pub(crate) fn scratch(&self) -> io::Result<PathBuf> {
        let folder = self.workload.paths().folder.join("scratch");
        std::fs::create_dir_all(&folder).map(|()| folder)
    }

    /// Prepares the container. The metadata comes first: the container has its volumes from then on, also for an agent
    /// that starts later.
    pub(crate) async fn prepare(
        &self,
        image: &Digest,
        disk: Bytes,
        claim: Option<VolumeClaim>,
        parts: impl FnOnce() -> io::Result<ContainerParts> + Send + 'static,
    ) -> Result<ContainerSpec, InstanceError> {
        let (agent, workload, address) = (Arc::clone(&self.agent), self.workload.clone(), self.address);
        let image = image.hex().to_owned();
        let prepare = move || {
            let (volume_folder, volumes, alone) = match claim {
                Some(claim) => (Some(claim.folder), claim.volumes, claim.alone),
                None => Default::default(),
            };
            let metadata = TransientMetadata { disk, address, volume_folder, volumes, alone };
            agent.volumes.claim(&agent.settings, &metadata, workload.paths())?;
            std::fs::write(workload.paths().folder.join("image"), image)
                .and_then(|()| workload.prepare(&agent, parts()?, address))
                .map_err(InstanceError::Prepare)
        };
        tokio::task::spawn_blocking(prepare).await?
    }

    /// Starts the prepared container.
    pub(crate) async fn launch(&self, spec: &ContainerSpec) -> Result<Container, InstanceError> {
        self.workload.launch(spec).await.map_err(InstanceError::Launch)
    }

    /// Removes the workload and releases its address. The wait is limited to [`REMOVAL_RETRY`]; a container that the
    /// kernel does not release keeps its address until the removal succeeds.
    pub(crate) async fn end(self) {
        let Self { agent, workload, address } = self;
        let own = Arc::clone(&agent);
        let removal = agent.tasks.spawn(REMOVAL, async move {
            workload.discard(|_| {}).await;
            own.addresses.release(address);
        });
        let _ = tokio::time::timeout(REMOVAL_RETRY, removal).await;
    }
}

/// Writes the metadata of a transient workload.
pub(crate) fn write_metadata(paths: &ContainerPaths, metadata: &TransientMetadata) -> io::Result<()> {
    std::fs::create_dir_all(&paths.folder)?;
    std::fs::write(paths.folder.join(METADATA), serde_json::to_vec(metadata)?)
}

/// Reads the metadata of a transient workload.
pub(crate) fn read_metadata(paths: &ContainerPaths) -> Option<TransientMetadata> {
    serde_json::from_slice(&std::fs::read(paths.folder.join(METADATA)).ok()?).ok()
}

/// Names and metadata of all transient workloads.
pub(crate) fn all_metadata(settings: &AgentSettings) -> Vec<(String, TransientMetadata)> {
    let named = |name: String| {
        let metadata = read_metadata(Workload::leftover(settings, &name).paths())?;
        Some((name, metadata))
    };
    records::transient_names(settings).into_iter().filter_map(named).collect()
}
