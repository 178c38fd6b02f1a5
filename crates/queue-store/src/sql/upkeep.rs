//! Work on many jobs, in slices.

use gantry_model::Moment;
use gantry_queue::{JobEvent, QueueName};

use super::row::{COLUMNS, DELAYED, ENDED, StoredJob, unsigned, whole};
use super::value::bound;
use super::write::Writer;
use super::{Fault, SqlParameter};
use crate::Upkeep;

/// Maximum number of jobs of a slice.
const SLICE: usize = 500;

impl Writer<'_> {
    /// Cancels waiting jobs of a queue; returns their number.
    pub(crate) fn purge(&mut self, queue: &QueueName) -> Result<u64, Fault> {
        let Some(number) = self.loads.by_name.get(queue).copied() else { return Ok(0) };
        let mut purged = 0;
        // The order of these states matters: a cancelled ready job would admit a held one.
        for (condition, order) in [
            ("state = 1 AND queue", "key, place"),
            ("state = 0 AND queue", "place"),
            ("state = 2 AND queue", "place, id"),
        ] {
            let sql = format!("{condition} = ?1 ORDER BY {order} LIMIT {SLICE}");
            for job in self.select(&sql, bound![number])? {
                purged += u64::from(self.change_stored(&job, JobEvent::Cancel)?.is_ok());
            }
            if purged > 0 {
                break;
            }
        }
        Ok(purged)
    }

    /// Ends delays, expires waiting jobs, and removes jobs that ended before `keep_since`.
    pub(crate) fn upkeep(&mut self, keep_since: Moment) -> Result<Upkeep, Fault> {
        let now = whole(self.now.0);
        let due =
            self.select(&format!("state = {DELAYED} AND place <= ?1 ORDER BY place LIMIT {SLICE}"), bound![now])?;
        for job in &due {
            let key = job.job.settings.key.as_ref();
            let room = key.map_or(Ok(true), |key| self.has_room(job.queue, &key.name, key.limit))?;
            let _ = self.change_stored(job, JobEvent::Due { room })?;
        }
        let expiring = self.select(
            &format!("state < 3 AND expiry <= ?1 AND failures = 0 ORDER BY expiry LIMIT {SLICE}"),
            bound![now],
        )?;
        for job in &expiring {
            // Any start of an expired job ends it.
            let _ = self.change_stored(job, JobEvent::Admit)?;
        }
        let messages = self.expire_messages()?;
        let removed = self.remove_before(keep_since)?;
        let first = format!("SELECT place FROM jobs WHERE state = {DELAYED} ORDER BY place LIMIT 1");
        let next = self.database.one(&first, &[])?.map(|mut row| row.get(0)).transpose()?;
        let more = [due.len(), expiring.len(), removed].contains(&SLICE) || messages >= SLICE;
        let changed = !due.is_empty() || !expiring.is_empty();
        Ok(Upkeep { more, changed, next: next.map(|place| Moment(unsigned(place))) })
    }

    fn remove_before(&mut self, moment: Moment) -> Result<usize, Fault> {
        let condition = format!("state = {ENDED} AND place < ?1 ORDER BY place LIMIT {SLICE}");
        let old = self.select(&condition, bound![whole(moment.0)])?;
        for job in &old {
            for sql in [
                "DELETE FROM results WHERE job = ?1",
                "DELETE FROM bodies WHERE job = ?1",
                "DELETE FROM deliveries WHERE job = ?1",
                "DELETE FROM jobs WHERE id = ?1",
            ] {
                self.database.write(sql, bound![whole(job.id.0)])?;
            }
            self.loads.changed(job.queue, Some(&job.job.state), None);
            self.ahead.removed(job.id);
        }
        Ok(old.len())
    }

    fn select(&self, condition: &str, values: &[SqlParameter<'_>]) -> Result<Vec<StoredJob>, Fault> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE {condition}");
        self.database.query(&sql, values)?.into_iter().map(StoredJob::read).collect()
    }
}
