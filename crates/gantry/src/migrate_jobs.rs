//! `gantry store migrate-jobs`: moves the container jobs of a stopped cloud from the file into an empty PostgreSQL database.

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_failpoint::failpoint;
use gantry_model::ClusterId;
use gantry_queue_store::{MoveError, MoveStep, PostgresAddress, QueueStoreError, move_queue};
use gantry_records::{CLUSTER_ID_KEY, parse_cluster_id};
use gantry_store::StoreAddress;

use crate::args::Machine;
use crate::backup::JOBS;
use crate::coded::WithCode;
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::printer::{out, status};
use crate::server_files::ServerFiles;
use crate::{membership, up};

/// Runs `gantry store migrate-jobs`.
pub(crate) fn run(machine: &Machine, to: &PostgresAddress) -> anyhow::Result<Exit> {
    require_root()?;
    let machine = &membership::own_settings(machine)?;
    let _lock = up::lock(machine)?;
    let files = ServerFiles::of(machine)?;
    let (file, store) = (files.path(JOBS), machine.store());
    let cluster = files.act_async(async || cluster_of(&store).await)?;
    let moved = files.act_alone(|| {
        move_queue(&file, to, cluster, passed).or_else(|error| {
            let code = code(&error);
            Err(error).with_code(code)
        })
    })?;
    if machine.job_store.as_ref() != Some(to) {
        status!("Start every server with the setting job-store = \"{to}\".");
    }
    out!(
        "{} jobs, {} schedules and {} messages are in {to}; the file is {} now",
        moved.jobs,
        moved.schedules,
        moved.messages,
        moved.file.display()
    );
    Ok(DONE)
}

/// The identity of the cluster in a store; none without a store, and in one that no server of this version has used.
async fn cluster_of(address: &StoreAddress) -> anyhow::Result<Option<ClusterId>> {
    if matches!(address, StoreAddress::File(path) if !path.exists()) {
        return Ok(None);
    }
    let read = async { gantry_store::open(address).await?.get(CLUSTER_ID_KEY).await };
    let entry = read.await.with_context(|| format!("cannot read the id of the cloud from {address}"))?;
    let parsed = entry.map(|entry| parse_cluster_id(&entry.value)).transpose();
    parsed.context("cannot read the id of the cloud").with_code(ErrorCode::StoreDamaged)
}

/// Code of an error.
fn code(error: &MoveError) -> ErrorCode {
    match error {
        MoveError::Missing { .. } | MoveError::Moved { .. } => ErrorCode::StoreMissing,
        MoveError::InUse { .. } => ErrorCode::AlreadyRunning,
        MoveError::Earlier { .. } | MoveError::NotEmpty { .. } | MoveError::OtherMove { .. } => ErrorCode::StoreExists,
        MoveError::Incomplete { .. } => ErrorCode::StoreDamaged,
        MoveError::Source(error) | MoveError::Target(error) => code_of_queue(error),
    }
}

/// Code of an error of the file or of the database.
fn code_of_queue(error: &QueueStoreError) -> ErrorCode {
    match error {
        QueueStoreError::File { source, .. } if source.is::<std::io::Error>() => ErrorCode::FileUnwritable,
        QueueStoreError::File { .. } | QueueStoreError::Damaged { .. } => ErrorCode::StoreDamaged,
        QueueStoreError::Full { .. } => ErrorCode::DiskFull,
        QueueStoreError::Newer { .. } => ErrorCode::StoreNewer,
        QueueStoreError::Away { .. } | QueueStoreError::Unsettled { .. } => ErrorCode::StoreUnavailable,
        QueueStoreError::Superseded { .. } => ErrorCode::AlreadyRunning,
        QueueStoreError::OtherCluster { .. } => ErrorCode::QueueOfOtherCloud,
        QueueStoreError::Unfinished { .. } => ErrorCode::StoreUnfinished,
    }
}

/// Passes the failpoint of a step.
fn passed(step: MoveStep) {
    match step {
        MoveStep::Marked => failpoint!("transfer.marked"),
        MoveStep::Slice => failpoint!("transfer.slice"),
        MoveStep::Copied => failpoint!("transfer.copied"),
        MoveStep::Renamed => failpoint!("transfer.renamed"),
    }
}
