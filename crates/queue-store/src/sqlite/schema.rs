//! The file and its tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::fault;
use super::source::UNMARK;
use crate::QueueStoreError;
use crate::sql::Fault;

/// Longest wait for another connection's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for other connections to end, such as that of a backup.
const ALONE_TIMEOUT: Duration = Duration::from_secs(2);

/// `GNTQ`, the mark of the queue's file.
const APPLICATION_ID: i64 = 0x474e_5451;

/// The newest format.
const FORMAT: i64 = 5;

/// `place` is the moment (delayed), the rank (held, ready), the begin (leased) or the end (ended). `ended` is the kind of
/// the end, none for success.
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

/// The changes from format 3: deliveries of push queues and of callbacks, and the keys that sign callbacks.
const DELIVERIES: &str = "
    CREATE TABLE deliveries (id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER, message INTEGER, job INTEGER,
                             subscriber TEXT, host TEXT NOT NULL, state INTEGER NOT NULL, due INTEGER,
                             reservation INTEGER NOT NULL, attempts INTEGER NOT NULL, status INTEGER, note TEXT,
                             tried INTEGER);
    CREATE INDEX deliveries_due ON deliveries (due) WHERE due IS NOT NULL;
    CREATE INDEX deliveries_host ON deliveries (host, due, id) WHERE due IS NOT NULL;
    CREATE INDEX deliveries_message ON deliveries (message) WHERE message IS NOT NULL;
    CREATE INDEX deliveries_job ON deliveries (job) WHERE job IS NOT NULL;
    ALTER TABLE messages ADD COLUMN headers TEXT;
    ALTER TABLE message_queues ADD COLUMN deliveries INTEGER NOT NULL DEFAULT 0;
    CREATE TRIGGER delivery_added AFTER INSERT ON deliveries WHEN NEW.queue IS NOT NULL
        BEGIN UPDATE message_queues SET deliveries = deliveries + 1 WHERE id = NEW.queue; END;
    CREATE TRIGGER delivery_removed AFTER DELETE ON deliveries WHEN OLD.queue IS NOT NULL
        BEGIN UPDATE message_queues SET deliveries = deliveries - 1 WHERE id = OLD.queue; END;
    CREATE TRIGGER message_deliveries_removed AFTER DELETE ON messages
        BEGIN DELETE FROM deliveries WHERE message = OLD.id; END;
    CREATE TABLE signing_keys (project TEXT PRIMARY KEY, current TEXT NOT NULL, previous TEXT, rotated INTEGER);
";

/// The changes from format 4: the orders of the jobs are in memory.
const ORDERS: &str = "
    DROP INDEX jobs_delayed;
    DROP INDEX jobs_held;
    DROP INDEX jobs_ready;
    DROP INDEX jobs_leased;
    DROP INDEX jobs_ended;
    DROP INDEX jobs_dead;
    DROP INDEX jobs_expiry;
    DROP INDEX jobs_key;
    CREATE INDEX jobs_dead ON jobs (queue, id) WHERE ended IN (1, 2, 4, 5);
";

/// Settings of the connection that writes: fewer checkpoints (16 MB of log each), and 16 MB of pages in memory.
const WRITER_SETTINGS: &str = "PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -16384;";

/// Opens the file for writing. A move of its contents ends here: see `transfer`.
pub(super) fn open(path: &Path) -> Result<Connection, QueueStoreError> {
    let connection = open_unchanged(path)?;
    connection.execute_batch(UNMARK).map_err(|error| fault(error.into(), "open", path))?;
    connection.execute_batch(WRITER_SETTINGS).map_err(|error| fault(error.into(), "open", path))?;
    Ok(connection)
}

/// Opens the file, with the tables of the newest format.
fn open_unchanged(path: &Path) -> Result<Connection, QueueStoreError> {
    prepared(connect(path)?, path)
}

/// Opens the file, with the tables of the newest format, and keeps all other connections out. None if the file is open
/// elsewhere.
pub(super) fn open_alone(path: &Path) -> Result<Option<Connection>, QueueStoreError> {
    connect_alone(path)?.map(|connection| prepared(connection, path)).transpose()
}

/// Makes the tables of the newest format.
fn prepared(mut connection: Connection, path: &Path) -> Result<Connection, QueueStoreError> {
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
        }
        if found <= 3 {
            transaction.execute_batch(DELIVERIES)?;
        }
        if found <= 4 {
            transaction.execute_batch(ORDERS)?;
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
        configure(&connection)?;
        Ok(connection)
    };
    open().map_err(|error| fault(error, "open", path))
}

/// A connection that keeps all others out. None if another connection stays open.
fn connect_alone(path: &Path) -> Result<Option<Connection>, QueueStoreError> {
    let open = || -> Result<Connection, Fault> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(ALONE_TIMEOUT)?;
        // Must precede the first access: only then does SQLite lock the file itself, which idle connections lock too.
        connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE")?;
        configure(&connection)?;
        connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
        Ok(connection)
    };
    match open() {
        Ok(connection) => Ok(Some(connection)),
        Err(Fault::Sqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(None),
        Err(error) => Err(fault(error, "open", path)),
    }
}

/// Sets what every connection needs.
fn configure(connection: &Connection) -> Result<(), Fault> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}
