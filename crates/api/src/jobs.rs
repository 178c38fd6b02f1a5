//! Requests and responses about container jobs and their queues.

use std::collections::BTreeMap;

use gantry_model::{AppName, Bytes, MachineName, Moment, RoleName};
use gantry_queue::{JobEnd, JobId, JobSettings, QueueName};
use serde::{Deserialize, Serialize};

/// Maximum number of jobs of one submission.
pub const SUBMIT_MAX: usize = 1000;

/// Maximum number of jobs of one page.
pub const PAGE_MAX: usize = 1000;

/// Request to queue jobs: all of them, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitJobs {
    /// The jobs; at most [`SUBMIT_MAX`].
    pub jobs: Vec<SubmitJob>,
}

/// A job to queue.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitJob {
    /// Workload of the job.
    pub source: JobSource,
    /// Program and arguments. Empty: the command of the role or of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment, besides that of the role.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Memory limit; by default that of the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// False for a container without a network.
    #[serde(default = "yes")]
    pub network: bool,
    /// The payload: any text. The job reads it from the file that `PAYLOAD_FILE` names.
    #[serde(default)]
    pub payload: String,
    /// Priority, delay, timeout, retries, and more.
    #[serde(default)]
    pub settings: JobSettings,
}

/// Names the environment without its values, which may be secret.
impl std::fmt::Debug for SubmitJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source, command, env, memory, network, payload, settings } = self;
        f.debug_struct("SubmitJob")
            .field("source", source)
            .field("command", command)
            .field("env", &env.keys())
            .field("memory", memory)
            .field("network", network)
            .field("payload", payload)
            .field("settings", settings)
            .finish()
    }
}

/// Workload of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum JobSource {
    /// A role of an app, in its current release.
    Role {
        /// The app.
        app: AppName,
        /// The role.
        role: RoleName,
    },
    /// An image of the registry.
    Image {
        /// `repository:tag` or `repository@digest`.
        reference: String,
    },
}

fn yes() -> bool {
    true
}

/// The numbers of the queued jobs, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedJobs {
    /// The numbers. A job with a known idempotency key has the number of the first job with that key.
    pub ids: Vec<JobId>,
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Waits.
    Queued,
    /// A machine fetches the image and makes the container.
    Preparing,
    /// The program runs.
    Running,
    /// The job was cancelled, and its machine stops it.
    Cancelling,
    /// The program exited with 0.
    Succeeded,
    /// The last attempt failed.
    Failed,
    /// The last attempt exceeded its timeout.
    TimedOut,
    /// The job was cancelled.
    Cancelled,
    /// The job did not start in time.
    Expired,
    /// The job lost its machine too often.
    Lost,
}

impl JobStatus {
    /// Reports whether the job has ended.
    #[must_use]
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Preparing | Self::Running | Self::Cancelling)
    }
}

impl From<JobEnd> for JobStatus {
    fn from(end: JobEnd) -> Self {
        match end {
            JobEnd::Succeeded => Self::Succeeded,
            JobEnd::Failed => Self::Failed,
            JobEnd::TimedOut => Self::TimedOut,
            JobEnd::Cancelled => Self::Cancelled,
            JobEnd::Expired => Self::Expired,
            JobEnd::Lost => Self::Lost,
        }
    }
}

impl std::fmt::Display for JobStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Lost => "lost",
        })
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Number of the job.
    pub id: JobId,
    /// Queue of the job.
    pub queue: QueueName,
    /// Revision of the uploaded code that the job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// State.
    pub status: JobStatus,
    /// Reason why the job waits, or how it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Settings.
    pub settings: JobSettings,
    /// Payload, if it is JSON. Values of keys that look like secrets are masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Size of the payload in bytes.
    pub payload_size: u64,
    /// Submitter of the job.
    pub by: String,
    /// Time of submission.
    pub submitted: Moment,
    /// Time at which the program last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Moment>,
    /// Time of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Moment>,
    /// The machine that has the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineName>,
    /// Progress of the running attempt, as the job itself reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// Attempts that failed.
    pub failures: u32,
    /// Leases that were lost.
    pub lost: u32,
    /// The last attempt that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<JobAttempt>,
    /// Delivery of the result to the job's callback; none without one, or before the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<CallbackInfo>,
}

