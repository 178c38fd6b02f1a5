//! Container jobs of this machine.
//!
//! ```text
//! order (control connection) ─► slot ─► image, container ─► end ─► record on disk ─► report ─► acknowledged: forgotten
//! ```
//! - [`Jobs`]: all jobs that this machine has. The control connection takes reports from here, and brings orders.
//! - `record`: the file of a job, from which a restarted agent continues.
//! - `run`: one job, from its order to its end. `outcome`: what is kept of the end. `output`: its lines while it runs.
//!
//! The agent keeps a job until the server has acknowledged its end. A server that is away delays the report and nothing
//! else. The queue's rules are the server's: the agent runs each order once, under the order's fencing token.

mod outcome;
pub(crate) mod output;
mod record;
mod run;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_control::jobs::{BATCH_MAX, EndedJob, HeldJob, JobId, JobLine, JobOrders, JobRef, JobsReport, UnreadJob};
use gantry_model::Moment;
use gantry_supervision::Nudge;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::record::JobRecord;
use crate::AgentContext;
use crate::status::now;
use crate::tasks::JOB;
use crate::workload::TransientWorkload;

/// Jobs that wait on this machine for a slot, for each slot. They are there when a slot becomes free.
const WAITING: u32 = 1;

/// Interval at which an unacknowledged end is reported again.
const REPORT_RETRY: Duration = Duration::from_secs(5);

/// All jobs of this machine.
pub(crate) struct Jobs {
    slots: Arc<Semaphore>,
    capacity: u32,
    known: Mutex<BTreeMap<JobRef, KnownJob>>,
    changed: Nudge,
}

#[derive(Default)]
struct KnownJob {
    /// Name of the container; empty if the order could not be read.
    name: String,
    started: Option<Moment>,
    ended: Option<EndedJob>,
    /// Time of the last report of the end.
    reported: Option<Instant>,
    stop: CancellationToken,
}

