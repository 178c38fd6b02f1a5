//! Claims: the next jobs for a machine.

use std::collections::{BTreeMap, VecDeque};

use gantry_model::MachineName;
use gantry_queue::{FairShare, JobEvent, JobState, Rank};

use super::Fault;
use super::row::{COLUMNS, READY, StoredJob, whole};
use super::value::bound;
use super::write::Writer;
use crate::ClaimedJob;

/// Jobs that one claim may look at. Expired jobs end at a claim and are not returned.
const LOOKED_AT: usize = 1000;

impl Writer<'_> {
    pub(crate) fn claim(
        &mut self,
        machine: &MachineName,
        most: usize,
        limit: Option<u32>,
    ) -> Result<Vec<ClaimedJob>, Fault> {
        let (numbers, loads) = self.loads.shares(self.database)?;
        let mut share = FairShare::new(loads, limit);
        let mut buffers: BTreeMap<usize, VecDeque<StoredJob>> = BTreeMap::new();
        let mut claimed = Vec::new();
        for _ in 0..LOOKED_AT {
            let Some(place) = share.next().filter(|_| claimed.len() < most) else { break };
            let buffer = match buffers.get_mut(&place).filter(|buffer| !buffer.is_empty()) {
                Some(buffer) => buffer,
                // One row more than needed, so that the next rank is known.
                None => buffers.entry(place).insert_entry(self.first(numbers[place], most + 1)?).into_mut(),
            };
            let Some(job) = buffer.pop_front() else {
                share.pass_over(place, None);
                continue;
            };
            let head = match buffer.front() {
                Some(next) => rank(next),
                None => None,
            };
            let taken = self.change_stored(&job, JobEvent::Claim { machine: machine.clone() })?;
            match taken {
                Ok(job) if !job.job.is_over() => {
                    claimed.push(self.claimed(job)?);
                    share.take(place, head);
                }
                _ => share.pass_over(place, head),
            }
        }
        Ok(claimed)
    }

    /// The first ready jobs of a queue.
    fn first(&self, queue: i64, most: usize) -> Result<VecDeque<StoredJob>, Fault> {
        let sql = format!(
            "SELECT {COLUMNS} FROM jobs WHERE state = {READY} AND queue = ?1 ORDER BY place, id LIMIT ?2{}",
            self.database.skip_locked()
        );
        self.database.query(&sql, bound![queue, whole(most as u64)])?.into_iter().map(StoredJob::read).collect()
    }

    fn claimed(&self, stored: StoredJob) -> Result<ClaimedJob, Fault> {
        let (work, payload) = self.body(stored.id)?;
        let load = self.loads.queues.get(&stored.queue);
        let queue = load.map(|load| load.name.clone()).ok_or_else(|| Fault::Row("a job without a queue".to_owned()))?;
        Ok(ClaimedJob {
            id: stored.id,
            fence: stored.job.fence,
            queue,
            timeout: stored.job.settings.timeout,
            work,
            payload,
        })
    }
}

fn rank(job: &StoredJob) -> Option<Rank> {
    match job.job.state {
        JobState::Ready { rank } => Some(rank),
        _ => None,
    }
}
