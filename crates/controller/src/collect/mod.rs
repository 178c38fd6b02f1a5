//! What is of no use any more on the server: old releases and deploys, blobs that nothing names, caches, repositories and
//! logs of builds whose app or deploy is gone.

mod blobs;
mod folders;
mod records;

use std::sync::Arc;

use crate::Server;

pub(crate) use folders::forget_app;
pub(crate) use records::pulled_tag;

/// Looks now and then, for ever.
pub(crate) async fn run(server: Arc<Server>) {
    loop {
        tokio::time::sleep(server.settings.collect.every).await;
        round(&server).await;
    }
}

/// One round. What goes wrong with one kind holds none of the others up: where the disk is full no record can be written, and
/// that is when the space is wanted most.
async fn round(server: &Arc<Server>) {
    let wrong = |what: &str, error: &dyn std::fmt::Display| {
        tracing::error!(%error, "{what} cannot be collected; it is tried again");
    };
    let surplus = server.core.mutate(|mirror, _| Ok((records::surplus(mirror), ()))).await;
    surplus.unwrap_or_else(|problem| wrong("records", &problem.message));
    server.uploads.prune();
    match blobs::collect(server).await {
        Ok(0) => {}
        Ok(bytes) => tracing::info!(freed = %gantry_model::Bytes(bytes), "removed blobs that nothing names"),
        Err(error) => wrong("blobs", &error),
    }
    let own = Arc::clone(server);
    tokio::task::spawn_blocking(move || folders::collect(&own)).await.unwrap_or_else(|error| wrong("folders", &error));
    server.core.compact().await.unwrap_or_else(|error| wrong("old revisions", &error));
    for app in server.core.view().mirror.apps.keys() {
        server.repositories.tidy(app).await.unwrap_or_else(|error| wrong("a repository", &error));
    }
}
