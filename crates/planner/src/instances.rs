//! Decides which instances run where, and how unwanted instances retire.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::app::Rename;
use gantry_model::{
    AllocationId, AppName, AppRoutes, Assignment, Deploy, DeployState, InstanceGoal, InstancePhase, InstanceSpec,
    MachineName, Reason, Release, Role, RoleName, Slot,
};
use gantry_placement::{MachineReadiness, PinnedMachine, PlacementDemand};

use crate::demand::{CopyCount, DesiredSlots, release_step, release_step_done, slots_of_release, spec};
use crate::draft::DraftParts;
use crate::input::{PlacedAllocation, PlanningInput, ReportedState};
use crate::loads::{MachineLoads, demand};
use crate::moves::{self, MoveCause, MovingRoles};
use crate::named::NamedInstances;
use crate::{DesiredApp, DesiredCluster};

/// The allocations that run for the wanted slots.
#[derive(Default)]
pub(crate) struct AssignedSlots {
    /// For each wanted slot, the allocation that stays or is new. All other allocations retire.
    pub(crate) chosen: BTreeSet<AllocationId>,
    /// Reasons why slots of each app wait.
    pub(crate) waits: BTreeMap<AppName, Vec<Reason>>,
}

/// Every slot of the planned apps whose instance must run now.
pub(crate) fn desired_slots(desired: &DesiredCluster, input: &PlanningInput<'_>, loads: &MachineLoads) -> DesiredSlots {
    let mut desired_slots: DesiredSlots =
        desired.apps.values().flat_map(|app| slots_of_app(app, input, loads)).collect();
    for app in desired.apps.values() {
        if let Some(Rename::From { name: old }) = &app.app.rename
            && let Some(old) = desired.apps.get(old)
        {
            desired_slots.retain(|slot, _| slot.app != old.app.name || !is_taken_over(old, app, &slot.role, input));
        }
    }
    desired_slots
}

fn slots_of_app(app: &DesiredApp, input: &PlanningInput<'_>, loads: &MachineLoads) -> DesiredSlots {
    let mut desired_slots = DesiredSlots::new();
    if app.app.destroying {
        return desired_slots;
    }
    let (domain, count) = (&input.policy.domain, CopyCount { input, loads });
    let upcoming_release = upcoming_release(app);
    if let Some(current) = current_release(app) {
        let handed_over =
            |role: &RoleName| upcoming_release.is_some_and(|(_, new)| hands_over(current, new, role, &[app], input));
        desired_slots.extend(slots_of_release(&app.app, current, domain, handed_over, count));
    }
    if let Some((deploy, release)) = upcoming_release {
        if let Some(slot) = release_step(release) {
            let spec = spec(&app.app, release, &release.roles[&slot.role], domain);
            desired_slots.insert(slot, spec.into());
        }
        if deploy.state != DeployState::Starting || release_step_done(release, input) {
            desired_slots.extend(slots_of_release(&app.app, release, domain, |_| false, count));
        }
    }
    desired_slots
}

/// Reports whether the successor of a renamed app takes the role over at once. The role then leaves the old app as soon
/// as the successor starts.
fn is_taken_over(old: &DesiredApp, successor: &DesiredApp, role: &RoleName, input: &PlanningInput<'_>) -> bool {
    let new = upcoming_release(successor).map(|(_, release)| release).or_else(|| current_release(successor));
    let apps = [successor, old];
    new.zip(current_release(old)).is_some_and(|(new, current)| hands_over(current, new, role, &apps, input))
}

fn current_release(app: &DesiredApp) -> Option<&Release> {
    app.releases.get(&app.app.current?).map(AsRef::as_ref)
}

/// The deploy whose instances run beside those of the current release, or have already replaced them.
fn upcoming_release(app: &DesiredApp) -> Option<(&Deploy, &Release)> {
    use DeployState::{Draining, Held, Promoting, Starting, Verifying};
    let deploy = app.deploys.iter().find(|d| matches!(d.state, Starting | Verifying | Held | Promoting | Draining))?;
    Some((deploy, app.releases.get(&deploy.release?)?))
}

/// Reports whether the new release takes the role over at once. A stop-first role leaves the current release as soon as
/// the new release starts. The old copy serves on while nothing could start in its place. `apps` are those that know where
/// the role's data is.
fn hands_over(
    current: &Release,
    new: &Release,
    name: &RoleName,
    apps: &[&DesiredApp],
    input: &PlanningInput<'_>,
) -> bool {
    let Some(role) = new.roles.get(name) else { return false };
    let stop_first = role.stop_first() || current.roles.get(name).is_some_and(Role::stop_first);
    let first = || Slot { app: new.app.clone(), release: new.number, role: name.clone(), index: 1 };
    let may_start = || input.current(&first()).is_some() || !is_data_closed(role, apps, input);
    current.number != new.number && stop_first && may_start()
}

