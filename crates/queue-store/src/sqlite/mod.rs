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
    /// None after a failed write: the memory may include commands that were taken back.
    memory: Option<QueueMemory>,
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
        let memory = Some(read_memory(&connection).map_err(|error| fault(error, "read", path))?);
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
        let memory = match &mut self.memory {
            Some(memory) => memory,
            none => none.insert(read_memory(&self.connection)?),
        };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let replies = {
            let database = SqliteDatabase::new(&transaction);
            Writer::new(&database, memory, &mut self.most_open, now).apply_all(commands)?
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
            self.memory = None;
            fault(error, "write", &self.path)
        })
    }

    fn look_ahead(&mut self) {
        // A claim reads what is not in memory.
        if let Some(memory) = &mut self.memory {
            let _ = memory.look_ahead(&SqliteDatabase::new(&self.connection));
        }
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

#[cfg(test)]
mod tests {
    use gantry_model::MachineName;
    use gantry_queue::{AttemptOutcome, Jitter, JobEnd, JobSettings, JobState};

    use super::*;
    use crate::{Completed, JobReport, NewJob};

    const NOW: Moment = Moment(1_000_000);

    fn submit() -> QueueCommand {
        QueueCommand::Submit(vec![NewJob {
            queue: "shop/report".parse().expect("a queue"),
            settings: JobSettings::default(),
            work: Vec::new(),
            payload: Vec::new(),
            by: "me".to_owned(),
        }])
    }

    fn claim() -> QueueCommand {
        QueueCommand::Claim { machine: MachineName::parse("m").expect("a name"), most: 10, limit: None }
    }

    /// Renames two tables: one that a completion writes, and one that every read of the memory needs.
    fn rename(store: &SqliteQueue, from: &str, to: &str) {
        for table in ["queues", "results"] {
            let sql = format!("ALTER TABLE {from}{table} RENAME TO {to}{table}");
            store.connection.execute_batch(&sql).expect("renamed");
        }
    }

    #[test]
    fn a_command_that_was_taken_back_is_never_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = SqliteQueue::open(&folder.path().join("jobs.db")).expect("opened");
        let replies = store.commit(vec![submit(), claim()], NOW).expect("committed");
        let [_, QueueReply::Claimed(claimed)] = &replies[..] else { panic!("{replies:?}") };
        let report = JobReport { outcome: AttemptOutcome::Succeeded, details: Vec::new(), output: Vec::new() };
        let (job, fence) = (claimed[0].id, claimed[0].fence);
        let complete = QueueCommand::Complete { job, fence, report, jitter: Jitter(0) };

        rename(&store, "", "lost_");
        assert!(store.commit(vec![submit(), complete.clone()], NOW).is_err());
        assert!(store.commit(vec![claim()], NOW).is_err(), "the memory cannot be read");

        rename(&store, "lost_", "");
        let recorded = Completed::Recorded(JobState::Ended { end: JobEnd::Succeeded, at: NOW });
        let replies = store.commit(vec![claim(), complete], NOW).expect("committed");
        assert_eq!(replies, [QueueReply::Claimed(Vec::new()), QueueReply::Completed(recorded)]);
    }
}
