//! The storage in PostgreSQL, for clouds of several servers.
//!
//! The server that leads writes; the next leader goes on with the same queue. All tables are in the schema `gantry_queue`.
//!
//! # One writer
//! The row of the table `owner` has the epoch of the current writer and the number of its last transaction (`batch`).
//! - A server that opens the queue raises the epoch.
//! - Every transaction begins with the number of its batch in that row. A server that finds another epoch there writes
//!   nothing: the epoch is the fencing token of the queue. So the memory of the writer is that of the database, as with SQLite.
//! - The row also has the id of the cluster whose servers write the queue. The first server notes the id. A server of
//!   another cluster raises no epoch, writes nothing, and reads nothing: [`QueueStoreError::OtherCluster`].
//! - After a connection that broke during `COMMIT`, the server
//!   connects again, waits for the row, and reads the number: either the batch is committed and its replies are true, or
//!   the batch is carried out again. No batch is carried out twice.
//! - If PostgreSQL stays away meanwhile, the caller gets [`QueueStoreError::Unsettled`]. Each command is safe to repeat:
//!   completions carry the fencing token of their lease, submissions an idempotency key, due times their progress.
//!
//! A claim that waits too long for a row that another session has locked, such as a person's repair, is carried out again.
//! For a minute, claims pass over such rows (`FOR UPDATE SKIP LOCKED`).
//!
//! # No bloat
//! A job is written about four times, so a queue leaves dead rows behind each live one.
//! - A claim and a successful end stay in the page of the job's row and write no index. The next change of the page clears it.
//! - `jobs`, `bodies`, `results`, `messages` and `deliveries` are divided by number (`PARTITION BY RANGE`) into parts of a million. New
//!   rows go to the last part. Once all jobs of a part are removed, the part is dropped with all its dead rows and index
//!   pages. No index outlives its part.
//! - Autovacuum looks at parts early (2 % instead of 20 %) and does not pause.
//! - `owner` leaves nine tenths of its page free, so an update stays in the page, and the next one clears it.
//! - No transaction is long, which would keep dead rows alive: each statement, lock and idle transaction has a timeout.
//!
//! # Speed
//! - A statement whose result does not matter waits until the next query, and goes with it ([`session`]): the round trips of
//!   a transaction are its reads.
//! - The orders of the waiting jobs and the rows of recent jobs are in memory (`sql::memory`). Other rows that a batch of
//!   commands names are one read.
//! - Rows that one kind of statement changes go as one statement, whose parameters are arrays ([`pending`]).

mod address;
mod failure;
mod pending;
mod schema;
mod session;
pub(crate) mod target;
mod tls;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use gantry_model::{ClusterId, Moment};

pub use self::address::{PostgresAddress, PostgresAddressError};
pub(crate) use self::failure::Failure;
use self::failure::{causes, error};
use self::session::Session;
use crate::sql::memory::QueueMemory;
use crate::sql::read::QueueReader;
use crate::sql::write::Writer;
use crate::sql::{Database, Fault, NumberedTable};
use crate::{QueueCommand, QueueReply, QueueStore, QueueStoreError, WAITING_MAX};

/// Attempts of a transaction on connections that break.
const ATTEMPTS: u32 = 3;

/// Pauses between attempts to connect, the first and the longest. While one lasts, commands fail at once.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Time in which a broken commit is settled.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time until a server that leads tries again to take a queue that it may not use. A deposed leader notices within 4 s.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(10);

/// Time in which claims look for locked rows, after one was in the way.
const CAUTION: Duration = Duration::from_secs(60);

/// Interval of the search for an empty part.
const EMPTY_PART_INTERVAL: Duration = Duration::from_secs(20);

