//! The storage in a SQLite file: WAL, `synchronous=FULL`, one writer.
//!
//! The row of a job is small and changes often; `bodies` and `results` have what does not. The orders of the waiting jobs
//! and the counts of each queue are in memory (`sql::memory`), so that no command depends on the number of waiting jobs.

mod copy;
mod database;
mod schema;
pub(crate) mod source;

use std::path::{Path, PathBuf};

use gantry_model::Moment;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

pub use self::copy::{check_queue, copy_queue};
use self::database::SqliteDatabase;
use crate::sql::memory::QueueMemory;
use crate::sql::read::QueueReader;
use crate::sql::write::Writer;
use crate::sql::{Database, Fault};
use crate::{QueueCommand, QueueReply, QueueStore, QueueStoreError, WAITING_MAX};

/// The embedded storage of jobs.
#[derive(Debug)]
pub struct SqliteQueue {
    connection: Connection,
    path: PathBuf,
    memory: QueueMemory,
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
        let memory = read_memory(&connection).map_err(|error| fault(error, "read", path))?;
        Ok(Self { connection, path: path.to_owned(), memory, most_open: WAITING_MAX })
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
        let replies = {
            let database = SqliteDatabase::new(&transaction);
            Writer::new(&database, &mut self.memory, &mut self.most_open, now).apply_all(commands)?
        };
        transaction.commit()?;
        Ok(replies)
    }
}

fn read_memory(connection: &Connection) -> Result<QueueMemory, Fault> {
    QueueMemory::read(&SqliteDatabase::new(connection))
}

impl QueueStore for SqliteQueue {
    fn commit(&mut self, commands: Vec<QueueCommand>, now: Moment) -> Result<Vec<QueueReply>, QueueStoreError> {
        self.carry_out(commands, now).map_err(|error| {
            let error = fault(error, "write", &self.path);
            // The memory may include commands that were taken back.
            if let Ok(memory) = read_memory(&self.connection) {
                self.memory = memory;
            }
            error
        })
    }

    fn look_ahead(&mut self) {
        // A claim reads what is not in memory.
        let _ = self.memory.look_ahead(&SqliteDatabase::new(&self.connection));
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
        read(&SqliteDatabase::new(&self.connection)).map_err(|error| fault(error, "read", &self.path))
    }
}
