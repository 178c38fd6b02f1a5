//! The database as the target of a move from a file. See `transfer`.

use gantry_model::ClusterId;

use super::PostgresAddress;
use super::failure::{Failure, error};
use super::schema::{self, TablePartitions};
use super::session::{Owner, Session};
use crate::sql::tables::{ColumnKind, TABLES, Table};
use crate::sql::value::bound;
use crate::sql::{Database, Fault, NumberedTable, Value};
use crate::{MoveError, QueueStoreError};

/// State of a database before a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetState {
    /// Takes the rows: it is empty, or has some of these contents.
    Open,
    /// Has the contents already.
    Complete,
    /// Has no unfinished move of the contents, whose file was renamed already.
    Unmarked,
}

/// A database that is filled. No other process writes to its queue meanwhile.
#[derive(Debug)]
pub(crate) struct MoveTarget {
    session: Session,
    epoch: i64,
    place: String,
}

impl MoveTarget {
    /// Connects, and marks the database with the number of the contents and with their cluster. If the file `is_renamed`,
    /// only a database with this mark takes them.
    pub(crate) fn open(
        address: &PostgresAddress,
        cluster: Option<ClusterId>,
        contents: &str,
        is_renamed: bool,
    ) -> Result<(Self, TargetState), MoveError> {
        let place = address.to_string();
        let failed = |fault| MoveError::Target(error(fault, "open", &place));
        let session = Session::connect(address).and_then(Session::without_timeout).map_err(failed)?;
        schema::prepare(&session, schema::PART, cluster).map_err(failed)?;
        session.write("BEGIN", &[]).map_err(failed)?;
        let owner = session.lock_owner().map_err(failed)?;
        session.check_cluster(cluster).map_err(failed)?;
        let state = if is_renamed && owner.moving.as_deref() != Some(contents) {
            TargetState::Unmarked
        } else {
            state(&session, &owner, contents, &place)?
        };
        let epoch = owner.epoch + 1;
        let mark = || -> Result<(), Fault> {
            if state != TargetState::Open {
                return session.batch("ROLLBACK");
            }
            session.note_owner(epoch, 0)?;
            if let Some(cluster) = cluster {
                session.note_cluster(cluster)?;
            }
            session.write("UPDATE owner SET moving = ?1", bound![contents])?;
            session.parts.replace(TablePartitions::read(&session, owner.part)?);
            session.batch("COMMIT")
        };
        mark().map_err(failed)?;
        Ok((Self { session, epoch, place }, state))
    }

    fn error(&self, fault: Fault) -> QueueStoreError {
        error(fault, "fill", &self.place)
    }

    /// Begins a transaction, in which no server has taken the queue.
    fn begin(&self) -> Result<(), Fault> {
        self.session.write("BEGIN", &[])?;
        if self.session.lock_owner()?.epoch != self.epoch {
            return Err(Failure::Superseded.into());
        }
        Ok(())
    }

    /// The highest key in a table; none without rows.
    pub(crate) fn last(&self, table: &Table) -> Result<Value, QueueStoreError> {
        let sql = format!("SELECT {key} FROM {} ORDER BY {key} DESC LIMIT 1", table.name, key = table.key());
        let last = self.session.one(&sql, &[]).map_err(|fault| self.error(fault))?;
        Ok(last.and_then(|row| row.0.into_iter().next()).unwrap_or_default())
    }

    /// Adds rows, given by their columns, in one transaction.
    pub(crate) fn add(&self, table: &Table, columns: Vec<Vec<Value>>) -> Result<(), QueueStoreError> {
        let add = || -> Result<(), Fault> {
            self.begin()?;
            let of = match (table.numbered, table.name) {
                (None, "bodies" | "results") => Some(NumberedTable::Jobs),
                (numbered, _) => numbered,
            };
            for key in &columns[0] {
                let (Some(of), Value::Whole(number)) = (of, key) else { continue };
                let missing = self.session.parts.borrow_mut().make(of, *number);
                for statement in missing {
                    self.session.batch(&statement)?;
                }
            }
            self.session.write_columns(&insertion(table), columns);
            self.session.batch("COMMIT")
        };
        add().map_err(|fault| self.error(fault))
    }

    /// Number of rows of a table.
    pub(crate) fn count(&self, table: &Table) -> Result<u64, QueueStoreError> {
        let sql = format!("SELECT count(*) FROM {}", table.name);
        self.session.number(&sql, &[]).map_err(|fault| self.error(fault))
    }

    /// Ends the move: numbers up to `highest` of each table are never given again, and servers may use the queue.
    pub(crate) fn finish(&self, contents: &str, highest: &[(&Table, i64)]) -> Result<(), QueueStoreError> {
        let finish = || -> Result<(), Fault> {
            self.begin()?;
            for (table, number) in highest {
                let sql = format!("SELECT setval('{}_numbers', ?1, false)", table.name);
                self.session.query(&sql, bound![number + 1])?;
            }
            self.session.write("UPDATE owner SET moving = NULL, moved = ?1", bound![contents])?;
            self.session.batch("COMMIT")
        };
        finish().map_err(|fault| self.error(fault))
    }
}

/// State of the database, or the reason why it takes no rows of these contents.
fn state(session: &Session, owner: &Owner, contents: &str, place: &str) -> Result<TargetState, MoveError> {
    if owner.moving.as_deref() == Some(contents) {
        return Ok(TargetState::Open);
    }
    if owner.moving.is_some() {
        return Err(MoveError::OtherMove { place: place.to_owned() });
    }
    if owner.moved.as_deref() == Some(contents) {
        return Ok(TargetState::Complete);
    }
    for table in &TABLES {
        let sql = format!("SELECT count(*) FROM {}", table.name);
        let count = session.number(&sql, &[]).map_err(|fault| MoveError::Target(error(fault, "read", place)))?;
        if count > 0 {
            return Err(MoveError::NotEmpty { place: place.to_owned(), table: table.name, rows: count });
        }
    }
    Ok(TargetState::Open)
}

/// The statement that adds many rows. Each parameter is an array with the values of a column.
fn insertion(table: &Table) -> String {
    let columns = table.columns.iter().enumerate().map(|(number, (_, kind))| {
        let kind = match kind {
            ColumnKind::Whole => "BIGINT",
            ColumnKind::Text => "TEXT",
            ColumnKind::Bytes => "BYTEA",
        };
        format!("CAST(?{} AS {kind}[])", number + 1)
    });
    let columns: Vec<String> = columns.collect();
    format!("INSERT INTO {} ({}) SELECT * FROM unnest({})", table.name, table.list(), columns.join(", "))
}
