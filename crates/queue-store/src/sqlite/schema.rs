//! The file and its tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::fault;
use crate::QueueStoreError;
use crate::sql::Fault;

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

/// The changes from format 1: schedules, the progress of jobs, and the number of extra runs of each queue.
const SCHEDULES: &str = "
    ALTER TABLE queues ADD COLUMN extra INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN percent INTEGER;
    ALTER TABLE jobs ADD COLUMN message TEXT;
    CREATE TABLE schedules (id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, name TEXT NOT NULL,
                            schedule TEXT NOT NULL, template BLOB NOT NULL, of_release INTEGER NOT NULL, creator TEXT NOT NULL,
                            paused INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL, handled INTEGER NOT NULL,
                            runs INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0, last_run INTEGER,
                            last_job INTEGER, note TEXT, next INTEGER, UNIQUE (project, name));
    CREATE INDEX schedules_next ON schedules (next) WHERE next IS NOT NULL AND paused = 0;
";

/// The changes from format 2.
const MESSAGES: &str = "
    CREATE TABLE message_queues (id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, name TEXT NOT NULL,
                                 settings TEXT NOT NULL, size INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
                                 UNIQUE (project, name));
    CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, body TEXT NOT NULL,
                           waiting INTEGER NOT NULL, due INTEGER NOT NULL, reserved INTEGER NOT NULL,
                           reservation INTEGER NOT NULL, reservations INTEGER NOT NULL, expires INTEGER NOT NULL);
    CREATE INDEX messages_waiting ON messages (queue, id) WHERE waiting = 1;
    CREATE INDEX messages_due ON messages (queue, due) WHERE waiting = 0;
    CREATE INDEX messages_of_queue ON messages (queue, id);
    CREATE INDEX messages_expiry ON messages (expires);
    CREATE TRIGGER message_added AFTER INSERT ON messages
        BEGIN UPDATE message_queues SET size = size + 1, total = total + 1 WHERE id = NEW.queue; END;
    CREATE TRIGGER message_removed AFTER DELETE ON messages
        BEGIN UPDATE message_queues SET size = size - 1 WHERE id = OLD.queue; END;
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
            transaction.execute_batch(SCHEDULES)?;
        }
        if found <= 2 {
            transaction.execute_batch(MESSAGES)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
            found = FORMAT;
        }
        if transaction.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0))? != APPLICATION_ID {
            return Err(Fault::Row("it is not a file of Gantry's queue".to_owned()));
        }
        transaction.commit()?;
        Ok(found)
    };
    match prepare().map_err(|error| fault(error, "open", path))? {
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
    open().map_err(|error| fault(error, "open", path))
}
