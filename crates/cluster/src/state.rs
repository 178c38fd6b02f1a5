//! The core's state, and the events that change it. `apply` is synchronous and knows no store.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_control::{MachineReport, RouterReport};
use gantry_model::clock::{ClockJump, ClockJumps};
use gantry_model::observed::{SILENCE_MILLIS, differences};
use gantry_model::{
    AppName, MachineName, MachinePlan, Moment, ObservedCluster, ObservedMachine, ObservedRouter, RouterId,
};
use gantry_planner::{ClusterIndex, PlanReport};

use crate::activity::Activity;
use crate::changed::ChangedParts;
use crate::dirty::DirtySet;
use crate::step::{PlannedStep, plan_step};
use gantry_records::{RecordChange, RecordIndex, StoreRecord, app_of_key};

/// Time for which a silent router is still shown, in milliseconds. The planner counts a router as gone after
/// [`SILENCE_MILLIS`].
const FORGOTTEN_MILLIS: u64 = 60_000;

/// Consistent snapshot of records, reports and time.
#[derive(Clone)]
pub struct ClusterView {
    /// All records.
    pub records: Arc<RecordIndex>,
    /// The latest reports.
    pub observed: Arc<ObservedCluster>,
    /// Reasons why apps wait.
    pub report: Arc<PlanReport>,
    /// Time of the last event.
    pub now: Moment,
    /// Jumps of the wall clock.
    pub jumps: Arc<ClockJumps>,
}

/// The view as readers get it. Only the core's state changes the view. A change happens in place; only what a reader
/// still holds is copied first.
#[derive(Clone)]
pub struct PublishedView(Arc<RwLock<ClusterView>>);

