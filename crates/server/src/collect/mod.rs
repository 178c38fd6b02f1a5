//! Garbage collection on the server. Removes old releases and deploys, and blobs that no record or image names. Also
//! removes caches, repositories and build logs whose app or deploy is gone.

mod blobs;
mod destroyed_apps;
mod folders;
mod job_pins;
mod releases;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use gantry_model::AppName;
use gantry_supervision::{Backoff, ReconcileLoop};
use tokio::time::Instant;

use crate::Server;
use job_pins::JobPins;

pub(crate) use blobs::UsedBlobs;
pub(crate) use folders::{forget_app, rename_app};
pub(crate) use releases::pulled_tag;

/// Runs garbage collection periodically, for ever.
pub(crate) async fn run(server: Arc<Server>) {
    let pass = move || {
        let server = Arc::clone(&server);
        async move {
            interval(&server).await;
            round(&server).await;
            Ok::<(), Infallible>(())
        }
    };
    ReconcileLoop::new("garbage collection", Duration::ZERO, Backoff::constant(Duration::ZERO)).run(pass).await;
}

/// Waits for one interval, whose length may change meanwhile.
async fn interval(server: &Server) {
    let (began, mut changes) = (Instant::now(), server.core.watch_policy());
    loop {
        changes.borrow_and_update();
        let every = Duration::from_millis(server.core.view().records.policy.collect_every().millis());
        tokio::select! {
            () = tokio::time::sleep_until(began + every) => return,
            Ok(()) = changes.changed() => {}
        }
    }
}

/// Runs one round. An error with one kind of garbage does not stop the others: a full disk refuses new records
/// exactly when freed space is needed most.
async fn round(server: &Arc<Server>) {
    let wrong = |what: &str, error: &dyn std::fmt::Display| {
        tracing::error!(%error, "cannot garbage-collect {what}; the next round tries again");
    };
    let pins = JobPins::read(server).await;
    if let Some(JobPins { releases, .. }) = &pins {
        let pinned = releases.clone();
        let surplus = server
            .core
            .mutate(move |records, now| {
                let expired = destroyed_apps::expired(records, now);
                Ok((releases::surplus(records, &pinned).into_iter().chain(expired).collect(), ()))
            })
            .await;
        surplus.unwrap_or_else(|error| wrong("records", &error));
    }
    server.uploads.prune();
    if let Some(pins) = &pins {
        match blobs::collect(server, pins).await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(freed = %gantry_model::Bytes(bytes), "removed unreferenced blobs"),
            Err(error) => wrong("blobs", &error),
        }
    }
    let own = Arc::clone(server);
    tokio::task::spawn_blocking(move || folders::collect(&own)).await.unwrap_or_else(|error| wrong("folders", &error));
    server.core.compact().await.unwrap_or_else(|error| wrong("old revisions", &error));
    let apps: Vec<AppName> = server.core.view().records.apps.keys().cloned().collect();
    for app in &apps {
        server.repositories.maintain(app).await.unwrap_or_else(|error| wrong("a repository", &error));
    }
}
