//! Work on many jobs, in slices.

use gantry_model::Moment;
use gantry_queue::{JobEvent, JobId, QueueName};

use super::Fault;
use super::row::{ENDED, unsigned, whole};
use super::value::bound;
use super::write::Writer;
use crate::Upkeep;

/// Maximum number of jobs of a slice.
const SLICE: usize = 500;

/// Jobs that the removal of old ones looks at in a slice.
const SWEEP: usize = 2000;

impl Writer<'_> {
    /// Cancels waiting jobs of a queue; returns their number.
    pub(crate) fn purge(&mut self, queue: &QueueName) -> Result<u64, Fault> {
        let Some(number) = self.loads.by_name.get(queue).copied() else { return Ok(0) };
        // The order of these states matters: a cancelled ready job would admit a held one.
        let mut waiting: Vec<JobId> = self.open.held(number).take(SLICE).collect();
        if waiting.is_empty() {
            waiting = self.open.delayed(number).take(SLICE).collect();
        }
        if waiting.is_empty() {
            waiting = self.open.ready(number).take(SLICE).map(|(_, id)| id).collect();
        }
        let mut purged = 0;
        self.recent.read(self.database, waiting.iter().copied())?;
        for id in waiting {
            purged += u64::from(self.change(id, JobEvent::Cancel)?.is_ok());
        }
        Ok(purged)
    }

    /// Ends delays, expires waiting jobs, and removes jobs that ended before `keep_since`.
    pub(crate) fn upkeep(&mut self, keep_since: Moment) -> Result<Upkeep, Fault> {
        let due = self.open.due(self.now, SLICE);
        self.recent.read(self.database, due.iter().map(|(_, id)| *id))?;
        for (moment, id) in &due {
            let Some(job) = self.find(*id)? else {
                self.open.forget_moment(*moment, *id);
                continue;
            };
            let key = job.job.settings.key.as_ref();
            let room = key.is_none_or(|key| self.open.has_room(job.queue, &key.name, key.limit));
            let _ = self.change_stored(&job, JobEvent::Due { room })?;
        }
        let expired = self.open.expired(self.now, SLICE);
        self.recent.read(self.database, expired.iter().map(|(_, id)| *id))?;
        for (moment, id) in &expired {
            // Any start of an expired job ends it. A job may have ended with one before it.
            if self.change(*id, JobEvent::Admit)?.is_err() {
                self.open.forget_moment(*moment, *id);
            }
        }
        let messages = self.expire_messages()?;
        let more = self.remove_before(keep_since)?;
        let more = more || [due.len(), expired.len(), messages].iter().any(|count| *count >= SLICE);
        let changed = !due.is_empty() || !expired.is_empty();
        Ok(Upkeep { more, changed, next: self.open.next_due() })
    }

    /// Removes a slice of the jobs that ended before a moment; reports whether there may be more.
    ///
    /// A pass goes from the oldest job to the first that was submitted since the moment: no job behind that one has ended
    /// before. So the storage needs no index of the ends. A job of the future ends no pass: the clock went back, and jobs
    /// behind that one may be old.
    fn remove_before(&mut self, moment: Moment) -> Result<bool, Fault> {
        let sql = "SELECT id, queue, state, place, submitted FROM jobs WHERE id > ?1 ORDER BY id LIMIT ?2";
        let rows = self.database.query(sql, bound![whole(self.open.swept), whole(SWEEP as u64)])?;
        let (mut removed, mut is_end) = (0, rows.len() < SWEEP);
        for mut row in rows {
            let (id, queue, state): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (place, submitted): (i64, i64) = (row.get(3)?, row.get(4)?);
            if (moment.0..=self.now.0).contains(&unsigned(submitted)) {
                is_end = true;
                break;
            }
            if removed == SLICE {
                is_end = false;
                break;
            }
            self.open.swept = unsigned(id);
            if state == ENDED && unsigned(place) < moment.0 {
                self.remove(id, queue)?;
                removed += 1;
            }
        }
        if is_end {
            self.open.swept = 0;
        }
        Ok(removed > 0 && !is_end)
    }

    /// Removes an ended job.
    fn remove(&mut self, id: i64, queue: i64) -> Result<(), Fault> {
        for sql in [
            "DELETE FROM results WHERE job = ?1",
            "DELETE FROM bodies WHERE job = ?1",
            "DELETE FROM deliveries WHERE job = ?1",
            "DELETE FROM jobs WHERE id = ?1",
        ] {
            self.database.write(sql, bound![id])?;
        }
        self.loads.removed(queue);
        self.recent.remove(JobId(unsigned(id)));
        Ok(())
    }
}
