//! The core's state, and the events that change it. `apply` is synchronous and knows no store.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_api::types::{MachineReport, RouterReport};
use gantry_model::clock::{ClockJump, ClockJumps};
use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{
    AppName, InstanceId, MachineName, Moment, ObservedCluster, ObservedMachine, ObservedRouter, RouterId,
};
use gantry_planner::PlanReport;

use super::activity::Activity;
use super::dirty::DirtySet;
use super::notify::ChangedParts;
use gantry_records::{RecordChange, RecordIndex, StoreRecord, app_of_key};

/// Time for which a silent router is still shown, in milliseconds. The planner counts a router as gone after
/// [`SILENCE_MILLIS`].
const FORGOTTEN_MILLIS: u64 = 60_000;

/// Time after the start during which the mere passing of time may change the plan of every app: a little longer than
/// routers may be unheard.
const STARTUP_MILLIS: u64 = SILENCE_MILLIS + 1_000;

/// Consistent snapshot of records, reports and time.
#[derive(Clone)]
pub struct ClusterView {
    pub(crate) records: Arc<RecordIndex>,
    pub(crate) observed: Arc<ObservedCluster>,
    pub(crate) report: Arc<PlanReport>,
    pub(crate) now: Moment,
    pub(crate) jumps: Arc<ClockJumps>,
}

/// The view as readers get it. Only the core's state changes the view. A change happens in place; only what a reader
/// still holds is copied first.
#[derive(Clone)]
pub(super) struct PublishedView(Arc<RwLock<ClusterView>>);

