//! Commands on single jobs and queues.

use gantry_model::Moment;
use gantry_queue::{Fence, Jitter, Job, JobEvent, JobId, JobState, QueueName, Rank, Refusal};

use super::load::Loads;
use super::memory::QueueMemory;
use super::open::OpenJobs;
use super::recent::{JobBody, ROWS_MAX, RecentJobs};
use super::row::{StoredJob, state_columns, whole};
use super::value::bound;
use super::{Database, Fault, NumberedTable, row};
use crate::{
    CODES_MAX, CancelEffect, Completed, JobProgress, JobReport, NewJob, QueueCommand, QueueReply, QueueSetting,
    SubmitRefusal,
};

/// A transaction under way.
pub(crate) struct Writer<'a> {
    pub(crate) database: &'a dyn Database,
    pub(crate) loads: &'a mut Loads,
    pub(crate) open: &'a mut OpenJobs,
    pub(crate) recent: &'a mut RecentJobs,
    /// Maximum number of jobs of all queues that may wait or run.
    pub(crate) most_open: &'a mut u64,
    pub(crate) now: Moment,
    /// Jobs that all claims together want.
    pub(crate) claim_count: usize,
    /// Claimed jobs whose bodies are not in memory.
    pub(crate) without_body: Vec<i64>,
    /// Ready jobs that other sessions have locked. They are back in their queues after the batch.
    pub(crate) passed_over: Vec<(i64, Rank, JobId)>,
}

impl<'a> Writer<'a> {
    /// A transaction at a moment.
    pub(crate) fn new(
        database: &'a dyn Database,
        memory: &'a mut QueueMemory,
        most_open: &'a mut u64,
        now: Moment,
    ) -> Self {
        let QueueMemory { loads, open, recent } = memory;
        let (without_body, passed_over) = (Vec::new(), Vec::new());
        Self { database, loads, open, recent, most_open, now, claim_count: 0, without_body, passed_over }
    }
}