/// The storage of jobs in PostgreSQL. It connects with the first command, and again after a lost connection.
#[derive(Debug)]
pub struct PostgresQueue {
    address: PostgresAddress,
    /// The cluster of this server.
    cluster: ClusterId,
    /// Numbers in a part, for a database without tables.
    part: i64,
    /// The epoch of this server's writes; none before the first connection.
    epoch: Option<i64>,
    /// Number of the last batch.
    batch: i64,
    open: Option<Open>,
    /// The last attempt to connect failed: the next moment to try, the pause, and the cause.
    away: Option<(Instant, Duration, String)>,
    /// Moment at which another server had the queue.
    given_up: Option<(Instant, QueueUser)>,
    /// End of the time in which claims look for locked rows.
    cautious_until: Option<Instant>,
    /// Maximum number of jobs of all queues that may wait or run.
    most_open: u64,
    tidy_every: Duration,
    tidied: Instant,
}

/// Another server that has the queue.
#[derive(Debug, Clone, Copy)]
enum QueueUser {
    /// A server of this cluster, which leads.
    Server,
    /// The servers of another cluster.
    Cluster(ClusterId),
}

impl QueueUser {
    /// The user that a failure names.
    fn of(failure: &Failure) -> Option<Self> {
        match failure {
            Failure::Superseded => Some(Self::Server),
            Failure::OtherCluster(owner) => Some(Self::Cluster(*owner)),
            _ => None,
        }
    }

    fn failure(self) -> Failure {
        match self {
            Self::Server => Failure::Superseded,
            Self::Cluster(owner) => Failure::OtherCluster(owner),
        }
    }
}

/// A connection, and the facts of the database.
#[derive(Debug)]
struct Open {
    session: Session,
    memory: QueueMemory,
}

/// A batch failed.
enum BatchError {
    /// Before its commit: nothing was changed.
    Before(Fault),
    /// During its commit: the replies are true if the batch is committed.
    Commit(Fault, Vec<QueueReply>),
}

impl From<Fault> for BatchError {
    fn from(fault: Fault) -> Self {
        Self::Before(fault)
    }
}

impl PostgresQueue {
    /// The queue of a cluster at an address. Nothing is connected yet.
    #[must_use]
    pub fn new(address: PostgresAddress, cluster: ClusterId) -> Self {
        Self {
            address,
            cluster,
            part: schema::PART,
            epoch: None,
            batch: 0,
            open: None,
            away: None,
            given_up: None,
            cautious_until: None,
            most_open: WAITING_MAX,
            tidy_every: EMPTY_PART_INTERVAL,
            tidied: Instant::now(),
        }
    }

    /// The same queue with smaller parts, if this server makes the tables, and a look for empty ones before each batch. For
    /// tests.
    #[must_use]
    pub fn with_part(mut self, part: u32) -> Self {
        (self.part, self.tidy_every) = (i64::from(part).max(100), Duration::ZERO);
        self
    }

    /// A reader of the same database.
    #[must_use]
    pub fn reader(&self) -> QueueReader {
        QueueReader::of_database(PostgresReads {
            address: self.address.clone(),
            cluster: self.cluster,
            part: self.part,
            session: RefCell::new(None),
            away: RefCell::new(None),
        })
    }

    fn error(&self, fault: Fault, action: &'static str) -> QueueStoreError {
        error(fault, action, &self.address.to_string())
    }

    /// Connects if there is no connection. A failure is remembered for a moment.
    fn connect(&mut self) -> Result<(), Fault> {
        if self.open.is_some() {
            return Ok(());
        }
        if let Some((until, _, cause)) = &self.away
            && Instant::now() < *until
        {
            return Err(Failure::Earlier(cause.clone()).into());
        }
        if let Some((since, user)) = self.given_up
            && since.elapsed() < RECLAIM_INTERVAL
        {
            return Err(user.failure().into());
        }
        match self.open_session() {
            Ok(open) => {
                (self.open, self.away, self.given_up) = (Some(open), None, None);
                Ok(())
            }
            Err(fault) => {
                if let Fault::Postgres(failure) = &fault {
                    self.note_failure(failure);
                }
                Err(fault)
            }
        }
    }