impl Jobs {
    /// At most `most` jobs run at the same time.
    pub(crate) fn new(most: u16) -> Self {
        let slots = Arc::new(Semaphore::new(most.into()));
        let capacity = u32::from(most) * (1 + WAITING);
        Self { slots, capacity, known: Mutex::default(), changed: Nudge::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<JobRef, KnownJob>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for news to report.
    pub(crate) async fn changed(&self) {
        self.changed.nudged().await;
    }

    /// The report of all jobs. `first` on a connection reports every end again.
    pub(crate) fn report(&self, first: bool) -> JobsReport {
        let now = Instant::now();
        let mut known = self.known();
        let held = known.iter().map(|(lease, job)| HeldJob { lease: *lease, started: job.started }).collect();
        let is_due = |job: &KnownJob| first || job.reported.is_none_or(|at| now.duration_since(at) >= REPORT_RETRY);
        let due = known.values_mut().filter(|job| job.ended.is_some() && is_due(job)).take(BATCH_MAX);
        let ended = due.filter_map(|job| {
            job.reported = Some(now);
            job.ended.clone()
        });
        JobsReport { capacity: self.capacity, held, ended: ended.collect() }
    }

    /// Reports whether the machine has no jobs.
    pub(crate) fn is_idle(&self) -> bool {
        self.known().is_empty()
    }

    /// The container's name of a job's newest attempt, and the output if the attempt has ended. None for an unknown job.
    fn output_of(&self, job: JobId) -> Option<(String, Option<Vec<JobLine>>)> {
        let known = self.known();
        let (_, newest) = known.iter().rfind(|(lease, _)| lease.job == job)?;
        Some((newest.name.clone(), newest.ended.as_ref().map(|ended| ended.output.clone())))
    }

    /// Enters a job; none if it is known.
    fn enter(&self, record: &JobRecord) -> Option<CancellationToken> {
        let mut known = self.known();
        if known.contains_key(&record.order.lease) {
            return None;
        }
        let job = KnownJob { name: record.name(), ended: record.ended.clone(), ..KnownJob::default() };
        let stop = job.stop.clone();
        known.insert(record.order.lease, job);
        Some(stop)
    }

    /// Enters a job whose order this agent cannot read, as a failed one.
    fn decline(&self, unread: UnreadJob) {
        let UnreadJob { lease, reason } = unread;
        tracing::warn!(job = ?lease, reason, "the order of a job cannot be read; update this machine");
        let Some(lease) = lease else { return };
        let failure = format!("this machine's agent cannot read the order of the job: {reason}; update the machine");
        let ended = Some(EndedJob::failed(lease, failure, now()));
        self.known().entry(lease).or_insert_with(|| KnownJob { ended, ..KnownJob::default() });
        self.changed.nudge();
    }

    fn start(&self, lease: JobRef, started: Moment) {
        self.known().entry(lease).and_modify(|job| job.started = Some(started));
        self.changed.nudge();
    }

    fn end(&self, ended: EndedJob) {
        self.known().entry(ended.lease).and_modify(|job| job.ended = Some(ended));
        self.changed.nudge();
    }
}

/// Carries out orders of the server.
pub(crate) fn carry_out(agent: &Arc<AgentContext>, orders: JobOrders) {
    for lease in orders.acknowledged {
        let job = agent.jobs.known().remove(&lease);
        if let Some(job) = job {
            record::remove(&agent.settings, &job.name);
            agent.jobs.changed.nudge();
        }
    }
    for lease in orders.stop {
        if let Some(job) = agent.jobs.known().get(&lease) {
            job.stop.cancel();
        }
    }
    for order in orders.run {
        begin(agent, JobRecord::new(order));
    }
    orders.unread.into_iter().for_each(|unread| agent.jobs.decline(unread));
}

/// A job of the previous agent, which this agent resumes.
pub(crate) struct InheritedJob(JobRecord, CancellationToken);

/// Adopts the jobs of the previous agent. Their addresses are reserved before anything new gets one.
pub(crate) fn adopt(agent: &Arc<AgentContext>) -> Vec<InheritedJob> {
    let mut inherited = Vec::new();
    for record in record::all(&agent.settings) {
        let name = record.name();
        if record.is_lost() {
            tracing::warn!(job = %record.order.lease.job, "the job ended with the machine's last boot");
            record::remove(&agent.settings, &name);
            continue;
        }
        let Some(stop) = agent.jobs.enter(&record) else { continue };
        if record.ended.is_none() {
            TransientWorkload::reserve_address(agent, &name);
            inherited.push(InheritedJob(record, stop));
        }
    }
    inherited
}

/// Resumes jobs of the previous agent.
pub(crate) fn resume(agent: &Arc<AgentContext>, inherited: Vec<InheritedJob>) {
    for InheritedJob(record, stop) in inherited {
        agent.tasks.spawn(JOB, run::run(Arc::clone(agent), record, stop));
    }
}

/// Reports whether this agent continues the job of this container name. The leftovers of all other containers are removed.
pub(crate) fn continues(agent: &AgentContext, name: &str) -> bool {
    agent.jobs.known().values().any(|job| job.name == name && job.ended.is_none())
}

fn begin(agent: &Arc<AgentContext>, record: JobRecord) {
    let Some(stop) = agent.jobs.enter(&record) else { return };
    agent.tasks.spawn(JOB, run::run(Arc::clone(agent), record, stop));
}

#[cfg(test)]
mod tests {
    use gantry_control::jobs::{AttemptOutcome, Fence, JobId};

    use super::*;

    fn lease(job: u64) -> JobRef {
        JobRef { job: JobId(job), fence: Fence(1) }
    }

    fn ended(job: u64) -> EndedJob {
        let (outcome, details) = (AttemptOutcome::Succeeded, Default::default());
        EndedJob { lease: lease(job), outcome, details, output: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn reports_an_end_again_until_it_is_acknowledged() {
        let jobs = Jobs::new(2);
        assert_eq!(jobs.report(true), JobsReport { capacity: 4, held: Vec::new(), ended: Vec::new() });
        jobs.known().insert(lease(1), KnownJob::default());
        jobs.start(lease(1), Moment(5));
        assert_eq!(jobs.report(false).held, [HeldJob { lease: lease(1), started: Some(Moment(5)) }]);
        jobs.end(ended(1));
        assert_eq!(jobs.report(false).ended, [ended(1)]);
        assert_eq!(jobs.report(false).ended, [], "it is on its way");
        assert_eq!(jobs.report(true).ended, [ended(1)], "another connection");
        tokio::time::advance(REPORT_RETRY).await;
        let again = jobs.report(false);
        assert_eq!((again.ended, again.held.len()), (vec![ended(1)], 1));
    }

    #[tokio::test]
    async fn a_job_whose_order_cannot_be_read_has_failed() {
        let jobs = Jobs::new(1);
        let unread = |lease| UnreadJob { lease, reason: "unknown variant `wasm`".to_owned() };
        jobs.decline(unread(None));
        assert!(jobs.is_idle(), "nothing can be said about a job without a lease");
        jobs.decline(unread(Some(lease(1))));
        let report = jobs.report(false);
        assert_eq!((report.held.len(), report.ended.len()), (1, 1));
        let EndedJob { lease: of, outcome, details, .. } = &report.ended[0];
        assert_eq!((of, outcome), (&lease(1), &AttemptOutcome::Failed));
        let failure = details.failure.as_deref().unwrap_or_default();
        assert!(failure.contains("wasm") && failure.contains("update the machine"), "{failure}");
    }

    #[tokio::test]
    async fn reports_many_ends_in_batches() {
        let jobs = Jobs::new(1);
        for job in 0..BATCH_MAX as u64 + 3 {
            jobs.known().insert(lease(job), KnownJob::default());
            jobs.end(ended(job));
        }
        assert_eq!(jobs.report(false).ended.len(), BATCH_MAX);
        assert_eq!(jobs.report(false).ended.len(), 3);
    }
}
