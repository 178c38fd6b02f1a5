//! What the agent says of itself: the status of every instance, told at each change and now and then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_api::types::MachineReport;
use gantry_model::{Generation, InstanceId, Moment, NetworkFault, ObservedInstance, Phase};
use tokio::sync::Notify;

use crate::Agent;

/// How often it speaks when nothing changes: a third of what counts as silence, and some.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Changes within this are told together.
const GATHER: Duration = Duration::from_millis(5);

/// The status of everything.
#[derive(Default)]
pub(crate) struct Board {
    report: Mutex<MachineReport>,
    changed: Notify,
}

/// The agent's clock.
pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An instance that has just come to be.
pub(crate) fn fresh() -> ObservedInstance {
    ObservedInstance {
        phase: Phase::Preparing,
        since: now(),
        address: None,
        restarts: 0,
        exit: None,
        probe: None,
        failure: None,
        warning: None,
        started: None,
        failed_checks: 0,
        limit_hits: Vec::new(),
        said: None,
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, MachineReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets an instance's status.
    pub(crate) fn set(&self, id: &InstanceId, status: ObservedInstance) {
        self.lock().instances.insert(id.clone(), status);
        self.changed.notify_one();
    }

    /// Sets what is wrong with the machine's network.
    pub(crate) fn set_network(&self, faults: Vec<NetworkFault>) {
        let mut report = self.lock();
        if report.network != faults {
            report.network = faults;
            self.changed.notify_one();
        }
    }

    /// Every instance that there is.
    pub(crate) fn ids(&self) -> Vec<InstanceId> {
        self.lock().instances.keys().cloned().collect()
    }

    /// The instance is gone.
    pub(crate) fn remove(&self, id: &InstanceId) {
        self.lock().instances.remove(id);
        self.changed.notify_one();
    }

    /// This plan is taken on: every instance of it is on the board.
    pub(crate) fn taken_on(&self, generation: Generation) {
        self.lock().generation = generation;
        self.changed.notify_one();
    }

    /// Everything, at one moment.
    pub(crate) fn report(&self) -> MachineReport {
        self.lock().clone()
    }
}

/// Tells the server, for ever. One that is away is told when it is back: a report is always the whole.
pub(crate) async fn report(agent: &Arc<Agent>) {
    let path = format!("/internal/v1/machines/{}/observed", agent.settings.machine);
    loop {
        let report = agent.status.report();
        if let Err(error) = agent.client.post::<()>(&path, &report).await {
            tracing::debug!(%error, "the server was not told");
            tokio::time::sleep(Duration::from_millis(250)).await;
            continue;
        }
        if tokio::time::timeout(HEARTBEAT, agent.status.changed.notified()).await.is_ok() {
            tokio::time::sleep(GATHER).await;
        }
    }
}
