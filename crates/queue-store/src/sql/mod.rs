//! The commands and reads of a storage in SQL. SQLite and PostgreSQL run the same statements.
//!
//! - [`Database`]: what an engine does with a statement. Each engine implements it in its own module.
//! - `write`, `claim`, `upkeep`, `schedules`, `messages`: the commands, within one transaction.
//! - `read`: pages and details, beside the writer. `load`: counts of each queue, in memory. `row`: rows to jobs and back.
//!
//! Statements number their parameters `?1`, `?2`, …; numbers and truth values are 64-bit integers. Both engines know the
//! words that the statements use. Text that a user chooses freely is bound as any text: PostgreSQL keeps it as bytes,
//! because its texts contain no NUL.

mod claim;
pub(crate) mod load;
pub(crate) mod messages;
pub(crate) mod read;
pub(crate) mod row;
pub(crate) mod schedules;
mod upkeep;
pub(crate) mod value;
pub(crate) mod write;

pub(crate) use self::value::{Bound, Row, Value};

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
pub(crate) enum Numbered {
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
}

/// An engine, within a transaction or beside the writer.
pub(crate) trait Database {
    /// The rows of a query.
    fn query(&self, sql: &str, values: &[Bound<'_>]) -> Result<Vec<Row>, Fault>;

    /// Carries out a statement; returns the number of changed rows.
    fn execute(&self, sql: &str, values: &[Bound<'_>]) -> Result<u64, Fault>;

    /// Carries out a statement before the next query, or at the end of the transaction.
    fn write(&self, sql: &str, values: &[Bound<'_>]) -> Result<(), Fault>;

    /// Inserts a row, whose new number is the parameter `?1` of the statement; `values` are the others.
    fn insert(&self, table: Numbered, sql: &str, values: &[Bound<'_>]) -> Result<i64, Fault>;

    /// The end of a query that passes over rows of other sessions.
    fn skip_locked(&self) -> &'static str;

    /// The only row of a query; none if there is no row.
    fn one(&self, sql: &str, values: &[Bound<'_>]) -> Result<Option<Row>, Fault> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    /// The number that a query always returns.
    fn number(&self, sql: &str, values: &[Bound<'_>]) -> Result<u64, Fault> {
        let mut row = self.one(sql, values)?.ok_or_else(|| Fault::Row(format!("no row for {sql}")))?;
        Ok(row::natural(row.get(0)?))
    }
}
