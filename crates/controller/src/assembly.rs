//! The server's parts, and their assembly from the settings.

use gantry_blobs::BlobStore;
use gantry_build::Builder;
use gantry_git::Repositories;

use crate::core::CoreHandle;
use crate::session_broker::SessionBroker;
use crate::{ServerError, ServerSettings, builds, gc_pins, git_endpoint, http, repositories};

/// State and services that request handlers share.
pub(crate) struct Server {
    pub(crate) settings: ServerSettings,
    pub(crate) core: CoreHandle,
    pub(crate) blobs: BlobStore,
    pub(crate) builder: Builder,
    /// True if the file system of the layers can map owners.
    pub(crate) maps_users: bool,
    /// True if the store takes writes.
    pub(crate) writes: bool,
    pub(crate) repositories: Repositories,
    pub(crate) pushes: git_endpoint::OpenPushes,
    pub(crate) repairs: repositories::Notes,
    pub(crate) sessions: SessionBroker,
    pub(crate) builds: builds::RunningBuilds,
    pub(crate) gc_pins: gc_pins::GcPins,
    pub(crate) uploads: http::uploads::Uploads,
    /// Random id of this registry, sent in each response. A pull that receives this id is asking its own server.
    pub(crate) registry_id: String,
}

/// Opens blobs, layers, builder and repositories in the data folder.
pub(crate) fn assemble(settings: ServerSettings, core: CoreHandle) -> Result<Server, ServerError> {
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
    folder("builds")?;
    let blobs = BlobStore::in_folder(&settings.data.join("blobs"))?;
    blobs.sweep();
    let layers = gantry_image::Layers::in_folder(&settings.data.join("layers"), settings.collect.reserve)?;
    layers.sweep();
    let init = gantry_sandbox::install_init(&settings.data.join("init"))?;
    let folders = gantry_build::Folders {
        resolv: builds::resolv_file(&settings)?,
        scratch,
        caches: folder("caches")?,
        times: folder("times")?,
        init,
        cgroup: format!("{}/build", settings.cgroup),
    };
    let turns = gantry_build::Turns::default();
    let builder = Builder { blobs: blobs.clone(), layers, folders, compile: settings.compile, turns };
    let socket = settings.run.join("git.sock");
    let repositories = Repositories::in_folder(&folder("git")?, &settings.program, &socket)?;
    Ok(Server {
        settings,
        core,
        blobs,
        builder,
        maps_users: false,
        writes: true,
        repositories,
        pushes: git_endpoint::OpenPushes::default(),
        repairs: repositories::Notes::default(),
        sessions: SessionBroker::default(),
        builds: builds::RunningBuilds::default(),
        gc_pins: gc_pins::GcPins::default(),
        uploads: http::uploads::Uploads::default(),
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
