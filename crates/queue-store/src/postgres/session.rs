//! One connection, and the statements on it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::future::{join, maybe_done};
use gantry_model::ClusterId;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::address::PostgresAddress;
use super::failure::Failure;
use super::pending::{Effect, Outgoing, Parameter, Pending};
use super::schema::TablePartitions;
use super::tls::Tls;
use crate::sql::value::bound;
use crate::sql::{Database, Fault, NumberedTable, Row, RowChange, SqlParameter, Value, joined};

/// Timeout of a new connection to one host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Timeout of an answer. PostgreSQL gives up before: see [`SETTINGS`].
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);

/// Settings of every connection. A commit is on the disk when it is acknowledged. No statement is worth a compilation.
const SETTINGS: &str = "
    SET search_path = gantry_queue; SET statement_timeout = '20s'; SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '30s'; SET client_min_messages = 'warning'; SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local');
";

/// For short commands: an index serves each of them. The statistics of a table that grows fast mislead the planner, and
/// plans of that time would be kept. The changes of rows keep their plans ([`plan_mode`]): with these settings, the only plan
/// finds each row by its primary key.
const WRITER_SETTINGS: &str = "
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET enable_hashjoin = off;
    SET enable_mergejoin = off; SET enable_material = off; SET enable_memoize = off; SET plan_cache_mode = force_custom_plan;
";

/// A connection with its own small runtime, which runs while a statement is awaited.
pub(super) struct Session {
    /// None once dropped.
    runtime: Option<Runtime>,
    client: Client,
    /// Timeout of an answer; none for a move.
    timeout: Option<Duration>,
    statements: RefCell<HashMap<String, Statement>>,
    /// Statements that go to PostgreSQL with the next query.
    pending: RefCell<Pending>,
    /// Numbers that this session may give to new rows.
    numbers: RefCell<BTreeMap<NumberedTable, VecDeque<Range<i64>>>>,
    pub(super) parts: RefCell<TablePartitions>,
    /// True if claims look for jobs that other sessions have locked.
    pub(super) is_cautious: Cell<bool>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The drop of a runtime waits for its threads, which a task of another runtime may not do.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Session {
    /// Connects.
    pub(super) fn connect(address: &PostgresAddress) -> Result<Self, Fault> {
        let unreadable = |path: &std::path::Path, source| Failure::File { path: path.to_owned(), source };
        let mut config = Config::new();
        config.user(&address.user).dbname(&address.database).application_name("gantry");
        for (host, port) in &address.hosts {
            config.host(host).port(*port);
        }
        config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(ANSWER_TIMEOUT);
        config.keepalives_idle(Duration::from_secs(10)).target_session_attrs(TargetSessionAttrs::ReadWrite);
        if let Some(path) = &address.password {
            let password = std::fs::read_to_string(path).map_err(|source| unreadable(path, source))?;
            config.password(password.trim_end_matches(['\r', '\n']));
        }
        let tls = address.ca.as_ref().map(|ca| Tls::of(ca).map_err(|source| unreadable(ca, source))).transpose()?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::Runtime)?;
        let connected = runtime.block_on(async {
            let timeout = CONNECT_TIMEOUT * (1 + u32::try_from(address.hosts.len()).unwrap_or(1));
            let connecting = async {
                match tls {
                    None => {
                        let (client, connection) =
                            config.ssl_mode(tokio_postgres::config::SslMode::Disable).connect(NoTls).await?;
                        tokio::spawn(connection);
                        Ok::<_, tokio_postgres::Error>(client)
                    }
                    Some(tls) => {
                        let (client, connection) =
                            config.ssl_mode(tokio_postgres::config::SslMode::Require).connect(tls).await?;
                        tokio::spawn(connection);
                        Ok(client)
                    }
                }
            };
            match tokio::time::timeout(timeout, connecting).await {
                Ok(connected) => connected.map_err(Failure::from),
                Err(_) => Err(Failure::Timeout { seconds: timeout.as_secs() }),
            }
        });
        let session = Self {
            runtime: Some(runtime),
            client: connected?,
            timeout: Some(ANSWER_TIMEOUT),
            statements: RefCell::default(),
            pending: RefCell::default(),
            numbers: RefCell::default(),
            parts: RefCell::default(),
            is_cautious: Cell::new(false),
        };
        session.batch(SETTINGS)?;
        Ok(session)
    }

