//! Container jobs on the control connection.
//!
//! An agent names all jobs that it has in each report, which renews their leases. The server sends as many jobs as the
//! machine has room for, and acknowledges each recorded end. An agent keeps the end of a job until then.
//!
//! Orders and ends are read item by item. An item that a receiver cannot read costs that job alone: the job counts as
//! failed, and its failure names the program to update. An end whose outcome can be read keeps the outcome: a job that
//! succeeded does not run again.

use gantry_model::{InstanceSpec, Moment};
pub use gantry_queue::{AttemptOutcome, Fence, JobId, QueueName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Maximum number of jobs in one message of the server, and of ends in one message of an agent.
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
    /// All jobs of the machine, except ended jobs that the server has acknowledged.
    #[serde(default)]
    pub held: Vec<HeldJob>,
    /// Ends that the server has not acknowledged; at most [`BATCH_MAX`]. An end whose outcome the server cannot
    /// read is a failure.
    #[serde(default, deserialize_with = "ends")]
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

impl EndedJob {
    /// The end of a job that failed without a run.
    #[must_use]
    pub fn failed(lease: JobRef, failure: String, ended: Moment) -> Self {
        let details = AttemptDetails { failure: Some(failure), ended, ..AttemptDetails::default() };
        Self { lease, outcome: AttemptOutcome::Failed, details, output: Vec::new() }
    }
}

/// A job in a list that the receiver cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct UnreadJob {
    /// The lease; none if the item lacks the lease.
    pub lease: Option<JobRef>,
    /// The reason.
    pub reason: String,
}

/// Reads an item of a list.
fn read_item<T: DeserializeOwned>(item: Value) -> Result<T, UnreadJob> {
    let lease = JobRef::deserialize(&item).ok();
    serde_json::from_value(item).map_err(|error| UnreadJob { lease, reason: error.to_string() })
}

/// The end of a job of which only the outcome could be read, with a note in place of the output.
fn outcome_alone(lease: JobRef, outcome: AttemptOutcome, reason: &str, ended: Moment) -> EndedJob {
    let text = format!(
        "gantry: the server cannot read the details and the output of this attempt: {reason}; update the servers"
    );
    let details = AttemptDetails { ended, ..AttemptDetails::default() };
    EndedJob { lease, outcome, details, output: vec![JobLine { at: ended, error: true, text }] }
}

