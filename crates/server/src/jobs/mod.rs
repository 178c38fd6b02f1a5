//! Container jobs: the queue, the leases of machines, and the orders to agents.
//!
//! ```text
//! API ── submit, cancel ─► writer (one thread, group commit) ─► queue's file, or PostgreSQL
//!                             ▲        ▲
//! agent ── report ─► renewals │        │ claims
//!       ◄─ orders ── feeder ──┴────────┘
//! ```
//! - [`JobService`]: the handle of request handlers and connections. Begin there.
//! - `QueueWriter`: the one thread that writes. `feeder`: orders for one agent's connection; `feeders` wakes each feeder.
//!   `upkeep`: the clock's part.
//! - `state`: leases and outgoing orders in memory; plain functions.
//! - `forget`: the removal of a destroyed app's state.
//! - `work`: what a job runs, from the request to the agent. `template`: the job of a schedule.
//!
//! With PostgreSQL, the queue may be away at any time, and is opened with the first command. The leases of the previous
//! server are adopted once the database answers. Until then the server orders no machine to stop a job, and gives no
//! job away.
//!
//! The rules are in the crate `queue`, their storage in `queue-store`.

mod feeder;
mod feeders;
mod forget;
mod state;
mod template;
mod upkeep;
mod work;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_control::jobs::{BATCH_MAX, EndedJob, JobRef, JobsReport};
use gantry_model::{AppName, ClusterId, MachineName, Moment};
use gantry_queue::{Jitter, Job, JobId, JobState, QueueName, Refusal};
use gantry_queue_store::{
    CancelEffect, Completed, DeliveryCommand, DeliveryReply, Fired, JobFilter, JobProgress, JobReport, MessageCommand,
    MessageQueueName, MessageReply, NewJob, PostgresQueue, QueueCommand, QueueReader, QueueReply, QueueSetting,
    QueueStore, QueueStoreError, QueueWriter, QueueWriterError, ScheduleCommand, ScheduleReply, SigningKey,
    SqliteQueue, SubmitRefusal,
};
use tokio::sync::Notify;

pub(crate) use self::feeder::JobsLink;
use self::feeders::Feeders;
use self::state::JobsState;
pub(crate) use self::template::StoredTemplate;
pub(crate) use self::upkeep::{PAUSE_MAX, pause_after, run};
pub(crate) use self::work::{StoredWork, WorkSource};
use crate::{ServerSettings, core};

/// Name of the queue's file in the data folder.
const FILE: &str = "jobs.db";

/// Failure of a command on jobs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobsError {
    /// The storage refused the command, or is away.
    #[error(transparent)]
    Store(#[from] Arc<QueueStoreError>),
    /// The disk takes no writes.
    #[error("the disk of the server is read-only, and the queue of jobs is closed; make the disk writable")]
    ReadOnly,
    /// The server is shutting down, or its storage broke.
    #[error("the server is shutting down; try again")]
    Stopping,
}

impl From<QueueWriterError> for JobsError {
    fn from(error: QueueWriterError) -> Self {
        match error {
            QueueWriterError::Store(error) => Self::Store(error),
            QueueWriterError::Closed => Self::ReadOnly,
            QueueWriterError::Ended => Self::Stopping,
        }
    }
}

/// Starts the thread that writes the queue.
fn start(store: impl QueueStore + 'static) -> QueueWriter {
    let broken = |error: &QueueStoreError| {
        tracing::error!(error = crate::causes(error), "the queue cannot be written; the server ends");
    };
    QueueWriter::start(store, core::now, broken).unwrap_or_else(|error| {
        tracing::error!(%error, "cannot start the thread that writes the queue");
        QueueWriter::closed()
    })
}

/// The jobs of the cluster.
pub(crate) struct JobService {
    writer: QueueWriter,
    /// None while the disk is read-only.
    reader: Option<Arc<Mutex<QueueReader>>>,
    state: Mutex<JobsState>,
    /// True once the leases of the previous server are known.
    adopted: AtomicBool,
    /// Woken when their machines may have new orders.
    feeders: Feeders,
    /// Notified when messages were posted or given back.
    pub(crate) posted: Notify,
    /// Notified when a delivery may be due: a message was posted, or a job ended.
    pub(crate) deliverable: Notify,
}

