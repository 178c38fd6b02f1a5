//! Pages and details of jobs, read beside the writer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gantry_model::{AppName, Moment};
use gantry_queue::{Job, JobId, JobState, QueueName, ScheduleName};
use rusqlite::{Connection, OptionalExtension};

use super::load::Loads;
use super::row::{COLUMNS, StoredJob, natural, whole};
use super::{Fault, messages, schedules, schema};
use crate::{
    JobProgress, MessageId, MessageQueueInfo, MessageQueueName, QueueStoreError, StoredMessage, StoredSchedule,
};

/// Most rows that one page looks at. A page may be shorter than asked for and still have a successor.
const LOOKED_AT: usize = 20_000;

/// A reader of the queue's file. Reads see the last committed state and delay no writer.
#[derive(Debug)]
pub struct SqliteReader {
    connection: Connection,
    path: PathBuf,
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
    /// Its number.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Its settings and state.
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
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its name.
    pub name: QueueName,
    /// True if no job starts.
    pub paused: bool,
    /// Most jobs at the same time.
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

impl SqliteReader {
    pub(super) fn open(path: &Path) -> Result<Self, QueueStoreError> {
        Ok(Self { connection: schema::connect(path)?, path: path.to_owned() })
    }

    fn told<T>(&self, read: Result<T, Fault>) -> Result<T, QueueStoreError> {
        read.map_err(|fault| fault.of("read", &self.path))
    }

    /// Finds a job.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn job(&self, id: JobId) -> Result<Option<JobDetails>, QueueStoreError> {
        self.told(self.find(id))
    }

    fn find(&self, id: JobId) -> Result<Option<JobDetails>, Fault> {
        let Some(stored) = StoredJob::find(&self.connection, id)? else { return Ok(None) };
        let queue = self.names()?.queues.remove(&stored.queue).map(|load| load.name);
        queue.map_or(Ok(None), |queue| self.details(stored, queue).map(Some))
    }