/// Reads ends. An item without a lease is left out: the job's lease ends, and the queue gives the job away again.
fn ends<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<EndedJob>, D::Error> {
    let read = |item: Value| {
        let ended = item["details"]["ended"].as_u64().map(Moment).unwrap_or_default();
        let outcome = AttemptOutcome::deserialize(&item["outcome"]);
        match read_item(item) {
            Ok(end) => Some(end),
            Err(UnreadJob { lease, reason }) => match outcome {
                Ok(outcome) => Some(outcome_alone(lease?, outcome, &reason, ended)),
                Err(_) => {
                    let failure = format!("the server cannot read how the job ended: {reason}; update the servers");
                    Some(EndedJob::failed(lease?, failure, ended))
                }
            },
        }
    };
    Ok(Vec::<Value>::deserialize(deserializer)?.into_iter().filter_map(read).collect())
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
#[serde(from = "WireOrders")]
pub struct JobOrders {
    /// Jobs to run.
    pub run: Vec<JobOrder>,
    /// Jobs to run whose orders the receiver cannot read.
    #[serde(skip)]
    pub unread: Vec<UnreadJob>,
    /// Jobs to stop: cancelled ones, and leases that were lost.
    pub stop: Vec<JobRef>,
    /// Ends that are recorded, or refused for ever.
    pub acknowledged: Vec<JobRef>,
}

/// Orders on the wire.
#[derive(Deserialize)]
struct WireOrders {
    #[serde(default)]
    run: Vec<Value>,
    #[serde(default)]
    stop: Vec<JobRef>,
    #[serde(default)]
    acknowledged: Vec<JobRef>,
}

impl From<WireOrders> for JobOrders {
    fn from(WireOrders { run: items, stop, acknowledged }: WireOrders) -> Self {
        let (mut run, mut unread) = (Vec::new(), Vec::new());
        for item in items {
            match read_item(item) {
                Ok(order) => run.push(order),
                Err(job) => unread.push(job),
            }
        }
        Self { run, unread, stop, acknowledged }
    }
}

impl JobOrders {
    /// Reports whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.run.is_empty() && self.unread.is_empty() && self.stop.is_empty() && self.acknowledged.is_empty()
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
    use std::collections::BTreeMap;

    use gantry_model::{Digest, Role, RoleCommand};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_that_lacks_or_adds_fields_is_read() {
        let text = r#"{"capacity":4,"held":[{"job":7,"fence":2,"zone":"b"}],"news":1}"#;
        let report: JobsReport = serde_json::from_str(text).expect("a report");
        let lease = JobRef { job: JobId(7), fence: Fence(2) };
        let expected = JobsReport { capacity: 4, held: vec![HeldJob { lease, started: None }], ended: Vec::new() };
        assert_eq!(report, expected);
        assert!(serde_json::from_str::<JobOrders>("{}").expect("orders").is_empty());
    }
    #[test]
    fn an_end_that_cannot_be_read_is_a_failure_of_its_job_alone() {
        let text = r#"{"capacity":4,"ended":[
            {"job":7,"fence":2,"outcome":"preempted","details":{"ended":5,"code":3},"output":[]},
            {"job":8,"fence":1,"outcome":"succeeded","details":{"energy":9},"output":[]},
            {"outcome":"succeeded","details":{}}, 7
        ]}"#;
        let report: JobsReport = serde_json::from_str(text).expect("a report");
        let [first, second] = &report.ended[..] else { panic!("{report:?}") };
        let lease = JobRef { job: JobId(7), fence: Fence(2) };
        assert_eq!((first.lease, first.outcome, first.details.ended), (lease, AttemptOutcome::Failed, Moment(5)));
        let failure = first.details.failure.as_deref().unwrap_or_default();
        assert!(failure.contains("preempted") && failure.contains("update the servers"), "{failure}");
        assert_eq!((second.lease.job, second.outcome), (JobId(8), AttemptOutcome::Succeeded));
    }

    #[test]
    fn an_end_keeps_its_outcome_if_only_its_details_cannot_be_read() {
        for (outcome, expected) in [("succeeded", AttemptOutcome::Succeeded), ("timed_out", AttemptOutcome::TimedOut)] {
            for (details, output) in [
                (json!({"ended": 5, "code": "none"}), json!([])),
                (json!({"ended": 5}), json!([{"at": 1, "text": ["bytes"]}])),
            ] {
                let end = json!({"job": 7, "fence": 2, "outcome": outcome, "details": details, "output": output});
                let report: JobsReport =
                    serde_json::from_value(json!({"capacity": 4, "ended": [end]})).expect("a report");
                let [end] = &report.ended[..] else { panic!("{report:?}") };
                assert_eq!((end.outcome, end.details.ended, &end.details.failure), (expected, Moment(5), &None));
                let [note] = &end.output[..] else { panic!("{end:?}") };
                assert!(note.error && note.text.contains("update the servers"), "{}", note.text);
            }
        }
    }

    #[test]
    fn an_order_that_cannot_be_read_costs_that_order_alone() {
        let order = |job: u64| JobOrder {
            lease: JobRef { job: JobId(job), fence: Fence(1) },
            queue: "shop/mail".parse().expect("a queue"),
            release: String::new(),
            spec: Box::new(InstanceSpec {
                image: Digest::from_hex(&"a".repeat(64)).expect("a digest"),
                commit: None,
                config: BTreeMap::new().into(),
                role: Role::new(RoleCommand::Shell("run".to_owned())),
                volumes_of: None,
            }),
            network: true,
            timeout: 60,
            payload: String::new(),
        };
        let [mut strange, known] = [7, 8].map(|job| serde_json::to_value(order(job)).expect("JSON"));
        strange["spec"]["role"]["command"] = json!({"wasm": "run"});
        let orders = json!({
            "run": [strange, known, {"fence": 1}], "stop": [{"job": 6, "fence": 1, "why": "cancelled"}],
        });
        let orders: JobOrders = serde_json::from_value(orders).expect("orders");
        assert_eq!(orders.run, [order(8)]);
        let leases = orders.unread.iter().map(|unread| unread.lease.map(|lease| lease.job));
        assert_eq!(leases.collect::<Vec<_>>(), [Some(JobId(7)), None]);
        assert!(orders.unread[0].reason.contains("wasm"), "{}", orders.unread[0].reason);
        assert_eq!((orders.stop.len(), orders.is_empty()), (1, false));
    }
}
