//! Pages and details of jobs, read beside the writer.

use std::collections::BTreeSet;

use gantry_model::{AppName, Moment};
use gantry_queue::{Job, JobId, JobState, QueueName, ScheduleName};

use super::load::Loads;
use super::row::{COLUMNS, StoredJob, unsigned, whole};
use super::value::bound;
use super::{Database, Fault, deliveries, messages, schedules};
use crate::{
    JobProgress, MessageId, MessageQueueInfo, MessageQueueName, QueueStoreError, StoredDelivery, StoredMessage,
    StoredSchedule, postgres, sqlite,
};

/// Maximum number of rows that one page looks at. A page may be shorter than asked for and still have a successor.
const ROWS_SCANNED_MAX: usize = 20_000;

/// Rows that a page reads at a time.
const CHUNK: usize = 1000;

/// A reader of the queue. Reads see the last committed state and delay no writer.
#[derive(Debug)]
pub struct QueueReader(Source);

/// The storage of a reader.
#[derive(Debug)]
enum Source {
    Sqlite(sqlite::SqliteReads),
    Postgres(Box<postgres::PostgresReads>),
}

/// Selection of jobs.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only jobs of this project.
    pub project: Option<AppName>,
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Only dead letters.
    pub dead: bool,
    /// Only jobs below this number.
    pub before: Option<JobId>,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobDetails>,
    /// The number from which the next page goes on; none after the last page.
    pub next: Option<JobId>,
}

/// A job with all that is known about it.
#[derive(Debug, Clone)]
pub struct JobDetails {
    /// Number of the job.
    pub id: JobId,
    /// Queue of the job.
    pub queue: QueueName,
    /// Settings and state of the job.
    pub job: Job,
    /// Name of the submitter.
    pub by: String,
    /// The source of the job: a role or an image.
    pub work: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// Details of the last attempt that ended.
    pub details: Option<Vec<u8>>,
    /// Progress of the running attempt.
    pub progress: Option<JobProgress>,
    /// Delivery of the result to the job's callback; none without one, or before the end.
    pub callback: Option<StoredDelivery>,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Name of the queue.
    pub name: QueueName,
    /// True if no job starts.
    pub paused: bool,
    /// Maximum number of jobs at the same time.
    pub limit: Option<u32>,
    /// Jobs by state: delayed, held, ready, leased, ended.
    pub counts: [u64; 5],
    /// Number of dead letters.
    pub dead: u64,
    /// Number of attempts that ended after their lease was lost.
    pub extra_runs: u64,
}

/// Workload of a job that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenWork {
    /// The project.
    pub project: AppName,
    /// The work.
    pub work: Vec<u8>,
}

impl QueueReader {
    /// A reader of a file.
    pub(crate) fn of_file(file: sqlite::SqliteReads) -> Self {
        Self(Source::Sqlite(file))
    }

    /// A reader of a database.
    pub(crate) fn of_database(database: postgres::PostgresReads) -> Self {
        Self(Source::Postgres(Box::new(database)))
    }

    /// Reads. A read may be repeated: after a lost connection, on the next one.
    fn read<T>(&self, read: impl Fn(&dyn Database) -> Result<T, Fault>) -> Result<T, QueueStoreError> {
        match &self.0 {
            Source::Sqlite(file) => file.read(read),
            Source::Postgres(database) => database.read(read),
        }
    }