impl JobService {
    /// The queue of the settings: a file in the data folder, or PostgreSQL. Leases of the previous server start over. A
    /// database is never used without the id of the cluster, which a full disk keeps from the records.
    pub(crate) fn open(settings: &ServerSettings, cluster: Option<ClusterId>) -> Result<Self, QueueStoreError> {
        if let Some(address) = &settings.job_store {
            let Some(cluster) = cluster else { return Ok(Self::closed()) };
            let store = PostgresQueue::new(address.clone(), cluster);
            let reader = store.reader();
            return Ok(Self::new(start(store), Some(reader)));
        }
        let store = SqliteQueue::open(&settings.data.join(FILE))?;
        let reader = store.reader()?;
        let leased = reader.leased()?;
        let service = Self::new(start(store), Some(reader));
        service.adopt_leases(leased);
        let _ = service.writer.take_unreconciled();
        Ok(service)
    }

    /// A queue that refuses every command, for a server on a read-only disk.
    pub(crate) fn closed() -> Self {
        Self::new(QueueWriter::closed(), None)
    }

    fn new(writer: QueueWriter, reader: Option<QueueReader>) -> Self {
        Self {
            writer,
            reader: reader.map(|reader| Arc::new(Mutex::new(reader))),
            state: Mutex::default(),
            adopted: AtomicBool::new(false),
            feeders: Feeders::default(),
            posted: Notify::new(),
            deliverable: Notify::new(),
        }
    }

    /// Takes over leases: those of the previous server, and those of claims whose reply was lost.
    async fn adopt(&self) -> Result<(), JobsError> {
        // A write first: after it, no other server grants leases.
        self.writer.all(Vec::new()).await?;
        let leased = self.read(QueueReader::leased).await?;
        self.adopt_leases(leased);
        self.feeders.wake_all();
        Ok(())
    }

    fn adopt_leases(&self, leased: Vec<(JobId, Job)>) {
        let mut state = self.state();
        for (id, job) in leased {
            if let JobState::Leased { machine, cancelling, .. } = job.state {
                state.adopt(JobRef { job: id, fence: job.fence }, machine, cancelling);
            }
        }
        state.take_early_reports();
        self.adopted.store(true, Ordering::Release);
    }

