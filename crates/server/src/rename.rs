//! Rename executor: once the deploy of a rename is over, moves the app's files and records to the new name, or undoes the
//! rename.
//!
//! Each part can be repeated: the server may be killed at any point, and the next server continues.

use std::sync::Arc;
use std::time::Duration;

use gantry_admission::{DecidedRename, decided_rename, finish_rename, undo_rename};
use gantry_api::Problem;
use gantry_supervision::{Backoff, ReconcileLoop};
use tokio::sync::Mutex;

use crate::{Server, collect};

/// Longest time between two passes, and the pause after a failed one.
const INTERVAL: Duration = Duration::from_secs(2);

/// Concludes renames, for ever.
pub(crate) async fn run(server: Arc<Server>) {
    let decided = Arc::new(Mutex::new(server.core.app_values(decided_rename)));
    let pass = move || {
        let (server, decided) = (Arc::clone(&server), Arc::clone(&decided));
        async move {
            let mut decided = decided.lock().await;
            decided.update();
            let renames = decided.by_app().values().cloned().collect();
            conclude_all(&server, renames).await?;
            let _ = tokio::time::timeout(INTERVAL, decided.changed()).await;
            Ok::<(), Problem>(())
        }
    };
    ReconcileLoop::new("renames", Duration::ZERO, Backoff::constant(INTERVAL)).run(pass).await;
}

/// Concludes renames whose deploy is over. Returns the last failure; a rename that fails stops no other.
async fn conclude_all(server: &Arc<Server>, renames: Vec<DecidedRename>) -> Result<(), Problem> {
    let mut outcome = Ok(());
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
