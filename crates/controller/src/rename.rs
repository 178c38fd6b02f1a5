//! Rename executor: once the deploy of a rename is over, moves the app's files and records to the new name, or undoes the
//! rename.
//!
//! Each part can be repeated: the server may be killed at any point, and the next server continues.

use std::sync::Arc;
use std::time::Duration;

use gantry_admission::{DecidedRename, decided_renames, finish_rename, undo_rename};
use gantry_api::Problem;
use gantry_model::AppName;
use gantry_supervision::{Backoff, Nudge, ReconcileLoop};

use crate::{Server, collect};

/// Interval of looks at the renames, and pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(2);

/// A rename that cannot be concluded yet.
#[derive(Debug, thiserror::Error)]
#[error("cannot conclude the rename of {from} to {to}")]
struct RenameError {
    from: AppName,
    to: AppName,
    source: Problem,
}

/// Concludes renames until the core ends.
pub(crate) async fn run(server: Arc<Server>) {
    let mut deploys = server.core.watch_deploys();
    let nudge = Nudge::default();
    let nudging = async {
        while deploys.changed().await.is_ok() {
            nudge.nudge();
        }
    };
    let concluding = ReconcileLoop::new("renames", RETRY, Backoff::constant(RETRY));
    tokio::select! {
        () = nudging => {}
        never = concluding.run_nudged(&nudge, async || conclude(&server).await) => match never {},
    }
}

/// Concludes each rename whose deploy is over. Returns the last failure.
async fn conclude(server: &Arc<Server>) -> Result<(), RenameError> {
    let mut outcome = Ok(());
    let decided = decided_renames(&server.core.view().records);
    for rename in decided {
        let (from, to) = (rename.from.clone(), rename.to.clone());
        if let Err(source) = finish_and_clean_up(server, rename).await {
            outcome = Err(RenameError { from, to, source });
        }
    }
    outcome
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