    /// Reports whether the leases of the previous server are known.
    fn has_adopted(&self) -> bool {
        self.adopted.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, JobsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the feeders of the machines with room: a job may be ready. The other machines have nothing to gain.
    fn wake_machines_with_room(&self) {
        self.state().with_room().for_each(|machine| self.feeders.wake(machine));
    }

    /// Orders a machine to stop a cancelled job.
    fn stop(&self, machine: &MachineName, lease: JobRef) {
        self.state().stop(machine, lease);
        self.feeders.wake(machine);
    }

    /// Queues jobs. On return they are durable.
    pub(crate) async fn submit(&self, jobs: Vec<NewJob>) -> Result<Result<Vec<JobId>, SubmitRefusal>, JobsError> {
        self.submitted(QueueCommand::Submit(jobs)).await
    }

    /// Queues an ended job again.
    pub(crate) async fn replay(
        &self,
        job: JobId,
        delay: u64,
        by: String,
    ) -> Result<Result<Vec<JobId>, SubmitRefusal>, JobsError> {
        self.submitted(QueueCommand::Replay { job, delay, by }).await
    }

    async fn submitted(&self, command: QueueCommand) -> Result<Result<Vec<JobId>, SubmitRefusal>, JobsError> {
        match self.writer.one(command).await? {
            QueueReply::Submitted(submitted) => {
                self.wake_machines_with_room();
                Ok(submitted)
            }
            _ => Err(JobsError::Stopping),
        }
    }

    /// Cancels a job. A machine that runs the job gets an order to stop.
    pub(crate) async fn cancel(&self, job: JobId) -> Result<CancelEffect, JobsError> {
        let QueueReply::Cancelled(effect) = self.writer.one(QueueCommand::Cancel(job)).await? else {
            return Err(JobsError::Stopping);
        };
        if let CancelEffect::Stopping(machine, fence) = &effect {
            self.stop(machine, JobRef { job, fence: *fence });
        }
        // The cancelled job may have been in the way of another.
        self.wake_machines_with_room();
        self.deliverable.notify_one();
        Ok(effect)
    }

    /// Changes a queue; false for an unknown queue.
    pub(crate) async fn set(&self, queue: QueueName, setting: QueueSetting) -> Result<bool, JobsError> {
        let reply = self.writer.one(QueueCommand::Set(queue, setting)).await?;
        self.wake_machines_with_room();
        Ok(reply == QueueReply::Set(true))
    }

    /// Cancels all jobs of a queue that wait; returns their number.
    pub(crate) async fn purge(&self, queue: &QueueName) -> Result<u64, JobsError> {
        let mut purged = 0;
        loop {
            match self.writer.one(QueueCommand::Purge(queue.clone())).await? {
                QueueReply::Purged(count @ 1..) => purged += count,
                _ => return Ok(purged),
            }
        }
    }

    /// Carries out a command on messages. On return its effects are durable.
    pub(crate) async fn message(
        &self,
        queue: MessageQueueName,
        command: MessageCommand,
    ) -> Result<MessageReply, JobsError> {
        let QueueReply::Message(reply) = self.writer.one(QueueCommand::Message(queue, command)).await? else {
            return Err(JobsError::Stopping);
        };
        if matches!(reply, MessageReply::Posted(_) | MessageReply::Changed(_)) {
            self.posted.notify_waiters();
            self.deliverable.notify_one();
        }
        Ok(reply)
    }

    /// Takes deliveries, or records their answers. On return the change is durable.
    pub(crate) async fn delivery(&self, command: DeliveryCommand) -> Result<DeliveryReply, JobsError> {
        let is_forward = matches!(command, DeliveryCommand::Forward { .. });
        let QueueReply::Delivery(reply) = self.writer.one(QueueCommand::Delivery(command)).await? else {
            return Err(JobsError::Stopping);
        };
        if is_forward {
            self.wake_machines_with_room();
            self.posted.notify_waiters();
            self.deliverable.notify_one();
        }
        Ok(reply)
    }

    /// The key that signs the callbacks of a project, made at first need; none if too many projects have one. `rotate`
    /// replaces the key.
    pub(crate) async fn signing_key(&self, project: AppName, rotate: bool) -> Result<Option<SigningKey>, JobsError> {
        let fresh = SigningKey { current: hex::encode(rand::random::<[u8; 32]>()), previous: None };
        match self.delivery(DeliveryCommand::SigningKey { project, fresh, rotate }).await? {
            DeliveryReply::Key(key) => Ok(key),
            _ => Err(JobsError::Stopping),
        }
    }

    /// Removes schedules, queues of messages, waiting and running jobs, and settings of queues of a destroyed app. An app
    /// is made and destroyed while the queue is away, too; `remedy` says how the state is removed then.
    pub(crate) async fn forget_app(&self, app: &AppName, remedy: &str) {
        if let Err(error) = forget::forget(self, app).await {
            tracing::warn!(
                %app,
                error = crate::causes(&error),
                "cannot remove the schedules, messages and waiting jobs of the destroyed app; {remedy}"
            );
        }
    }

    /// Removes the key that signs the callbacks of an app. An app is made and destroyed while the queue is away, too.
    pub(crate) async fn forget_signing_key(&self, app: &AppName) {
        if let Err(error) = self.delivery(DeliveryCommand::ForgetKey(app.clone())).await {
            tracing::warn!(%app, error = crate::causes(&error), "cannot remove the key that signs the app's callbacks; rotate it");
        }
    }

    /// Notes how far a job is; false if no machine has the job.
    pub(crate) async fn note_progress(&self, job: JobId, progress: JobProgress) -> Result<bool, JobsError> {
        Ok(self.writer.one(QueueCommand::Progress(job, progress)).await? == QueueReply::Noted(true))
    }

    /// Creates, changes, removes or fires a schedule. On return the change is durable.
    pub(crate) async fn schedule(&self, command: ScheduleCommand) -> Result<ScheduleReply, JobsError> {
        let QueueReply::Schedule(reply) = self.writer.one(QueueCommand::Schedule(command)).await? else {
            return Err(JobsError::Stopping);
        };
        if let ScheduleReply::Fired(Fired::Done { stopping, .. }) = &reply {
            for (job, machine, fence) in stopping {
                self.stop(machine, JobRef { job: *job, fence: *fence });
            }
            self.wake_machines_with_room();
        }
        Ok(reply)
    }

    /// Reads from the queue, beside the writer.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&QueueReader) -> Result<T, QueueStoreError> + Send + 'static,
    ) -> Result<T, JobsError> {
        let reader = self.reader.clone().ok_or(JobsError::ReadOnly)?;
        let reading = move || read(&reader.lock().unwrap_or_else(PoisonError::into_inner));
        let read = tokio::task::spawn_blocking(reading).await.map_err(|_| JobsError::Stopping)?;
        read.map_err(|error| Arc::new(error).into())
    }

