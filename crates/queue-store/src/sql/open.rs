//! Jobs that have not ended, in memory, in the orders in which commands need them.
//!
//! One process writes a queue, so its memory has the order of the waiting jobs. The storage has no index of states: a
//! claim and a successful end change one row and no index. After a start and after a failed transaction, the orders are
//! read from the storage. A waiting job takes about 30 bytes.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::Moment;
use gantry_queue::{Job, JobId, Rank};

use super::row::{DELAYED, HELD, LEASED, READY, StoredJob, state_columns, unsigned};
use super::value::bound;
use super::{Database, Fault};

/// Numbers of jobs that one query of a start covers.
const SPAN: i64 = 20_000;

/// All jobs that have not ended.
#[derive(Debug, Default)]
pub(crate) struct OpenJobs {
    /// Delayed jobs with their queues, by the end of the delay.
    delayed: BTreeMap<(Moment, JobId), i64>,
    /// Waiting jobs without a failure, by their expiry.
    expiring: BTreeSet<(Moment, JobId)>,
    /// Ready jobs of each queue, in order.
    ready: BTreeMap<i64, BTreeSet<(Rank, JobId)>>,
    /// Concurrency keys of each queue.
    keys: BTreeMap<i64, BTreeMap<String, KeyJobs>>,
    /// Queues whose first jobs were claimed since the last look ahead.
    pub(crate) claimed_from: BTreeSet<i64>,
    /// The number of the last job that the removal of old jobs looked at; 0 at the begin of a pass.
    pub(crate) swept: u64,
}

/// Jobs of a concurrency key.
#[derive(Debug, Default)]
struct KeyJobs {
    /// Held jobs, in order.
    held: BTreeSet<(Rank, JobId)>,
    /// Number of the ready and leased jobs.
    taken: u64,
}

/// The columns of a job that decide about its places.
#[derive(Debug, Clone, Copy)]
struct JobPlace<'a> {
    id: JobId,
    queue: i64,
    state: i64,
    place: i64,
    key: Option<&'a str>,
    /// None after a failure: a retry does not expire.
    expiry: Option<Moment>,
}

impl<'a> JobPlace<'a> {
    fn of(queue: i64, id: JobId, job: &'a Job) -> Self {
        let (state, place) = state_columns(&job.state);
        let key = job.settings.key.as_ref().map(|key| key.name.as_str());
        Self { id, queue, state, place, key, expiry: job.expiry().filter(|_| job.failures == 0) }
    }

    fn takes_room(&self) -> bool {
        matches!(self.state, READY | LEASED)
    }

    fn waits(&self) -> bool {
        matches!(self.state, DELAYED | HELD | READY)
    }

    fn due(&self) -> (Moment, JobId) {
        (Moment(unsigned(self.place)), self.id)
    }

    fn rank(&self) -> (Rank, JobId) {
        (Rank(self.place), self.id)
    }
}

impl OpenJobs {
    /// Reads the jobs of a storage that have not ended.
    pub(crate) fn read(database: &dyn Database) -> Result<Self, Fault> {
        let mut open = Self::default();
        let mut after = 0;
        let first = "SELECT id FROM jobs WHERE id > ?1 ORDER BY id LIMIT 1";
        let span =
            "SELECT id, queue, state, place, key, expiry, failures FROM jobs WHERE id >= ?1 AND id < ?2 AND state < 4";
        while let Some(mut row) = database.one(first, bound![after])? {
            let from: i64 = row.get(0)?;
            for mut row in database.query(span, bound![from, from + SPAN])? {
                let key: Option<String> = row.get(4)?;
                let (expiry, failures): (Option<i64>, i64) = (row.get(5)?, row.get(6)?);
                open.enter(JobPlace {
                    id: JobId(unsigned(row.get(0)?)),
                    queue: row.get(1)?,
                    state: row.get(2)?,
                    place: row.get(3)?,
                    key: key.as_deref(),
                    expiry: expiry.filter(|_| failures == 0).map(|expiry| Moment(unsigned(expiry))),
                });
            }
            after = from + SPAN - 1;
        }
        Ok(open)
    }

    /// A job is new.
    pub(crate) fn added(&mut self, queue: i64, id: JobId, job: &Job) {
        self.enter(JobPlace::of(queue, id, job));
    }

    /// A job has changed.
    pub(crate) fn changed(&mut self, before: &StoredJob, after: &StoredJob) {
        self.leave(JobPlace::of(before.queue, before.id, &before.job));
        self.enter(JobPlace::of(after.queue, after.id, &after.job));
    }

    fn enter(&mut self, job: JobPlace<'_>) {
        match job.state {
            DELAYED => {
                self.delayed.insert(job.due(), job.queue);
            }
            HELD => {
                if let Some(key) = self.key_of(job) {
                    key.held.insert(job.rank());
                }
            }
            READY => self.put_back(job.queue, Rank(job.place), job.id),
            _ => {}
        }
        if job.takes_room()
            && let Some(key) = self.key_of(job)
        {
            key.taken += 1;
        }
        if job.waits()
            && let Some(expiry) = job.expiry
        {
            self.expiring.insert((expiry, job.id));
        }
    }

