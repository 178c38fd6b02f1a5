//! The clock's part: lost leases, delays that end, expiry, and the removal of old jobs.

use std::sync::Arc;
use std::time::Duration;

use gantry_model::{ClusterPolicy, Moment};
use gantry_queue_store::{QueueCommand, QueueReply};
use gantry_supervision::{Backoff, ReconcileLoop};
use tokio::time::Instant;

use super::{JobService, JobsError};
use crate::{Server, core};

/// Longest pause between two passes over the queue.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Shortest pause between two passes.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// Runs passes for ever.
pub(crate) async fn run(server: Arc<Server>) {
    let mut last = Instant::now();
    let pass = move || {
        let elapsed = std::mem::replace(&mut last, Instant::now()).elapsed();
        let server = Arc::clone(&server);
        async move {
            let policy = server.core.view().records.policy.clone();
            pause_after(pass(&server.jobs, &policy, elapsed).await)
        }
    };
    ReconcileLoop::new("upkeep of the jobs", PAUSE_MAX, Backoff::constant(PAUSE_MAX)).run(pass).await;
}

/// The time until the next pass over the queue. Neither a disk that takes no writes nor the end of the server is a
/// failure: both are named elsewhere, and a new server follows.
pub(crate) fn pause_after(pass: Result<Duration, JobsError>) -> Result<Duration, JobsError> {
    match pass {
        Ok(pause) => Ok(pause.max(PAUSE_MIN)),
        Err(JobsError::Stopping | JobsError::ReadOnly) => Ok(PAUSE_MAX),
        Err(error) => Err(error),
    }
}

/// One pass; returns the time until the next delay ends.
async fn pass(jobs: &JobService, policy: &ClusterPolicy, elapsed: Duration) -> Result<Duration, JobsError> {
    if jobs.writer.take_unreconciled()
        && let Err(error) = jobs.adopt().await
    {
        jobs.writer.mark_unreconciled();
        return Err(error);
    }
    let lost = jobs.state().tick(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    for lease in lost {
        jobs.writer.one(QueueCommand::Lose { job: lease.job, fence: lease.fence }).await?;
        tracing::warn!(job = %lease.job, "the job's machine no longer has it; the job is queued again");
        jobs.state().end(lease.job);
        jobs.wake_machines_with_room();
    }
    let now = core::now();
    let keep_since = Moment(now.0.saturating_sub(policy.job_retention().millis()));
    let most_open = policy.max_waiting_jobs().into();
    let QueueReply::Upkept(upkeep) = jobs.writer.one(QueueCommand::Upkeep { keep_since, most_open }).await? else {
        return Ok(PAUSE_MAX);
    };
    if upkeep.changed {
        jobs.wake_machines_with_room();
        jobs.deliverable.notify_one();
    }
    if upkeep.more {
        return Ok(PAUSE_MIN);
    }
    Ok(upkeep.next.map_or(PAUSE_MAX, |next| Duration::from_millis(next.since(now))))
}
