//! Copies and checks of the file, beside the writer.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{fault, schema};
use crate::QueueStoreError;
use crate::sql::{Fault, row};

/// Opens an existing file for reading.
fn open(path: &Path) -> Result<Connection, QueueStoreError> {
    // A reader of a log also writes: the file's index of the log.
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let connection = connection.map_err(|error| fault(error.into(), "open", path))?;
    connection.busy_timeout(schema::BUSY_TIMEOUT).map_err(|error| fault(error.into(), "open", path))?;
    Ok(connection)
}

/// Writes a copy of the queue's file as of one moment, while the server runs. The copy must not exist.
///
/// # Errors
/// [`QueueStoreError`].
pub fn copy_queue(from: &Path, to: &Path) -> Result<(), QueueStoreError> {
    let connection = open(from)?;
    let name = to.to_string_lossy();
    connection.execute("VACUUM INTO ?1", [&*name]).map_err(|error| fault(error.into(), "copy", from))?;
    Ok(())
}

/// Checks the structure of the queue's file. Returns the number of its jobs.
///
/// # Errors
/// [`QueueStoreError::Damaged`] says what is wrong.
pub fn check_queue(path: &Path) -> Result<u64, QueueStoreError> {
    let connection = open(path)?;
    let check = || -> Result<u64, Fault> {
        let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Err(Fault::Row(found));
        }
        let jobs: i64 = connection.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0))?;
        Ok(row::unsigned(jobs))
    };
    check().map_err(|error| match error {
        Fault::Sqlite(error) => {
            QueueStoreError::Damaged { path: path.display().to_string(), detail: error.to_string() }
        }
        error => fault(error, "check", path),
    })
}
