//! Rows that a batch of commands needs, read with few queries.
//!
//! A query of a database elsewhere takes a round trip. So the jobs that a batch names are read at once, and claims of
//! one batch share the first ready jobs of each queue. [`Writer`](super::write::Writer) reports every change of a job,
//! so that these rows are those of the database.

use std::collections::{BTreeMap, VecDeque};

use gantry_queue::{JobId, JobState, Rank};

use super::row::{COLUMNS, READY, StoredJob, whole};
use super::value::bound;
use super::{Database, Fault};
use crate::QueueCommand;

/// Maximum number of ready jobs of a queue that one query reads, less one.
const READY_MAX: usize = 1000;

/// Fewest ready jobs of a queue that one query reads for several claims, less one.
const READY_MIN: usize = 16;

/// Rows of a batch.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// Jobs that commands name.
    jobs: BTreeMap<JobId, StoredJob>,
    /// First ready jobs of queues.
    ready: BTreeMap<i64, ReadyJobs>,
    /// Jobs that all claims together want.
    claim_count: usize,
}

/// The first ready jobs of a queue, in order.
#[derive(Debug)]
struct ReadyJobs {
    jobs: VecDeque<StoredJob>,
    /// True if the queue has no further ready jobs.
    is_whole: bool,
}

impl ReadAhead {
    /// Reads the jobs that commands name.
    pub(crate) fn of(database: &dyn Database, commands: &[QueueCommand]) -> Result<Self, Fault> {
        let named = |command: &QueueCommand| match command {
            QueueCommand::Complete { job, .. } | QueueCommand::Lose { job, .. } | QueueCommand::Cancel(job) => {
                Some(whole(job.0))
            }
            _ => None,
        };
        let named: Vec<i64> = commands.iter().filter_map(named).collect();
        let claims = commands.iter().map(|command| match command {
            QueueCommand::Claim { most, .. } => *most,
            _ => 0,
        });
        let mut ahead = Self { claim_count: claims.sum(), ..Self::default() };
        // A single job is read where the command needs it.
        if named.len() > 1 {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id {}", database.among());
            for row in database.query(&sql, bound![&database.list(&named)])? {
                let stored = StoredJob::read(row)?;
                ahead.jobs.insert(stored.id, stored);
            }
        }
        Ok(ahead)
    }

    /// A job that a command named.
    pub(crate) fn job(&self, id: JobId) -> Option<&StoredJob> {
        self.jobs.get(&id)
    }

    /// The first ready job of a queue, of which several may be read. `queues`: number of queues that share the claims.
    pub(crate) fn first_ready(
        &mut self,
        database: &dyn Database,
        queue: i64,
        queues: usize,
    ) -> Result<Option<&StoredJob>, Fault> {
        let known = self.ready.get(&queue).is_some_and(|ready| ready.is_whole || !ready.jobs.is_empty());
        if !known {
            let most = (self.claim_count / queues.max(1)).max(READY_MIN).min(self.claim_count).min(READY_MAX) + 1;
            let sql = format!(
                "SELECT {COLUMNS} FROM jobs WHERE state = {READY} AND queue = ?1 ORDER BY place, id LIMIT ?2{}",
                database.skip_locked()
            );
            let rows = database.query(&sql, bound![queue, whole(most as u64)])?;
            let jobs: VecDeque<_> = rows.into_iter().map(StoredJob::read).collect::<Result<_, _>>()?;
            let is_whole = jobs.len() < most;
            self.ready.insert(queue, ReadyJobs { jobs, is_whole });
        }
        Ok(self.ready.get(&queue).and_then(|ready| ready.jobs.front()))
    }

    /// A job has changed.
    pub(crate) fn changed(&mut self, before: &StoredJob, after: &StoredJob) {
        if let Some(known) = self.jobs.get_mut(&after.id) {
            *known = after.clone();
        }
        if let JobState::Ready { .. } = before.job.state {
            self.left(before.queue, before.id);
        }
        self.entered(after.queue, after.id, &after.job.state);
    }

    /// A job was removed.
    pub(crate) fn removed(&mut self, id: JobId) {
        self.jobs.remove(&id);
    }

    /// A job is no longer ready.
    fn left(&mut self, queue: i64, id: JobId) {
        let Some(ready) = self.ready.get_mut(&queue) else { return };
        if ready.jobs.front().is_some_and(|first| first.id == id) {
            ready.jobs.pop_front();
        } else {
            self.ready.remove(&queue);
        }
    }

    /// A job is in this state now.
    pub(crate) fn entered(&mut self, queue: i64, id: JobId, state: &JobState) {
        let (JobState::Ready { rank }, Some(ready)) = (state, self.ready.get_mut(&queue)) else { return };
        let last = ready.jobs.back().and_then(|last| Some((rank_of(last)?, last.id)));
        if last.is_none_or(|last| last < (*rank, id)) {
            ready.is_whole = false;
        } else {
            self.ready.remove(&queue);
        }
    }
}

/// Rank of a ready job.
pub(crate) fn rank_of(job: &StoredJob) -> Option<Rank> {
    match job.job.state {
        JobState::Ready { rank } => Some(rank),
        _ => None,
    }
}
