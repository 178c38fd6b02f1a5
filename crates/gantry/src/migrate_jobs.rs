//! `gantry store migrate-jobs`: moves the container jobs of a stopped cloud from the file into an empty PostgreSQL database.

use gantry_error_codes::ErrorCode;
use gantry_failpoint::failpoint;
use gantry_queue_store::{MoveError, MoveStep, PostgresAddress, QueueStoreError, move_queue};

use crate::args::Machine;
use crate::backup::JOBS;
use crate::coded::WithCode;
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::printer::{out, status};
use crate::server_files::ServerFiles;
use crate::up;

/// Runs `gantry store migrate-jobs`.
pub(crate) fn run(machine: &Machine, to: &PostgresAddress) -> anyhow::Result<Exit> {
    require_root()?;
    let _lock = up::lock(machine)?;
    let files = ServerFiles::of(machine)?;
    let file = files.path(JOBS);
    let moved = files.act_alone(|| {
        move_queue(&file, to, passed).or_else(|error| {
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
