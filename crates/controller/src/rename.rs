//! Rename executor: once the deploy of a rename is over, moves the app's files and records to the new name, or undoes the
//! rename.
//!
//! Each part can be repeated: the server may be killed at any point, and the next server continues.

use std::sync::Arc;
use std::time::Duration;

use gantry_admission::{DecidedRename, decided_renames, finish_rename, undo_rename};
use gantry_api::Problem;

use crate::{Server, collect};

/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(2);

/// Concludes renames, for ever.
pub(crate) async fn run(server: Arc<Server>) {
    let mut deploys = server.core.watch_deploys();
    loop {
        deploys.borrow_and_update();
        let decided = decided_renames(&server.core.view().records);
        for rename in decided {
            let (from, to) = (rename.from.clone(), rename.to.clone());
            if let Err(problem) = finish_and_clean_up(&server, rename).await {
                tracing::error!(%from, %to, %problem, "cannot conclude a rename; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
        // A failed attempt is repeated although no deploy changes.
        if let Ok(Err(_)) = tokio::time::timeout(RETRY, deploys.changed()).await {
            return;
        }
    }
}

async fn finish_and_clean_up(server: &Arc<Server>, rename: DecidedRename) -> Result<(), Problem> {
    if !rename.good {
        server.core.mutate(move |records, now| Ok((undo_rename(records, now, &rename), ()))).await?;
        return Ok(());
    }
    collect::rename_app(server, rename.from.clone(), rename.to.clone()).await?;
    gantry_failpoint::failpoint!("rename.files");
    server.core.mutate(move |records, now| Ok((finish_rename(records, now, &rename), ()))).await?;
    gantry_failpoint::failpoint!("rename.records");
    Ok(())
}