/// Reports whether an operator wants no new copies on the machine with a role's data.
pub(crate) fn is_data_closed(role: &Role, apps: &[&DesiredApp], input: &PlanningInput<'_>) -> bool {
    use MachineReadiness::{Cordoned, Draining};
    let is_closed = |machine: &MachineName| matches!(input.index.readiness(machine), Cordoned | Draining);
    let machine = |volume: &String| apps.iter().find_map(|app| app.app.data.get(volume));
    role.volumes.keys().filter_map(machine).any(is_closed)
}

/// Assigns a new allocation to each wanted slot that has none, or whose allocation is to leave its machine, and returns why
/// slots wait. This function removes no allocation: [`retire`] does so once the routes are known.
pub(crate) fn assign(
    desired: &DesiredCluster,
    desired_slots: &DesiredSlots,
    draft: &mut DraftParts<'_>,
    input: &PlanningInput<'_>,
) -> AssignedSlots {
    let mut assigned = AssignedSlots::default();
    let moving = moving_roles(desired_slots, input);
    let crowded = moves::crowded(desired, desired_slots, &mut draft.loads.index, input);
    let mut planning = SlotPlanning { desired, draft, input, moving, crowded, assigned: &mut assigned };
    desired_slots.iter().for_each(|(slot, spec)| planning.assign(slot, spec));
    assigned
}

/// The roles of which a copy has begun to move: the old allocation serves, and the new one is not ready yet.
fn moving_roles(desired_slots: &DesiredSlots, input: &PlanningInput<'_>) -> MovingRoles {
    let mut moving = MovingRoles::default();
    let begun = |slot: &&Slot| {
        // Only a slot with two allocations can move.
        let current = input.current(slot).filter(|_| input.allocations(slot).len() > 1);
        current.is_some_and(|current| moves::predecessor(current, input).is_some())
    };
    desired_slots.keys().filter(begun).for_each(|slot| moving.begin(slot));
    moving
}

/// The slots of a pass while they are assigned.
struct SlotPlanning<'s, 'd, 'a> {
    desired: &'s DesiredCluster,
    draft: &'s mut DraftParts<'d>,
    input: &'s PlanningInput<'a>,
    moving: MovingRoles,
    /// Slots whose copies leave a machine with many copies of their role.
    crowded: BTreeSet<Slot>,
    assigned: &'s mut AssignedSlots,
}

