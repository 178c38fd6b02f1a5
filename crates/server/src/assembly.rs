//! The server's parts, and their assembly from the settings.

use gantry_blobs::BlobStore;
use gantry_git::Repositories;
use gantry_supervision::TaskSet;

use crate::clock_offsets::ClockOffsets;
use crate::control_links::ControlLinks;
use crate::coordination::Coordination;
use crate::core::CoreHandle;
use crate::image_requests::ImageRequests;
use crate::images::ImageReader;
use crate::jobs::JobService;
use crate::layer_sources::LayerSources;
use crate::membership::Membership;
use crate::servers::OtherServers;
use crate::session_broker::SessionBroker;
use crate::warnings::StoreFaults;
use crate::{ServerError, ServerSettings, builds, gc_pins, git_endpoint, http, repositories};

/// State and services that request handlers share.
pub(crate) struct Server {
    pub(crate) settings: ServerSettings,
    pub(crate) core: CoreHandle,
    pub(crate) blobs: BlobStore,
    pub(crate) images: ImageReader,
    /// The other servers; none with a store in a file.
    pub(crate) servers: Option<OtherServers>,
    /// True if the store takes writes.
    pub(crate) writes: bool,
    pub(crate) repositories: Repositories,
    pub(crate) pushes: git_endpoint::OpenPushes,
    pub(crate) store_faults: StoreFaults,
    pub(crate) repairs: repositories::RepairNotes,
    pub(crate) restored: repositories::RestoredRepositories,
    pub(crate) sessions: SessionBroker,
    pub(crate) links: ControlLinks,
    pub(crate) clock_offsets: ClockOffsets,
    pub(crate) layer_sources: LayerSources,
    pub(crate) jobs: JobService,
    pub(crate) coordination: Coordination,
    pub(crate) builds: builds::RunningBuilds,
    pub(crate) image_requests: ImageRequests,
    /// The tasks that serve one client or one object.
    pub(crate) tasks: TaskSet,
    pub(crate) gc_pins: gc_pins::GcPins,
    pub(crate) uploads: http::uploads::Uploads,
    /// The server's means to admit machines; none in a cloud of one machine.
    pub(crate) membership: Option<Membership>,
    /// Random id of this registry, sent in each response. A pull that receives this id is asking its own server.
    pub(crate) registry_id: String,
}

/// Opens repositories and the queue.
pub(crate) fn assemble(
    settings: ServerSettings,
    core: CoreHandle,
    blobs: BlobStore,
    membership: Option<Membership>,
    servers: Option<OtherServers>,
    coordination: Coordination,
    writes: bool,
) -> Result<Server, ServerError> {
    let folder = |name: &str| {
        let path = settings.data.join(name);
        std::fs::create_dir_all(&path).map(|()| path.clone()).map_err(|source| ServerError::File {
            action: "make",
            path,
            source,
        })
    };
    let scratch = folder("scratch")?;
    // Unfinished files of an earlier process are useless to this process.
    sweep(&scratch);
    let logs = folder("builds")?;
    if servers.is_some() {
        // Another server has led meanwhile. The logs of ended builds are in the blobs.
        sweep(&logs);
    }
    let cluster = core.view().records.cluster;
    let jobs = if writes { JobService::open(&settings, cluster)? } else { JobService::closed() };
    let images = ImageReader::new(blobs.clone(), scratch);
    let socket = settings.run.join("git.sock");
    let repositories = Repositories::in_folder(&folder("git")?, &settings.program, &socket)?;
    Ok(Server {
        settings,
        core,
        blobs,
        images,
        servers,
        writes,
        repositories,
        pushes: git_endpoint::OpenPushes::default(),
        store_faults: StoreFaults::default(),
        repairs: repositories::RepairNotes::default(),
        restored: repositories::RestoredRepositories::default(),
        sessions: SessionBroker::default(),
        links: ControlLinks::default(),
        clock_offsets: ClockOffsets::default(),
        layer_sources: LayerSources::default(),
        jobs,
        coordination,
        builds: builds::RunningBuilds::default(),
        image_requests: ImageRequests::default(),
        tasks: TaskSet::default(),
        gc_pins: gc_pins::GcPins::default(),
        uploads: http::uploads::Uploads::default(),
        membership,
        registry_id: format!("{:032x}", rand::random::<u128>()),
    })
}

/// Removes everything in a folder.
fn sweep(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Err(error) = gantry_linux::tree::remove(&entry.path()) {
            tracing::warn!(error = crate::causes(&error), "cannot remove a leftover file");
        }
    }
}
