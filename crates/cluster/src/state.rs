//! The core's state, and the events that change it. `apply` is synchronous and knows no store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use gantry_admission::events_of_machines;
use gantry_control::{MachineReport, RouterReport};
use gantry_model::clock::{ClockJump, ClockJumps};
use gantry_model::observed::{SILENCE_MILLIS, differences};
use gantry_model::{
    AppName, InstanceGoal, MachineAvailability, MachineName, MachinePlan, MachineState, Moment, ObservedCluster,
    ObservedMachine, ObservedRouter, RolePattern, RouterId,
};
use gantry_planner::{ClusterIndex, PlanReport};

use crate::activity::Activity;
use crate::changed::ChangedParts;
use crate::dirty::DirtySet;
use crate::global_roles::GlobalRoles;
use crate::machines::{
    ClusterMachines, apps_for_open_machine, apps_on, apps_without_neighbour, apps_without_room, crowded_apps, names,
};
use crate::step::{PlannedStep, plan_step};
use crate::turns::PlanTurns;
use gantry_records::{RecordChange, RecordIndex, StoreRecord, app_of_key, machine_of_part_key};

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
    /// States of the machines by their silences.
    pub states: Arc<BTreeMap<MachineName, MachineState>>,
}

impl ClusterView {
    /// The state of a machine. A machine that has been silent for long counts as lost for people, even if it is the only
    /// one and its copies therefore stay.
    #[must_use]
    pub fn machine_state(&self, name: &MachineName) -> MachineState {
        let seen = self.observed.machines.get(name).map(|report| report.seen);
        match MachineState::of(seen, self.observed.began, self.now) {
            MachineState::Lost => MachineState::Lost,
            state => self.states.get(name).copied().unwrap_or(state),
        }
    }

    /// Reports whether a machine takes new work: it reports, and its operator wants new work there.
    #[must_use]
    pub fn takes_work(&self, name: &MachineName) -> bool {
        let availability = self.records.machines.get(name).map(|machine| &machine.availability);
        let is_open = availability.is_none_or(|availability| *availability == MachineAvailability::Schedulable);
        is_open && self.machine_state(name) == MachineState::Ready
    }
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
    /// This server leads again, and another server may have led meanwhile. Durations count from now at the earliest.
    TermBegan,
    /// The store committed changes.
    Committed(Vec<RecordChange>),
    /// The planner gave its reasons. This event precedes the commit of the same step: a change that makes room then finds
    /// the apps that wait for room.
    Planned {
        /// The apps that were planned.
        apps: BTreeSet<AppName>,
        /// The reasons of those that wait.
        report: PlanReport,
    },
    /// An agent sent its report.
    Machine(MachineName, MachineReport),
    /// An agent whose last report is this one confirmed the report.
    MachineAlive(MachineName, Arc<MachineReport>),
    /// A router sent its report.
    Router(MachineName, RouterReport),
    /// A router whose last report is this one confirmed the report.
    RouterAlive(RouterId, Arc<RouterReport>),
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
    /// Changed parts, whose subscribers must be woken.
    pub changed: ChangedParts,
    /// Events for the audit trail, not written yet.
    pub trail: Vec<RecordChange>,
}

/// State of the core, owned by the core's task.
pub struct CoreState {
    published: PublishedView,
    activity: Activity,
    global: GlobalRoles,
    index: ClusterIndex,
    machines: ClusterMachines,
    turns: PlanTurns,
}

/// The state while an event changes it.
struct StateParts<'a> {
    view: &'a mut ClusterView,
    activity: &'a mut Activity,
    global: &'a mut GlobalRoles,
    index: &'a mut ClusterIndex,
    machines: &'a mut ClusterMachines,
}

