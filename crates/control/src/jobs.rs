//! Container jobs on the control connection.
//!
//! An agent names all jobs that it has in each report, which renews their leases. The server sends as many jobs as the
//! machine has room for, and acknowledges each recorded end. An agent keeps the end of a job until then.

use gantry_model::{InstanceSpec, Moment};
pub use gantry_queue::{AttemptOutcome, Fence, JobId, QueueName};
use serde::{Deserialize, Serialize};

/// Most jobs in one message of the server, and most ends in one message of an agent.
pub const BATCH_MAX: usize = 32;

/// Largest output of a job that is kept, in bytes: the newest lines.
pub const OUTPUT_MAX: usize = 64 << 10;

/// A lease of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobRef {
    /// The job.
    pub job: JobId,
    /// Token of the lease.
    pub fence: Fence,
}

/// A job that a machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldJob {
    /// The lease.
    #[serde(flatten)]
    pub lease: JobRef,
    /// Time at which the program started; none while the machine prepares the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Moment>,
}

/// Report of an agent about its jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsReport {
    /// Jobs that the machine takes at the same time.
    pub capacity: u32,
    /// All jobs that the machine has, except ended ones that were acknowledged.
    #[serde(default)]
    pub held: Vec<HeldJob>,
    /// Ends that the server has not acknowledged; at most [`BATCH_MAX`].
    #[serde(default)]
    pub ended: Vec<EndedJob>,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedJob {
    /// The lease.
    #[serde(flatten)]
    pub lease: JobRef,
    /// The outcome of the attempt.
    pub outcome: AttemptOutcome,
    /// Details.
    pub details: AttemptDetails,
    /// The newest lines of the output.
    #[serde(default)]
    pub output: Vec<JobLine>,
}

/// Details of an attempt. The server stores them unread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptDetails {
    /// Exit status, if the program exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The memory limit in bytes, if the program exceeded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<u64>,
    /// The disk limit in bytes, if the program exceeded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_disk: Option<u64>,
    /// Reason why the program could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Time at which the program started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Moment>,
    /// Time of the end.
    #[serde(default)]
    pub ended: Moment,
    /// Largest memory in use, in bytes.
    #[serde(default)]
    pub peak_memory: u64,
    /// Processor time used, in microseconds.
    #[serde(default)]
    pub cpu_micros: u64,
    /// True if older output was dropped.
    #[serde(default)]
    pub output_cut: bool,
}

/// A line of a job's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLine {
    /// When the line ended.
    pub at: Moment,
    /// True for standard error, and for Gantry's own lines.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub error: bool,
    /// The text.
    pub text: String,
}

/// Orders of the server about jobs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobOrders {
    /// Jobs to run.
    #[serde(default)]
    pub run: Vec<JobOrder>,
    /// Jobs to stop: cancelled ones, and leases that were lost.
    #[serde(default)]
    pub stop: Vec<JobRef>,
    /// Ends that are recorded, or refused for ever.
    #[serde(default)]
    pub acknowledged: Vec<JobRef>,
}

impl JobOrders {
    /// Reports whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.run.is_empty() && self.stop.is_empty() && self.acknowledged.is_empty()
    }
}

/// A job to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobOrder {
    /// The lease.
    #[serde(flatten)]
    pub lease: JobRef,
    /// The queue. Its project is the repository of the image.
    pub queue: QueueName,
    /// Release of the app, for `GANTRY_RELEASE`; empty for an image.
    #[serde(default)]
    pub release: String,
    /// The command. An empty command takes the image's own.
    pub spec: Box<InstanceSpec>,
    /// False for a container without a network.
    #[serde(default = "yes")]
    pub network: bool,
    /// Timeout in seconds.
    pub timeout: u32,
    /// The payload.
    pub payload: String,
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_lacks_or_adds_fields_is_read() {
        let text = r#"{"capacity":4,"held":[{"job":7,"fence":2,"zone":"b"}],"news":1}"#;
        let report: JobsReport = serde_json::from_str(text).expect("a report");
        let lease = JobRef { job: JobId(7), fence: Fence(2) };
        let wanted = JobsReport { capacity: 4, held: vec![HeldJob { lease, started: None }], ended: Vec::new() };
        assert_eq!(report, wanted);
        assert!(serde_json::from_str::<JobOrders>("{}").expect("orders").is_empty());
    }
}