impl SlotPlanning<'_, '_, '_> {
    fn wait(&mut self, slot: &Slot, reason: Reason) {
        self.assigned.waits.entry(slot.app.clone()).or_default().push(reason);
    }

    fn assign(&mut self, slot: &Slot, spec: &Arc<InstanceSpec>) {
        let input = self.input;
        // An allocation with the goal to stop does not count: a new allocation takes its place.
        let current = input.current(slot).filter(|current| current.assignment.goal != InstanceGoal::Stop);
        if let Some(blocker) = input.stop_first_blocker(slot, &spec.role) {
            self.assigned.chosen.extend(current.map(|current| current.id.clone()));
            let apps: Vec<&DesiredApp> = self.apps_with_data(slot).into_iter().flatten().collect();
            let is_closed = current.is_none() && is_data_closed(&spec.role, &apps, input);
            let refusal = is_closed.then(|| self.draft.loads.refusal(&self.demand(slot, &spec.role))).flatten();
            let reason = match refusal {
                Some(refusal) => Reason::NoRoom { instance: slot.clone(), refusal },
                None => Reason::StopFirst { role: slot.role.clone(), instance: blocker },
            };
            self.wait(slot, reason);
            return;
        }
        let Some(current) = current else {
            let mut demand = self.demand(slot, &spec.role);
            demand.pinned.extend(self.data_of_pass(slot, &spec.role));
            self.avoid_left_machines(slot, &mut demand);
            match self.draft.place(slot, spec, demand) {
                Ok(id) => drop(self.assigned.chosen.insert(id)),
                Err(refusal) => self.wait(slot, Reason::NoRoom { instance: slot.clone(), refusal }),
            }
            return;
        };
        let is_settled = self.desired.apps.get(&slot.app).is_some_and(moves::is_settled);
        match moves::cause(current, is_settled, input) {
            Some(cause) if spec.role.stop_first() => self.evict(current, cause),
            Some(MoveCause::Lost) => self.replace(current, MoveCause::Lost, spec),
            Some(cause) if !self.moving.contains(slot) => self.replace(current, cause, spec),
            None if self.crowded.contains(slot) => self.replace(current, MoveCause::Crowded, spec),
            _ => self.keep(current),
        }
    }

    /// The app of a slot, and the other app of its rename.
    fn apps_with_data(&self, slot: &Slot) -> [Option<&DesiredApp>; 2] {
        let old = self.input.renamed(&slot.app).and_then(|old| self.desired.apps.get(old));
        [self.desired.apps.get(&slot.app), old]
    }

    /// The demand of a slot's copy, which goes where its data is.
    fn demand(&self, slot: &Slot, role: &Role) -> PlacementDemand {
        let mut demand = demand(slot, role);
        demand.pinned.extend(self.draft.loads.data(role, self.apps_with_data(slot)));
        demand
    }

    /// Keeps a single copy from a machine that it had to leave, unless no other machine takes the copy.
    fn avoid_left_machines(&self, slot: &Slot, demand: &mut PlacementDemand) {
        let left = self.input.allocations(slot).iter().filter(|placed| self.input.has_ended(placed));
        let avoided: BTreeSet<MachineName> = left.map(|left| left.machine.clone()).collect();
        if avoided.is_empty() {
            return;
        }
        let elsewhere = PlacementDemand { avoided, ..demand.clone() };
        if self.draft.loads.refusal(&elsewhere).is_none() {
            *demand = elsewhere;
        }
    }

    /// The machines of the copies of this pass that share a volume with a role.
    fn data_of_pass(&self, slot: &Slot, role: &Role) -> Vec<PinnedMachine> {
        if role.volumes.is_empty() {
            return Vec::new();
        }
        let of_app = self.draft.of_app(&slot.app).into_iter();
        let shares = |other: &Role| other.volumes.keys().any(|volume| role.volumes.contains_key(volume));
        let with_volume = of_app.filter(|(_, _, assignment)| shares(&assignment.spec.role));
        with_volume.map(|(machine, ..)| PinnedMachine::HasData(machine.clone())).collect()
    }

    /// Keeps an allocation, and the predecessor that serves until the allocation is ready.
    fn keep(&mut self, current: PlacedAllocation<'_>) {
        self.assigned.chosen.insert(current.id.clone());
        self.assigned.chosen.extend(moves::predecessor(current, self.input).map(|old| old.id.clone()));
        if current.assignment.goal != InstanceGoal::Run {
            self.draft.set_goal(current.machine, current.id, InstanceGoal::Run);
        }
        let stays = self.input.index.readiness(current.machine) == MachineReadiness::Draining;
        if stays && !current.assignment.spec.role.volumes.is_empty() {
            let (instance, machine) = (current.id.clone(), current.machine.clone());
            self.wait(&current.id.slot, Reason::DataStays { instance, machine });
        }
    }

    /// Ends the only copy of a role, so that a later pass can place the copy on another machine. The copy goes on as long as
    /// no machine would take it.
    fn evict(&mut self, current: PlacedAllocation<'_>, cause: MoveCause) {
        let demand = moves::demand_elsewhere(current, cause, self.input);
        match self.draft.loads.refusal(&demand) {
            None => {
                let role = current.id.slot.role.clone();
                self.wait(&current.id.slot, Reason::StopFirst { role, instance: current.id.clone() });
            }
            Some(refusal) => {
                self.keep(current);
                if let Some(reason) = moves::refused(current, cause, refusal) {
                    self.wait(&current.id.slot, reason);
                }
            }
        }
    }

    /// Places a slot again. The present allocation goes on until the new one is ready, unless its machine is lost.
    fn replace(&mut self, current: PlacedAllocation<'_>, cause: MoveCause, spec: &Arc<InstanceSpec>) {
        let slot = &current.id.slot;
        match self.draft.place(slot, spec, moves::demand_elsewhere(current, cause, self.input)) {
            Ok(id) => {
                self.assigned.chosen.insert(id);
                // What serves on another machine goes on: the present allocation, or the one before it.
                let old = matches!(cause, MoveCause::Drained | MoveCause::Crowded).then_some(current);
                let old = old.or_else(|| moves::predecessor(current, self.input));
                self.assigned.chosen.extend(old.map(|old| old.id.clone()));
                if cause != MoveCause::Lost {
                    self.moving.begin(slot);
                }
            }
            Err(refusal) => {
                self.keep(current);
                if let Some(reason) = moves::refused(current, cause, refusal) {
                    self.wait(slot, reason);
                }
            }
        }
    }
}

/// Records the machine of each chosen copy with volumes: their data is there from now on.
pub(crate) fn record_data(
    desired: &mut DesiredCluster,
    desired_slots: &DesiredSlots,
    chosen: &BTreeSet<AllocationId>,
    draft: &DraftParts<'_>,
) {
    let with_data = |id: &&AllocationId| desired_slots.get(&id.slot).is_some_and(|spec| !spec.role.volumes.is_empty());
    for id in chosen.iter().filter(with_data) {
        let (Some(app), Some(machine)) = (desired.apps.get_mut(&id.slot.app), draft.machine_of(id)) else { continue };
        for volume in desired_slots[&id.slot].role.volumes.keys() {
            if app.app.data.get(volume) != Some(machine) {
                app.app.data.insert(volume.clone(), machine.clone());
            }
        }
    }
}