    /// The session without a timeout of statements, for a move: a count of all rows of a large table takes its time. The
    /// timeouts of the connection stay.
    pub(super) fn without_timeout(mut self) -> Result<Self, Fault> {
        self.timeout = None;
        self.batch("SET statement_timeout = 0")?;
        Ok(self)
    }

    /// From now on, the session carries out short commands.
    pub(super) fn write_only(&self) -> Result<(), Fault> {
        self.batch(WRITER_SETTINGS)
    }

    /// Waits for PostgreSQL.
    fn wait<T>(&self, answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Fault> {
        let Some(runtime) = &self.runtime else { return Err(Failure::Earlier("closed".to_owned()).into()) };
        let Some(timeout) = self.timeout else { return Ok(runtime.block_on(answer)?) };
        match runtime.block_on(async { tokio::time::timeout(timeout, answer).await }) {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::Timeout { seconds: timeout.as_secs() }.into()),
        }
    }

    /// Carries out plain statements.
    pub(super) fn batch(&self, sql: &str) -> Result<(), Fault> {
        self.after_pending(self.client.batch_execute(sql))
    }

    /// Sends the pending statements and then `last`, all at once, and waits for every answer.
    fn after_pending<T>(&self, last: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Fault> {
        let mut pending: Vec<(Statement, Vec<Parameter>, Effect)> = Vec::new();
        let mut is_generic = false;
        let waiting = self.pending.borrow_mut().take();
        for outgoing in waiting {
            if outgoing.is_generic != is_generic {
                is_generic = outgoing.is_generic;
                pending.push((self.statement(plan_mode(is_generic))?, Vec::new(), Effect::Any));
            }
            let Outgoing { sql, values, effect, .. } = outgoing;
            pending.push((self.statement(&sql)?, values, effect));
        }
        if is_generic {
            pending.push((self.statement(plan_mode(false))?, Vec::new(), Effect::Any));
        }
        let written = async {
            let mut answers: Vec<_> = pending
                .iter()
                .map(|(statement, values, effect)| {
                    let values = values.iter().map(|value| &**value as &(dyn ToSql + Sync));
                    (Box::pin(maybe_done(self.client.execute_raw(statement, values))), *effect)
                })
                .collect();
            // The first look at each future sends its statement, in this order, and before `last`.
            for (answer, _) in &mut answers {
                let _ = futures_util::poll!(answer.as_mut());
            }
            for (mut answer, effect) in answers {
                answer.as_mut().await;
                let changed = answer.as_mut().take_output().transpose()?;
                if effect == Effect::Owner && changed != Some(1) {
                    return Ok(false);
                }
            }
            Ok::<_, tokio_postgres::Error>(true)
        };
        let (is_owner, last) = self.wait(async {
            let (written, last) = join(written, last).await;
            // The first error is the cause of the others.
            Ok((written?, last))
        })?;
        if is_owner { Ok(last?) } else { Err(Failure::Superseded.into()) }
    }

    fn statement(&self, sql: &str) -> Result<Statement, Fault> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let statement = self.wait(self.client.prepare(&sql.replace('?', "$")))?;
        self.statements.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// The next number of a table. Numbers come in blocks; those that a session leaves are never given.
    fn next_number(&self, table: NumberedTable) -> Result<i64, Fault> {
        if let Some(number) = self.known_number(table) {
            return Ok(number);
        }
        self.reserve(table, 1)?;
        self.known_number(table).ok_or_else(|| Fault::Row("a sequence without a number".to_owned()))
    }

    /// The next number of a block that the session has.
    fn known_number(&self, table: NumberedTable) -> Option<i64> {
        let mut numbers = self.numbers.borrow_mut();
        let blocks = numbers.get_mut(&table)?;
        while let Some(block) = blocks.front_mut() {
            if let Some(number) = block.next() {
                return Some(number);
            }
            blocks.pop_front();
        }
        None
    }

    /// Takes blocks with at least `count` numbers, and makes the parts in which the numbers lie.
    fn reserve(&self, table: NumberedTable, count: i64) -> Result<(), Fault> {
        let (sequence, block) = match table {
            NumberedTable::Jobs => ("jobs_numbers", 100),
            NumberedTable::Messages => ("messages_numbers", 100),
            NumberedTable::Deliveries => ("deliveries_numbers", 100),
            NumberedTable::Queues => ("queues_numbers", 1),
            NumberedTable::Schedules => ("schedules_numbers", 1),
            NumberedTable::MessageQueues => ("message_queues_numbers", 1),
        };
        let sql = format!("SELECT nextval('{sequence}') FROM generate_series(1, ?1)");
        let blocks = (count + block - 1) / block;
        for mut row in self.query(&sql, bound![blocks])? {
            let first: i64 = row.get(0)?;
            for number in [first, first + block - 1] {
                let missing = self.parts.borrow_mut().make(table, number);
                for statement in missing {
                    self.batch(&statement)?;
                }
            }
            self.numbers.borrow_mut().entry(table).or_default().push_back(first..first + block);
        }
        Ok(())
    }

    /// Sends the statements that wait, and waits for their answers.
    pub(super) fn flush(&self) -> Result<(), Fault> {
        self.after_pending(async { Ok(()) })
    }

    /// Carries out a statement for many rows, given by their columns, before the next query.
    pub(super) fn write_columns(&self, sql: &str, columns: Vec<Vec<Value>>) {
        self.pending.borrow_mut().add(sql, columns);
    }

    /// The lowest number that this session may still give to a new row; none if it has none.
    pub(super) fn lowest_number(&self, table: NumberedTable) -> Option<i64> {
        self.numbers.borrow().get(&table)?.front().map(|block| block.start)
    }
}

impl Database for Session {
    fn query(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<Vec<Row>, Fault> {
        let statement = self.statement(sql)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let found = self.after_pending(self.client.query(&statement, &values))?;
        let row =
            |row: &tokio_postgres::Row| (0..row.len()).map(|column| row.try_get(column)).collect::<Result<_, _>>();
        Ok(found.iter().map(|found| row(found).map(Row)).collect::<Result<_, tokio_postgres::Error>>()?)
    }

    fn execute(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<u64, Fault> {
        let statement = self.statement(sql)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.after_pending(self.client.execute(&statement, &values))
    }

    fn write(&self, sql: &str, values: &[SqlParameter<'_>]) -> Result<(), Fault> {
        self.pending.borrow_mut().add(sql, values.iter().map(|value| value.owned()));
        Ok(())
    }

    fn change_row(&self, change: &'static RowChange, values: &[SqlParameter<'_>]) -> Result<(), Fault> {
        let Some(SqlParameter::Whole(number)) = values.first() else {
            return Err(Fault::Row(format!("no number of a row for {}", change.one)));
        };
        self.pending.borrow_mut().add_row(change, *number, values);
        Ok(())
    }

    fn insert(&self, table: NumberedTable, sql: &str, values: &[SqlParameter<'_>]) -> Result<i64, Fault> {
        let number = self.next_number(table)?;
        self.write(sql, &numbered(number, values))?;
        Ok(number)
    }

    fn insert_row(
        &self,
        table: NumberedTable,
        change: &'static RowChange,
        values: &[SqlParameter<'_>],
    ) -> Result<i64, Fault> {
        let number = self.next_number(table)?;
        self.change_row(change, &numbered(number, values))?;
        Ok(number)
    }

    fn among(&self) -> &'static str {
        "= ANY(CAST(CAST(?1 AS TEXT) AS BIGINT[]))"
    }

    fn list(&self, numbers: &[i64]) -> String {
        format!("{{{}}}", joined(numbers))
    }

    fn expect_rows(&self, table: NumberedTable, count: usize) -> Result<(), Fault> {
        let known = |blocks: &VecDeque<Range<i64>>| blocks.iter().map(|block| block.end - block.start).sum();
        let known: i64 = self.numbers.borrow().get(&table).map_or(0, known);
        let missing = i64::try_from(count).unwrap_or(i64::MAX).saturating_sub(known);
        if missing > 0 { self.reserve(table, missing) } else { Ok(()) }
    }

    fn is_locked(&self, job: i64) -> Result<bool, Fault> {
        let sql = "SELECT id FROM jobs WHERE id = ?1 FOR UPDATE SKIP LOCKED";
        Ok(self.is_cautious.get() && self.one(sql, bound![job])?.is_none())
    }

    fn with_due_deliveries(&self) -> &'static str {
        "LEFT JOIN LATERAL (SELECT * FROM deliveries WHERE host = name AND due <= ?2 ORDER BY due, id LIMIT ?3) AS due_ones \
         ON TRUE"
    }
}

/// The statement that chooses between a plan for all values and a plan for each.
fn plan_mode(is_generic: bool) -> &'static str {
    if is_generic {
        "SET LOCAL plan_cache_mode = force_generic_plan"
    } else {
        "SET LOCAL plan_cache_mode = force_custom_plan"
    }
}

/// The values of a row that gets a number.
fn numbered<'a>(number: i64, values: &[SqlParameter<'a>]) -> Vec<SqlParameter<'a>> {
    [SqlParameter::Whole(number)].into_iter().chain(values.iter().copied()).collect()
}

