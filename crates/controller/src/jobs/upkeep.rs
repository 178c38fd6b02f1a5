//! The clock's part: lost leases, delays that end, expiry, and the removal of old jobs.

use std::sync::Arc;
use std::time::Duration;

use gantry_model::{ClusterPolicy, Moment};
use gantry_queue_store::{QueueCommand, QueueReply};
use tokio::time::Instant;

use super::{JobService, JobsError};
use crate::{Server, core};

/// Longest pause between two passes.
const EVERY: Duration = Duration::from_secs(1);

/// Shortest pause between two passes.
const SHORTEST: Duration = Duration::from_millis(20);

/// Runs until the queue's storage breaks.
pub(crate) async fn run(server: Arc<Server>) {
    let mut last = Instant::now();
    loop {
        let elapsed = last.elapsed();
        last = Instant::now();
        let policy = server.core.view().records.policy.clone();
        let pause = match pass(&server.jobs, &policy, elapsed).await {
            Ok(pause) => pause,
            Err(JobsError::Stopping) => return,
            // The server starts anew once the disk is writable.
            Err(JobsError::ReadOnly) => EVERY,
            Err(error) => {
                tracing::error!(error = crate::causes(&error), "cannot write the queue; retrying");
                EVERY
            }
        };
        tokio::time::sleep(pause.clamp(SHORTEST, EVERY)).await;
    }
}

/// One pass; returns the time until the next delay ends.
async fn pass(jobs: &JobService, policy: &ClusterPolicy, elapsed: Duration) -> Result<Duration, JobsError> {
    if jobs.writer.take_doubt()
        && let Err(error) = jobs.adopt().await
    {
        jobs.writer.doubt();
        return Err(error);
    }
    let lost = jobs.state().tick(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    for lease in lost {
        jobs.writer.one(QueueCommand::Lose { job: lease.job, fence: lease.fence }).await?;
        tracing::warn!(job = %lease.job, "the job's machine no longer has it; the job is queued again");
        jobs.state().end(lease.job);
        jobs.changed.notify_waiters();
    }
    let now = core::now();
    let keep_since = Moment(now.0.saturating_sub(policy.job_retention().millis()));
    let most_open = policy.max_waiting_jobs().into();
    let QueueReply::Upkept(upkeep) = jobs.writer.one(QueueCommand::Upkeep { keep_since, most_open }).await? else {
        return Ok(EVERY);
    };
    if upkeep.changed {
        jobs.changed.notify_waiters();
    }
    if upkeep.more {
        return Ok(SHORTEST);
    }
    Ok(upkeep.next.map_or(EVERY, |next| Duration::from_millis(next.since(now))))
}
