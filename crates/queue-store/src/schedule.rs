//! Commands on schedules, and their replies.

use gantry_model::{MachineName, Moment};
use gantry_queue::{Fence, JobId, ScheduleName};
use gantry_schedule::{Progress, Schedule};

use crate::NewJob;

/// Maximum number of schedules.
pub const SCHEDULES_MAX: u64 = 10_000;

/// Number of a schedule. A number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleId(pub u64);

/// Owner of a schedule, who decides about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleOrigin {
    /// A caller made the schedule, and removes it.
    Caller,
    /// The current release of the project has the schedule.
    Release,
}

/// A schedule to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSchedule {
    /// Name of the schedule.
    pub name: ScheduleName,
    /// Times and policies of the schedule, checked.
    pub schedule: Schedule,
    /// The job to queue, for the server.
    pub template: Vec<u8>,
    /// Owner, who decides about the schedule.
    pub origin: ScheduleOrigin,
    /// Creator of the schedule.
    pub by: String,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSchedule {
    /// Number of the schedule.
    pub id: ScheduleId,
    /// Definition of the schedule.
    pub new: NewSchedule,
    /// True if nothing is queued.
    pub paused: bool,
    /// Progress of the schedule.
    pub progress: Progress,
    /// Number of due times without a job: missed ones, and those of the overlap policy "forbid".
    pub skipped: u64,
    /// Due time of the last job.
    pub last_run: Option<Moment>,
    /// The last job.
    pub last_job: Option<JobId>,
    /// Reason why the last due time queued no job.
    pub note: Option<String>,
}

/// A command on schedules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleCommand {
    /// Creates a schedule. A schedule of a release replaces the one of an earlier release.
    Create(Box<NewSchedule>),
    /// Pauses or resumes a schedule. Times during a pause are not missed.
    Pause(ScheduleName, bool),
    /// Removes a schedule.
    Remove(ScheduleName),
    /// Queues the jobs of due times.
    Fire(Box<Fire>),
}

/// Due times of a schedule with their jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// The schedule.
    pub id: ScheduleId,
    /// The progress that this command follows on. After any other progress, the command changes nothing.
    pub after: Progress,
    /// All times up to this moment are handled.
    pub handled: Moment,
    /// The times to run, with their jobs.
    pub runs: Vec<(Moment, NewJob)>,
    /// Times that are skipped.
    pub skipped: u64,
    /// Reason why a due time has no job.
    pub note: Option<String>,
}

/// Reply to a command on schedules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleReply {
    /// To `Create`.
    Created(Result<(), ScheduleRefusal>),
    /// To `Pause` and `Remove`: false for an unknown schedule.
    Changed(bool),
    /// To `Fire`.
    Fired(Fired),
}

/// Outcome of a `Fire`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    /// The times are handled.
    Done {
        /// The queued jobs.
        jobs: Vec<JobId>,
        /// Jobs that machines have to stop, under the overlap policy "replace".
        stopping: Vec<(JobId, MachineName, Fence)>,
    },
    /// The schedule changed meanwhile, or is gone.
    Stale,
    /// No more jobs can be queued now. Nothing was changed.
    Full,
}

/// Reason why no schedule was created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleRefusal {
    /// The name is taken.
    #[error("there is a schedule {0} already; remove it first, or choose another name")]
    Exists(ScheduleName),
    /// Too many schedules.
    #[error("there are {SCHEDULES_MAX} schedules already; remove some")]
    TooMany,
}