impl ToSql for SqlParameter<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Whole(number) if *kind == Type::INT8 => out.put_i64(*number),
            Self::Whole(number) if *kind == Type::INT4 => out.put_i32(i32::try_from(*number)?),
            Self::Whole(_) => return Err(format!("a number for the type {kind}").into()),
            // Texts and bytes have the same form.
            Self::Text(text) => out.put_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.put_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => SqlParameter::Null,
            Self::Whole(number) => SqlParameter::Whole(*number),
            Self::Text(text) => SqlParameter::Text(text),
            Self::Bytes(bytes) => SqlParameter::Bytes(bytes),
        }
        .to_sql(kind, out)
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(match *kind {
            Type::INT8 => Self::Whole(i64::from_sql(kind, raw)?),
            Type::TEXT => Self::Text(String::from_sql(kind, raw)?),
            Type::BYTEA => Self::Bytes(raw.to_vec()),
            _ => return Err(format!("a column of the type {kind}").into()),
        })
    }

    fn from_sql_null(_kind: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }
}

/// The row of the table `owner`.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) part: i64,
    pub(super) epoch: i64,
    pub(super) batch: i64,
    /// Number of the contents that are being moved here.
    pub(super) moving: Option<String>,
    /// Number of the contents that were moved here.
    pub(super) moved: Option<String>,
}

