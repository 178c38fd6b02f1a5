//! The server: serves the API, the git endpoint and the registry; runs the planner and the executors.
//!
//! ```text
//! API ─► mutation (pure) ─┐                         ┌─► agents, routers (long polls)
//! reports ────────────────┼─► core: one task, one ──┼─► builds: make the image of a deploy that is building
//! clock ──────────────────┘   owner of all records  └─► followers: lines for push and `deploy`
//!                              │ plans until nothing changes; each round is one guarded write
//!                              ▼
//!                             store
//! ```
//! - [`run`]: opens the store, takes leadership, serves until told to shut down. Begin there.
//! - `core`: owns the records and is their only writer; all other modules read its [`core::ClusterView`].
//! - `records`: the store's records in memory.
//! - `repositories`: the apps' git repositories, and the repair of damaged ones.
//! - `builds`, `git_endpoint`, `follow`, `session_broker`: tasks and conversations beside the core.
//! - `collect`: garbage collection. `gc_pins`: pins, which protect unfinished data from it.
//! - `why`: derives one causal answer from a view; pure.
//! - `http`: HTTP routes to all of these.

mod builds;
mod clock;
mod collect;
mod connections;
mod core;
mod disk_reserve;
mod follow;
#[cfg(fuzzing)]
pub mod fuzz;
mod gc_pins;
mod git_endpoint;
mod http;
mod leadership;
mod mutations;
mod records;
mod rename;
mod repositories;
mod session_broker;
mod settings;
mod tokens;
mod warnings;
mod why;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gantry_blobs::BlobStore;
use gantry_build::Builder;
use gantry_git::Repositories;
use tokio::net::TcpListener;

pub use core::ClusterView;
pub use follow::FollowLimit;
pub use gantry_build::CompileLimits;
pub use settings::{BuildNetwork, GcSettings, ServerSettings};

/// Timeout for the core to end, after a task beside it has ended.
const CORE_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval between checks whether a read-only disk takes writes again.
const WRITABLE_POLL: Duration = Duration::from_secs(2);

/// State and services that request handlers share.
pub(crate) struct Server {
    pub(crate) settings: ServerSettings,
    pub(crate) core: core::CoreHandle,
    pub(crate) blobs: BlobStore,
    pub(crate) builder: Builder,
    /// Whether the file system of the layers can map owners.
    pub(crate) maps_users: bool,
    /// Whether the store takes writes.
    pub(crate) writes: bool,
    pub(crate) repositories: Repositories,
    pub(crate) pushes: git_endpoint::OpenPushes,
    pub(crate) repairs: repositories::Notes,
    pub(crate) sessions: session_broker::SessionBroker,
    pub(crate) builds: builds::RunningBuilds,
    pub(crate) gc_pins: gc_pins::GcPins,
    pub(crate) uploads: http::uploads::Uploads,
    /// Random id of this registry, sent in each response. A pull that receives this id is asking its own server.
    pub(crate) registry_id: String,
}