impl PublishedView {
    /// Returns the current view.
    #[must_use]
    pub fn get(&self) -> ClusterView {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An event for the core's state.
pub enum CoreEvent {
    /// The records were read again from the store.
    Loaded(Box<RecordIndex>),
    /// The store committed changes.
    Committed(Vec<RecordChange>),
    /// The planner gave its reasons.
    Planned {
        /// The apps that were planned.
        apps: BTreeSet<AppName>,
        /// The reasons of those that wait.
        report: PlanReport,
    },
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
pub struct EventEffects {
    /// Apps and machines that the planner must look at.
    pub dirty: DirtySet,
    /// Whom to wake.
    pub changed: ChangedParts,
    /// Events for the audit trail, not written yet.
    pub trail: Vec<RecordChange>,
}

/// State of the core, owned by the core's task.
pub struct CoreState {
    published: PublishedView,
    activity: Activity,
    index: ClusterIndex,
}

/// The state while an event changes it.
struct StateParts<'a> {
    view: &'a mut ClusterView,
    activity: &'a mut Activity,
    index: &'a mut ClusterIndex,
}

impl CoreState {
    /// Creates the state of a server that starts now.
    #[must_use]
    pub fn new(records: RecordIndex, jumps: ClockJumps, now: Moment) -> Self {
        let activity = Activity::of(&records);
        let index = ClusterIndex::of(&records.plan, &ObservedCluster::default());
        let view = ClusterView {
            records: Arc::new(records),
            observed: Arc::new(ObservedCluster { began: now, ..ObservedCluster::default() }),
            report: Arc::default(),
            now,
            jumps: Arc::new(jumps),
        };
        Self { published: PublishedView(Arc::new(RwLock::new(view))), activity, index }
    }

    /// Returns the view for readers.
    #[must_use]
    pub fn published(&self) -> PublishedView {
        self.published.clone()
    }

    /// Returns the current view.
    #[must_use]
    pub fn view(&self) -> ClusterView {
        self.published.get()
    }

    /// Plans the next step for everything in `dirty`; returns `None` if nothing is dirty.
    #[must_use]
    pub fn plan(&self, dirty: &DirtySet, now: Moment) -> Option<PlannedStep> {
        plan_step(&self.view(), &self.index, dirty, now)
    }

    /// Applies an event at the time `now`.
    pub fn apply(&mut self, event: CoreEvent, now: Moment) -> EventEffects {
        let Self { published, activity, index } = self;
        let mut guard = published.0.write().unwrap_or_else(PoisonError::into_inner);
        let view = &mut *guard;
        view.now = now;
        let mut state = StateParts { view, activity, index };
        match event {
            CoreEvent::Loaded(records) => loaded(&mut state, *records),
            CoreEvent::Committed(changes) => committed(&mut state, changes),
            CoreEvent::Planned { apps, report } => {
                planned(state.view, &apps, report);
                EventEffects::default()
            }
            CoreEvent::Machine(machine, report) => machine_reported(&mut state, machine, report),
            CoreEvent::Router(machine, report) => router_reported(&mut state, machine, report),
            CoreEvent::ClockJumped { jump, awake } => {
                Arc::make_mut(&mut state.view.observed).move_stamps(jump.by);
                Arc::make_mut(&mut state.view.jumps).push(awake, jump);
                EventEffects { dirty: DirtySet::everything(), ..EventEffects::default() }
            }
            CoreEvent::Tick => {
                let dirty = DirtySet { apps: state.activity.apps(), ..DirtySet::default() };
                EventEffects { dirty, ..EventEffects::default() }
            }
        }
    }
}

/// Replaces the reasons of the planned apps.
fn planned(view: &mut ClusterView, apps: &BTreeSet<AppName>, report: PlanReport) {
    let is_same = |app: &AppName| view.report.waits.get(app) == report.waits.get(app);
    if apps.iter().all(is_same) {
        return;
    }
    let waits = &mut Arc::make_mut(&mut view.report).waits;
    apps.iter().for_each(|app| drop(waits.remove(app)));
    waits.extend(report.waits);
}

fn loaded(state: &mut StateParts<'_>, records: RecordIndex) -> EventEffects {
    let StateParts { view, activity, index } = state;
    **activity = Activity::of(&records);
    **index = ClusterIndex::of(&records.plan, &view.observed);
    let machines = view.records.plan.machines.keys().chain(records.plan.machines.keys()).cloned().collect();
    view.records = Arc::new(records);
    let changed = ChangedParts { machines, routes: true, deploys: true, policy: true, members: true };
    EventEffects { dirty: DirtySet::everything(), changed, trail: Vec::new() }
}

fn committed(state: &mut StateParts<'_>, changes: Vec<RecordChange>) -> EventEffects {
    let StateParts { view, activity, index } = state;
    let mut effects = EventEffects::default();
    let EventEffects { dirty, changed, .. } = &mut effects;
    let records = Arc::make_mut(&mut view.records);
    for change in changes {
        let app = match &change {
            RecordChange::Put(record) => match &**record {
                StoreRecord::App(app) => Some(app.name.clone()),
                StoreRecord::Deploy(deploy) => Some(deploy.app.clone()),
                StoreRecord::Release(release) => Some(release.app.clone()),
                StoreRecord::Policy(_) => {
                    dirty.everything = true;
                    changed.policy = true;
                    None
                }
                StoreRecord::Registered(machine) => {
                    // The routes of all apps share the tunnels of the machines.
                    dirty.everything |= records.tunnels.machines().get(&machine.name).map_or(&[][..], Vec::as_slice)
                        != machine.addresses;
                    None
                }
                StoreRecord::Member(_) => {
                    changed.members = true;
                    None
                }
                StoreRecord::Machine(machine, part) => {
                    activity.follow_machine(machine, part);
                    dirty.machines.insert(machine.clone());
                    changed.machines.insert(machine.clone());
                    let empty = MachinePlan::default();
                    let before = records.plan.machines.get(machine).map_or(&empty, AsRef::as_ref);
                    index.assigned(machine, before.instances.keys(), part.instances.keys());
                    differences(&before.instances, &part.instances, |id, _, _| {
                        if !dirty.apps.contains(&id.slot.app) {
                            dirty.apps.insert(id.slot.app.clone());
                        }
                    });
                    None
                }
                StoreRecord::Routes(app, _) => {
                    dirty.apps.insert(app.clone());
                    changed.routes = true;
                    None
                }
                StoreRecord::Routing(_) => {
                    // The barriers compare the routers' revisions with this one.
                    dirty.apps.extend(activity.apps());
                    changed.routes = true;
                    None
                }
                _ => None,
            },
            RecordChange::Remove(key) => {
                changed.members |= key.starts_with("members/");
                app_of_key(key)
            }
        };
        // The other app of a rename depends on this app, even if this change ends the rename.
        let partner = app.as_ref().and_then(|app| records.apps.get(app)?.renamed().cloned());
        records.apply(change);
        if let Some(app) = app {
            activity.follow_app(records, &app);
            changed.deploys = true;
            dirty.apps.insert(app);
            dirty.apps.extend(partner);
        }
    }
    effects
}

fn machine_reported(state: &mut StateParts<'_>, machine: MachineName, report: MachineReport) -> EventEffects {
    let StateParts { view, activity, index } = state;
    let MachineReport { generation, instances, network } = report;
    let mut effects = EventEffects::default();
    let dirty = &mut effects.dirty;
    let part = view.records.plan.machines.get(&machine);
    let before = view.observed.machines.get(&machine);
    // What an accepted part contains and the report does not is absent from now on.
    let absent = || {
        let ids = part.into_iter().flat_map(|part| part.instances.keys());
        ids.filter(|id| !instances.contains_key(*id)).map(|id| id.slot.app.clone())
    };
    match before {
        // Copies of any app may wait for a first machine.
        None if view.observed.machines.is_empty() => dirty.everything = true,
        None => {
            dirty.machines.insert(machine.clone());
            dirty.apps.extend(activity.apps());
            dirty.apps.extend(absent().chain(instances.keys().map(|id| id.slot.app.clone())));
        }
        Some(before) => {
            let changes = before.changes(&instances);
            effects.trail = gantry_admission::events_of_report(&view.records, &machine, &changes, view.now);
            dirty.apps.extend(changes.into_iter().map(|(id, _, _)| id.slot.app.clone()));
            if before.generation != generation {
                dirty.machines.insert(machine.clone());
                dirty.apps.extend(absent());
            }
        }
    }
    let ids = before.into_iter().flat_map(|before| before.instances.keys());
    index.reported(&machine, ids, instances.keys());
    let observed = ObservedMachine { generation, instances, network, seen: view.now };
    Arc::make_mut(&mut view.observed).machines.insert(machine, Arc::new(observed));
    effects
}

fn router_reported(state: &mut StateParts<'_>, machine: MachineName, report: RouterReport) -> EventEffects {
    let StateParts { view, activity, .. } = state;
    let seen = view.now;
    let RouterReport { number, gone, generation, active, counts, failures } = report;
    let id = RouterId { machine, number };
    let mut dirty = DirtySet::default();
    // Acknowledgements and silences matter to those who wait for them. Requests matter to the instances that retire.
    let before = view.observed.routers.get(&id);
    match before {
        Some(before) if !gone && before.generation == generation && seen.since(before.seen) <= SILENCE_MILLIS => {
            let ids = before.active.keys().chain(active.keys());
            let finished = ids.filter(|id| before.active.get(*id) != active.get(*id) && activity.is_retiring(id));
            dirty.apps.extend(finished.map(|id| id.slot.app.clone()));
        }
        None if gone => {}
        _ => dirty.apps = activity.apps(),
    }
    dirty.revisions = !gone && generation > view.records.plan.routing.revision;
    let observed = Arc::make_mut(&mut view.observed);
    observed.routers.retain(|other, router| *other != id && seen.since(router.seen) < FORGOTTEN_MILLIS);
    if !gone {
        observed.routers.insert(id, ObservedRouter { generation, active, counts, failures, seen });
    }
    EventEffects { dirty, ..EventEffects::default() }
}
