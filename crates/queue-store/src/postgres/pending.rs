//! Statements that wait for the next query.

use std::collections::BTreeSet;

use tokio_postgres::types::ToSql;

use crate::sql::{RowChange, SqlParameter, Value};

/// Value of a parameter.
pub(super) type Parameter = Box<dyn ToSql + Send + Sync>;

/// Statements that wait, in the order in which they go.
#[derive(Debug, Default)]
pub(super) struct Pending(Vec<Waiting>);

/// The effect that a statement must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Any number of changed rows.
    Any,
    /// One changed row. Otherwise another server has the queue.
    Owner,
}

/// A statement that goes to PostgreSQL.
pub(super) struct Outgoing {
    pub(super) sql: String,
    pub(super) values: Vec<Parameter>,
    pub(super) effect: Effect,
    /// True if the plan is the same for all values.
    pub(super) is_generic: bool,
}

/// A statement that waits.
#[derive(Debug)]
enum Waiting {
    /// A statement of its own.
    Single { sql: String, values: Vec<Parameter>, effect: Effect },
    /// Changes of rows, each row at most once.
    Rows { change: &'static RowChange, rows: BTreeSet<i64>, columns: Vec<Vec<Value>> },
}

impl Pending {
    /// Adds a statement.
    pub(super) fn add(&mut self, sql: &str, values: impl IntoIterator<Item = impl ToSql + Send + Sync + 'static>) {
        self.add_with(sql, values, Effect::Any);
    }

    /// Adds a statement that must have an effect.
    pub(super) fn add_with(
        &mut self,
        sql: &str,
        values: impl IntoIterator<Item = impl ToSql + Send + Sync + 'static>,
        effect: Effect,
    ) {
        let values = values.into_iter().map(boxed).collect();
        self.0.push(Waiting::Single { sql: sql.to_owned(), values, effect });
    }

    /// Adds a change of the row `number`. The change joins earlier ones of its kind, unless a statement in between may
    /// concern the row.
    pub(super) fn add_row(&mut self, change: &'static RowChange, number: i64, values: &[SqlParameter<'_>]) {
        for waiting in self.0.iter_mut().rev() {
            match waiting {
                Waiting::Rows { rows, .. } if rows.contains(&number) => break,
                Waiting::Rows { change: known, rows, columns } if std::ptr::eq(*known, change) => {
                    rows.insert(number);
                    columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value.owned()));
                    return;
                }
                Waiting::Rows { .. } => {}
                Waiting::Single { .. } => break,
            }
        }
        let columns = values.iter().map(|value| vec![value.owned()]).collect();
        self.0.push(Waiting::Rows { change, rows: BTreeSet::from([number]), columns });
    }

    /// Takes the statements.
    pub(super) fn take(&mut self) -> Vec<Outgoing> {
        let outgoing = |waiting| match waiting {
            Waiting::Single { sql, values, effect } => Outgoing { sql, values, effect, is_generic: false },
            Waiting::Rows { change, columns, .. } => {
                let values = columns.into_iter().map(boxed).collect();
                Outgoing { sql: change.many.to_owned(), values, effect: Effect::Any, is_generic: true }
            }
        };
        std::mem::take(&mut self.0).into_iter().map(outgoing).collect()
    }
}

fn boxed(value: impl ToSql + Send + Sync + 'static) -> Parameter {
    Box::new(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    static ADD: RowChange = RowChange { one: "add one", many: "add" };
    static CHANGE: RowChange = RowChange { one: "change one", many: "change" };

    /// The statements in order, with the numbers of their rows.
    fn order(pending: &Pending) -> Vec<String> {
        let text = |waiting: &Waiting| match waiting {
            Waiting::Single { sql, .. } => sql.clone(),
            Waiting::Rows { change, rows, .. } => format!("{} {rows:?}", change.many),
        };
        pending.0.iter().map(text).collect()
    }

    fn pending(steps: &[(&str, i64)]) -> Vec<String> {
        let mut pending = Pending::default();
        for (step, number) in steps {
            match *step {
                "add" => pending.add_row(&ADD, *number, &[SqlParameter::Whole(*number)]),
                "change" => pending.add_row(&CHANGE, *number, &[SqlParameter::Whole(*number)]),
                other => pending.add(other, Vec::<Value>::new()),
            }
        }
        order(&pending)
    }

    #[test]
    fn rows_of_one_kind_go_together() {
        let steps = [("add", 1), ("change", 1), ("add", 2), ("change", 2)];
        assert_eq!(pending(&steps), ["add {1, 2}", "change {1, 2}"]);
    }

    #[test]
    fn changes_of_one_row_keep_their_order() {
        let steps = [("change", 1), ("add", 1), ("change", 1), ("change", 2)];
        assert_eq!(pending(&steps), ["change {1}", "add {1}", "change {1, 2}"]);
        assert_eq!(pending(&[("change", 1), ("change", 1)]), ["change {1}", "change {1}"]);
    }

    #[test]
    fn no_row_passes_another_statement() {
        let steps = [("add", 1), ("delete", 0), ("add", 2), ("add", 3)];
        assert_eq!(pending(&steps), ["add {1}", "delete", "add {2, 3}"]);
    }
}
