//! Conversion between rows and jobs.

use gantry_model::{MachineName, Moment};
use gantry_queue::{Fence, Job, JobEnd, JobId, JobState, Rank};

use super::value::bound;
use super::{Database, Fault, Row, RowChange};

/// Columns of a row, in the order in which [`StoredJob::read`] expects them.
pub(crate) const COLUMNS: &str =
    "id, queue, state, place, fence, failures, lost, submitted, machine, cancelling, ended, settings";

/// Numbers of the states in the file.
pub(crate) const DELAYED: i64 = 0;
pub(crate) const HELD: i64 = 1;
pub(crate) const READY: i64 = 2;
pub(crate) const LEASED: i64 = 3;
pub(crate) const ENDED: i64 = 4;

/// Inserts a job.
pub(crate) static INSERT: RowChange = RowChange {
    one: "INSERT INTO jobs (id, queue, state, place, fence, failures, lost, submitted, expiry, key, idempotency, settings) \
          VALUES (?1, ?2, ?3, ?4, 0, 0, 0, ?5, ?6, ?7, ?8, ?9)",
    many: "INSERT INTO jobs (id, queue, state, place, fence, failures, lost, submitted, expiry, key, idempotency, settings) \
           SELECT id, queue, state, place, 0, 0, 0, submitted, expiry, key, idempotency, settings \
           FROM unnest(CAST(?1 AS BIGINT[]), CAST(?2 AS BIGINT[]), CAST(?3 AS BIGINT[]), CAST(?4 AS BIGINT[]), \
           CAST(?5 AS BIGINT[]), CAST(?6 AS BIGINT[]), CAST(?7 AS BYTEA[]), CAST(?8 AS BYTEA[]), CAST(?9 AS TEXT[])) \
           AS new (id, queue, state, place, submitted, expiry, key, idempotency, settings)",
};

/// Inserts the parts of a job that never change.
pub(crate) static INSERT_BODY: RowChange = RowChange {
    one: "INSERT INTO bodies (job, work, payload, submitter) VALUES (?1, ?2, ?3, ?4)",
    many: "INSERT INTO bodies (job, work, payload, submitter) \
           SELECT * FROM unnest(CAST(?1 AS BIGINT[]), CAST(?2 AS BYTEA[]), CAST(?3 AS BYTEA[]), CAST(?4 AS BYTEA[]))",
};

/// Adds the result of a job's first attempt.
pub(crate) static ADD_RESULT: RowChange = RowChange {
    one: "INSERT INTO results (job, details, output) VALUES (?1, ?2, ?3)",
    many: "INSERT INTO results (job, details, output) \
           SELECT * FROM unnest(CAST(?1 AS BIGINT[]), CAST(?2 AS BYTEA[]), CAST(?3 AS BYTEA[]))",
};

/// Writes the result of an attempt over that of the previous attempt.
pub(crate) static PUT_RESULT: RowChange = RowChange {
    one: "INSERT INTO results (job, details, output) VALUES (?1, ?2, ?3) \
          ON CONFLICT (job) DO UPDATE SET details = excluded.details, output = excluded.output",
    many: "INSERT INTO results (job, details, output) \
           SELECT * FROM unnest(CAST(?1 AS BIGINT[]), CAST(?2 AS BYTEA[]), CAST(?3 AS BYTEA[])) \
           ON CONFLICT (job) DO UPDATE SET details = excluded.details, output = excluded.output",
};

/// Writes the lease of a ready job.
static LEASE: RowChange = RowChange {
    one: "UPDATE jobs SET state = 3, place = ?2, fence = ?3, machine = ?4 WHERE id = ?1",
    many: "UPDATE jobs SET state = 3, place = new.place, fence = new.fence, machine = new.machine \
           FROM unnest(CAST(?1 AS BIGINT[]), CAST(?2 AS BIGINT[]), CAST(?3 AS BIGINT[]), CAST(?4 AS TEXT[])) \
           AS new (id, place, fence, machine) WHERE jobs.id = new.id",
};

/// Writes the success of a leased job. No indexed column changes.
static SUCCEED: RowChange = RowChange {
    one: "UPDATE jobs SET state = 4, place = ?2, machine = NULL, cancelling = 0, percent = NULL, message = NULL \
          WHERE id = ?1",
    many: "UPDATE jobs SET state = 4, place = new.place, machine = NULL, cancelling = 0, percent = NULL, message = NULL \
           FROM unnest(CAST(?1 AS BIGINT[]), CAST(?2 AS BIGINT[])) AS new (id, place) WHERE jobs.id = new.id",
};

