//! Claims: the next jobs for a machine.

use std::collections::HashMap;

use gantry_model::MachineName;
use gantry_queue::{FairShare, JobEvent, JobState};

use super::Fault;
use super::recent::JobBody;
use super::row::{StoredJob, unsigned, whole};
use super::value::bound;
use super::write::Writer;
use crate::{ClaimedJob, QueueReply};

/// Jobs that one claim may look at. Expired jobs end at a claim and are not returned.
const JOBS_SCANNED_MAX: usize = 1000;

/// Most and fewest ready jobs of a queue that one query reads.
const READY_MAX: usize = 1000;
const READY_MIN: usize = 16;

impl Writer<'_> {
    /// Gives jobs to a machine; [`Self::add_bodies`] adds the bodies that are not in memory.
    pub(crate) fn claim(
        &mut self,
        machine: &MachineName,
        most: usize,
        limit: Option<u32>,
    ) -> Result<Vec<ClaimedJob>, Fault> {
        let (numbers, loads) = self.loads.shares(self.open);
        let mut share = FairShare::new(loads, limit);
        let mut claimed = Vec::new();
        for _ in 0..JOBS_SCANNED_MAX {
            let Some(place) = share.next().filter(|_| claimed.len() < most) else { break };
            let queue = numbers[place];
            let Some(job) = self.first_ready(queue, numbers.len())? else {
                share.pass_over(place, None);
                continue;
            };
            let taken = self.change_stored(&job, JobEvent::Claim { machine: machine.clone() })?;
            let head = self.open.head(queue);
            match taken {
                Ok(job) if !job.job.is_over() => {
                    self.open.claimed_from.insert(queue);
                    claimed.push(self.claimed(&job)?);
                    share.take(place, head);
                }
                _ => share.pass_over(place, head),
            }
        }
        Ok(claimed)
    }

    /// The first ready job of a queue that no other session has locked. `queues`: number of queues that share the claims.
    fn first_ready(&mut self, queue: i64, queues: usize) -> Result<Option<StoredJob>, Fault> {
        while let Some((rank, id)) = self.open.first_ready(queue) {
            if self.recent.get(id).is_none() {
                let most = (self.claim_count / queues.max(1)).max(READY_MIN).min(self.claim_count).clamp(1, READY_MAX);
                let first: Vec<_> = self.open.ready(queue).take(most).map(|(_, id)| id).collect();
                self.recent.read(self.database, first)?;
            }
            let found = self.recent.get(id).filter(|stored| stored.job.state == JobState::Ready { rank }).cloned();
            if found.is_some() && !self.database.is_locked(whole(id.0))? {
                return Ok(found);
            }
            self.open.forget_ready(queue, rank, id);
            if found.is_some() {
                self.passed_over.push((queue, rank, id));
            }
        }
        Ok(None)
    }

    fn claimed(&mut self, stored: &StoredJob) -> Result<ClaimedJob, Fault> {
        let load = self.loads.queues.get(&stored.queue);
        let queue = load.map(|load| load.name.clone()).ok_or_else(|| Fault::Row("a job without a queue".to_owned()))?;
        let body = self.recent.take_body(stored.id);
        if body.is_none() {
            self.without_body.push(whole(stored.id.0));
        }
        let JobBody { work, payload } = body.unwrap_or_default();
        let (id, fence, timeout) = (stored.id, stored.job.fence, stored.job.settings.timeout);
        Ok(ClaimedJob { id, fence, queue, timeout, work, payload })
    }

    /// Reads the bodies of claimed jobs that are not in memory.
    pub(crate) fn add_bodies(&self, replies: &mut [QueueReply]) -> Result<(), Fault> {
        if self.without_body.is_empty() {
            return Ok(());
        }
        let sql = format!("SELECT job, work, payload FROM bodies WHERE job {}", self.database.among());
        let mut bodies: HashMap<i64, (Vec<u8>, Vec<u8>)> = HashMap::new();
        for mut row in self.database.query(&sql, bound![&self.database.list(&self.without_body)])? {
            bodies.insert(row.get(0)?, (row.get(1)?, row.get(2)?));
        }
        if let Some(id) = self.without_body.iter().find(|id| !bodies.contains_key(*id)) {
            return Err(Fault::Row(format!("job {} without work", unsigned(*id))));
        }
        let claimed = replies.iter_mut().filter_map(|reply| match reply {
            QueueReply::Claimed(claimed) => Some(claimed),
            _ => None,
        });
        for job in claimed.flatten() {
            if let Some((work, payload)) = bodies.get(&whole(job.id.0)) {
                (job.work, job.payload) = (work.clone(), payload.clone());
            }
        }
        Ok(())
    }
}
