//! The server's life cycle: opens the store, takes leadership, serves, and shuts down.
//!
//! With a store in a file the server is the only one, and leads for as long as it lives. With etcd it is one of several
//! (`servers`), and leads from time to time. Either way [`serve_term`] is one term of leadership.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use gantry_blobs::BlobStore;
use gantry_store::{Store, StoreAddress};
use gantry_supervision::{Backoff, ReconcileLoop};
use tokio::net::TcpListener;
use tokio::task::JoinError;

use crate::assembly::assemble;
use crate::coordination::Coordination;
use crate::leadership::{self, Candidate, Leadership};
use crate::servers::OtherServers;
use crate::{
    Server, ServerError, ServerSettings, builds, collect, connections, coordination, core, deliveries, git_endpoint,
    http, jobs, membership, rename, scheduler, servers, tokens, warnings,
};

/// Timeout for the core to end, after a task beside it has ended.
const CORE_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Timeout of the tasks that serve clients, at the end of a term. They are dropped where they wait.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval between checks whether a read-only disk takes writes again.
const WRITABLE_POLL: Duration = Duration::from_secs(2);

/// Runs the server until `shutdown` completes. `listen` opens the API's socket once the server can serve.
///
/// # Errors
/// When the server cannot start, breaks, or has to start again. With a store in a file also when it loses leadership.
pub async fn run(
    settings: ServerSettings,
    listen: impl FnOnce() -> std::io::Result<std::net::TcpListener>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let store = gantry_store::open(&settings.store).await?;
    let blobs = open_blobs(&settings)?;
    match settings.store {
        StoreAddress::File(_) => run_alone(store, settings, blobs, listen, shutdown).await,
        StoreAddress::Etcd { .. } => servers::run(store, settings, blobs, listen, shutdown).await,
    }
}

/// Opens the blobs, and removes what an earlier process did not finish.
fn open_blobs(settings: &ServerSettings) -> Result<BlobStore, ServerError> {
    let blobs = BlobStore::in_folder(&settings.data.join("blobs"))?;
    blobs.sweep();
    Ok(blobs)
}

/// Runs the only server of a cluster: it leads for as long as it lives.
async fn run_alone(
    store: Arc<dyn Store>,
    settings: ServerSettings,
    blobs: BlobStore,
    listen: impl FnOnce() -> std::io::Result<std::net::TcpListener>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let candidate = Candidate::of(&settings);
    let (leadership, writes) = match leadership::acquire(&store, &candidate).await {
        Ok(leadership) => (leadership, true),
        Err(ServerError::Store(error @ gantry_store::StoreError::ReadOnly { .. })) => {
            tracing::error!("{error}");
            (Leadership::none(&store, &candidate), false)
        }
        Err(error) => return Err(error),
    };
    let serve = |server: &Arc<Server>| {
        let address = server.settings.listen;
        let listener =
            listen().and_then(TcpListener::from_std).map_err(|source| ServerError::Listen { address, source })?;
        let router = http::router(Arc::clone(server));
        Ok(async move { connections::serve(&listener, router).await })
    };
    serve_term(Term { store, leadership, writes, settings, blobs, servers: None }, serve, shutdown).await
}

/// State at the beginning of a term of leadership.
pub(crate) struct Term {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) leadership: Leadership,
    /// True if the store takes writes.
    pub(crate) writes: bool,
    pub(crate) settings: ServerSettings,
    pub(crate) blobs: BlobStore,
    /// The other servers; none with a store in a file.
    pub(crate) servers: Option<OtherServers>,
}

/// Leads until leadership is lost or `shutdown` completes. `serve` begins to serve requests once the server can.
pub(crate) async fn serve_term<S: Future<Output = Infallible>>(
    term: Term,
    serve: impl FnOnce(&Arc<Server>) -> Result<S, ServerError>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let Term { store, leadership, writes, settings, blobs, servers } = term;
    let (core, mut core_task) = core::start(Arc::clone(&store), leadership.clone(), &settings).await?;
    if let Some(warning) = warnings::overruled(&settings.policy, &core.view().records.policy, settings.leads_alone()) {
        tracing::warn!("{}", warning.text);
    }
    match tokens::admit(&core, tokens::first_tokens(&settings)?, servers.is_some()).await {
        Err(ServerError::Refused(problem)) if !writes => tracing::error!("{problem}"),
        admitted => admitted.and_then(|()| tokens::adopt_new_secrets(&settings))?,
    }
    let membership = membership::prepare(&core, &settings).await?;
    let (coordination, keyspaces) = match writes {
        true => {
            let (coordination, task) = Coordination::start(store, leadership.clone());
            (coordination, Some(task))
        }
        false => (Coordination::closed(), None),
    };
    let server = Arc::new(assemble(settings, core, blobs, membership, servers, coordination, writes)?);
    let tasks_of_clients = server.tasks.clone();
    let serving = serve(&server)?;
    // These tasks run for as long as the term does, and end with it.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(git_endpoint::listen(&server)?);
    tasks.spawn(builds::run(Arc::clone(&server)));
    tasks.spawn(collect::run(Arc::clone(&server)));
    tasks.spawn(rename::run(Arc::clone(&server)));
    tasks.spawn(jobs::run(Arc::clone(&server)));
    tasks.spawn(scheduler::run(Arc::clone(&server)));
    tasks.spawn(deliveries::run(Arc::clone(&server)));
    tasks.spawn(coordination::run(Arc::clone(&server)));
    keyspaces.map(|task| tasks.spawn(task));
    if let Some(serving) = membership::serve(&server).await? {
        tasks.spawn(serving);
    }
    tasks.spawn(servers::repair_copies(Arc::clone(&server)));
    tasks.spawn(servers::forget_removed_servers(Arc::clone(&server)));
    tasks.spawn(warnings::watch_store(Arc::clone(&server)));
    tracing::info!(address = %server.settings.listen, store = ?server.settings.store, "serving");
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
        error = leadership.renew_until_lost(), if writes => Err(error),
        () = writable(&server.settings.store), if !writes => Err(ServerError::Writable),
        () = shutdown => Ok(()),
    };
    tasks.shutdown().await;
    let left = tasks_of_clients.shut_down(SHUTDOWN_TIMEOUT).await;
    if left > 0 {
        tracing::warn!(left, "tasks of the server are still running at the end of the term");
    }
    // A server that lost leadership, or its store, has nothing to give up.
    if !matches!(ended, Err(ServerError::NotLeading(_) | ServerError::Store(_))) {
        leadership.resign().await;
    }
    ended
}

fn core_ended(result: Result<ServerError, JoinError>) -> ServerError {
    result.unwrap_or_else(|join| ServerError::Broken(join.to_string()))
}

/// Returns once the store's disk takes writes.
async fn writable(store: &gantry_store::StoreAddress) {
    let store = store.clone();
    let pass = move || {
        let store = store.clone();
        let is_writable = move || match store {
            gantry_store::StoreAddress::File(path) => gantry_store::is_writable(&path),
            gantry_store::StoreAddress::Etcd { .. } => true,
        };
        async move {
            let is_writable = tokio::task::spawn_blocking(is_writable).await?;
            Ok::<_, JoinError>(if is_writable { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        }
    };
    let probes = ReconcileLoop::new("probe of the store's disk", WRITABLE_POLL, Backoff::constant(WRITABLE_POLL));
    probes.delayed().run(pass).await;
}