/// Writes the parts of a job that the rules change.
static UPDATE: RowChange = RowChange {
    one: "UPDATE jobs SET state = ?2, place = ?3, fence = ?4, failures = ?5, lost = ?6, machine = ?7, cancelling = ?8, \
          ended = ?9, percent = NULL, message = NULL WHERE id = ?1",
    many: "UPDATE jobs SET state = new.state, place = new.place, fence = new.fence, failures = new.failures, \
           lost = new.lost, machine = new.machine, cancelling = new.cancelling, ended = new.ended, percent = NULL, \
           message = NULL \
           FROM unnest(CAST(?1 AS BIGINT[]), CAST(?2 AS BIGINT[]), CAST(?3 AS BIGINT[]), CAST(?4 AS BIGINT[]), \
           CAST(?5 AS BIGINT[]), CAST(?6 AS BIGINT[]), CAST(?7 AS TEXT[]), CAST(?8 AS BIGINT[]), CAST(?9 AS BIGINT[])) \
           AS new (id, state, place, fence, failures, lost, machine, cancelling, ended) WHERE jobs.id = new.id",
};

/// A job with its number and the number of its queue.
#[derive(Debug, Clone)]
pub(crate) struct StoredJob {
    pub(crate) id: JobId,
    pub(crate) queue: i64,
    pub(crate) job: Job,
}

impl StoredJob {
    /// Reads a row with the columns [`COLUMNS`].
    pub(crate) fn read(mut row: Row) -> Result<Self, Fault> {
        let id = JobId(unsigned(row.get(0)?));
        let strange = |what: &str| Fault::Row(format!("{what} of job {id}"));
        let settings: String = row.get(11)?;
        let place: i64 = row.get(3)?;
        let state = match row.get(2)? {
            DELAYED => JobState::Delayed { due: Moment(unsigned(place)) },
            HELD => JobState::Held { rank: Rank(place) },
            READY => JobState::Ready { rank: Rank(place) },
            LEASED => {
                let machine: String = row.get(8)?;
                let machine = MachineName::parse(&machine).map_err(|_| strange("the machine"))?;
                JobState::Leased { machine, since: Moment(unsigned(place)), cancelling: row.get(9)? }
            }
            ENDED => {
                let end: Option<u8> = row.get(10)?;
                let end = end.map_or(Some(JobEnd::Succeeded), |end| JobEnd::ALL.get(usize::from(end)).copied());
                let end = end.ok_or_else(|| strange("the end"))?;
                JobState::Ended { end, at: Moment(unsigned(place)) }
            }
            _ => return Err(strange("the state")),
        };
        let job = Job {
            settings: serde_json::from_str(&settings).map_err(|_| strange("the settings"))?,
            submitted: Moment(unsigned(row.get(7)?)),
            fence: Fence(unsigned(row.get(4)?)),
            failures: row.get(5)?,
            lost: row.get(6)?,
            state,
        };
        Ok(Self { id, queue: row.get(1)?, job })
    }

    /// Finds a job.
    pub(crate) fn find(database: &dyn Database, id: JobId) -> Result<Option<Self>, Fault> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1");
        database.one(&sql, bound![whole(id.0)])?.map(Self::read).transpose()
    }

    /// Writes the parts of a job that the rules have changed. The row has the state `before`.
    pub(crate) fn update(&self, before: &JobState, database: &dyn Database) -> Result<(), Fault> {
        let (state, place) = state_columns(&self.job.state);
        match (before, &self.job.state) {
            (JobState::Ready { .. }, JobState::Leased { machine, cancelling: false, .. }) => {
                let values = bound![whole(self.id.0), place, whole(self.job.fence.0), machine.as_str()];
                return database.change_row(&LEASE, values);
            }
            (JobState::Leased { .. }, JobState::Ended { end: JobEnd::Succeeded, .. }) => {
                return database.change_row(&SUCCEED, bound![whole(self.id.0), place]);
            }
            _ => {}
        }
        let (machine, cancelling, ended) = match &self.job.state {
            JobState::Leased { machine, cancelling, .. } => (Some(machine.as_str()), *cancelling, None),
            JobState::Ended { end, .. } => (None, false, end_number(*end)),
            _ => (None, false, None),
        };
        let job = &self.job;
        let fence = whole(job.fence.0);
        let values = bound![whole(self.id.0), state, place, fence, job.failures, job.lost, machine, cancelling, ended];
        database.change_row(&UPDATE, values)
    }
}

/// Number of a kind of end in the file; none for success.
fn end_number(end: JobEnd) -> Option<i64> {
    if end == JobEnd::Succeeded {
        return None;
    }
    JobEnd::ALL.iter().position(|known| *known == end).map(|place| whole(place as u64))
}

/// Number of a state, and the column `place`.
pub(crate) fn state_columns(state: &JobState) -> (i64, i64) {
    match state {
        JobState::Delayed { due } => (DELAYED, whole(due.0)),
        JobState::Held { rank } => (HELD, rank.0),
        JobState::Ready { rank } => (READY, rank.0),
        JobState::Leased { since, .. } => (LEASED, whole(since.0)),
        JobState::Ended { at, .. } => (ENDED, whole(at.0)),
    }
}

/// A number for the file. Larger numbers do not occur before the year 292,000,000.
pub(crate) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of the file.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
