//! Rows of jobs in memory: those that the commands of late have read or written.
//!
//! A job is submitted, claimed and completed within a short time, as a rule. Its row and body are in memory meanwhile, so
//! that a claim and a completion read nothing. Other rows are read with one query for all commands of a batch.
//! [`Writer`](super::write::Writer) reports every change of a job, so that these rows are those of the storage.

use std::collections::{HashMap, HashSet, VecDeque};

use gantry_queue::JobId;

use super::row::{COLUMNS, StoredJob, unsigned, whole};
use super::value::bound;
use super::{Database, Fault};

/// Most rows in memory.
pub(crate) const ROWS_MAX: usize = 20_000;

/// Most bytes of bodies in memory.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The parts of a job that never change.
#[derive(Debug, Default)]
pub(crate) struct JobBody {
    pub(crate) work: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl JobBody {
    fn size(&self) -> usize {
        self.work.len() + self.payload.len()
    }
}

/// Rows in memory. The row that came first leaves first.
#[derive(Debug, Default)]
pub(crate) struct RecentJobs {
    rows: HashMap<JobId, RecentJob>,
    /// Numbers of the rows, in the order in which they came. Some have left since.
    order: VecDeque<JobId>,
    body_bytes: usize,
}

#[derive(Debug)]
struct RecentJob {
    stored: StoredJob,
    body: Option<JobBody>,
}

impl RecentJobs {
    /// A row in memory.
    pub(crate) fn get(&self, id: JobId) -> Option<&StoredJob> {
        self.rows.get(&id).map(|row| &row.stored)
    }

    /// Keeps a new job with its body, unless there is no room for the body.
    pub(crate) fn keep_new(&mut self, stored: StoredJob, body: JobBody) {
        if self.body_bytes + body.size() <= BODY_BYTES_MAX {
            self.body_bytes += body.size();
            self.keep(stored, Some(body));
        }
    }

    fn keep(&mut self, stored: StoredJob, body: Option<JobBody>) {
        let id = stored.id;
        if self.rows.insert(id, RecentJob { stored, body }).is_none() {
            self.order.push_back(id);
        }
        while self.rows.len() > ROWS_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.remove(first);
        }
        if self.order.len() > 2 * ROWS_MAX {
            self.order.retain(|id| self.rows.contains_key(id));
        }
    }

    /// A job has changed.
    pub(crate) fn changed(&mut self, after: &StoredJob) {
        if after.job.is_over() {
            self.remove(after.id);
        } else if let Some(row) = self.rows.get_mut(&after.id) {
            row.stored.job.clone_from(&after.job);
        }
    }

    /// Takes the body of a job.
    pub(crate) fn take_body(&mut self, id: JobId) -> Option<JobBody> {
        let body = self.rows.get_mut(&id)?.body.take()?;
        self.body_bytes -= body.size();
        Some(body)
    }

    /// A job is no longer in the storage, or has ended.
    pub(crate) fn remove(&mut self, id: JobId) {
        if let Some(RecentJob { body: Some(body), .. }) = self.rows.remove(&id) {
            self.body_bytes -= body.size();
        }
    }

    /// Those of some jobs whose rows are not in memory.
    fn missing(&self, ids: impl IntoIterator<Item = JobId>) -> Vec<i64> {
        let missing: HashSet<JobId> = ids.into_iter().filter(|id| !self.rows.contains_key(id)).collect();
        missing.into_iter().map(|id| whole(id.0)).collect()
    }

    /// Reads the rows of some jobs that are not in memory.
    pub(crate) fn read(&mut self, database: &dyn Database, ids: impl IntoIterator<Item = JobId>) -> Result<(), Fault> {
        self.read_rows(database, &self.missing(ids))
    }

    /// Reads the rows and bodies of some jobs that are not in memory.
    pub(crate) fn read_with_bodies(
        &mut self,
        database: &dyn Database,
        ids: impl IntoIterator<Item = JobId>,
    ) -> Result<(), Fault> {
        let missing = self.missing(ids);
        if missing.is_empty() {
            return Ok(());
        }
        self.read_rows(database, &missing)?;
        let sql = format!("SELECT job, work, payload FROM bodies WHERE job {}", database.among());
        for mut row in database.query(&sql, bound![&database.list(&missing)])? {
            let id = JobId(unsigned(row.get(0)?));
            let body = JobBody { work: row.get(1)?, payload: row.get(2)? };
            if self.body_bytes + body.size() <= BODY_BYTES_MAX
                && let Some(row) = self.rows.get_mut(&id)
            {
                self.body_bytes += body.size();
                row.body = Some(body);
            }
        }
        Ok(())
    }

    fn read_rows(&mut self, database: &dyn Database, ids: &[i64]) -> Result<(), Fault> {
        let rows = match ids {
            [] => return Ok(()),
            [id] => database.query(&format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1"), bound![*id])?,
            many => {
                let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id {}", database.among());
                database.query(&sql, bound![&database.list(many)])?
            }
        };
        for row in rows {
            self.keep(StoredJob::read(row)?, None);
        }
        Ok(())
    }
}