    /// Finds a job.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn job(&self, id: JobId) -> Result<Option<JobDetails>, QueueStoreError> {
        self.read(|database| {
            let Some(stored) = StoredJob::find(database, id)? else { return Ok(None) };
            let queue = Loads::names(database)?.queues.remove(&stored.queue).map(|load| load.name);
            queue.map_or(Ok(None), |queue| details(database, stored, queue))
        })
    }

    /// The output of the last attempt that ended.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn output(&self, id: JobId) -> Result<Option<Vec<u8>>, QueueStoreError> {
        let sql = "SELECT output FROM results WHERE job = ?1";
        self.read(|database| database.one(sql, bound![whole(id.0)])?.map(|mut row| row.get(0)).transpose())
    }

    /// A page of jobs, newest first, at most `most`.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn page(&self, filter: &JobFilter, most: usize) -> Result<JobPage, QueueStoreError> {
        self.read(|database| page(database, filter, most))
    }

    /// All queues, in the order of their names.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn queues(&self) -> Result<Vec<QueueInfo>, QueueStoreError> {
        self.read(queues)
    }

    /// Jobs that machines have, with the tokens of their leases.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn leased(&self) -> Result<Vec<(JobId, Job)>, QueueStoreError> {
        self.read(|database| {
            let rows = database.query(&format!("SELECT {COLUMNS} FROM jobs WHERE state = 3"), &[])?;
            let jobs = rows.into_iter().map(|row| StoredJob::read(row).map(|stored| (stored.id, stored.job)));
            jobs.collect()
        })
    }

    /// Distinct workloads of all jobs that have not ended.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn open_works(&self) -> Result<BTreeSet<OpenWork>, QueueStoreError> {
        self.read(|database| {
            let names = Loads::names(database)?.queues;
            let sql = "SELECT DISTINCT queue, work FROM jobs JOIN bodies ON job = jobs.id WHERE state < 4";
            let mut works = BTreeSet::new();
            for mut row in database.query(sql, &[])? {
                let queue: i64 = row.get(0)?;
                let Some(load) = names.get(&queue) else { continue };
                works.insert(OpenWork { project: load.name.project.clone(), work: row.get(1)? });
            }
            Ok(works)
        })
    }

    /// Schedules in the order of their names; those of one project, or all.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn schedules(&self, project: Option<&AppName>) -> Result<Vec<StoredSchedule>, QueueStoreError> {
        let project = project.map(AppName::as_str);
        let condition = "CAST(?1 AS TEXT) IS NULL OR project = ?1 ORDER BY project, name";
        self.read(|database| schedules::select(database, condition, bound![project]))
    }

    /// Finds a schedule.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn schedule(&self, name: &ScheduleName) -> Result<Option<StoredSchedule>, QueueStoreError> {
        self.read(|database| schedules::find(database, name))
    }

    /// Schedules that are due, at most `most`, and the moment at which the next one is.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn due_schedules(
        &self,
        now: Moment,
        most: u32,
    ) -> Result<(Vec<StoredSchedule>, Option<Moment>), QueueStoreError> {
        let condition = "next <= ?1 AND paused = 0 ORDER BY next LIMIT ?2";
        self.read(|database| {
            let due = schedules::select(database, condition, bound![whole(now.0), most])?;
            Ok((due, schedules::next_due(database)?))
        })
    }

    /// A queue of messages.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn message_queue(&self, name: &MessageQueueName) -> Result<Option<MessageQueueInfo>, QueueStoreError> {
        self.read(|database| messages::info(database, name))
    }

    /// Names of the queues of messages of a project that begin with `prefix`, after the name `after`.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn message_queues(
        &self,
        project: &AppName,
        prefix: &str,
        after: &str,
        most: u32,
    ) -> Result<Vec<String>, QueueStoreError> {
        self.read(|database| messages::list(database, project.as_str(), prefix, after, most))
    }

    /// The first available messages of a queue; none for an unknown queue.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn peek_messages(
        &self,
        name: &MessageQueueName,
        most: u32,
        now: Moment,
    ) -> Result<Option<Vec<StoredMessage>>, QueueStoreError> {
        self.read(|database| messages::peek(database, name, most, now))
    }

    /// A message.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn message(
        &self,
        name: &MessageQueueName,
        id: MessageId,
        now: Moment,
    ) -> Result<Option<StoredMessage>, QueueStoreError> {
        self.read(|database| messages::message(database, name, id, now))
    }

    /// The deliveries of a message of a push queue, one for each subscriber that the message goes to; none for an unknown
    /// message.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn message_deliveries(
        &self,
        name: &MessageQueueName,
        id: MessageId,
    ) -> Result<Option<Vec<StoredDelivery>>, QueueStoreError> {
        self.read(|database| deliveries::statuses(database, name, id))
    }

    /// The moment at which the next delivery is due.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn next_delivery(&self) -> Result<Option<Moment>, QueueStoreError> {
        self.read(deliveries::next_due)
    }
}

