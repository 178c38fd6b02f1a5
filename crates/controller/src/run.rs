//! The server's life: opens the store, takes leadership, serves, and shuts down.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::assembly::assemble;
use crate::{
    ServerError, ServerSettings, builds, collect, connections, core, git_endpoint, http, jobs, leadership, membership,
    rename, tokens, warnings,
};

/// Timeout for the core to end, after a task beside it has ended.
const CORE_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval between checks whether a read-only disk takes writes again.
const WRITABLE_POLL: Duration = Duration::from_secs(2);

/// Runs the server until `shutdown` completes. `listen` opens the API's socket once the server can serve.
///
/// # Errors
/// When the server cannot start, breaks, loses leadership, or has to start anew.
pub async fn run(
    settings: ServerSettings,
    listen: impl FnOnce() -> std::io::Result<std::net::TcpListener>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let store = gantry_store::open(&settings.store).await?;
    let (leadership, writes) = match leadership::acquire(&store, &settings.name).await {
        Ok(leadership) => (leadership, true),
        Err(ServerError::Store(error @ gantry_store::StoreError::ReadOnly { .. })) => {
            tracing::error!("{error}");
            (leadership::Leadership::none(&store, &settings.name), false)
        }
        Err(error) => return Err(error),
    };
    let (core, mut core_task) = core::start(Arc::clone(&store), leadership.clone(), &settings).await?;
    if let Some(warning) = warnings::overruled(&settings.policy, &core.view().records.policy) {
        tracing::warn!("{}", warning.text);
    }
    match tokens::ensure(&core, &settings).await {
        Err(ServerError::Refused(problem)) if !writes => tracing::error!("{problem}"),
        ensured => ensured?,
    }
    let membership = membership::prepare(&core, &settings).await?;
    let server = Arc::new(assemble(settings, core, membership, writes)?);
    let listener = listen()
        .and_then(TcpListener::from_std)
        .map_err(|source| ServerError::Listen { address: server.settings.listen, source })?;
    // These tasks run for as long as the server does, and end with it.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(git_endpoint::listen(&server)?);
    tasks.spawn(builds::run(Arc::clone(&server)));
    tasks.spawn(collect::run(Arc::clone(&server)));
    tasks.spawn(rename::run(Arc::clone(&server)));
    tasks.spawn(jobs::run(Arc::clone(&server)));
    if let Some(listening) = membership::listen(&server).await? {
        tasks.spawn(listening);
        tasks.spawn(membership::renew(Arc::clone(&server)));
    }
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
        error = leadership.renew_until_lost(), if writes => Err(error),
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