/// Cause of a failed start, or of the server's end.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An operation of the store failed.
    #[error(transparent)]
    Store(#[from] gantry_store::StoreError),
    /// An operation on blobs failed.
    #[error(transparent)]
    BlobStore(#[from] gantry_blobs::BlobError),
    /// An operation on the unpacked layers failed.
    #[error(transparent)]
    Layers(#[from] gantry_image::LayersError),
    /// An operation of the sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] gantry_sandbox::SandboxError),
    /// An operation on a git repository failed.
    #[error(transparent)]
    Git(#[from] gantry_git::GitError),
    /// A record in the store cannot be read.
    #[error("cannot read store record {key}: {why}; another version wrote the record, or it was changed by hand")]
    Record {
        /// Key of the record.
        key: String,
        /// Cause of the failure.
        why: String,
    },
    /// The listen address is taken, or belongs to another machine.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Cause from the operating system.
        source: std::io::Error,
    },
    /// A folder or file of the server cannot be used.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// Operation that failed.
        action: &'static str,
        /// Path of the folder or file.
        path: std::path::PathBuf,
        /// Cause from the operating system.
        source: std::io::Error,
    },
    /// An internal fault of Gantry.
    #[error("a task of the server failed: {0}; this is a fault of Gantry")]
    Broken(String),
    /// A required change was refused.
    #[error("{0}")]
    Refused(gantry_api::Problem),
    /// The data folder belongs to another machine.
    #[error("the data folder belongs to machine {0}; start with --machine {0}")]
    OtherMachine(String),
    /// The leadership lease ran out while the server was suspended. No other server took over, and this server leads
    /// again.
    #[error("the server was suspended and lost its leadership lease, and nothing was changed; try again")]
    Interrupted,
    /// The server could only serve reads, and can write from now on: it must start anew.
    #[error("the disk of the store takes writes again; restarting the server")]
    Writable,
    /// Another server leads, or took over leadership.
    #[error("another server leads: {0}")]
    NotLeading(String),
}

/// Runs the server until `shutdown` completes.
///
/// # Errors
/// When the server cannot start, breaks, loses leadership, or has to start anew.
pub async fn run(settings: ServerSettings, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
    let store = gantry_store::open(&settings.store).await?;
    let (leadership, writes) = match leadership::take(&store, &settings.name).await {
        Ok(leadership) => (leadership, true),
        Err(ServerError::Store(error @ gantry_store::StoreError::ReadOnly { .. })) => {
            tracing::error!("{error}");
            (leadership::Leadership::none(&store, &settings.name), false)
        }
        Err(error) => return Err(error),
    };
    let (core, mut core_task) = core::start(Arc::clone(&store), leadership.clone(), &settings).await?;
    match tokens::ensure(&core, &settings).await {
        Err(ServerError::Refused(problem)) if !writes => tracing::error!("{problem}"),
        ensured => ensured?,
    }
    // Ends the builds that a killed server left behind; no task waits for their results.
    for error in gantry_sandbox::kill_all(&format!("{}/build", settings.cgroup)).await {
        tracing::error!(%error, "cannot end a build of an earlier server");
    }
    let mut server = assemble(settings, core)?;
    server.writes = writes;
    server.maps_users = gantry_sandbox::probe_users(&server.settings.data.join("layers")).await.is_ok();
    let server = Arc::new(server);
    let listener = TcpListener::bind(server.settings.listen)
        .await
        .map_err(|source| ServerError::Listen { address: server.settings.listen, source })?;
    // These tasks run for as long as the server does, and end with it.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(git_endpoint::listen(&server)?);
    tasks.spawn(builds::run(Arc::clone(&server)));
    tasks.spawn(collect::run(Arc::clone(&server)));
    tasks.spawn(rename::run(Arc::clone(&server)));
    tracing::info!(address = %server.settings.listen, store = ?server.settings.store, "serving");
    let serving = connections::serve(&listener, http::router(Arc::clone(&server)));
    let ended = tokio::select! {
        never = serving => match never {},
        result = &mut core_task => Err(core_ended(result)),
        Some(ended) = tasks.join_next() => Err(match ended {
            Err(join) => ServerError::Broken(join.to_string()),
            // These tasks also end when the core ends. The core knows the cause.
            Ok(()) => match tokio::time::timeout(CORE_END_TIMEOUT, &mut core_task).await {
                Ok(result) => core_ended(result),
                Err(_) => ServerError::Broken("a task ended without an error".to_owned()),
            },
        }),
        error = leadership.keep(), if writes => Err(error),
        () = writable(&server.settings.store), if !writes => Err(ServerError::Writable),
        () = shutdown => Ok(()),
    };
    tasks.shutdown().await;
    leadership.resign().await;
    ended
}

fn core_ended(result: Result<ServerError, tokio::task::JoinError>) -> ServerError {
    result.unwrap_or_else(|join| ServerError::Broken(join.to_string()))
}

/// Returns once the store's disk takes writes.
async fn writable(store: &gantry_store::StoreAddress) {
    loop {
        tokio::time::sleep(WRITABLE_POLL).await;
        let store = store.clone();
        let probe = move || match store {
            gantry_store::StoreAddress::File(path) => gantry_store::is_writable(&path),
            gantry_store::StoreAddress::Etcd { .. } => true,
        };
        if tokio::task::spawn_blocking(probe).await.unwrap_or_default() {
            return;
        }
    }
}

/// Opens blobs, layers, builder and repositories in the data folder.
fn assemble(settings: ServerSettings, core: core::CoreHandle) -> Result<Server, ServerError> {
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
        sessions: session_broker::SessionBroker::default(),
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
            tracing::warn!(%error, "cannot remove a leftover file");
        }
    }
}

/// Renders an error with all its causes, because the last cause often names the actual reason.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
