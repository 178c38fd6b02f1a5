//! One job, from its order to its end.
//!
//! ```text
//! slot ─► image ─► container prepared ─► launch recorded ─► launched ─► ended, timed out, or stopped ─► end recorded
//! ```
//! Each arrow may be the agent's last. The next agent starts over before the launch, and waits on after it.

use std::sync::Arc;
use std::time::Duration;

use gantry_control::jobs::EndedJob;
use gantry_error::ErrorChain;
use gantry_image::Runtime;
use gantry_model::role::ShutdownSignal;
use gantry_model::{Moment, RoleCommand};
use gantry_sandbox::{BindMount, Container};
use tokio_util::sync::CancellationToken;

use super::outcome::{self, AttemptEnd};
use super::record::JobRecord;
use crate::container::{self, ContainerNames};
use crate::instance::InstanceError;
use crate::status::now;
use crate::workload::{ContainerEnd, ContainerParts, StartAttempts, StopOrder, TransientWorkload};
use crate::{AgentContext, images};

/// Path of the payload in the container.
const PAYLOAD_FILE: &str = "/gantry/payload";

/// Time between the stop signal and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of the image and of the container's start.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(900);

/// Failure to start a job.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Container(#[from] InstanceError),
    #[error("cannot write the job's record")]
    Record(#[source] std::io::Error),
    #[error("the image has no command of its own; name a command after --")]
    NoCommand,
    #[error("the job did not start within {} s", PREPARE_TIMEOUT.as_secs())]
    TooSlow,
    #[error("the job was stopped before its start")]
    Stopped,
}

/// Runs a job to its end, and reports the end.
pub(super) async fn run(agent: Arc<AgentContext>, mut record: JobRecord, stop: CancellationToken) {
    let lease = record.order.lease;
    if let Err(error) = record.write(&agent.settings) {
        return agent.jobs.end(not_started(&record, &StartError::Record(error)));
    }
    gantry_failpoint::failpoint!("job.kept");
    let _slot = tokio::select! {
        slot = agent.jobs.slots.acquire() => slot,
        () = stop.cancelled() => return agent.jobs.end(not_started(&record, &StartError::Stopped)),
    };
    let mut workload = match TransientWorkload::resume_job(&agent, &record.name(), record.order.network) {
        Ok(workload) => workload,
        Err(error) => return agent.jobs.end(not_started(&record, &error)),
    };
    workload.own(&record.order.queue.project);
    let ended = match begin(&agent, &mut workload, &mut record, &stop).await {
        Ok((container, started)) => {
            agent.jobs.start(lease, started);
            finish(&workload, &record, &container, started, &stop).await
        }
        Err(error) => not_started(&record, &error),
    };
    gantry_failpoint::failpoint!("job.ended");
    record.ended = Some(ended.clone());
    if let Err(error) = record.write(&agent.settings) {
        // Without the record, a restarted agent does not know the end, and the job runs once more.
        tracing::error!(job = %lease.job, %error, "cannot write the end of the job");
    }
    agent.jobs.end(ended);
    workload.end().await;
}

fn not_started(record: &JobRecord, error: &dyn std::error::Error) -> EndedJob {
    EndedJob::failed(record.order.lease, ErrorChain(error).to_string(), now())
}

/// Starts the container, or finds the one that the previous agent started.
async fn begin(
    agent: &Arc<AgentContext>,
    workload: &mut TransientWorkload,
    record: &mut JobRecord,
    stop: &CancellationToken,
) -> Result<(Container, Moment), StartError> {
    let there = workload.workload().container().filter(Container::was_released);
    if let (Some(started), Some(container)) = (record.launched, there) {
        return Ok((container, started));
    }
    let starting = tokio::time::timeout(PREPARE_TIMEOUT, start_with_retry(agent, workload, record));
    tokio::select! {
        started = starting => started.unwrap_or(Err(StartError::TooSlow)),
        () = stop.cancelled() => Err(StartError::Stopped),
    }
}

/// Starts the container; tries again after a failure of the container alone.
async fn start_with_retry(
    agent: &Arc<AgentContext>,
    workload: &mut TransientWorkload,
    record: &mut JobRecord,
) -> Result<(Container, Moment), StartError> {
    let mut attempts = StartAttempts::default();
    loop {
        match start(agent, workload, record).await {
            Err(StartError::Container(error)) if attempts.is_another_due(&record.name(), &error) => {}
            result => return result,
        }
    }
}