fn page(database: &dyn Database, filter: &JobFilter, most: usize) -> Result<JobPage, Fault> {
    let names = Loads::names(database)?;
    let is_selected = |name: &QueueName| {
        filter.queue.as_ref().is_none_or(|queue| queue == name)
            && filter.project.as_ref().is_none_or(|project| *project == name.project)
    };
    let dead = if filter.dead { "AND ended IN (1, 2, 4, 5)" } else { "" };
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id < ?1 {dead} ORDER BY id DESC LIMIT ?2");
    let mut before = filter.before.map_or(i64::MAX, |before| whole(before.0));
    let (mut jobs, mut scanned, mut last) = (Vec::new(), 0, None);
    while scanned < ROWS_SCANNED_MAX {
        let chunk = CHUNK.min(ROWS_SCANNED_MAX - scanned);
        let rows = database.query(&sql, bound![before, whole(chunk as u64)])?;
        let is_last = rows.len() < chunk;
        for row in rows {
            if jobs.len() == most {
                return Ok(JobPage { jobs, next: last });
            }
            scanned += 1;
            let stored = StoredJob::read(row)?;
            (last, before) = (Some(stored.id), whole(stored.id.0));
            if let Some(load) = names.queues.get(&stored.queue).filter(|load| is_selected(&load.name)) {
                jobs.extend(details(database, stored, load.name.clone())?);
            }
        }
        if is_last {
            return Ok(JobPage { jobs, next: None });
        }
    }
    Ok(JobPage { jobs, next: last })
}

/// A job with its details; none if it was removed meanwhile.
fn details(database: &dyn Database, stored: StoredJob, queue: QueueName) -> Result<Option<JobDetails>, Fault> {
    let sql = "SELECT work, payload, submitter, details FROM bodies LEFT JOIN results USING (job) WHERE job = ?1";
    let Some(mut row) = database.one(sql, bound![whole(stored.id.0)])? else { return Ok(None) };
    let progress = match stored.job.state {
        JobState::Leased { .. } => progress(database, stored.id)?,
        _ => None,
    };
    let callback = deliveries::callback(database, &stored)?;
    Ok(Some(JobDetails {
        id: stored.id,
        queue,
        job: stored.job,
        work: row.get(0)?,
        payload: row.get(1)?,
        by: row.get(2)?,
        details: row.get(3)?,
        progress,
        callback,
    }))
}

fn progress(database: &dyn Database, id: JobId) -> Result<Option<JobProgress>, Fault> {
    let sql = "SELECT percent, message FROM jobs WHERE id = ?1 AND percent IS NOT NULL";
    let Some(mut row) = database.one(sql, bound![whole(id.0)])? else { return Ok(None) };
    let message: Option<String> = row.get(1)?;
    Ok(Some(JobProgress { percent: row.get(0)?, message: message.unwrap_or_default() }))
}

fn queues(database: &dyn Database) -> Result<Vec<QueueInfo>, Fault> {
    let loads = Loads::read(database)?;
    let sql = "SELECT (SELECT count(*) FROM jobs WHERE queue = queues.id AND ended IN (1, 2, 4, 5)), extra \
               FROM queues WHERE id = ?1";
    let mut queues = Vec::new();
    for number in loads.by_name.values() {
        let Some(load) = loads.queues.get(number) else { continue };
        let Some(mut row) = database.one(sql, bound![*number])? else { continue };
        queues.push(QueueInfo {
            name: load.name.clone(),
            paused: load.paused,
            limit: load.limit,
            counts: load.counts,
            dead: unsigned(row.get(0)?),
            extra_runs: unsigned(row.get(1)?),
        });
    }
    Ok(queues)
}