impl CoreState {
    /// Creates the state of a server that starts now.
    #[must_use]
    pub fn new(records: RecordIndex, jumps: ClockJumps, now: Moment) -> Self {
        let activity = Activity::of(&records);
        let global = GlobalRoles::of(&records);
        let mut index = ClusterIndex::of(&records.plan, &ObservedCluster::default());
        let mut machines = ClusterMachines::default();
        machines.load(&records, &mut index);
        let view = ClusterView {
            records: Arc::new(records),
            observed: Arc::new(ObservedCluster { began: now, ..ObservedCluster::default() }),
            report: Arc::default(),
            now,
            jumps: Arc::new(jumps),
            states: Arc::default(),
        };
        let (published, turns) = (PublishedView(Arc::new(RwLock::new(view))), PlanTurns::default());
        Self { published, activity, global, index, machines, turns }
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
    pub fn plan(&mut self, dirty: &DirtySet, now: Moment) -> Option<PlannedStep> {
        plan_step(&self.view(), &self.index, &mut self.machines, dirty, now)
    }

    /// Returns the apps and machines that have their turn at this tick. They are planned although no event affects them:
    /// a mistake in the dirty set only delays a change.
    #[must_use]
    pub fn take_turns(&mut self) -> DirtySet {
        let view = self.view();
        self.turns.take(&view, &self.index)
    }

    /// Applies an event at the time `now`.
    pub fn apply(&mut self, event: CoreEvent, now: Moment) -> EventEffects {
        let Self { published, activity, global, index, machines, .. } = self;
        let mut guard = published.0.write().unwrap_or_else(PoisonError::into_inner);
        let view = &mut *guard;
        view.now = now;
        let mut state = StateParts { view, activity, global, index, machines };
        match event {
            CoreEvent::Loaded(records) => loaded(&mut state, *records),
            CoreEvent::TermBegan => {
                Arc::make_mut(&mut state.view.observed).began = now;
                EventEffects { dirty: DirtySet::everything(), ..EventEffects::default() }
            }
            CoreEvent::Committed(changes) => committed(&mut state, changes),
            CoreEvent::Planned { apps, report } => planned(state.view, &apps, report),
            CoreEvent::Machine(machine, report) => machine_reported(&mut state, machine, report),
            CoreEvent::MachineAlive(machine, report) => machine_alive(&mut state, machine, &report),
            CoreEvent::Router(machine, report) => router_reported(&mut state, machine, report),
            CoreEvent::RouterAlive(router, report) => router_alive(&mut state, router, &report),
            CoreEvent::ClockJumped { jump, awake } => {
                Arc::make_mut(&mut state.view.observed).move_stamps(jump.by);
                state.machines.move_stamps(jump.by);
                Arc::make_mut(&mut state.view.jumps).push(awake, jump);
                EventEffects { dirty: DirtySet::everything(), ..EventEffects::default() }
            }
            CoreEvent::Tick => tick(&mut state),
        }
    }
}

/// Replaces the reasons of the planned apps.
fn planned(view: &mut ClusterView, apps: &BTreeSet<AppName>, report: PlanReport) -> EventEffects {
    let is_other = |app: &&AppName| view.report.waits.get(*app) != report.waits.get(*app);
    let statuses: BTreeSet<AppName> = apps.iter().filter(is_other).cloned().collect();
    if !statuses.is_empty() {
        let waits = &mut Arc::make_mut(&mut view.report).waits;
        apps.iter().for_each(|app| drop(waits.remove(app)));
        waits.extend(report.waits);
    }
    EventEffects { changed: ChangedParts { statuses, ..ChangedParts::default() }, ..EventEffects::default() }
}

/// Judges the machines, and marks what depends on time alone.
fn tick(state: &mut StateParts<'_>) -> EventEffects {
    let StateParts { view, activity, global, index, machines } = state;
    forget_routers(view);
    let mut dirty = DirtySet { apps: activity.apps(), ..DirtySet::default() };
    let (records, now) = (&view.records, view.now);
    let runs = |machine: &MachineName| {
        let part = records.plan.machines.get(machine);
        part.is_some_and(|part| part.instances.values().any(|assignment| assignment.goal == InstanceGoal::Run))
    };
    let is_removed = |name: &&MachineName| {
        records.machines.get(*name).is_some_and(|machine| machine.availability == MachineAvailability::Removed)
    };
    let known = names(records).filter(|name| !is_removed(name));
    let changed = machines.liveness.judge(known, |machine| !runs(machine), &view.observed, &records.policy, now);
    let mut lost = Vec::new();
    for machine in &changed {
        if machines.follow(machine, records, index) {
            dirty.machines.insert(machine.clone());
        }
        let state = machines.liveness.state(machine).unwrap_or(MachineState::Joining);
        let before = Arc::make_mut(&mut view.states).insert(machine.clone(), state);
        match state {
            MachineState::Lost => {
                dirty.apps.extend(apps_on(&records.plan, machine).cloned());
                // A machine that is fenced was lost before.
                lost.extend((before != Some(state) && runs(machine)).then_some((machine, state)));
            }
            MachineState::Ready => dirty.apps.extend(apps_for_open_machine(global, &view.report)),
            _ => {}
        }
    }
    if machines.may_spread(&records.policy, now) {
        dirty.apps.extend(crowded_apps(&records.plan));
    }
    let trail = events_of_machines(records, now, lost);
    EventEffects { dirty, trail, ..EventEffects::default() }
}

fn loaded(state: &mut StateParts<'_>, records: RecordIndex) -> EventEffects {
    let StateParts { view, activity, global, index, machines: known } = state;
    **activity = Activity::of(&records);
    **global = GlobalRoles::of(&records);
    **index = ClusterIndex::of(&records.plan, &view.observed);
    known.load(&records, index);
    let machines = view.records.plan.machines.keys().chain(records.plan.machines.keys()).cloned().collect();
    view.records = Arc::new(records);
    let changed =
        ChangedParts { machines, routes: true, all_apps: true, policy: true, members: true, ..ChangedParts::default() };
    EventEffects { dirty: DirtySet::everything(), changed, trail: Vec::new() }
}

fn committed(state: &mut StateParts<'_>, changes: Vec<RecordChange>) -> EventEffects {
    let StateParts { view, activity, global, index, machines } = state;
    let mut effects = EventEffects::default();
    let EventEffects { dirty, changed, .. } = &mut effects;
    let (records, report) = (Arc::make_mut(&mut view.records), &view.report);
    // An app may have the same reason for each of its copies.
    let lonely: BTreeSet<(&AppName, &RolePattern)> = apps_without_neighbour(report).collect();
    let mut frees = false;
    for change in changes {
        let registered = registered_by(&change);
        let mut is_policy = false;
        if let Some((machine, part)) = part_of(&change) {
            activity.follow_machine(&machine, &part);
            dirty.machines.insert(machine.clone());
            changed.machines.insert(machine.clone());
            let empty = MachinePlan::default();
            let before = records.plan.machines.get(&machine).map_or(&empty, AsRef::as_ref);
            index.assigned(&machine, before.instances.keys(), part.instances.keys());
            machines.loads.assigned(&machine, before, &part);
            differences(&before.instances, &part.instances, |id, before, after| {
                frees |= after.is_none();
                if before.is_none() {
                    let joins = |pattern: &RolePattern| pattern.covers(&id.slot.app, &id.slot.role);
                    let joined = lonely.iter().filter(|(_, pattern)| joins(pattern));
                    dirty.apps.extend(joined.map(|(app, _)| (*app).clone()));
                }
                if let (Some(assignment), None) | (None, Some(assignment)) = (before, after) {
                    let related = global.related_to(&id.slot, &assignment.spec.role.placement);
                    dirty.apps.extend(related.cloned());
                }
                if !dirty.apps.contains(&id.slot.app) {
                    dirty.apps.insert(id.slot.app.clone());
                }
            });
        }
        let app = match &change {
            RecordChange::Put(record) => match &**record {
                StoreRecord::App(app) => Some(app.name.clone()),
                StoreRecord::Deploy(deploy) => Some(deploy.app.clone()),
                StoreRecord::Release(release) => Some(release.app.clone()),
                StoreRecord::Policy(_) => {
                    is_policy = true;
                    dirty.everything = true;
                    changed.policy = true;
                    None
                }
                StoreRecord::Registered(machine) => {
                    // Every pass writes changed tunnels into the part that the routes of all apps share. The routes of an app
                    // name machines, and no tunnel.
                    let known = records.tunnels.machines().get(&machine.name).map_or(&[][..], Vec::as_slice);
                    if known != machine.addresses {
                        dirty.machines.insert(machine.name.clone());
                    }
                    None
                }
                StoreRecord::Member(_) => {
                    changed.members = true;
                    None
                }
                StoreRecord::Routes(app, _) => {
                    dirty.apps.insert(app.clone());
                    changed.routes = true;
                    changed.statuses.insert(app.clone());
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
        if is_policy {
            machines.load(records, index);
        }
        if let Some(machine) = registered {
            if machines.follow(&machine, records, index) {
                dirty.machines.insert(machine.clone());
            }
            dirty.apps.extend(apps_on(&records.plan, &machine).cloned());
            dirty.apps.extend(apps_for_open_machine(global, report));
        }
        if let Some(app) = app {
            activity.follow_app(records, &app);
            global.follow_app(records, &app);
            changed.apps.insert(app.clone());
            dirty.apps.insert(app);
            dirty.apps.extend(partner);
        }
    }
    if frees {
        dirty.apps.extend(apps_without_room(report).cloned());
    }
    effects
}

/// The part that a change sets, with its machine. A removed part is empty.
fn part_of(change: &RecordChange) -> Option<(MachineName, Arc<MachinePlan>)> {
    match change {
        RecordChange::Put(record) => match &**record {
            StoreRecord::Machine(machine, part) => Some((machine.clone(), Arc::clone(part))),
            _ => None,
        },
        RecordChange::Remove(key) => Some((machine_of_part_key(key)?, Arc::default())),
    }
}

/// The machine whose record a change sets.
fn registered_by(change: &RecordChange) -> Option<MachineName> {
    let RecordChange::Put(record) = change else { return None };
    match &**record {
        StoreRecord::Registered(machine) => Some(machine.name.clone()),
        _ => None,
    }
}

/// Takes over that a machine's agent lives.
fn machine_heard(state: &mut StateParts<'_>, machine: &MachineName) -> EventEffects {
    let StateParts { view, global, index, machines, .. } = state;
    let mut effects = EventEffects::default();
    let dirty = &mut effects.dirty;
    let known = machines.liveness.state(machine);
    if machines.liveness.record_report(machine) {
        if machines.follow(machine, &view.records, index) {
            dirty.machines.insert(machine.clone());
        }
        Arc::make_mut(&mut view.states).insert(machine.clone(), MachineState::Ready);
        dirty.apps.extend(apps_for_open_machine(global, &view.report));
        if known == Some(MachineState::Lost) {
            // The machine can get its part again, so the rest of the moved copies retires.
            dirty.apps.extend(apps_on(&view.records.plan, machine).cloned());
        }
    }
    if known == Some(MachineState::Lost) {
        effects.trail = events_of_machines(&view.records, view.now, [(machine, MachineState::Ready)]);
    }
    effects
}

/// Takes over a heartbeat. Its cost does not depend on the report.
fn machine_alive(state: &mut StateParts<'_>, machine: MachineName, report: &MachineReport) -> EventEffects {
    let seen = state.view.now;
    if !state.view.observed.machines.contains_key(&machine) {
        return machine_reported(state, machine, report.clone());
    }
    let effects = machine_heard(state, &machine);
    if let Some(observed) = Arc::make_mut(&mut state.view.observed).machines.get_mut(&machine) {
        Arc::make_mut(observed).seen = seen;
    }
    effects
}

fn machine_reported(state: &mut StateParts<'_>, machine: MachineName, report: MachineReport) -> EventEffects {
    let mut effects = machine_heard(state, &machine);
    let StateParts { view, activity, index, .. } = state;
    let MachineReport { generation, instances, network } = report;
    let dirty = &mut effects.dirty;
    let part = view.records.plan.machines.get(&machine);
    let before = view.observed.machines.get(&machine);
    // An instance of the accepted part that the report lacks is absent from now on.
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
            let mut trail = gantry_admission::events_of_report(&view.records, &machine, &changes, view.now);
            trail.append(&mut effects.trail);
            effects.trail = trail;
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
    match gone {
        true => drop(observed.routers.remove(&id)),
        false => drop(observed.routers.insert(id, ObservedRouter { generation, active, counts, failures, seen })),
    }
    EventEffects { dirty, ..EventEffects::default() }
}

/// Takes over a heartbeat. Its cost depends neither on the report nor on the other routers.
fn router_alive(state: &mut StateParts<'_>, id: RouterId, report: &RouterReport) -> EventEffects {
    let (seen, last) = (state.view.now, state.view.records.plan.routing.revision);
    let is_live = |router: &ObservedRouter| seen.since(router.seen) <= SILENCE_MILLIS;
    if !state.view.observed.routers.get(&id).is_some_and(is_live) {
        let RouterId { machine, number } = id;
        return router_reported(state, machine, RouterReport { number, gone: false, ..report.clone() });
    }
    let mut dirty = DirtySet::default();
    if let Some(router) = Arc::make_mut(&mut state.view.observed).routers.get_mut(&id) {
        router.seen = seen;
        dirty.revisions = router.generation > last;
    }
    EventEffects { dirty, ..EventEffects::default() }
}

/// Forgets routers that have been silent for long.
fn forget_routers(view: &mut ClusterView) {
    let now = view.now;
    let is_forgotten = |router: &ObservedRouter| now.since(router.seen) >= FORGOTTEN_MILLIS;
    if view.observed.routers.values().any(is_forgotten) {
        Arc::make_mut(&mut view.observed).routers.retain(|_, router| !is_forgotten(router));
    }
}