    /// The highest number of a job that the queue has, or 0 without jobs; `None` while the queue is away.
    pub(crate) async fn newest(&self) -> Option<u64> {
        let newest = self.read(|reader| reader.page(&JobFilter::default(), 1)).await;
        match newest {
            Ok(page) => Some(page.jobs.first().map_or(0, |job| job.id.0)),
            Err(error) => {
                tracing::warn!(
                    error = crate::causes(&error),
                    "cannot read the number of the newest job; the new app has the jobs since its creation"
                );
                None
            }
        }
    }

    /// Time at which the program of a running job started, as its machine reports.
    pub(crate) fn started(&self, job: JobId) -> Option<Moment> {
        self.state().started(job)
    }

    /// Takes in the report of a machine: renews leases, and returns the ends to record. `first` on a connection.
    fn take_report(&self, machine: &MachineName, report: JobsReport, first: bool) -> Vec<EndedJob> {
        let mut ended = report.ended;
        ended.truncate(BATCH_MAX);
        let mut state = self.state();
        if !self.has_adopted() {
            // Jobs of unknown leases are no strange ones.
            state.keep_early_report(machine, report.capacity, report.held);
            return ended;
        }
        if first {
            state.first_report(machine, &report.held);
        }
        state.report(machine, report.capacity, &report.held, &ended);
        drop(state);
        self.feeders.wake(machine);
        ended
    }

    /// Records ends of attempts, and acknowledges them to the machine.
    async fn record(&self, machine: &MachineName, ended: Vec<EndedJob>) {
        let leases: Vec<JobRef> = ended.iter().map(|ended| ended.lease).collect();
        let commands = ended.into_iter().map(completion).collect();
        let replies = match self.writer.all(commands).await {
            Ok(replies) => replies,
            // The agent reports the ends again.
            Err(error) => return tracing::error!(%machine, error = crate::causes(&error), "cannot record ended jobs"),
        };
        gantry_failpoint::failpoint!("job.recorded");
        for (lease, reply) in leases.into_iter().zip(replies) {
            if let QueueReply::Completed(Completed::Refused(Refusal::Superseded)) = reply {
                let all = self.state().count_extra_run();
                tracing::warn!(%machine, job = %lease.job, all, "an attempt ended after its lease was lost; it does not count");
            }
            self.state().acknowledge(machine, lease);
        }
        self.feeders.wake(machine);
        // The ended jobs may have been in the way of others.
        self.wake_machines_with_room();
        self.deliverable.notify_one();
    }
}

/// The command that records an end.
fn completion(ended: EndedJob) -> QueueCommand {
    let mut output = Vec::new();
    for line in &ended.output {
        // A line of text and numbers is always valid JSON.
        output.extend(serde_json::to_vec(line).unwrap_or_default());
        output.push(b'\n');
    }
    let details = serde_json::to_vec(&ended.details).unwrap_or_default();
    QueueCommand::Complete {
        job: ended.lease.job,
        fence: ended.lease.fence,
        report: JobReport { outcome: ended.outcome, details, output },
        jitter: Jitter(rand::random()),
    }
}
