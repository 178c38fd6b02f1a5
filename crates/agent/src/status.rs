//! Status of every instance and of the machine's network, for reports to the server.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gantry_control::MachineReport;
use gantry_model::clock::{ClockReading, SteadyClock};
use gantry_model::{AllocationId, Generation, InstancePhase, Moment, NetworkFault, ObservedInstance};
use gantry_supervision::Nudge;

/// The status of all instances and of the machine's network.
#[derive(Default)]
pub(crate) struct StatusReporter {
    report: Mutex<MachineReport>,
    changed: Nudge,
}

/// The agent's own time: the wall clock's at the agent's start, plus the time elapsed since. All reported times use
/// this clock, so that no age changes when the wall clock jumps. A report shifts the times to the current wall clock
/// ([`StatusReporter::report`]).
pub(crate) fn now() -> Moment {
    clock().now(reading())
}

/// The wall clock's time, for people to read.
pub(crate) fn wall() -> Moment {
    reading().wall
}

fn clock() -> &'static SteadyClock {
    static CLOCK: OnceLock<SteadyClock> = OnceLock::new();
    CLOCK.get_or_init(|| SteadyClock::new(reading()))
}

/// The current readings of the kernel's clocks.
pub(crate) fn reading() -> ClockReading {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    ClockReading {
        wall: Moment(gantry_linux::clock::wall()),
        awake: millis(gantry_linux::clock::awake()),
        booted: millis(gantry_linux::clock::booted()),
    }
}

/// Shifts the times in a report to a wall clock that has jumped by `by` milliseconds.
fn shift_times(report: &mut MachineReport, by: i64) {
    for instance in report.instances.values_mut() {
        instance.since = instance.since.moved(by);
        instance.exit.iter_mut().for_each(|exit| exit.at = exit.at.moved(by));
        instance.probe.iter_mut().for_each(|probe| probe.at = probe.at.moved(by));
    }
}

/// The status of a new instance.
pub(crate) fn new_status() -> ObservedInstance {
    ObservedInstance::new(InstancePhase::Preparing, now())
}

impl StatusReporter {
    fn lock(&self) -> MutexGuard<'_, MachineReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets an instance's status.
    pub(crate) fn set(&self, id: &AllocationId, status: ObservedInstance) {
        self.lock().instances.insert(id.clone(), status);
        self.changed.nudge();
    }

    /// Sets the faults of the machine's network.
    pub(crate) fn set_network(&self, faults: Vec<NetworkFault>) {
        let mut report = self.lock();
        if report.network != faults {
            report.network = faults;
            self.changed.nudge();
        }
    }

    /// The ids of all instances that have a status.
    pub(crate) fn ids(&self) -> Vec<AllocationId> {
        self.lock().instances.keys().cloned().collect()
    }

    /// Removes the status of a deleted instance.
    pub(crate) fn remove(&self, id: &AllocationId) {
        self.lock().instances.remove(id);
        self.changed.nudge();
    }

    /// Records that the agent adopted the plan of this generation. Every instance of the plan has a status by then.
    pub(crate) fn taken_on(&self, generation: Generation) {
        self.lock().generation = generation;
        self.changed.nudge();
    }

    /// The generation of the plan that the agent has adopted.
    pub(crate) fn generation(&self) -> Generation {
        self.lock().generation
    }

    /// Waits for a change.
    pub(crate) async fn changed(&self) {
        self.changed.nudged().await;
    }

    /// A consistent snapshot of everything, with times of the wall clock.
    pub(crate) fn report(&self) -> MachineReport {
        let mut report = self.lock().clone();
        if let Some(jump) = clock().jump(reading()) {
            shift_times(&mut report, jump.by);
        }
        report
    }
}
