//! The commands of a queue's storage, and their replies.

use gantry_model::{ClusterId, MachineName, Moment};
use gantry_queue::{AttemptOutcome, Fence, Jitter, JobId, JobSettings, JobState, QueueName, Refusal};

use crate::{
    DeliveryCommand, DeliveryReply, MessageCommand, MessageQueueName, MessageReply, ScheduleCommand, ScheduleReply,
};

/// Maximum number of jobs of all queues that wait or run, until the first upkeep.
pub const WAITING_MAX: u64 = 2_000_000;

/// Maximum number of queues.
pub const CODES_MAX: usize = 10_000;

/// A job to submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Queue of the job.
    pub queue: QueueName,
    /// Settings of the job, checked.
    pub settings: JobSettings,
    /// The work, for the agent.
    pub work: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The submitter of the job.
    pub by: String,
}

/// A job that a machine has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedJob {
    /// Number of the job.
    pub id: JobId,
    /// Token of the lease.
    pub fence: Fence,
    /// Queue of the job.
    pub queue: QueueName,
    /// Timeout of the attempt, in seconds.
    pub timeout: u32,
    /// The work.
    pub work: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The end of an attempt, as the machine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReport {
    /// The outcome of the attempt.
    pub outcome: AttemptOutcome,
    /// Details, for people.
    pub details: Vec<u8>,
    /// The output.
    pub output: Vec<u8>,
}

/// Progress of a job, as the job itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobProgress {
    /// 0 to 100.
    pub percent: u8,
    /// A word about it.
    pub message: String,
}

/// A setting of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueSetting {
    /// Starts no job while true.
    Paused(bool),
    /// Maximum number of jobs at the same time; none for any number.
    Limit(Option<u32>),
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueCommand {
    /// Queues jobs, all or none.
    Submit(Vec<NewJob>),
    /// Gives jobs to a machine.
    Claim {
        /// The machine.
        machine: MachineName,
        /// Maximum number of jobs.
        most: usize,
        /// Maximum number of leased jobs of all queues.
        limit: Option<u32>,
    },
    /// Records the end of an attempt.
    Complete {
        /// The job.
        job: JobId,
        /// Token of the lease.
        fence: Fence,
        /// The end.
        report: JobReport,
        /// Random part of the pause before a retry.
        jitter: Jitter,
    },
    /// Takes a job from a machine that lost its lease.
    Lose {
        /// The job.
        job: JobId,
        /// Token of the lease.
        fence: Fence,
    },
    /// Cancels a job.
    Cancel(JobId),
    /// Queues an ended job again, as a new job.
    Replay {
        /// The job.
        job: JobId,
        /// Delay in seconds.
        delay: u64,
        /// The caller.
        by: String,
    },
    /// Changes a queue.
    Set(QueueName, QueueSetting),
    /// Cancels waiting jobs of a queue, at most a slice.
    Purge(QueueName),
    /// Ends delays, expires and removes jobs, at most a slice.
    Upkeep {
        /// Jobs that ended before are removed.
        keep_since: Moment,
        /// Maximum number of jobs of all queues that may wait or run from now on.
        most_open: u64,
    },
    /// Notes how far a leased job is. The next attempt begins without a note.
    Progress(JobId, JobProgress),
    /// Creates, changes, removes or fires a schedule.
    Schedule(ScheduleCommand),
    /// Posts, reserves or deletes messages of a queue.
    Message(MessageQueueName, MessageCommand),
    /// Takes deliveries for a sender, or records their answers.
    Delivery(DeliveryCommand),
}

/// Reason why no job was queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefusal {
    /// Too many jobs wait.
    #[error(
        "{most} jobs may wait or run at once; wait until some have ended, purge a queue, or raise max-waiting-jobs"
    )]
    Full {
        /// The limit.
        most: u64,
    },
    /// Too many queues.
    #[error("there are {CODES_MAX} queues already; use fewer codes")]
    TooManyQueues,
    /// The job to replay is unknown.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// The job to replay has not ended.
    #[error("job {0} has not ended")]
    NotEnded(JobId),
}

/// Effect of a cancellation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelEffect {
    /// The job is over.
    Ended,
    /// The machine has to stop the job.
    Stopping(MachineName, Fence),
    /// The job had ended before.
    Over,
    /// There is no such job.
    Unknown,
}

