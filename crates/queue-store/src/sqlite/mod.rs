//! The storage in a SQLite file: WAL, `synchronous=FULL`, one writer.
//!
//! The row of a job is small and changes often; `bodies` and `results` have what does not. Partial indexes hold the order
//! of each state, so that no command depends on the number of waiting jobs. Counts of each queue are in memory.

mod claim;
mod copy;
mod load;
mod messages;
mod read;
mod row;
mod schedules;
mod schema;
mod upkeep;
mod write;

use std::path::{Path, PathBuf};

use gantry_model::Moment;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

pub use self::copy::{check_queue, copy_queue};
use self::load::Loads;
pub use self::read::{JobDetails, JobFilter, JobPage, OpenWork, QueueInfo, SqliteReader};
use crate::{QueueCommand, QueueReply, QueueStore, QueueStoreError, WAITING_MAX};

/// The embedded storage of jobs.
#[derive(Debug)]
pub struct SqliteQueue {
    connection: Connection,
    path: PathBuf,
    loads: Loads,
    /// Most jobs of all queues that may wait or run.
    most_open: u64,
}

/// A command failed.
#[derive(Debug)]
enum Fault {
    Sqlite(rusqlite::Error),
    /// A row makes no sense.
    Row(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Fault {
    fn of(self, action: &'static str, path: &Path) -> QueueStoreError {
        let name = path.display().to_string();
        match self {
            Self::Row(detail) => QueueStoreError::Damaged { path: name, detail },
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => QueueStoreError::Full { path: name },
                _ => QueueStoreError::File { action, path: name, source: error.into() },
            },
        }
    }
}

impl SqliteQueue {
    /// Opens the file, and creates it if it is missing.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn open(path: &Path) -> Result<Self, QueueStoreError> {
        let connection = schema::open(path)?;
        let loads = Loads::read(&connection).map_err(|fault| fault.of("read", path))?;
        Ok(Self { connection, path: path.to_owned(), loads, most_open: WAITING_MAX })
    }

    /// A reader of the same file.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn reader(&self) -> Result<SqliteReader, QueueStoreError> {
        SqliteReader::open(&self.path)
    }

    fn carry_out(&mut self, commands: Vec<QueueCommand>, now: Moment) -> Result<Vec<QueueReply>, Fault> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (loads, most_open) = (&mut self.loads, &mut self.most_open);
        let mut writer = write::Writer { transaction: &transaction, loads, most_open, now };
        let replies: Result<Vec<_>, Fault> = commands.into_iter().map(|command| writer.apply(command)).collect();
        let replies = replies?;
        transaction.commit()?;
        Ok(replies)
    }
}

impl QueueStore for SqliteQueue {
    fn commit(&mut self, commands: Vec<QueueCommand>, now: Moment) -> Result<Vec<QueueReply>, QueueStoreError> {
        self.carry_out(commands, now).map_err(|fault| {
            let error = fault.of("write", &self.path);
            // The counts may include commands that were taken back.
            if let Ok(loads) = Loads::read(&self.connection) {
                self.loads = loads;
            }
            error
        })
    }
}
