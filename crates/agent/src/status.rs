//! What the agent says of itself: the status of every instance, told at each change and now and then.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gantry_api::types::MachineReport;
use gantry_model::clock::{Clock, Reading};
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

/// The agent's own time: the wall clock's when it started, and as much more as has passed since. What the agent tells of is stamped with it,
/// so that no age changes when the wall clock jumps; a report shifts the stamps to the wall clock of now ([`Board::report`]).
pub(crate) fn now() -> Moment {
    clock().now(reading())
}

/// The wall clock's time, for people to read.
pub(crate) fn wall() -> Moment {
    reading().wall
}

fn clock() -> &'static Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    CLOCK.get_or_init(|| Clock::new(reading()))
}

/// What the kernel's clocks show now.
pub(crate) fn reading() -> Reading {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Reading {
        wall: Moment(gantry_linux::clock::wall()),
        awake: millis(gantry_linux::clock::awake()),
        booted: millis(gantry_linux::clock::booted()),
    }
}

/// Shifts the agent's stamps in a report to a wall clock that has jumped by so many milliseconds.
fn shift(report: &mut MachineReport, by: i64) {
    for instance in report.instances.values_mut() {
        instance.since = instance.since.moved(by);
        instance.exit.iter_mut().for_each(|exit| exit.at = exit.at.moved(by));
        instance.probe.iter_mut().for_each(|probe| probe.at = probe.at.moved(by));
    }
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

    /// Everything, at one moment, with the wall clock's stamps.
    pub(crate) fn report(&self) -> MachineReport {
        let mut report = self.lock().clone();
        if let Some(jump) = clock().jump(reading()) {
            shift(&mut report, jump.by);
        }
        report
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
