//! The commands and reads of a storage in SQL. SQLite and PostgreSQL run the same statements.
//!
//! - [`Database`]: what an engine does with a statement. Each engine implements it in its own module.
//! - `memory`: what the writer knows without a query. `load`: counts of each queue. `open`: the orders of waiting jobs.
//!   `recent`: rows of jobs.
//! - `write`, `claim`, `upkeep`, `schedules`, `messages`, `deliveries`: the commands, within one transaction.
//! - `read`: pages and details, beside the writer. `row`: rows to jobs and back.
//!
//! Statements number their parameters `?1`, `?2`, …; numbers and truth values are 64-bit integers. Both engines know the
//! words that the statements use. Text that a user chooses freely is bound as any text: PostgreSQL keeps it as bytes,
//! because its texts contain no NUL.

mod claim;
pub(crate) mod deliveries;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod messages;
mod open;
pub(crate) mod read;
mod recent;
pub(crate) mod row;
pub(crate) mod schedules;
pub(crate) mod tables;
mod upkeep;
pub(crate) mod value;
pub(crate) mod write;

pub(crate) use self::value::{Row, SqlParameter, Value};

/// A command or read failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite refuses.
    Sqlite(rusqlite::Error),
    /// PostgreSQL refuses, or is away.
    Postgres(crate::postgres::Failure),
    /// A row makes no sense.
    Row(String),
}

/// Tables whose rows get numbers that are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum NumberedTable {
    /// Jobs.
    Jobs,
    /// Queues of jobs.
    Queues,
    /// Schedules.
    Schedules,
    /// Queues of messages.
    MessageQueues,
    /// Messages.
    Messages,
    /// Deliveries.
    Deliveries,
}

/// A change of one row, whose number is the first parameter. An engine may carry out the changes of many rows as one
/// statement.
#[derive(Debug)]
pub(crate) struct RowChange {
    /// The statement for one row.
    pub(crate) one: &'static str,
    /// The statement for many rows, in PostgreSQL. Each parameter is an array with the values of all rows.
    pub(crate) many: &'static str,
}

/// An engine, within a transaction or beside the writer.
pub(crate) trait Database {
    /// The rows of a query.
    fn query(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<Vec<Row>, Fault>;

    /// Carries out a statement; returns the number of changed rows.
    fn execute(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<u64, Fault>;

    /// Carries out a statement before the next query, or at the end of the transaction.
    fn write(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<(), Fault>;

    /// Changes a row before the next query, or at the end of the transaction. Changes of one row keep their order.
    fn change_row(&self, change: &'static RowChange, values: &[SqlParameter<'_>]) -> Result<(), Fault>;

    /// Inserts a row, whose new number is the parameter `?1` of the statement; `values` are the others.
    fn insert(&self, table: NumberedTable, sql: &str, values: &[SqlParameter<'_>]) -> Result<i64, Fault>;

    /// Same as [`Self::insert`], with a statement for many rows.
    fn insert_row(
        &self,
        table: NumberedTable,
        change: &'static RowChange,
        values: &[SqlParameter<'_>],
    ) -> Result<i64, Fault>;

    /// The condition that a number is one of many, which the parameter `?1` lists.
    fn among(&self) -> &'static str;

    /// The value of the parameter of [`Self::among`].
    fn list(&self, numbers: &[i64]) -> String;

    /// Makes room for new rows, so that the next `count` ones of [`Self::insert_row`] need no query each.
    fn expect_rows(&self, _table: NumberedTable, _count: usize) -> Result<(), Fault> {
        Ok(())
    }

    /// Reports whether another session has locked a job, which a claim then passes over.
    fn is_locked(&self, _job: i64) -> Result<bool, Fault> {
        Ok(false)
    }

    /// The join of hosts, whose names are in the column `name`, with their deliveries that are due at `?2`: the first
    /// ones, up to `?3` of each host. A host without one stays.
    fn with_due_deliveries(&self) -> &'static str;

    /// The only row of a query; none if there is no row.
    fn one(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<Option<Row>, Fault> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    /// The number that a query always returns.
    fn number(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<u64, Fault> {
        let mut row = self.one(sql, values)?.ok_or_else(|| Fault::Row(format!("no row for {sql}")))?;
        Ok(row::unsigned(row.get(0)?))
    }
}

/// Numbers with commas between them.
pub(crate) fn joined(numbers: &[i64]) -> String {
    let texts: Vec<String> = numbers.iter().map(i64::to_string).collect();
    texts.join(",")
}
