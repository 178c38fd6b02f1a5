//! Requests and responses about the schedules of container jobs.

use gantry_model::Moment;
use gantry_queue::{CodeName, JobId, ScheduleName};
use gantry_schedule::Schedule;
use serde::{Deserialize, Serialize};

use crate::jobs::{JobSource, SubmitJob};

/// Request to create a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSchedule {
    /// Name of the schedule within the project; by default the name of the job's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<CodeName>,
    /// Times and policies.
    pub schedule: Schedule,
    /// The job of each time. A role runs in the release that is current at the time.
    pub job: SubmitJob,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleInfo {
    /// Name of the schedule.
    pub name: ScheduleName,
    /// Times and policies.
    pub schedule: Schedule,
    /// Workload of each job.
    pub source: JobSource,
    /// Payload, if it is JSON. Values of keys that look like secrets are masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Creator of the schedule.
    pub by: String,
    /// True for the schedule of a role: it follows the app's current release.
    pub of_release: bool,
    /// True if nothing is queued.
    pub paused: bool,
    /// Number of due times that were not skipped.
    pub runs: u64,
    /// Number of due times without a job.
    pub skipped: u64,
    /// Due time of the last job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Moment>,
    /// The last job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job: Option<JobId>,
    /// Reason why the last due time queued no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The next five times.
    pub next: Vec<Moment>,
}

/// Request to change a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeSchedule {
    /// Queues nothing while true. Times during a pause are not missed.
    pub paused: bool,
}