async fn start(
    agent: &Arc<AgentContext>,
    workload: &mut TransientWorkload,
    record: &mut JobRecord,
) -> Result<(Container, Moment), StartError> {
    workload.workload().clear().await.map_err(InstanceError::Previous)?;
    let order = record.order.clone();
    let _pin = agent.layers.pin().map_err(InstanceError::Pin)?;
    let image = images::fetch(agent, &order.queue.project, &order.spec.image).await.map_err(InstanceError::Fetch)?;
    let mut spec = *order.spec;
    if spec.role.command == RoleCommand::Argv(Vec::new()) {
        spec.role.command = RoleCommand::Argv(own_command(&image.config.config));
        if spec.role.command == RoleCommand::Argv(Vec::new()) {
            return Err(StartError::NoCommand);
        }
    }
    let (digest, disk, own) = (spec.image.clone(), spec.role.limits.disk, Arc::clone(agent));
    let payload = workload.workload().paths().folder.join("payload");
    let (name, job, network) = (record.name(), order.lease.job, order.network);
    let names = ContainerNames {
        app: order.queue.project,
        short: format!("job-{job}"),
        release: order.release,
        role: order.queue.code.to_string(),
    };
    let text = order.payload;
    let parts = move || {
        std::fs::write(&payload, text)?;
        let mut parts = container::container_parts(&own, &name, &names, &spec, &image)?;
        let variables = [("PAYLOAD_FILE", PAYLOAD_FILE.to_owned()), ("TASK_ID", job.to_string())];
        parts.env.extend(variables.map(|(name, value)| (name.to_owned(), value)));
        parts.volumes.push(BindMount { source: payload, target: PAYLOAD_FILE.into(), writable: false });
        Ok(ContainerParts { network, ..parts })
    };
    let made = workload.prepare(&digest, disk, None, parts).await?;
    let _ = std::fs::remove_file(&made.exit);
    gantry_failpoint::failpoint!("job.prepared");
    let started = now();
    record.launched = Some(started);
    record.write(&agent.settings).map_err(StartError::Record)?;
    let container = workload.launch_in_slot(&made).await?;
    gantry_failpoint::failpoint!("job.launched");
    Ok((container, started))
}

/// The command of an image: entry point and arguments.
fn own_command(runtime: &Runtime) -> Vec<String> {
    runtime.entrypoint.iter().chain(&runtime.cmd).flatten().cloned().collect()
}

/// Waits for the end of the container, and ends it at its timeout and when the job is stopped.
async fn finish(
    workload: &TransientWorkload,
    record: &JobRecord,
    container: &Container,
    started: Moment,
    stop: &CancellationToken,
) -> EndedJob {
    let limit = Duration::from_secs(record.order.timeout.into());
    let left = limit.saturating_sub(Duration::from_millis(now().since(started)));
    let timed_out = tokio::select! {
        () = container.ended() => false,
        () = tokio::time::sleep(left) => true,
        () = stop.cancelled() => false,
    };
    let order = StopOrder { signal: ShutdownSignal::Term, timeout: STOP_TIMEOUT, repeats: false };
    order.carry_out(workload.workload().name(), container, || {}).await;
    let usage = container.usage();
    let peak_memory = container.peak_memory();
    // A process that the kernel does not release is no reason to wait with the report: the removal goes on later.
    if let Err(error) = container.kill().await {
        tracing::error!(job = %record.order.lease.job, error = %ErrorChain(&error), "cannot end the job's container");
    }
    let limits = record.order.spec.role.limits;
    let is_full = workload.workload().is_full(limits.disk).await;
    let own = workload.workload().clone();
    let read = move || (own.exit(), outcome::output(own.paths()));
    let (exit, (output, cut)) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    let container = ContainerEnd { exit, usage, is_full, timed_out, ..ContainerEnd::default() };
    let end = AttemptEnd { container, peak_memory, started, ended: now() };
    let (outcome, mut details) = outcome::outcome(&end, &limits);
    details.output_cut = cut;
    EndedJob { lease: record.order.lease, outcome, details, output }
}