    /// The output of the last attempt that ended.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn output(&self, id: JobId) -> Result<Option<Vec<u8>>, QueueStoreError> {
        let sql = "SELECT output FROM results WHERE job = ?1";
        let read = self.connection.query_row(sql, [whole(id.0)], |row| row.get(0)).optional();
        self.told(read.map_err(Fault::from))
    }

    /// A page of jobs, newest first, at most `most`.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn page(&self, filter: &JobFilter, most: usize) -> Result<JobPage, QueueStoreError> {
        self.told(self.read_page(filter, most))
    }

    fn read_page(&self, filter: &JobFilter, most: usize) -> Result<JobPage, Fault> {
        let names = self.names()?;
        let wanted = |name: &QueueName| {
            filter.queue.as_ref().is_none_or(|queue| queue == name)
                && filter.project.as_ref().is_none_or(|project| *project == name.project)
        };
        let dead = if filter.dead { "AND state = 4 AND ended IN (1, 2, 4, 5)" } else { "" };
        let before = filter.before.map_or(i64::MAX, |before| whole(before.0));
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id < ?1 {dead} ORDER BY id DESC LIMIT {LOOKED_AT}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([before])?;
        let (mut jobs, mut looked, mut last) = (Vec::new(), 0, None);
        while let Some(row) = rows.next()? {
            if jobs.len() == most {
                return Ok(JobPage { jobs, next: last });
            }
            looked += 1;
            let stored = StoredJob::read(row)?;
            last = Some(stored.id);
            if let Some(load) = names.queues.get(&stored.queue).filter(|load| wanted(&load.name)) {
                jobs.push(self.details(stored, load.name.clone())?);
            }
        }
        Ok(JobPage { jobs, next: last.filter(|_| looked == LOOKED_AT) })
    }

    fn details(&self, stored: StoredJob, queue: QueueName) -> Result<JobDetails, Fault> {
        let sql = "SELECT work, payload, submitter, details FROM bodies LEFT JOIN results USING (job) WHERE job = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (work, payload, by, details) = statement
            .query_row([whole(stored.id.0)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let progress = match stored.job.state {
            JobState::Leased { .. } => self.progress(stored.id)?,
            _ => None,
        };
        Ok(JobDetails { id: stored.id, queue, job: stored.job, by, work, payload, details, progress })
    }

    fn progress(&self, id: JobId) -> Result<Option<JobProgress>, Fault> {
        let sql = "SELECT percent, coalesce(message, '') FROM jobs WHERE id = ?1 AND percent IS NOT NULL";
        let mut statement = self.connection.prepare_cached(sql)?;
        let noted = |row: &rusqlite::Row<'_>| Ok(JobProgress { percent: row.get(0)?, message: row.get(1)? });
        Ok(statement.query_row([whole(id.0)], noted).optional()?)
    }

    /// All queues, in the order of their names.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn queues(&self) -> Result<Vec<QueueInfo>, QueueStoreError> {
        self.told(self.read_queues())
    }

    fn read_queues(&self) -> Result<Vec<QueueInfo>, Fault> {
        let loads = Loads::read(&self.connection)?;
        let mut statement = self
            .connection
            .prepare_cached("SELECT count(*) FROM jobs WHERE queue = ?1 AND state = 4 AND ended IN (1, 2, 4, 5)")?;
        let mut extra_runs = self.connection.prepare_cached("SELECT extra FROM queues WHERE id = ?1")?;
        let mut queues = Vec::new();
        for number in loads.by_name.values() {
            let Some(load) = loads.queues.get(number) else { continue };
            let dead: i64 = statement.query_row([number], |row| row.get(0))?;
            let extra: i64 = extra_runs.query_row([number], |row| row.get(0))?;
            queues.push(QueueInfo {
                name: load.name.clone(),
                paused: load.paused,
                limit: load.limit,
                counts: load.counts,
                dead: natural(dead),
                extra_runs: natural(extra),
            });
        }
        Ok(queues)
    }

    /// Jobs that machines have, with the tokens of their leases.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn leased(&self) -> Result<Vec<(JobId, Job)>, QueueStoreError> {
        let read = || -> Result<Vec<(JobId, Job)>, Fault> {
            let mut statement = self.connection.prepare(&format!("SELECT {COLUMNS} FROM jobs WHERE state = 3"))?;
            let mut rows = statement.query([])?;
            let mut jobs = Vec::new();
            while let Some(row) = rows.next()? {
                let stored = StoredJob::read(row)?;
                jobs.push((stored.id, stored.job));
            }
            Ok(jobs)
        };
        self.told(read())
    }

    /// Distinct workloads of all jobs that have not ended.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn open_works(&self) -> Result<BTreeSet<OpenWork>, QueueStoreError> {
        let read = || -> Result<BTreeSet<OpenWork>, Fault> {
            let names = self.names()?.queues;
            let sql = "SELECT DISTINCT queue, work FROM jobs JOIN bodies ON job = jobs.id WHERE state < 4";
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            let mut works = BTreeSet::new();
            while let Some(row) = rows.next()? {
                let queue: i64 = row.get(0)?;
                let Some(load) = names.get(&queue) else { continue };
                works.insert(OpenWork { project: load.name.project.clone(), work: row.get(1)? });
            }
            Ok(works)
        };
        self.told(read())
    }

    /// Schedules in the order of their names; those of one project, or all.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn schedules(&self, project: Option<&AppName>) -> Result<Vec<StoredSchedule>, QueueStoreError> {
        let project = project.map(AppName::as_str);
        let condition = "?1 IS NULL OR project = ?1 ORDER BY project, name";
        self.told(schedules::select(&self.connection, condition, &[&project]))
    }

    /// Finds a schedule.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn schedule(&self, name: &ScheduleName) -> Result<Option<StoredSchedule>, QueueStoreError> {
        self.told(schedules::find(&self.connection, name))
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
        let read = schedules::select(&self.connection, condition, &[&whole(now.0), &most]);
        let next = schedules::next_due(&self.connection);
        self.told(read.and_then(|due| Ok((due, next?))))
    }

    /// A queue of messages.
    ///
    /// # Errors
    /// [`QueueStoreError`].
    pub fn message_queue(&self, name: &MessageQueueName) -> Result<Option<MessageQueueInfo>, QueueStoreError> {
        self.told(messages::info(&self.connection, name))
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
        self.told(messages::list(&self.connection, project.as_str(), prefix, after, most))
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
        self.told(messages::peek(&self.connection, name, most, now))
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
        self.told(messages::message(&self.connection, name, id, now))
    }

    /// Names of the queues, without counts.
    fn names(&self) -> Result<Loads, Fault> {
        Loads::names(&self.connection)
    }
}
