//! Orders for one agent's connection.

use std::sync::Arc;
use std::time::Duration;

use gantry_control::jobs::{BATCH_MAX, EndedJob, JobOrder, JobOrders, JobRef, JobsReport};
use gantry_model::MachineName;
use gantry_queue_store::{ClaimedJob, QueueCommand, QueueReply, QueueWriterError};
use tokio::sync::{Notify, mpsc};

use super::StoredWork;
use super::work::WorkError;
use crate::tasks::{JOB_ENDS, JOB_FEED};
use crate::{Server, core};

/// Interval at which a feeder looks again whether its machine takes new work.
const OPEN_INTERVAL: Duration = Duration::from_millis(500);

/// The jobs' part of an agent's connection.
pub(crate) struct JobsLink {
    server: Arc<Server>,
    machine: MachineName,
    orders: mpsc::Receiver<JobOrders>,
    /// True once the agent has reported on this connection.
    reported: bool,
}

impl JobsLink {
    /// Begins with the orders for a machine.
    pub(crate) fn open(server: &Arc<Server>, machine: &MachineName) -> Self {
        let (sender, orders) = mpsc::channel(1);
        server.jobs.state().leave(machine);
        // The task outlives the connection: it enters the lease of each job that it has claimed.
        server.tasks.spawn(JOB_FEED, feed(Arc::clone(server), machine.clone(), sender));
        Self { server: Arc::clone(server), machine: machine.clone(), orders, reported: false }
    }

    /// Waits for the next orders. A dropped call loses nothing.
    pub(crate) async fn next(&mut self) -> JobOrders {
        match self.orders.recv().await {
            Some(orders) => orders,
            None => std::future::pending().await,
        }
    }

    /// Takes in a report of the agent. Ends are recorded in a task of their own, so that a slow disk does not delay the
    /// connection.
    pub(crate) fn report(&mut self, report: JobsReport) {
        let first = !std::mem::replace(&mut self.reported, true);
        let ended = self.server.jobs.take_report(&self.machine, report, first);
        if !ended.is_empty() {
            let (server, machine) = (Arc::clone(&self.server), self.machine.clone());
            let tasks = server.tasks.clone();
            tasks.spawn(JOB_ENDS, async move { server.jobs.record(&machine, ended).await });
        }
    }
}

async fn feed(server: Arc<Server>, machine: MachineName, sender: mpsc::Sender<JobOrders>) {
    let wake = server.jobs.feeders.enter(&machine);
    feed_until_closed(&server, &machine, &sender, &wake).await;
    server.jobs.feeders.leave(&machine, &wake);
}

async fn feed_until_closed(
    server: &Arc<Server>,
    machine: &MachineName,
    sender: &mpsc::Sender<JobOrders>,
    wake: &Notify,
) {
    loop {
        let mut orders = server.jobs.state().take_orders(machine);
        let is_open = server.core.view().takes_work(machine);
        if is_open && server.jobs.has_adopted() && !sender.is_closed() {
            orders.run = claim(server, machine).await;
        }
        if orders.is_empty() {
            tokio::select! {
                () = wake.notified() => continue,
                () = tokio::time::sleep(OPEN_INTERVAL), if !is_open => continue,
                () = sender.closed() => return,
            }
        }
        if let Err(unsent) = sender.send(orders).await {
            give_back(server, unsent.0.run).await;
            return;
        }
    }
}

/// Claims as many jobs as the machine has room for.
async fn claim(server: &Arc<Server>, machine: &MachineName) -> Vec<JobOrder> {
    let room = server.jobs.state().room(machine).min(BATCH_MAX);
    if room == 0 {
        return Vec::new();
    }
    let command = QueueCommand::Claim { machine: machine.clone(), most: room, limit: None };
    let claimed = match server.jobs.writer.one(command).await {
        Ok(QueueReply::Claimed(claimed)) => claimed,
        Ok(_) | Err(QueueWriterError::Closed) => Vec::new(),
        Err(error) => {
            tracing::error!(%machine, error = crate::causes(&error), "cannot give jobs to the machine");
            Vec::new()
        }
    };
    gantry_failpoint::failpoint!("job.claimed");
    let mut orders = Vec::new();
    for job in claimed {
        let lease = JobRef { job: job.id, fence: job.fence };
        server.jobs.state().grant(lease, machine.clone());
        match order(server, job) {
            Ok(order) => orders.push(order),
            Err(error) => fail(server, machine, lease, error.to_string()).await,
        }
    }
    orders
}

/// The order for a claimed job, or why the job cannot run.
fn order(server: &Server, job: ClaimedJob) -> Result<JobOrder, WorkError> {
    let broken = |part| WorkError::Unreadable { part };
    let work: StoredWork = serde_json::from_slice(&job.work).map_err(|_| broken("command"))?;
    let payload = String::from_utf8(job.payload.clone()).map_err(|_| broken("payload"))?;
    let network = work.network();
    let (release, spec) = work.resolve(&server.core.view(), &job.queue.project)?;
    Ok(JobOrder {
        lease: JobRef { job: job.id, fence: job.fence },
        queue: job.queue,
        release,
        spec: Box::new(spec),
        network,
        timeout: job.timeout,
        payload,
    })
}

/// Records that a job could not be given to the machine.
async fn fail(server: &Server, machine: &MachineName, lease: JobRef, failure: String) {
    let ended = EndedJob::failed(lease, failure, core::now());
    server.jobs.record(machine, vec![ended]).await;
}

/// Takes jobs back whose orders were never sent.
async fn give_back(server: &Server, orders: Vec<JobOrder>) {
    for JobOrder { lease, .. } in orders {
        let command = QueueCommand::Lose { job: lease.job, fence: lease.fence };
        if server.jobs.writer.one(command).await.is_ok() {
            server.jobs.state().end(lease.job);
        }
    }
    server.jobs.wake_machines_with_room();
}