impl Session {
    /// Reads the row of the table `owner`, and keeps other writers out until the end of the transaction.
    pub(super) fn lock_owner(&self) -> Result<Owner, Fault> {
        let row = self.one("SELECT part, epoch, batch, moving, moved FROM owner FOR UPDATE", &[])?;
        let mut row = row.ok_or_else(|| Fault::Row("the table owner has no row".to_owned()))?;
        Ok(Owner { part: row.get(0)?, epoch: row.get(1)?, batch: row.get(2)?, moving: row.get(3)?, moved: row.get(4)? })
    }

    /// Begins a transaction with the number `batch`, and keeps other writers out until its end. If the server with this epoch
    /// has lost the queue, the next answer is [`Failure::Superseded`].
    pub(super) fn begin_batch(&self, epoch: i64, batch: i64) -> Result<(), Fault> {
        self.write("BEGIN", &[])?;
        let sql = "UPDATE owner SET batch = ?2 WHERE epoch = ?1";
        self.pending.borrow_mut().add_with(sql, [Value::Whole(epoch), Value::Whole(batch)], Effect::Owner);
        Ok(())
    }

    /// Notes the writer and its transaction.
    pub(super) fn note_owner(&self, epoch: i64, batch: i64) -> Result<(), Fault> {
        self.write("UPDATE owner SET epoch = ?1, batch = ?2", bound![epoch, batch])
    }

    /// Fails if the queue belongs to another cluster.
    pub(super) fn check_cluster(&self, cluster: Option<ClusterId>) -> Result<(), Fault> {
        let row = self.one("SELECT cluster_id FROM owner", &[])?;
        let owner = row.map_or(Ok(None), |mut row| row.get::<Option<ClusterId>>(0))?;
        match owner.filter(|owner| Some(*owner) != cluster) {
            Some(owner) => Err(Failure::OtherCluster(owner).into()),
            None => Ok(()),
        }
    }

    /// Notes the cluster to which the queue belongs from now on.
    pub(super) fn note_cluster(&self, cluster: ClusterId) -> Result<(), Fault> {
        self.write("UPDATE owner SET cluster_id = ?1", bound![&cluster.to_string()])
    }
}
