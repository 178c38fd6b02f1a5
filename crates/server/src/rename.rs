//! Rename executor: once the deploy of a rename is over, moves the app's files and records to the new name, or undoes the
//! rename.
//!
//! Each part can be repeated: the server may be killed at any point, and the next server continues.

use std::sync::Arc;
use std::time::Duration;

use gantry_admission::{DecidedRename, decided_renames, finish_rename, undo_rename};
use gantry_api::Problem;
use gantry_supervision::{Backoff, ReconcileLoop};

use crate::{Server, collect};

/// Longest time between two passes, and the pause after a failed one.
const INTERVAL: Duration = Duration::from_secs(2);

/// Concludes renames, for ever.
pub(crate) async fn run(server: Arc<Server>) {
    let pass = move || {
        let server = Arc::clone(&server);
        async move {
            let mut deploys = server.core.watch_deploys();
            conclude_all(&server).await?;
            match tokio::time::timeout(INTERVAL, deploys.changed()).await {
                // The core has ended, and the server ends with it.
                Ok(Err(_)) => std::future::pending().await,
                Ok(Ok(())) | Err(_) => Ok::<(), Problem>(()),
            }
        }
    };
    ReconcileLoop::new("renames", Duration::ZERO, Backoff::constant(INTERVAL)).run(pass).await;
}

/// Concludes each rename whose deploy is over. Returns the last failure; a rename that fails stops no other.
async fn conclude_all(server: &Arc<Server>) -> Result<(), Problem> {
    let mut outcome = Ok(());
    let renames = decided_renames(&server.core.view().records);
    for rename in renames {
        let (from, to) = (rename.from.clone(), rename.to.clone());
        if let Err(problem) = conclude(server, rename).await {
            tracing::error!(%from, %to, %problem, "cannot conclude a rename; trying again");
            outcome = Err(problem);
        }
    }
    outcome
}

/// Finishes or undoes a rename.
async fn conclude(server: &Arc<Server>, rename: DecidedRename) -> Result<(), Problem> {
    if !rename.good {
        server.core.mutate(move |records, now| Ok((undo_rename(records, now, &rename), ()))).await?;
        return Ok(());
    }
    collect::rename_app(server, rename.from.clone(), rename.to.clone()).await?;
    // Neither name brings a key that users of another app know.
    server.jobs.forget_signing_key(&rename.from).await;
    server.jobs.forget_signing_key(&rename.to).await;
    gantry_failpoint::failpoint!("rename.files");
    server.core.mutate(move |records, now| Ok((finish_rename(records, now, &rename), ()))).await?;
    gantry_failpoint::failpoint!("rename.records");
    Ok(())
}
