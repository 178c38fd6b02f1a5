//! The file and its tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::{Fault, messages, schedules};
use crate::QueueStoreError;

/// Longest wait for another connection's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// `GNTQ`, the mark of the queue's file.
const APPLICATION_ID: i64 = 0x474e_5451;

/// The newest format.
const FORMAT: i64 = 3;

/// `place` is the moment (delayed), the rank (held, ready), the begin (leased) or the end (ended). `ended` is the kind of
/// the end.
const SCHEMA: &str = "
    CREATE TABLE queues (id INTEGER PRIMARY KEY, project TEXT NOT NULL, code TEXT NOT NULL, paused INTEGER NOT NULL DEFAULT 0,
                         most INTEGER, UNIQUE (project, code));
    CREATE TABLE jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, state INTEGER NOT NULL,
                       place INTEGER NOT NULL, fence INTEGER NOT NULL, failures INTEGER NOT NULL, lost INTEGER NOT NULL,
                       submitted INTEGER NOT NULL, expiry INTEGER, key TEXT, idempotency TEXT, machine TEXT,
                       cancelling INTEGER NOT NULL DEFAULT 0, ended INTEGER, settings TEXT NOT NULL);
    CREATE INDEX jobs_delayed ON jobs (place) WHERE state = 0;
    CREATE INDEX jobs_held ON jobs (queue, key, place) WHERE state = 1;
    CREATE INDEX jobs_ready ON jobs (queue, place, id) WHERE state = 2;
    CREATE INDEX jobs_leased ON jobs (queue) WHERE state = 3;
    CREATE INDEX jobs_ended ON jobs (place) WHERE state = 4;
    CREATE INDEX jobs_dead ON jobs (queue, id) WHERE state = 4 AND ended IN (1, 2, 4, 5);
    CREATE INDEX jobs_expiry ON jobs (expiry) WHERE state < 3 AND expiry IS NOT NULL;
    CREATE INDEX jobs_key ON jobs (queue, key) WHERE key IS NOT NULL AND state IN (2, 3);
    CREATE UNIQUE INDEX jobs_idempotency ON jobs (queue, idempotency) WHERE idempotency IS NOT NULL;
    CREATE TABLE bodies (job INTEGER PRIMARY KEY, work BLOB NOT NULL, payload BLOB NOT NULL, submitter TEXT NOT NULL);
    CREATE TABLE results (job INTEGER PRIMARY KEY, details BLOB NOT NULL, output BLOB NOT NULL);
";

/// Opens the file for writing.
pub(super) fn open(path: &Path) -> Result<Connection, QueueStoreError> {
    let mut connection = connect(path)?;
    let mut prepare = || -> Result<i64, Fault> {
        // A new file: tables and format appear in one transaction, so a kill leaves an empty file or a whole one.
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut found = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
        if found == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        if found <= 1 {
            transaction.execute_batch(schedules::SCHEMA)?;
        }
        if found <= 2 {
            transaction.execute_batch(messages::SCHEMA)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
            found = FORMAT;
        }
        if transaction.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0))? != APPLICATION_ID {
            return Err(Fault::Row("it is not a file of Gantry's queue".to_owned()));
        }
        transaction.commit()?;
        Ok(found)
    };
    match prepare().map_err(|fault| fault.of("open", path))? {
        FORMAT => Ok(connection),
        found => Err(QueueStoreError::Newer { path: path.display().to_string(), found, known: FORMAT }),
    }
}

/// A connection with the settings that every connection needs.
pub(super) fn connect(path: &Path) -> Result<Connection, QueueStoreError> {
    let open = || -> Result<Connection, Fault> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(|fault| fault.of("open", path))
}
