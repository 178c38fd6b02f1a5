//! Commands on single jobs and queues.

use gantry_model::Moment;
use gantry_queue::{AttemptOutcome, Fence, Jitter, Job, JobEvent, JobId, JobState, QueueName, Refusal};

use super::ahead::ReadAhead;
use super::load::Loads;
use super::row::{HELD, StoredJob, state_columns, whole};
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
    /// Maximum number of jobs of all queues that may wait or run.
    pub(crate) most_open: &'a mut u64,
    pub(crate) now: Moment,
    pub(crate) ahead: ReadAhead,
}

impl Writer<'_> {
    /// Carries out commands in order.
    pub(crate) fn apply_all(&mut self, commands: Vec<QueueCommand>) -> Result<Vec<QueueReply>, Fault> {
        self.ahead = ReadAhead::of(self.database, &commands)?;
        let mut replies = commands.into_iter().map(|command| self.apply(command)).collect::<Result<Vec<_>, Fault>>()?;
        self.add_bodies(&mut replies)?;
        Ok(replies)
    }

    /// Carries out a command. Claimed jobs lack their bodies.
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
        let room = key.map_or(Ok(true), |key| self.has_room(queue, &key.name, key.limit))?;
        let key = key.map(|key| key.name.clone());
        let idempotency = new.settings.idempotency.clone();
        let settings = serde_json::to_string(&new.settings).map_err(|error| Fault::Row(error.to_string()))?;
        let job = Job::submitted(new.settings, self.now, room);
        let (state, place) = state_columns(&job.state);
        let expiry = job.expiry().map(|expiry| whole(expiry.0));
        let (key, idempotency) = (key.as_deref(), idempotency.as_deref());
        let values = bound![queue, state, place, whole(self.now.0), expiry, key, idempotency, &settings];
        let id = self.database.insert_row(NumberedTable::Jobs, &row::INSERT, values)?;
        self.database.change_row(&row::INSERT_BODY, bound![id, &new.work, &new.payload, &new.by])?;
        self.loads.changed(queue, None, Some(&job.state));
        let id = JobId(row::unsigned(id));
        self.ahead.entered(queue, id, &job.state);
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

    /// Reports whether a key has room for one more job.
    pub(crate) fn has_room(&self, queue: i64, key: &str, limit: u32) -> Result<bool, Fault> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE queue = ?1 AND key = ?2 AND state IN (2, 3) LIMIT ?3) \
                   AS taken";
        Ok(self.database.number(sql, bound![queue, key, limit])? < limit.into())
    }

    /// Finds a job.
    pub(crate) fn find(&self, id: JobId) -> Result<Option<StoredJob>, Fault> {
        match self.ahead.job(id) {
            Some(known) => Ok(Some(known.clone())),
            None => StoredJob::find(self.database, id),
        }
    }

    /// Applies an event to a job, and writes the job. Returns the job after the event.
    fn change(&mut self, id: JobId, event: JobEvent) -> Result<Result<StoredJob, Refusal>, Fault> {
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
        let next = StoredJob { job, ..stored.clone() };
        next.update(self.database)?;
        if next.job.is_over() {
            self.add_callback(next.id, &next.job)?;
        }
        self.loads.changed(next.queue, Some(&stored.job.state), Some(&next.job.state));
        self.ahead.changed(stored, &next);
        if stored.job.takes_room() && !next.job.takes_room() {
            self.admit_held(&next)?;
        }
        Ok(Ok(next))
    }

    /// Admits the next held job of the key whose room `left` has given up.
    fn admit_held(&mut self, left: &StoredJob) -> Result<(), Fault> {
        let Some(key) = &left.job.settings.key else { return Ok(()) };
        loop {
            let sql = format!(
                "SELECT {} FROM jobs WHERE state = {HELD} AND queue = ?1 AND key = ?2 ORDER BY place, id LIMIT 1",
                row::COLUMNS
            );
            let found = self.database.one(&sql, bound![left.queue, &key.name])?;
            let Some(held) = found.map(StoredJob::read).transpose()? else { return Ok(()) };
            let limit = held.job.settings.key.as_ref().map_or(1, |key| key.limit);
            if !self.has_room(left.queue, &key.name, limit)? {
                return Ok(());
            }
            let admitted = self.change_stored(&held, JobEvent::Admit)?;
            if !admitted.is_ok_and(|job| job.job.is_over()) {
                return Ok(());
            }
        }
    }

    fn complete(&mut self, id: JobId, fence: Fence, report: &JobReport, jitter: Jitter) -> Result<Completed, Fault> {
        let outcome: AttemptOutcome = report.outcome;
        let job = match self.change(id, JobEvent::Complete { fence, outcome, jitter })? {
            Ok(job) => job,
            Err(refusal) => {
                if refusal == Refusal::Superseded {
                    self.count_extra_run(id)?;
                }
                return Ok(Completed::Refused(refusal));
            }
        };
        self.database.change_row(&row::PUT_RESULT, bound![whole(id.0), &report.details, &report.output])?;
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