    /// Remembers for a moment why there is no connection.
    fn note_failure(&mut self, failure: &Failure) {
        match QueueUser::of(failure) {
            Some(user) => self.give_up(user),
            None => {
                let pause = self.away.as_ref().map_or(PAUSE, |(_, pause, _)| (*pause * 2).min(LONGEST_PAUSE));
                self.away = Some((Instant::now() + pause, pause, causes(failure)));
            }
        }
    }

    /// Another server has the queue.
    fn give_up(&mut self, user: QueueUser) {
        (self.open, self.epoch, self.given_up) = (None, None, Some((Instant::now(), user)));
    }

    fn open_session(&mut self) -> Result<Open, Fault> {
        let session = Session::connect(&self.address)?;
        if self.epoch.is_none() {
            schema::prepare(&session, self.part, Some(self.cluster))?;
        }
        session.write("BEGIN", &[])?;
        let owner = session.lock_owner()?;
        if owner.moving.is_some() {
            return Err(Failure::Moving.into());
        }
        session.check_cluster(Some(self.cluster))?;
        let (epoch, batch) = match self.epoch {
            None => (owner.epoch + 1, 0),
            Some(epoch) if epoch == owner.epoch => (epoch, owner.batch),
            Some(_) => return Err(Failure::Superseded.into()),
        };
        session.note_owner(epoch, batch)?;
        session.note_cluster(self.cluster)?;
        let memory = QueueMemory::read(&session)?;
        let parts = schema::TablePartitions::read(&session, owner.part)?;
        session.parts.replace(parts);
        session.batch("COMMIT")?;
        session.write_only()?;
        (self.epoch, self.batch) = (Some(epoch), batch);
        Ok(Open { session, memory })
    }

    /// Carries out a batch on the current connection.
    fn carry_out(&mut self, commands: Vec<QueueCommand>, now: Moment) -> Result<Vec<QueueReply>, BatchError> {
        self.connect()?;
        let Some(Open { session, memory }) = &mut self.open else {
            return Err(Fault::from(Failure::Superseded).into());
        };
        let Some(epoch) = self.epoch else { return Err(Fault::from(Failure::Superseded).into()) };
        session.begin_batch(epoch, self.batch + 1)?;
        session.is_cautious.set(self.cautious_until.is_some_and(|until| Instant::now() < until));
        let replies = Writer::new(session, memory, &mut self.most_open, now).apply_all(commands)?;
        // Answers before the commit: a refused statement is no doubtful commit.
        session.flush()?;
        match session.batch("COMMIT") {
            Ok(()) => {
                self.batch += 1;
                Ok(replies)
            }
            Err(fault) => Err(BatchError::Commit(fault, replies)),
        }
    }

