//! Statements of the storage, in SQLite.

use std::cell::RefCell;

use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
use rusqlite::{CachedStatement, Connection, Statement, ToSql, params_from_iter};

use crate::sql::{Database, Fault, NumberedTable, Row, RowChange, SqlParameter, Value};

/// A connection, within a transaction or without one.
pub(super) struct SqliteDatabase<'a> {
    connection: &'a Connection,
    /// Statements of changes of rows. Few kinds of changes are repeated for many rows.
    changes: RefCell<Vec<(&'static RowChange, CachedStatement<'a>)>>,
}

impl<'a> SqliteDatabase<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, changes: RefCell::default() }
    }

    /// Carries out a change of a row. The parameters are `first` and `values`.
    fn change(
        &self,
        change: &'static RowChange,
        first: Option<SqlParameter<'_>>,
        values: &[SqlParameter<'_>],
    ) -> Result<(), Fault> {
        let mut changes = self.changes.borrow_mut();
        let place = match changes.iter().position(|(known, _)| std::ptr::eq(*known, change)) {
            Some(place) => place,
            None => {
                changes.push((change, self.connection.prepare_cached(change.one)?));
                changes.len() - 1
            }
        };
        changes[place].1.execute(params_from_iter(first.into_iter().chain(values.iter().copied())))?;
        Ok(())
    }
}

impl ToSql for SqlParameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Owned::Null),
            Self::Whole(number) => ToSqlOutput::Owned(Owned::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

pub(super) fn value(value: ValueRef<'_>) -> Result<Value, Fault> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Whole(number),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| Fault::Row("a text is not UTF-8".to_owned()))?;
            Value::Text(text.to_owned())
        }
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        ValueRef::Real(_) => return Err(Fault::Row("a fraction where there is none".to_owned())),
    })
}

fn rows(statement: &mut Statement<'_>, values: &[SqlParameter<'_>]) -> Result<Vec<Row>, Fault> {
    let columns = statement.column_count();
    let mut found = statement.query(params_from_iter(values))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let values = (0..columns).map(|column| value(row.get_ref(column)?)).collect::<Result<_, Fault>>()?;
        rows.push(Row(values));
    }
    Ok(rows)
}

impl Database for SqliteDatabase<'_> {
    fn query(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<Vec<Row>, Fault> {
        rows(&mut *self.connection.prepare_cached(sql)?, values)
    }

    fn execute(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<u64, Fault> {
        Ok(self.connection.prepare_cached(sql)?.execute(params_from_iter(values))? as u64)
    }

    fn write(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<(), Fault> {
        self.execute(sql, values).map(drop)
    }

    fn insert(&self, _table: NumberedTable, sql: &str, values: &[SqlParameter<'_>]) -> Result<i64, Fault> {
        // SQLite gives the number to a row without one.
        let values = [SqlParameter::Null].into_iter().chain(values.iter().copied());
        self.connection.prepare_cached(sql)?.execute(params_from_iter(values))?;
        Ok(self.connection.last_insert_rowid())
    }

    fn change_row(&self, change: &'static RowChange, values: &[SqlParameter<'_>]) -> Result<(), Fault> {
        self.change(change, None, values)
    }

    fn insert_row(
        &self,
        _table: NumberedTable,
        change: &'static RowChange,
        values: &[SqlParameter<'_>],
    ) -> Result<i64, Fault> {
        self.change(change, Some(SqlParameter::Null), values)?;
        Ok(self.connection.last_insert_rowid())
    }

    fn among(&self) -> &'static str {
        "IN (SELECT value FROM json_each(?1))"
    }

    fn list(&self, numbers: &[i64]) -> String {
        format!("[{}]", crate::sql::joined(numbers))
    }

    fn with_due_deliveries(&self) -> &'static str {
        "LEFT JOIN deliveries ON id IN \
         (SELECT due_one.id FROM deliveries due_one WHERE due_one.host = name AND due_one.due <= ?2 \
          ORDER BY due_one.due, due_one.id LIMIT ?3)"
    }
}