    fn leave(&mut self, job: JobPlace<'_>) {
        match job.state {
            DELAYED => {
                self.delayed.remove(&job.due());
            }
            HELD => {
                if let Some(key) = self.key_of(job) {
                    key.held.remove(&job.rank());
                }
            }
            READY => self.forget_ready(job.queue, Rank(job.place), job.id),
            _ => {}
        }
        if job.takes_room()
            && let Some(key) = self.key_of(job)
        {
            key.taken = key.taken.saturating_sub(1);
        }
        if let Some(expiry) = job.expiry {
            self.expiring.remove(&(expiry, job.id));
        }
        self.forget_empty_key(job);
    }

    fn key_of(&mut self, job: JobPlace<'_>) -> Option<&mut KeyJobs> {
        let key = job.key?;
        let keys = self.keys.entry(job.queue).or_default();
        if !keys.contains_key(key) {
            keys.insert(key.to_owned(), KeyJobs::default());
        }
        keys.get_mut(key)
    }

    fn forget_empty_key(&mut self, job: JobPlace<'_>) {
        let (Some(key), Some(keys)) = (job.key, self.keys.get_mut(&job.queue)) else { return };
        if keys.get(key).is_some_and(|jobs| jobs.taken == 0 && jobs.held.is_empty()) {
            keys.remove(key);
        }
    }

    /// The ready jobs of a queue, in order.
    pub(crate) fn ready(&self, queue: i64) -> impl Iterator<Item = (Rank, JobId)> {
        self.ready.get(&queue).into_iter().flatten().copied()
    }

    /// The first ready job of a queue.
    pub(crate) fn first_ready(&self, queue: i64) -> Option<(Rank, JobId)> {
        self.ready.get(&queue)?.first().copied()
    }

    /// Rank of the first ready job of a queue.
    pub(crate) fn head(&self, queue: i64) -> Option<Rank> {
        self.first_ready(queue).map(|(rank, _)| rank)
    }

    /// Number of the ready jobs of a queue.
    pub(crate) fn count_ready(&self, queue: i64) -> usize {
        self.ready.get(&queue).map_or(0, BTreeSet::len)
    }

    /// Takes a job out of the ready jobs of its queue.
    pub(crate) fn forget_ready(&mut self, queue: i64, rank: Rank, id: JobId) {
        if let Some(ready) = self.ready.get_mut(&queue) {
            ready.remove(&(rank, id));
        }
    }

    /// Puts a job among the ready jobs of its queue.
    pub(crate) fn put_back(&mut self, queue: i64, rank: Rank, id: JobId) {
        self.ready.entry(queue).or_default().insert((rank, id));
    }

    /// Reports whether a key of a queue has room for one more job.
    pub(crate) fn has_room(&self, queue: i64, key: &str, limit: u32) -> bool {
        let jobs = self.keys.get(&queue).and_then(|keys| keys.get(key));
        jobs.map_or(0, |jobs| jobs.taken) < limit.into()
    }

    /// The first held job of a key of a queue.
    pub(crate) fn first_held(&self, queue: i64, key: &str) -> Option<(Rank, JobId)> {
        self.keys.get(&queue)?.get(key)?.held.first().copied()
    }

    /// Takes a job out of the held jobs of its key.
    pub(crate) fn forget_held(&mut self, queue: i64, key: &str, rank: Rank, id: JobId) {
        if let Some(jobs) = self.keys.get_mut(&queue).and_then(|keys| keys.get_mut(key)) {
            jobs.held.remove(&(rank, id));
        }
    }

    /// The held jobs of a queue, key by key.
    pub(crate) fn held(&self, queue: i64) -> impl Iterator<Item = JobId> {
        let keys = self.keys.get(&queue).into_iter().flat_map(BTreeMap::values);
        keys.flat_map(|jobs| jobs.held.iter().map(|(_, id)| *id))
    }

    /// The delayed jobs of a queue, in the order in which their delays end.
    pub(crate) fn delayed(&self, queue: i64) -> impl Iterator<Item = JobId> {
        self.delayed.iter().filter(move |(_, of)| **of == queue).map(|((_, id), _)| *id)
    }

    /// The jobs whose delay is over, at most `most`.
    pub(crate) fn due(&self, now: Moment, most: usize) -> Vec<(Moment, JobId)> {
        self.delayed.keys().take_while(|(due, _)| *due <= now).take(most).copied().collect()
    }

    /// The next moment at which a delay ends.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    /// The waiting jobs that have expired, at most `most`.
    pub(crate) fn expired(&self, now: Moment, most: usize) -> Vec<(Moment, JobId)> {
        self.expiring.iter().take_while(|(expiry, _)| *expiry <= now).take(most).copied().collect()
    }

    /// Takes a job, which is gone from the storage, out of the orders of moments.
    pub(crate) fn forget_moment(&mut self, moment: Moment, id: JobId) {
        self.delayed.remove(&(moment, id));
        self.expiring.remove(&(moment, id));
    }
}