/// Decides the goal of each allocation of an app that is not chosen.
pub(crate) fn retire(
    app: &AppName,
    chosen: &BTreeSet<AllocationId>,
    standing_by: &BTreeSet<AppName>,
    routes: &AppRoutes,
    draft: &mut DraftParts<'_>,
    input: &PlanningInput<'_>,
) {
    let mut unwanted = draft.of_app(app);
    unwanted.retain(|(_, id, _)| !chosen.contains(*id));
    if unwanted.is_empty() {
        return;
    }
    let named = NamedInstances::of(routes);
    let mut changes: Vec<(MachineName, AllocationId, Option<InstanceGoal>)> = Vec::new();
    for (machine, id, assignment) in unwanted {
        if assignment.goal == InstanceGoal::Stop
            && matches!(input.reported_state_on(machine, id), ReportedState::Absent)
        {
            changes.push((machine.clone(), id.clone(), None));
            continue;
        }
        let goal = next_goal((machine, id, assignment), standing_by.contains(app), &named, input);
        if goal != assignment.goal {
            changes.push((machine.clone(), id.clone(), Some(goal)));
        }
    }
    for (machine, id, goal) in changes {
        match goal {
            Some(goal) => draft.set_goal(&machine, &id, goal),
            None => draft.remove(&machine, &id),
        }
    }
}

/// The apps whose old release stands by.
pub(crate) fn standing_by(desired: &DesiredCluster, input: &PlanningInput<'_>) -> BTreeSet<AppName> {
    let stands_by = |app: &&DesiredApp| !app.app.destroying && app.deploys.iter().any(|deploy| input.is_baking(deploy));
    desired.apps.values().filter(stands_by).map(|app| app.app.name.clone()).collect()
}

/// Next goal of an unwanted instance: absent from the routes, then acknowledged, drained and stopped.
fn next_goal(
    (machine, id, assignment): (&MachineName, &AllocationId, &Assignment),
    standing_by: bool,
    routes: &NamedInstances<'_>,
    input: &PlanningInput<'_>,
) -> InstanceGoal {
    let goal = assignment.goal;
    match goal {
        InstanceGoal::Stop => InstanceGoal::Stop,
        InstanceGoal::Run if standing_by || may_get_requests(machine, id, routes, input) => {
            InstanceGoal::Retire { removed_in: routes.revision, since: input.now }
        }
        InstanceGoal::Run => InstanceGoal::Stop,
        // The part that retires the instance was written, and the routes without the instance were not: another change
        // may have got their revision.
        InstanceGoal::Retire { since, .. } if leaves_routes(machine, id, routes, input) => {
            InstanceGoal::Retire { removed_in: routes.revision, since: since.min(input.now) }
        }
        InstanceGoal::Retire { removed_in, since } => {
            let drain = assignment.spec.role.drain.unwrap_or(input.policy.drain);
            let of_dead_process = || matches!(input.reported_state_on(machine, id), ReportedState::Here(i) if i.phase == InstancePhase::Exited);
            let drained = || {
                let may_end = input.retired_for(since) >= drain.millis() || input.active_requests(id) == 0;
                may_end || of_dead_process() || input.index.is_fenced(machine)
            };
            let is_out = !standing_by && !input.may_be_named(machine, routes);
            let may_stop = is_out && input.routers_behind(removed_in).is_none() && drained();
            // As with a deploy's stamps, a moment in the future counts as now.
            if may_stop { InstanceGoal::Stop } else { InstanceGoal::Retire { removed_in, since: since.min(input.now) } }
        }
    }
}

/// Reports whether an instance may have or get requests. A renamed app leaves the routes before it ends, and may have
/// requests all the same. An instance that failed its checks left the routes long ago, and some router may not know.
fn may_get_requests(
    machine: &MachineName,
    id: &AllocationId,
    routes: &NamedInstances<'_>,
    input: &PlanningInput<'_>,
) -> bool {
    input.is_named(machine, id) || input.active_requests(id) > 0 || input.routers_behind(routes.revision).is_some()
}

/// Reports whether the previous routes name an instance and the next routes do not. The next routes may name its address
/// for another instance.
fn leaves_routes(
    machine: &MachineName,
    id: &AllocationId,
    routes: &NamedInstances<'_>,
    input: &PlanningInput<'_>,
) -> bool {
    let is_address_named = || input.address(id).is_some_and(|address| routes.has_address(address));
    let may_stay = || routes.has_instance(id) || is_address_named() || input.may_be_named(machine, routes);
    input.is_named(machine, id) && !may_stay()
}