/// Delivery of a job's result to its callback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallbackInfo {
    /// State.
    pub state: CallbackState,
    /// Tries that were answered, or got no answer in time.
    pub attempts: u32,
    /// Status of the last response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Time of the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<Moment>,
    /// Time of the next try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Moment>,
}

/// State of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallbackState {
    /// The next try is due, or under way.
    Waiting,
    /// The receiver answered with a status of success.
    Delivered,
    /// No try succeeded.
    Failed,
}

/// Body of the request to a job's callback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult {
    /// Number of the job.
    pub id: JobId,
    /// Its queue, `shop/report`.
    pub queue: String,
    /// State: one of the ends.
    pub state: JobStatus,
    /// Reason of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Exit status of the last attempt, if the program exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// Signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// True if the program exceeded its memory limit.
    pub out_of_memory: bool,
    /// Time from start to end of the last attempt, in milliseconds.
    pub duration_millis: u64,
    /// Largest memory in use, in bytes.
    pub peak_memory: u64,
    /// Processor time used, in microseconds.
    pub cpu_micros: u64,
    /// Attempts that failed.
    pub failures: u32,
    /// Time of submission.
    pub submitted: Moment,
    /// Time at which the program last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Moment>,
    /// Time of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Moment>,
}

/// The key that signs the callbacks of an app's jobs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallbackKey {
    /// The key. Its text is the key of HMAC-SHA256.
    pub key: String,
    /// Time of the last rotation. For a day after it, the previous key signs as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<Moment>,
}

impl std::fmt::Debug for CallbackKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallbackKey").field("rotated", &self.rotated).finish_non_exhaustive()
    }
}

/// Progress of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobProgress {
    /// 0 to 100.
    pub percent: u8,
    /// A word about it.
    #[serde(default)]
    pub message: String,
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAttempt {
    /// Exit status, if the program exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// True if the program exceeded its memory limit.
    pub out_of_memory: bool,
    /// Time from start to end in milliseconds.
    pub duration_millis: u64,
    /// Largest memory in use, in bytes.
    pub peak_memory: u64,
    /// Processor time used, in microseconds.
    pub cpu_micros: u64,
    /// True if older output was dropped.
    pub output_cut: bool,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPage {
    /// The jobs. A page may be short, or empty, and have a successor.
    pub jobs: Vec<JobInfo>,
    /// Value of `before` for the next page; none on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<JobId>,
}

/// A line of a job's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLine {
    /// When the line ended.
    pub at: Moment,
    /// True for standard error, and for Gantry's own lines.
    #[serde(default)]
    pub error: bool,
    /// The text.
    pub text: String,
}

/// Request to queue an ended job again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryJob {
    /// Delay in seconds.
    pub delay: u64,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueInfo {
    /// Name of the queue.
    pub name: QueueName,
    /// True if no job starts.
    pub paused: bool,
    /// Maximum number of jobs at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Jobs that may start now.
    pub ready: u64,
    /// Jobs that wait for their delay or for their key.
    pub waiting: u64,
    /// Jobs with a machine.
    pub running: u64,
    /// Jobs that ended and are still known.
    pub ended: u64,
    /// Dead letters: jobs that ended without success and were not cancelled.
    pub dead: u64,
    /// Extra runs: attempts that ended after their machine had lost the job.
    #[serde(default)]
    pub extra_runs: u64,
}

/// Request to change a queue. An absent field stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeQueue {
    /// Starts no job while true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Maximum number of jobs at the same time; 0 removes the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Outcome of a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgedQueue {
    /// Number of cancelled jobs.
    pub cancelled: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_leaves_out_the_values_of_variables() {
        let text = r#"{"source": {"image": {"reference": "shop:1"}}, "env": {"PASSWORD": "job-secret"}}"#;
        let job: SubmitJob = serde_json::from_str(text).expect("a job");
        let shown = format!("{job:?}");
        assert!(shown.contains("PASSWORD") && !shown.contains("job-secret"), "{shown}");
    }
}