    /// Finds out whether the batch after the last one is committed.
    fn settle(&mut self) -> Option<bool> {
        let (before, deadline) = (self.batch, Instant::now() + SETTLE_TIMEOUT);
        loop {
            match self.connect() {
                Ok(()) => return Some(self.batch > before),
                Err(Fault::Postgres(failure)) if QueueUser::of(&failure).is_some() => return None,
                Err(_) if Instant::now() >= deadline => return None,
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Drops a part without rows, seldom and one at a time.
    fn drop_empty_part(&mut self) -> Result<(), Fault> {
        let Some(Open { session, .. }) = &self.open else { return Ok(()) };
        for of in [NumberedTable::Jobs, NumberedTable::Messages, NumberedTable::Deliveries] {
            let Some(lowest) = session.lowest_number(of) else { continue };
            let places = session.parts.borrow().below(of, lowest);
            for place in places {
                let tables = session.parts.borrow().tables(of, place);
                session.batch("BEGIN")?;
                if Some(session.lock_owner()?.epoch) != self.epoch {
                    return Err(Failure::Superseded.into());
                }
                let filled = tables.iter().try_fold(false, |filled, table| {
                    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT 1) AS found");
                    Ok::<_, Fault>(filled || session.number(&sql, &[])? > 0)
                })?;
                if filled {
                    session.batch("ROLLBACK")?;
                    continue;
                }
                session.batch(&format!("DROP TABLE {}; COMMIT", tables.join(", ")))?;
                session.parts.borrow_mut().forget(of, place);
            }
        }
        Ok(())
    }
}

impl QueueStore for PostgresQueue {
    fn commit(&mut self, commands: Vec<QueueCommand>, now: Moment) -> Result<Vec<QueueReply>, QueueStoreError> {
        if self.tidied.elapsed() >= self.tidy_every {
            self.tidied = Instant::now();
            if self.drop_empty_part().is_err() {
                self.open = None;
            }
        }
        let mut attempt = 1;
        loop {
            let fault = match self.carry_out(commands.clone(), now) {
                Ok(replies) => return Ok(replies),
                Err(BatchError::Before(fault)) => {
                    self.open = None;
                    fault
                }
                Err(BatchError::Commit(fault, replies)) => {
                    self.open = None;
                    match self.settle() {
                        Some(true) => return Ok(replies),
                        Some(false) => fault,
                        None => {
                            let Fault::Postgres(source) = fault else { return Err(self.error(fault, "write")) };
                            let place = self.address.to_string();
                            return Err(QueueStoreError::Unsettled { place, source: source.into() });
                        }
                    }
                }
            };
            if let Fault::Postgres(failure) = &fault
                && failure.is_lock()
            {
                self.cautious_until = Some(Instant::now() + CAUTION);
            }
            match &fault {
                Fault::Postgres(Failure::Superseded) if self.given_up.is_none() => self.give_up(QueueUser::Server),
                Fault::Postgres(failure) if failure.is_passing() && attempt < ATTEMPTS => {
                    attempt += 1;
                    if self.away.is_some() {
                        std::thread::sleep(PAUSE * 2);
                    }
                    continue;
                }
                _ => {}
            }
            return Err(self.error(fault, "write"));
        }
    }

    fn look_ahead(&mut self) {
        if let Some(Open { session, memory }) = &mut self.open
            && memory.look_ahead(session).is_err()
        {
            self.open = None;
        }
    }
}

/// The database, beside its writer.
#[derive(Debug)]
pub(crate) struct PostgresReads {
    address: PostgresAddress,
    cluster: ClusterId,
    part: i64,
    session: RefCell<Option<Session>>,
    /// The last attempt to connect failed: the next moment to try, and the cause. Reads that wait fail at once.
    away: RefCell<Option<(Instant, String)>>,
}

impl PostgresReads {
    pub(crate) fn read<T>(&self, read: impl Fn(&dyn Database) -> Result<T, Fault>) -> Result<T, QueueStoreError> {
        let mut attempt = 1;
        loop {
            let fault = match self.try_read(&read) {
                Ok(found) => return Ok(found),
                Err(fault) => fault,
            };
            self.session.replace(None);
            match &fault {
                Fault::Postgres(failure) if failure.is_passing() && attempt < 2 => attempt += 1,
                _ => return Err(error(fault, "read", &self.address.to_string())),
            }
        }
    }

    fn try_read<T>(&self, read: impl Fn(&dyn Database) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut session = self.session.borrow_mut();
        let session = match &mut *session {
            Some(session) => session,
            none => none.insert(self.connect()?),
        };
        read(session)
    }

    fn connect(&self) -> Result<Session, Fault> {
        if let Some((until, cause)) = &*self.away.borrow()
            && Instant::now() < *until
        {
            return Err(Failure::Earlier(cause.clone()).into());
        }
        let connected = Session::connect(&self.address).and_then(|session| {
            // Before the first write there are no tables.
            schema::prepare(&session, self.part, Some(self.cluster))?;
            Ok(session)
        });
        let cause = match &connected {
            Err(Fault::Postgres(failure)) if QueueUser::of(failure).is_none() => {
                Some((Instant::now() + PAUSE, causes(failure)))
            }
            _ => None,
        };
        self.away.replace(cause);
        connected
    }
}