/// Outcome of a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    /// The completion is recorded, and this is the job's state.
    Recorded(JobState),
    /// The completion does not count.
    Refused(Refusal),
}

/// Outcome of a slice of upkeep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// True if there is more to do now.
    pub more: bool,
    /// True if jobs changed their state.
    pub changed: bool,
    /// The next moment at which a delay ends.
    pub next: Option<Moment>,
}

/// Reply to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueReply {
    /// To `Submit` and `Replay`: the numbers, in order.
    Submitted(Result<Vec<JobId>, SubmitRefusal>),
    /// To `Claim`.
    Claimed(Vec<ClaimedJob>),
    /// To `Complete`.
    Completed(Completed),
    /// To `Lose`: true if the lease was the current one.
    Lost(bool),
    /// To `Cancel`.
    Cancelled(CancelEffect),
    /// To `Progress`: false if no machine has the job.
    Noted(bool),
    /// To `Set`: false for an unknown queue.
    Set(bool),
    /// To `Purge`: number of jobs in this slice.
    Purged(u64),
    /// To `Upkeep`.
    Upkept(Upkeep),
    /// To `Schedule`.
    Schedule(ScheduleReply),
    /// To `Message`.
    Message(MessageReply),
    /// To `Delivery`.
    Delivery(DeliveryReply),
}

/// Reason why the storage failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueStoreError {
    /// The file cannot be used.
    #[error("cannot {action} the queue's file {path}")]
    File {
        /// The attempted action.
        action: &'static str,
        /// The file.
        path: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk is full. Nothing was changed.
    #[error("the disk of the queue {path} is full; free space")]
    Full {
        /// The file.
        path: String,
    },
    /// The file or database is of a newer version.
    #[error("the queue {path} has format {found}, and this program knows {known}; use a newer gantry")]
    Newer {
        /// The file.
        path: String,
        /// Format of the file.
        found: i64,
        /// The newest known format.
        known: i64,
    },
    /// A row makes no sense.
    #[error("the queue {path} is damaged: {detail}")]
    Damaged {
        /// The file.
        path: String,
        /// Description of the damage.
        detail: String,
    },
    /// The database cannot be used now. Nothing was changed.
    #[error("cannot {action} the queue {place}")]
    Away {
        /// The attempted action.
        action: &'static str,
        /// The database.
        place: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke during a commit, and the database stayed away. The commands were carried out, or not; all of
    /// them or none.
    #[error(
        "the connection to the queue {place} broke during a commit, which may have succeeded; look before you repeat"
    )]
    Unsettled {
        /// The database.
        place: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another server writes the queue. Nothing was changed.
    #[error("another server has taken over the queue {place}; ask the server that leads")]
    Superseded {
        /// The database.
        place: String,
    },
    /// The servers of another cluster write the queue. Nothing was changed.
    #[error(
        "the queue {place} belongs to another cloud (id {owner}); name an empty database in job-store, or give the queue \
         to this cloud as `gantry docs jobs` says"
    )]
    OtherCluster {
        /// The database.
        place: String,
        /// The cluster whose queue it is.
        owner: ClusterId,
    },
    /// A queue is being moved to the database. Nothing was changed.
    #[error("the queue {place} is not whole yet; finish `gantry store migrate-jobs`")]
    Unfinished {
        /// The database.
        place: String,
    },
}

impl QueueStoreError {
    /// Reports whether the same storage may carry out later commands.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::Away { .. }
                | Self::Unsettled { .. }
                | Self::Superseded { .. }
                | Self::OtherCluster { .. }
                | Self::Unfinished { .. }
        )
    }
}

/// Storage of jobs.
pub trait QueueStore: Send {
    /// Carries out commands in order, in one transaction. The replies are true once they are returned: everything is on
    /// the disk.
    ///
    /// # Errors
    /// [`QueueStoreError`]: nothing was changed; see [`QueueStoreError::Unsettled`].
    fn commit(&mut self, commands: Vec<QueueCommand>, now: Moment) -> Result<Vec<QueueReply>, QueueStoreError>;

    /// Reads the jobs that the next claims take into memory. For the time in which no command waits.
    fn look_ahead(&mut self) {}
}
