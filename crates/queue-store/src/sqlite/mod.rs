//! The storage in a SQLite file: WAL, `synchronous=FULL`, one writer.
//!
//! The row of a job is small and changes often; `bodies` and `results` have what does not. Partial indexes hold the order
//! of each state, so that no command depends on the number of waiting jobs. Counts of each queue are in memory.

mod copy;
mod database;
mod schema;
pub(crate) mod source;

use std::path::{Path, PathBuf};

use gantry_model::Moment;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

pub use self::copy::{check_queue, copy_queue};
use self::database::SqliteDatabase;
use crate::sql::ahead::ReadAhead;
use crate::sql::load::Loads;
use crate::sql::read::QueueReader;
use crate::sql::write::Writer;
use crate::sql::{Database, Fault};
use crate::{QueueCommand, QueueReply, QueueStore, QueueStoreError, WAITING_MAX};

/// The embedded storage of jobs.
#[derive(Debug)]
pub struct SqliteQueue {
    connection: Connection,
    path: PathBuf,
    loads: Loads,
    /// Maximum number of jobs of all queues that may wait or run.
    most_open: u64,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The error of a fault in the file at `path`.
fn fault(fault: Fault, action: &'static str, path: &Path) -> QueueStoreError {
    let name = path.display().to_string();
    let source: Box<dyn std::error::Error + Send + Sync> = match fault {
        Fault::Row(detail) => return QueueStoreError::Damaged { path: name, detail },
        Fault::Sqlite(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => return QueueStoreError::Full { path: name },
            _ => error.into(),
        },
        Fault::Postgres(error) => error.into(),
    };
    QueueStoreError::File { action, path: name, source }
}

impl SqliteQueue {
    /// Opens the file, and creates it if it is missing.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn open(path: &Path) -> Result<Self, QueueStoreError> {
        let connection = schema::open(path)?;
        let loads = read_loads(&connection).map_err(|error| fault(error, "read", path))?;
        Ok(Self { connection, path: path.to_owned(), loads, most_open: WAITING_MAX })
    }

    /// A reader of the same file.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn reader(&self) -> Result<QueueReader, QueueStoreError> {
        let connection = schema::connect(&self.path)?;
        Ok(QueueReader::of_file(SqliteReads { connection, path: self.path.clone() }))
    }

    fn carry_out(&mut self, commands: Vec<QueueCommand>, now: Moment) -> Result<Vec<QueueReply>, Fault> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let database = SqliteDatabase(&transaction);
        let (loads, most_open) = (&mut self.loads, &mut self.most_open);
        let mut writer = Writer { database: &database, loads, most_open, now, ahead: ReadAhead::default() };
        let replies = writer.apply_all(commands)?;
        transaction.commit()?;
        Ok(replies)
    }
}

fn read_loads(connection: &Connection) -> Result<Loads, Fault> {
    Loads::read(&SqliteDatabase(connection))
}

impl QueueStore for SqliteQueue {
    fn commit(&mut self, commands: Vec<QueueCommand>, now: Moment) -> Result<Vec<QueueReply>, QueueStoreError> {
        self.carry_out(commands, now).map_err(|error| {
            let error = fault(error, "write", &self.path);
            // The counts may include commands that were taken back.
            if let Ok(loads) = read_loads(&self.connection) {
                self.loads = loads;
            }
            error
        })
    }
}

/// The file, beside its writer.
#[derive(Debug)]
pub(crate) struct SqliteReads {
    connection: Connection,
    path: PathBuf,
}

impl SqliteReads {
    pub(crate) fn read<T>(&self, read: impl Fn(&dyn Database) -> Result<T, Fault>) -> Result<T, QueueStoreError> {
        read(&SqliteDatabase(&self.connection)).map_err(|error| fault(error, "read", &self.path))
    }
}
