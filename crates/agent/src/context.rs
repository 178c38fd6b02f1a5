//! Services that all tasks of the agent share. Knows every part of the agent, and every part gets this context.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gantry_api::Client;
use gantry_image::Layers;
use gantry_supervision::TaskSet;
use tokio_rustls::rustls::ClientConfig;

use crate::{
    AgentError, AgentSettings, SHARED_LAYERS, builds, disk, exchange, fence, jobs, network, policy, records, status,
    trash, users, volumes, workload,
};

/// Folder of unpacked layers, in the data folder.
pub(crate) const LAYERS: &str = "layers";

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
    /// Opens the folders of the settings. `init` is the path of the static init. `mapped` says whether the machine's file system supports idmapped mounts.
    pub(crate) fn open(
        settings: AgentSettings,
        client: Client,
        tls: Option<Arc<ClientConfig>>,
        init: PathBuf,
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
            init,
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
