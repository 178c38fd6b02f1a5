//! The tables of a queue, column by column, for a copy of all rows from one storage to the other.

use super::NumberedTable;

/// A table that both storages have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Kind of the numbers in the first column; none for names and for numbers of other tables.
    pub(crate) numbered: Option<NumberedTable>,
    /// Columns with their kinds. The first one is the primary key.
    pub(crate) columns: &'static [(&'static str, ColumnKind)],
}

/// Kind of a column in PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    /// A number or truth value.
    Whole,
    /// A text without NUL.
    Text,
    /// Bytes, or a text that a user chose.
    Bytes,
}

use ColumnKind::{Bytes, Text, Whole};

/// All tables, in the order of a copy. The queues of messages come last: in PostgreSQL a new message or delivery is counted
/// in the row of its queue, if the row is there, and the copied row has the counts.
pub(crate) const TABLES: [Table; 9] = [
    Table {
        name: "queues",
        numbered: Some(NumberedTable::Queues),
        columns: &[
            ("id", Whole),
            ("project", Text),
            ("code", Text),
            ("paused", Whole),
            ("most", Whole),
            ("extra", Whole),
        ],
    },
    Table {
        name: "jobs",
        numbered: Some(NumberedTable::Jobs),
        columns: &[
            ("id", Whole),
            ("queue", Whole),
            ("state", Whole),
            ("place", Whole),
            ("fence", Whole),
            ("failures", Whole),
            ("lost", Whole),
            ("submitted", Whole),
            ("expiry", Whole),
            ("key", Bytes),
            ("idempotency", Bytes),
            ("machine", Text),
            ("cancelling", Whole),
            ("ended", Whole),
            ("percent", Whole),
            ("message", Bytes),
            ("settings", Text),
        ],
    },
    Table {
        name: "bodies",
        numbered: None,
        columns: &[("job", Whole), ("work", Bytes), ("payload", Bytes), ("submitter", Bytes)],
    },
    Table { name: "results", numbered: None, columns: &[("job", Whole), ("details", Bytes), ("output", Bytes)] },
    Table {
        name: "schedules",
        numbered: Some(NumberedTable::Schedules),
        columns: &[
            ("id", Whole),
            ("project", Text),
            ("name", Text),
            ("schedule", Text),
            ("template", Bytes),
            ("of_release", Whole),
            ("creator", Bytes),
            ("paused", Whole),
            ("created", Whole),
            ("handled", Whole),
            ("runs", Whole),
            ("skipped", Whole),
            ("last_run", Whole),
            ("last_job", Whole),
            ("note", Bytes),
            ("next", Whole),
        ],
    },
    Table {
        name: "messages",
        numbered: Some(NumberedTable::Messages),
        columns: &[
            ("id", Whole),
            ("queue", Whole),
            ("body", Bytes),
            ("waiting", Whole),
            ("due", Whole),
            ("reserved", Whole),
            ("reservation", Whole),
            ("reservations", Whole),
            ("expires", Whole),
            ("headers", Bytes),
        ],
    },
    Table {
        name: "deliveries",
        numbered: Some(NumberedTable::Deliveries),
        columns: &[
            ("id", Whole),
            ("queue", Whole),
            ("message", Whole),
            ("job", Whole),
            ("subscriber", Bytes),
            ("host", Text),
            ("state", Whole),
            ("due", Whole),
            ("reservation", Whole),
            ("attempts", Whole),
            ("status", Whole),
            ("note", Bytes),
            ("tried", Whole),
        ],
    },
    Table {
        name: "signing_keys",
        numbered: None,
        columns: &[("project", Text), ("current", Text), ("previous", Text), ("rotated", Whole)],
    },
    Table {
        name: "message_queues",
        numbered: Some(NumberedTable::MessageQueues),
        columns: &[
            ("id", Whole),
            ("project", Text),
            ("name", Bytes),
            ("settings", Text),
            ("size", Whole),
            ("total", Whole),
            ("deliveries", Whole),
        ],
    },
];

impl Table {
    /// The column by which rows are ordered.
    pub(crate) fn key(&self) -> &'static str {
        self.columns[0].0
    }

    /// The columns with commas between them.
    pub(crate) fn list(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}
