//! Claims: the next jobs for a machine.

use std::collections::BTreeMap;

use gantry_model::MachineName;
use gantry_queue::{FairShare, JobEvent};

use super::Fault;
use super::ahead::rank_of;
use super::row::{StoredJob, unsigned, whole};
use super::value::bound;
use super::write::Writer;
use crate::{ClaimedJob, QueueReply};

/// Jobs that one claim may look at. Expired jobs end at a claim and are not returned.
const JOBS_SCANNED_MAX: usize = 1000;

impl Writer<'_> {
    /// Gives jobs to a machine; [`Self::add_bodies`] adds their bodies.
    pub(crate) fn claim(
        &mut self,
        machine: &MachineName,
        most: usize,
        limit: Option<u32>,
    ) -> Result<Vec<ClaimedJob>, Fault> {
        let (numbers, loads) = self.loads.shares(self.database)?;
        let mut share = FairShare::new(loads, limit);
        let mut claimed = Vec::new();
        for _ in 0..JOBS_SCANNED_MAX {
            let Some(place) = share.next().filter(|_| claimed.len() < most) else { break };
            let queue = numbers[place];
            let Some(job) = self.ahead.first_ready(self.database, queue, numbers.len())?.cloned() else {
                share.pass_over(place, None);
                continue;
            };
            let taken = self.change_stored(&job, JobEvent::Claim { machine: machine.clone() })?;
            let head = self.ahead.first_ready(self.database, queue, numbers.len())?.and_then(rank_of);
            if let Some(head) = head {
                self.loads.begins_with(queue, head);
            }
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

    fn claimed(&self, stored: StoredJob) -> Result<ClaimedJob, Fault> {
        let load = self.loads.queues.get(&stored.queue);
        let queue = load.map(|load| load.name.clone()).ok_or_else(|| Fault::Row("a job without a queue".to_owned()))?;
        Ok(ClaimedJob {
            id: stored.id,
            fence: stored.job.fence,
            queue,
            timeout: stored.job.settings.timeout,
            work: Vec::new(),
            payload: Vec::new(),
        })
    }

    /// Reads the bodies of all claimed jobs of a batch.
    pub(crate) fn add_bodies(&self, replies: &mut [QueueReply]) -> Result<(), Fault> {
        let claimed = replies.iter_mut().filter_map(|reply| match reply {
            QueueReply::Claimed(claimed) => Some(claimed),
            _ => None,
        });
        let mut claimed: BTreeMap<_, _> = claimed.flatten().map(|job| (whole(job.id.0), job)).collect();
        if claimed.is_empty() {
            return Ok(());
        }
        let numbers: Vec<i64> = claimed.keys().copied().collect();
        let sql = format!("SELECT job, work, payload FROM bodies WHERE job {}", self.database.among());
        for mut row in self.database.query(&sql, bound![&self.database.list(&numbers)])? {
            if let Some(job) = claimed.remove(&row.get(0)?) {
                (job.work, job.payload) = (row.get(1)?, row.get(2)?);
            }
        }
        match claimed.first_key_value() {
            Some((id, _)) => Err(Fault::Row(format!("job {} without work", unsigned(*id)))),
            None => Ok(()),
        }
    }
}
