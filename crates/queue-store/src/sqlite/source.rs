//! The file as the source of a move to a database. See `transfer`.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params_from_iter};

use super::database::value;
use super::{fault, schema};
use crate::sql::tables::Table;
use crate::sql::{Fault, SqlParameter, Value, row};
use crate::{MoveError, QueueStoreError};

/// Maximum number of rows of a slice, and its largest size in bytes, but for its last row.
const SLICE_ROWS: usize = 1000;
const SLICE_BYTES: usize = 4 << 20;

/// The mark of a file that is being moved. Its number is that of the unchanged contents: a server that opens the file to
/// write removes the mark.
pub(super) const UNMARK: &str = "DROP TABLE IF EXISTS moving";
const MARK: &str = "
    CREATE TABLE IF NOT EXISTS moving (number TEXT NOT NULL);
    INSERT INTO moving SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM moving);
";

/// An open file, which no other process can open meanwhile.
#[derive(Debug)]
pub(crate) struct MoveSource {
    connection: Connection,
    path: PathBuf,
    /// Number of the contents.
    pub(crate) contents: String,
}

impl MoveSource {
    /// Opens and marks the file.
    pub(crate) fn open(path: &Path) -> Result<Self, MoveError> {
        let Some(mut connection) = schema::open_alone(path).map_err(MoveError::Source)? else {
            return Err(MoveError::InUse { path: path.display().to_string() });
        };
        let mut mark = || -> Result<String, Fault> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(MARK)?;
            let contents = transaction.query_row("SELECT number FROM moving", [], |row| row.get(0))?;
            transaction.commit()?;
            Ok(contents)
        };
        let contents = mark().map_err(|error| MoveError::Source(fault(error, "mark", path)))?;
        Ok(Self { connection, path: path.to_owned(), contents })
    }

    /// The next rows of a table after the key `after`, column by column; empty columns at the end.
    pub(crate) fn slice(&self, table: &Table, after: &Value) -> Result<Vec<Vec<Value>>, QueueStoreError> {
        self.read_slice(table, after).map_err(|error| fault(error, "read", &self.path))
    }

    fn read_slice(&self, table: &Table, after: &Value) -> Result<Vec<Vec<Value>>, Fault> {
        let (columns, name, key) = (table.list(), table.name, table.key());
        let condition = if *after == Value::Null { "?1 IS NULL".to_owned() } else { format!("{key} > ?1") };
        let sql = format!("SELECT {columns} FROM {name} WHERE {condition} ORDER BY {key} LIMIT {SLICE_ROWS}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut found = statement.query(params_from_iter([SqlParameter::from(after)]))?;
        let mut columns = vec![Vec::new(); table.columns.len()];
        let mut size = 0;
        while size < SLICE_BYTES
            && let Some(row) = found.next()?
        {
            for (number, column) in columns.iter_mut().enumerate() {
                let value = value(row.get_ref(number)?)?;
                size += value.size();
                column.push(value);
            }
        }
        Ok(columns)
    }

    /// Number of rows of a table.
    pub(crate) fn count(&self, table: &Table) -> Result<u64, QueueStoreError> {
        let sql = format!("SELECT count(*) FROM {}", table.name);
        let count = self.connection.query_row(&sql, [], |row| row.get(0));
        count.map(row::unsigned).map_err(|error| fault(error.into(), "read", &self.path))
    }

    /// The highest number that a row of the table ever had.
    pub(crate) fn highest(&self, table: &Table) -> Result<i64, QueueStoreError> {
        let highest = || -> Result<i64, Fault> {
            let given = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
            let given: Option<i64> = self.connection.query_row(given, [table.name], |row| row.get(0)).optional()?;
            let sql = format!("SELECT coalesce(max({}), 0) FROM {}", table.key(), table.name);
            let found: i64 = self.connection.query_row(&sql, [], |row| row.get(0))?;
            Ok(found.max(given.unwrap_or_default()))
        };
        highest().map_err(|error| fault(error, "read", &self.path))
    }

    /// Gives the file the name `to`. All of its contents are in the file afterwards.
    pub(crate) fn rename(self, to: &Path) -> Result<(), QueueStoreError> {
        let Self { connection, path, .. } = self;
        let checkpoint = || -> Result<bool, Fault> {
            let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            connection.close().map_err(|(_, error)| error)?;
            Ok(busy == 0)
        };
        if !checkpoint().map_err(|error| fault(error, "close", &path))? {
            let source = "another process uses the file".into();
            return Err(QueueStoreError::File { action: "close", path: path.display().to_string(), source });
        }
        let failed = |source: std::io::Error| QueueStoreError::File {
            action: "rename",
            path: path.display().to_string(),
            source: source.into(),
        };
        std::fs::rename(&path, to).map_err(failed)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}
