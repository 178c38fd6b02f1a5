//! The move of a queue from its file into a database.
//!
//! ```text
//! mark the file ─► mark the database, which is empty or has this mark ─► rows, slice by slice ─► file renamed ─► no mark
//! ```
//! - The mark is a number of the file's contents. A server that opens the file removes the mark: the contents change, and
//!   a database with rows of the earlier contents takes no others.
//! - Rows go in the order of their keys, each slice in a transaction. A move that was killed continues after the last row of
//!   each table. No server uses a database with a mark.
//! - The file is renamed before the database loses its mark, so that no two servers run the same jobs. A move that was
//!   killed in between ends with the renamed file.

use std::path::{Path, PathBuf};

use gantry_model::ClusterId;

use crate::postgres::target::{MoveTarget, TargetState};
use crate::sql::tables::{TABLES, Table};
use crate::sqlite::source::MoveSource;
use crate::{PostgresAddress, QueueStoreError};

/// Reason why a queue was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// There is no file.
    #[error("there is no queue of container jobs at {path}; a server without the setting job-store makes such a queue")]
    Missing {
        /// The file.
        path: String,
    },
    /// The file was moved before.
    #[error(
        "the queue {path} was moved to a database before, and the file is {moved} now; start every server with \
         job-store = the address of that database"
    )]
    Moved {
        /// The file.
        path: String,
        /// The file's present name.
        moved: String,
    },
    /// Another process has the file open.
    #[error("the queue {path} is open in another process; stop `gantry up` or `gantry server`, and try again")]
    InUse {
        /// The file.
        path: String,
    },
    /// The file of an earlier move is in the way.
    #[error("there is a file {moved} of an earlier move already; move {moved} away, and try again")]
    Earlier {
        /// The file of the earlier move.
        moved: String,
    },
    /// The database has a queue.
    #[error("the database {place} has a queue already, with {rows} rows in the table {table}; name an empty database")]
    NotEmpty {
        /// The database.
        place: String,
        /// A table with rows.
        table: &'static str,
        /// Number of the rows.
        rows: u64,
    },
    /// The database has an unfinished move of other contents.
    #[error(
        "the database {place} has an unfinished move of another queue, or of this queue before a server used it again; \
         name an empty database"
    )]
    OtherMove {
        /// The database.
        place: String,
    },
    /// The database lacks rows at the end.
    #[error(
        "the table {table} has {copied} of {rows} rows in the database {place}; the file is unchanged; name an empty database"
    )]
    Incomplete {
        /// The database.
        place: String,
        /// The table.
        table: &'static str,
        /// Rows of the database.
        copied: u64,
        /// Rows of the file.
        rows: u64,
    },
    /// The file cannot be used.
    #[error(transparent)]
    Source(QueueStoreError),
    /// The database cannot be used.
    #[error(transparent)]
    Target(#[from] QueueStoreError),
}

/// A step of a move that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveStep {
    /// File and database are marked.
    Marked,
    /// A slice of rows is in the database.
    Slice,
    /// Everything is in the database.
    Copied,
    /// The file has its new name.
    Renamed,
}

/// A queue that was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedQueue {
    /// Number of jobs.
    pub jobs: u64,
    /// Number of schedules.
    pub schedules: u64,
    /// Number of messages.
    pub messages: u64,
    /// The file's new name.
    pub file: PathBuf,
}

/// Moves the queue of a file into an empty database, and renames the file. Continues an unfinished move. From then on the
/// queue belongs to `cluster`, or else to the cluster whose server uses the queue first. `passed` hears of each step.
///
/// # Errors
/// [`MoveError`]. The contents of the file are unchanged.
pub fn move_queue(
    from: &Path,
    to: &PostgresAddress,
    cluster: Option<ClusterId>,
    mut passed: impl FnMut(MoveStep),
) -> Result<MovedQueue, MoveError> {
    let file = from.with_added_extension("moved");
    let (path, moved) = (from.display().to_string(), file.display().to_string());
    let is_renamed = match (from.exists(), file.exists()) {
        (false, false) => return Err(MoveError::Missing { path }),
        (true, true) => return Err(MoveError::Earlier { moved }),
        (false, true) => true,
        (true, false) => false,
    };
    let source = MoveSource::open(if is_renamed { file.as_path() } else { from })?;
    let (target, state) = MoveTarget::open(to, cluster, &source.contents, is_renamed)?;
    if state == TargetState::Unmarked {
        return Err(MoveError::Moved { path, moved });
    }
    passed(MoveStep::Marked);
    let mut highest = None;
    if state == TargetState::Open {
        for table in &TABLES {
            copy(&source, &target, table, &mut passed)?;
        }
        highest = Some(compare(&source, &target, to)?);
    }
    passed(MoveStep::Copied);
    let count = |name| {
        let table = TABLES.iter().find(|table| table.name == name);
        table.map_or(Ok(0), |table| source.count(table)).map_err(MoveError::Source)
    };
    let (jobs, schedules, messages) = (count("jobs")?, count("schedules")?, count("messages")?);
    let contents = source.contents.clone();
    if !is_renamed {
        source.rename(&file).map_err(MoveError::Source)?;
        passed(MoveStep::Renamed);
    }
    if let Some(highest) = highest {
        target.finish(&contents, &highest)?;
    }
    Ok(MovedQueue { jobs, schedules, messages, file })
}

/// Copies the rows of a table that the database lacks.
fn copy(
    source: &MoveSource,
    target: &MoveTarget,
    table: &Table,
    passed: &mut impl FnMut(MoveStep),
) -> Result<(), MoveError> {
    let mut last = target.last(table)?;
    loop {
        let columns = source.slice(table, &last).map_err(MoveError::Source)?;
        let Some(key) = columns[0].last() else { return Ok(()) };
        last = key.clone();
        target.add(table, columns)?;
        passed(MoveStep::Slice);
    }
}

/// Compares the numbers of rows. Returns the highest number of each table whose rows have numbers.
fn compare(
    source: &MoveSource,
    target: &MoveTarget,
    to: &PostgresAddress,
) -> Result<Vec<(&'static Table, i64)>, MoveError> {
    let mut highest = Vec::new();
    for table in &TABLES {
        let (rows, copied) = (source.count(table).map_err(MoveError::Source)?, target.count(table)?);
        if rows != copied {
            return Err(MoveError::Incomplete { place: to.to_string(), table: table.name, copied, rows });
        }
        if table.numbered.is_some() {
            highest.push((table, source.highest(table).map_err(MoveError::Source)?));
        }
    }
    Ok(highest)
}