impl PublishedView {
    /// Returns the current view.
    pub(super) fn get(&self) -> ClusterView {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An event for the core's state.
pub(super) enum CoreEvent {
    /// The records were read again from the store.
    Loaded(RecordIndex),
    /// The store committed changes.
    Committed(Vec<RecordChange>),
    /// The planner gave its reasons.
    Planned(PlanReport),
    /// An agent sent its report.
    Machine(MachineName, MachineReport),
    /// A router sent its report.
    Router(MachineName, RouterReport),
    /// The wall clock jumped; `awake` is the monotonic time of the detection.
    ClockJumped {
        /// The jump.
        jump: ClockJump,
        /// Monotonic time of the detection.
        awake: u64,
    },
    /// Time passed.
    Tick,
}

/// Consequences of an event.
#[derive(Debug, Default)]
pub(super) struct EventEffects {
    /// Apps and machines that the planner must look at.
    pub(super) dirty: DirtySet,
    /// Whom to wake.
    pub(super) changed: ChangedParts,
    /// Events for the audit trail, not written yet.
    pub(super) trail: Vec<RecordChange>,
}

/// State of the core, owned by the core's task.
pub(super) struct CoreState {
    published: PublishedView,
    activity: Activity,
}

impl CoreState {
    /// Creates the state of a server that starts now.
    pub(super) fn new(records: RecordIndex, jumps: ClockJumps, now: Moment) -> Self {
        let activity = Activity::of(&records);
        let view = ClusterView {
            records: Arc::new(records),
            observed: Arc::new(ObservedCluster { began: now, ..ObservedCluster::default() }),
            report: Arc::default(),
            now,
            jumps: Arc::new(jumps),
        };
        Self { published: PublishedView(Arc::new(RwLock::new(view))), activity }
    }

    /// Returns the view for readers.
    pub(super) fn published(&self) -> PublishedView {
        self.published.clone()
    }

    /// Returns the current view.
    pub(super) fn view(&self) -> ClusterView {
        self.published.get()
    }

    /// Applies an event at the time `now`.
    pub(super) fn apply(&mut self, event: CoreEvent, now: Moment) -> EventEffects {
        let Self { published, activity } = self;
        let mut guard = published.0.write().unwrap_or_else(PoisonError::into_inner);
        let view = &mut *guard;
        view.now = now;
        match event {
            CoreEvent::Loaded(records) => loaded(view, activity, records),
            CoreEvent::Committed(changes) => committed(view, activity, changes),
            CoreEvent::Planned(report) => {
                if *view.report != report {
                    view.report = Arc::new(report);
                }
                EventEffects::default()
            }
            CoreEvent::Machine(machine, report) => machine_reported(view, machine, report),
            CoreEvent::Router(machine, report) => router_reported(view, activity, machine, report),
            CoreEvent::ClockJumped { jump, awake } => {
                Arc::make_mut(&mut view.observed).move_stamps(jump.by);
                Arc::make_mut(&mut view.jumps).push(awake, jump);
                EventEffects { dirty: DirtySet::everything(), ..EventEffects::default() }
            }
            CoreEvent::Tick => {
                let everything = now.since(view.observed.began) <= STARTUP_MILLIS;
                let dirty = DirtySet { everything, apps: activity.apps(), ..DirtySet::default() };
                EventEffects { dirty, ..EventEffects::default() }
            }
        }
    }
}

fn loaded(view: &mut ClusterView, activity: &mut Activity, records: RecordIndex) -> EventEffects {
    *activity = Activity::of(&records);
    let machines = view.records.plan.machines.keys().chain(records.plan.machines.keys()).cloned().collect();
    view.records = Arc::new(records);
    let changed = ChangedParts { machines, table: true, deploys: true };
    EventEffects { dirty: DirtySet::everything(), changed, trail: Vec::new() }
}

fn committed(view: &mut ClusterView, activity: &mut Activity, changes: Vec<RecordChange>) -> EventEffects {
    let EventEffects { mut dirty, mut changed, trail } = EventEffects::default();
    let records = Arc::make_mut(&mut view.records);
    for change in changes {
        let app = match &change {
            RecordChange::Put(record) => match &**record {
                StoreRecord::App(app) => Some(app.name.clone()),
                StoreRecord::Deploy(deploy) => Some(deploy.app.clone()),
                StoreRecord::Release(release) => Some(release.app.clone()),
                StoreRecord::Policy(_) => {
                    dirty.everything = true;
                    None
                }
                StoreRecord::Machine(machine, part) => {
                    activity.follow_machine(machine, part);
                    dirty.machines.insert(machine.clone());
                    changed.machines.insert(machine.clone());
                    None
                }
                StoreRecord::Table(_) => {
                    // The barrier compares the routers' tables with this one.
                    dirty.everything = true;
                    changed.table = true;
                    None
                }
                _ => None,
            },
            RecordChange::Remove(key) => app_of_key(key),
        };
        records.apply(change);
        if let Some(app) = app {
            activity.follow_app(records, &app);
            changed.deploys = true;
            dirty.apps.insert(app);
        }
    }
    EventEffects { dirty, changed, trail }
}

fn machine_reported(view: &mut ClusterView, machine: MachineName, report: MachineReport) -> EventEffects {
    let before = view.observed.machines.get(&machine);
    let trail = gantry_admission::events_of_report(&view.records, before, &report.instances, view.now);
    let MachineReport { generation, instances, network } = report;
    let dirty = match before {
        None => DirtySet::everything(),
        Some(before) => {
            let differs = |id: &&InstanceId| before.instances.get(*id) != instances.get(*id);
            let ids = before.instances.keys().filter(differs).chain(instances.keys().filter(differs));
            let apps: BTreeSet<AppName> = ids.map(|id| id.app.clone()).collect();
            let accepted = before.generation != generation;
            let machines = if accepted || !apps.is_empty() { [machine.clone()].into() } else { BTreeSet::new() };
            DirtySet { everything: false, apps, machines }
        }
    };
    let seen = view.now;
    let observed = Arc::make_mut(&mut view.observed);
    observed.machines.insert(machine, ObservedMachine { generation, instances, network, seen });
    EventEffects { dirty, trail, ..EventEffects::default() }
}

fn router_reported(
    view: &mut ClusterView,
    activity: &Activity,
    machine: MachineName,
    report: RouterReport,
) -> EventEffects {
    let seen = view.now;
    let RouterReport { number, gone, generation, active, counts, failures } = report;
    let id = RouterId { machine, number };
    let before = view.observed.routers.get(&id);
    let matters = match before {
        None => !gone,
        Some(before) => {
            let finished = |id: &&InstanceId| activity.is_retiring(id) && before.active.get(*id) != active.get(*id);
            gone || before.generation != generation
                || seen.since(before.seen) > SILENCE_MILLIS
                || before.active.keys().chain(active.keys()).any(|id| finished(&id))
        }
    };
    let observed = Arc::make_mut(&mut view.observed);
    observed.routers.retain(|other, router| *other != id && seen.since(router.seen) < FORGOTTEN_MILLIS);
    if !gone {
        observed.routers.insert(id, ObservedRouter { generation, active, counts, failures, seen });
    }
    let dirty = if matters { DirtySet::everything() } else { DirtySet::default() };
    EventEffects { dirty, ..EventEffects::default() }
}
