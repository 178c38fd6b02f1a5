//! Workloads outside the plan. A transient workload ends together with its owner; a restarted agent removes the
//! leftovers of its predecessor, and continues jobs.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_error::ErrorChain;
use gantry_model::{AppName, Bytes, Digest};
use gantry_sandbox::{Container, ContainerSpec};
use serde::{Deserialize, Serialize};

use super::prepared::JobSlot;
use super::{ContainerParts, Workload, WorkloadKind};
use crate::instance::InstanceError;
use crate::records::{self, ContainerPaths};
use crate::tasks::REMOVAL;
use crate::trash::REMOVAL_RETRY;
use crate::{AgentContext, AgentSettings};

/// Name of the file with a transient workload's metadata.
const METADATA: &str = "once.json";

/// Metadata of a transient workload, besides its image. The disk accounting, the volumes and a restarted agent read it.
#[derive(Serialize, Deserialize)]
pub(crate) struct TransientMetadata {
    pub(crate) disk: Bytes,
    pub(crate) address: Ipv4Addr,
    /// Folder of the workload's volumes; `None` without volumes, and in metadata of an earlier version.
    #[serde(default)]
    pub(crate) volume_folder: Option<AppName>,
    /// The workload's volumes.
    #[serde(default)]
    pub(crate) volumes: BTreeSet<String>,
    /// The volumes that no other container may have at the same time.
    #[serde(default)]
    pub(crate) alone: BTreeSet<String>,
}

/// The volumes of a transient workload.
pub(crate) struct VolumeClaim {
    /// Folder of the volumes.
    pub(crate) folder: AppName,
    pub(crate) volumes: BTreeSet<String>,
    /// The volumes that no other container may have at the same time.
    pub(crate) alone: BTreeSet<String>,
}

/// A workload outside the plan, with its address.
pub(crate) struct TransientWorkload {
    agent: Arc<AgentContext>,
    workload: Workload,
    address: Ipv4Addr,
    /// The slot to start in; its address is the workload's.
    slot: Option<JobSlot>,
}

impl TransientWorkload {
    /// Takes an address for a workload. `name` is unique.
    pub(crate) fn begin(agent: &Arc<AgentContext>, kind: WorkloadKind, name: &str) -> Result<Self, InstanceError> {
        let address = agent.allocate_address().ok_or(InstanceError::NoAddress)?;
        let workload = Workload::named(&agent.settings, kind, name);
        Ok(Self { agent: Arc::clone(agent), workload, address, slot: None })
    }

    /// Continues a job, with the address that the previous agent gave it, or begins it. A new job that has a network starts
    /// in a prepared slot, if one is ready.
    pub(crate) fn resume_job(agent: &Arc<AgentContext>, name: &str, network: bool) -> Result<Self, InstanceError> {
        let workload = Workload::named(&agent.settings, WorkloadKind::Job, name);
        if let Some(metadata) = read_metadata(workload.paths())
            && agent.addresses.contains(metadata.address)
        {
            agent.addresses.reserve(metadata.address);
            return Ok(Self { agent: Arc::clone(agent), workload, address: metadata.address, slot: None });
        }
        let slot = network.then(|| agent.prepared.take(&agent.addresses)).flatten();
        match slot {
            Some(slot) => Ok(Self { agent: Arc::clone(agent), workload, address: slot.address(), slot: Some(slot) }),
            None => Self::begin(agent, WorkloadKind::Job, name),
        }
    }

    /// Reserves the address that the previous agent gave to a workload.
    pub(crate) fn reserve_address(agent: &AgentContext, name: &str) {
        let (_, address) = Self::leftover(agent, name);
        address.into_iter().for_each(|address| agent.addresses.reserve(address));
    }

    /// Adopts what the previous agent left under this name, in order to remove it.
    pub(crate) fn leftover(agent: &AgentContext, name: &str) -> (Workload, Option<Ipv4Addr>) {
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

    /// Starts the prepared container in the workload's slot. Without a slot, and if the slot fails, this is
    /// [`TransientWorkload::launch`].
    pub(crate) async fn launch_in_slot(&mut self, spec: &ContainerSpec) -> Result<Container, InstanceError> {
        let Some(slot) = self.slot.take() else { return self.launch(spec).await };
        let failure = match slot.launch(spec).await {
            Ok(container) => {
                self.agent.prepared.succeed();
                return Ok(container);
            }
            Err(error) => ErrorChain(&error).to_string(),
        };
        tracing::warn!(name = self.workload.name, failure, "cannot start a job in its slot; starting it without");
        // The seed may have released the container before it ended. No container starts twice.
        if let Some(container) = self.workload.container().filter(Container::was_released) {
            return Ok(container);
        }
        self.workload.clear().await.map_err(InstanceError::Previous)?;
        let container = self.launch(spec).await?;
        // A container that starts neither way is no failure of the slot.
        self.agent.prepared.fail(&self.agent.addresses);
        Ok(container)
    }

    /// Removes the workload and releases its address. The wait is limited to [`REMOVAL_RETRY`]; a container that the
    /// kernel does not release keeps its address until the removal succeeds.
    pub(crate) async fn end(self) {
        let Self { agent, workload, address, slot } = self;
        drop(slot);
        let own = Arc::clone(&agent);
        let removal = agent.tasks.spawn(REMOVAL, async move {
            workload.discard(&own, |_| {}).await;
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