impl Writer<'_> {
    /// Carries out commands in order.
    pub(crate) fn apply_all(&mut self, commands: Vec<QueueCommand>) -> Result<Vec<QueueReply>, Fault> {
        self.prepare(&commands)?;
        let mut replies = commands.into_iter().map(|command| self.apply(command)).collect::<Result<Vec<_>, Fault>>()?;
        self.add_bodies(&mut replies)?;
        for (queue, rank, id) in std::mem::take(&mut self.passed_over) {
            if self.find(id)?.is_some_and(|stored| stored.job.state == JobState::Ready { rank }) {
                self.open.put_back(queue, rank, id);
            }
        }
        Ok(replies)
    }

    /// Reads what several commands need, at once.
    fn prepare(&mut self, commands: &[QueueCommand]) -> Result<(), Fault> {
        let (mut named, mut new) = (Vec::new(), 0);
        for command in commands {
            match command {
                QueueCommand::Complete { job, .. } | QueueCommand::Lose { job, .. } | QueueCommand::Cancel(job) => {
                    named.push(*job);
                }
                QueueCommand::Claim { most, .. } => self.claim_count = self.claim_count.saturating_add(*most),
                QueueCommand::Submit(jobs) => new += jobs.len(),
                _ => {}
            }
        }
        self.recent.read(self.database, named)?;
        self.database.expect_rows(NumberedTable::Jobs, new)
    }

    /// Carries out a command. Claimed jobs may lack their bodies.
    fn apply(&mut self, command: QueueCommand) -> Result<QueueReply, Fault> {
        Ok(match command {
            QueueCommand::Submit(jobs) => QueueReply::Submitted(self.submit(jobs)?),
            QueueCommand::Claim { machine, most, limit } => QueueReply::Claimed(self.claim(&machine, most, limit)?),
            QueueCommand::Complete { job, fence, report, jitter } => {
                QueueReply::Completed(self.complete(job, fence, &report, jitter)?)
            }
            QueueCommand::Lose { job, fence } => QueueReply::Lost(self.change(job, JobEvent::Lose { fence })?.is_ok()),
            QueueCommand::Cancel(job) => QueueReply::Cancelled(self.cancel(job)?),
            QueueCommand::Replay { job, delay, by } => QueueReply::Submitted(self.replay(job, delay, by)?),
            QueueCommand::Set(queue, setting) => QueueReply::Set(self.set(&queue, setting)?),
            QueueCommand::Purge(queue) => QueueReply::Purged(self.purge(&queue)?),
            QueueCommand::Upkeep { keep_since, most_open } => {
                *self.most_open = most_open;
                QueueReply::Upkept(self.upkeep(keep_since)?)
            }
            QueueCommand::Progress(job, progress) => QueueReply::Noted(self.note(job, &progress)?),
            QueueCommand::Message(queue, command) => QueueReply::Message(self.message(&queue, command)?),
            QueueCommand::Delivery(command) => QueueReply::Delivery(self.delivery(command)?),
            QueueCommand::Schedule(command) => QueueReply::Schedule(self.schedule(command)?),
        })
    }

    pub(crate) fn submit(&mut self, jobs: Vec<NewJob>) -> Result<Result<Vec<JobId>, SubmitRefusal>, Fault> {
        if self.loads.open() + jobs.len() as u64 > *self.most_open {
            return Ok(Err(SubmitRefusal::Full { most: *self.most_open }));
        }
        let unknown = jobs.iter().filter(|job| !self.loads.by_name.contains_key(&job.queue)).count();
        if self.loads.queues.len() + unknown > CODES_MAX {
            return Ok(Err(SubmitRefusal::TooManyQueues));
        }
        jobs.into_iter().map(|job| self.insert(job)).collect::<Result<_, _>>().map(Ok)
    }

    /// Inserts a job, unless its idempotency key is known.
    fn insert(&mut self, new: NewJob) -> Result<JobId, Fault> {
        let queue = self.queue(&new.queue)?;
        if let Some(key) = &new.settings.idempotency
            && let Some(known) = self.find_idempotent(queue, key)?
        {
            return Ok(known);
        }
        let key = new.settings.key.as_ref();
        let room = key.is_none_or(|key| self.open.has_room(queue, &key.name, key.limit));
        let settings = serde_json::to_string(&new.settings).map_err(|error| Fault::Row(error.to_string()))?;
        let job = Job::submitted(new.settings, self.now, room);
        let (state, place) = state_columns(&job.state);
        let expiry = job.expiry().map(|expiry| whole(expiry.0));
        let key = job.settings.key.as_ref().map(|key| key.name.as_str());
        let idempotency = job.settings.idempotency.as_deref();
        let values = bound![queue, state, place, whole(self.now.0), expiry, key, idempotency, &settings];
        let id = self.database.insert_row(NumberedTable::Jobs, &row::INSERT, values)?;
        self.database.change_row(&row::INSERT_BODY, bound![id, &new.work, &new.payload, &new.by])?;
        self.loads.changed(queue, None, &job.state);
        let id = JobId(row::unsigned(id));
        self.open.added(queue, id, &job);
        // A job behind many others is claimed much later.
        if matches!(job.state, JobState::Ready { .. }) && self.open.count_ready(queue) <= ROWS_MAX / 2 {
            let body = JobBody { work: new.work, payload: new.payload };
            self.recent.keep_new(StoredJob { id, queue, job }, body);
        }
        Ok(id)
    }

    /// The number of a queue. The first job of a code makes its queue.
    fn queue(&mut self, name: &QueueName) -> Result<i64, Fault> {
        if let Some(number) = self.loads.by_name.get(name) {
            return Ok(*number);
        }
        let sql = "INSERT INTO queues (id, project, code) VALUES (?1, ?2, ?3)";
        let names = bound![name.project.as_str(), name.code.as_str()];
        let number = self.database.insert(NumberedTable::Queues, sql, names)?;
        self.loads.insert(number, name.clone(), false, None);
        Ok(number)
    }

    fn find_idempotent(&self, queue: i64, key: &str) -> Result<Option<JobId>, Fault> {
        let sql = "SELECT id FROM jobs WHERE queue = ?1 AND idempotency = ?2";
        let found = self.database.one(sql, bound![queue, key])?.map(|mut row| row.get(0)).transpose()?;
        Ok(found.map(|id| JobId(row::unsigned(id))))
    }

    /// Finds a job.
    pub(crate) fn find(&self, id: JobId) -> Result<Option<StoredJob>, Fault> {
        match self.recent.get(id) {
            Some(known) => Ok(Some(known.clone())),
            None => StoredJob::find(self.database, id),
        }
    }

    /// Applies an event to a job, and writes the job. Returns the job after the event.
    pub(crate) fn change(&mut self, id: JobId, event: JobEvent) -> Result<Result<StoredJob, Refusal>, Fault> {
        match self.find(id)? {
            Some(stored) => self.change_stored(&stored, event),
            None => Ok(Err(Refusal::Superseded)),
        }
    }

    /// Same as [`Self::change`], for a job that is already read.
    pub(crate) fn change_stored(
        &mut self,
        stored: &StoredJob,
        event: JobEvent,
    ) -> Result<Result<StoredJob, Refusal>, Fault> {
        let job = match stored.job.after(event, self.now) {
            Ok(job) => job,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let next = StoredJob { id: stored.id, queue: stored.queue, job };
        next.update(&stored.job.state, self.database)?;
        if next.job.is_over() {
            self.add_callback(next.id, &next.job)?;
        }
        self.loads.changed(next.queue, Some(&stored.job.state), &next.job.state);
        self.open.changed(stored, &next);
        self.recent.changed(&next);
        if stored.job.takes_room() && !next.job.takes_room() {
            self.admit_held(&next)?;
        }
        Ok(Ok(next))
    }

    /// Admits the next held job of the key whose room `left` has given up.
    fn admit_held(&mut self, left: &StoredJob) -> Result<(), Fault> {
        let Some(key) = &left.job.settings.key else { return Ok(()) };
        while let Some((rank, id)) = self.open.first_held(left.queue, &key.name) {
            let held = self.find(id)?.filter(|held| held.job.state == JobState::Held { rank });
            let Some(held) = held else {
                self.open.forget_held(left.queue, &key.name, rank, id);
                continue;
            };
            let limit = held.job.settings.key.as_ref().map_or(1, |key| key.limit);
            if !self.open.has_room(left.queue, &key.name, limit) {
                return Ok(());
            }
            let admitted = self.change_stored(&held, JobEvent::Admit)?;
            if !admitted.is_ok_and(|job| job.job.is_over()) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn complete(&mut self, id: JobId, fence: Fence, report: &JobReport, jitter: Jitter) -> Result<Completed, Fault> {
        let job = match self.change(id, JobEvent::Complete { fence, outcome: report.outcome, jitter })? {
            Ok(job) => job,
            Err(refusal) => {
                if refusal == Refusal::Superseded {
                    self.count_extra_run(id)?;
                }
                return Ok(Completed::Refused(refusal));
            }
        };
        // The first lease of a job has no result before its own.
        let put = if fence == Fence(1) { &row::ADD_RESULT } else { &row::PUT_RESULT };
        self.database.change_row(put, bound![whole(id.0), &report.details, &report.output])?;
        Ok(Completed::Recorded(job.job.state))
    }

    fn note(&self, id: JobId, progress: &JobProgress) -> Result<bool, Fault> {
        let sql = "UPDATE jobs SET percent = ?2, message = ?3 WHERE id = ?1 AND state = 3";
        Ok(self.database.execute(sql, bound![whole(id.0), progress.percent, &progress.message])? > 0)
    }

    /// Counts an attempt that ended after its lease was lost.
    fn count_extra_run(&self, id: JobId) -> Result<(), Fault> {
        let sql = "UPDATE queues SET extra = extra + 1 WHERE id = (SELECT queue FROM jobs WHERE id = ?1)";
        self.database.write(sql, bound![whole(id.0)])
    }

    pub(crate) fn cancel(&mut self, id: JobId) -> Result<CancelEffect, Fault> {
        let Some(stored) = self.find(id)? else { return Ok(CancelEffect::Unknown) };
        Ok(match self.change_stored(&stored, JobEvent::Cancel)? {
            Ok(StoredJob { job: Job { state: JobState::Leased { machine, .. }, fence, .. }, .. }) => {
                CancelEffect::Stopping(machine, fence)
            }
            Ok(_) => CancelEffect::Ended,
            Err(_) => CancelEffect::Over,
        })
    }

    fn replay(&mut self, id: JobId, delay: u64, by: String) -> Result<Result<Vec<JobId>, SubmitRefusal>, Fault> {
        let Some(stored) = self.find(id)? else { return Ok(Err(SubmitRefusal::Unknown(id))) };
        let Some(load) = self.loads.queues.get(&stored.queue).filter(|_| stored.job.is_over()) else {
            return Ok(Err(SubmitRefusal::NotEnded(id)));
        };
        let queue = load.name.clone();
        let (work, payload) = self.body(id)?;
        // The new job is another job: the idempotency key stays with the old one.
        let settings = gantry_queue::JobSettings { delay, idempotency: None, ..stored.job.settings };
        self.submit(vec![NewJob { queue, settings, work, payload, by }])
    }

    fn set(&mut self, name: &QueueName, setting: QueueSetting) -> Result<bool, Fault> {
        let Some(number) = self.loads.by_name.get(name).copied() else { return Ok(false) };
        let Some(load) = self.loads.queues.get_mut(&number) else { return Ok(false) };
        match setting {
            QueueSetting::Paused(paused) => load.paused = paused,
            QueueSetting::Limit(limit) => load.limit = limit,
        }
        let values = bound![number, load.paused, load.limit];
        self.database.write("UPDATE queues SET paused = ?2, most = ?3 WHERE id = ?1", values)?;
        Ok(true)
    }

    /// The work and the payload of a job.
    pub(crate) fn body(&self, id: JobId) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        let found = self.database.one("SELECT work, payload FROM bodies WHERE job = ?1", bound![whole(id.0)])?;
        let mut row = found.ok_or_else(|| Fault::Row(format!("job {id} without work")))?;
        Ok((row.get(0)?, row.get(1)?))
    }
}
