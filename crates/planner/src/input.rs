//! Inputs of a planning pass, indexed by app and slot, with the queries that all modules need.
//!
//! The indexes cover only the apps that the pass plans, so the cost of a pass is that of its apps. The index of one app
//! holds nothing of another app, so deploys of different apps do not see each other; only the two apps of a rename do.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{
    AllocationId, AppName, Assignment, Deploy, DeployState, Generation, InstanceGoal, MachineAddress, MachineName,
    Moment, ObservedCluster, ObservedInstance, Plan, Reason, Role, RoleName, RouterId, Slot, instances_of,
};

use gantry_placement::MachineReadiness;

use crate::named::NamedInstances;
use crate::{ClusterIndex, PlannerInput, PlannerPolicy};

/// Inputs of one pass.
pub(crate) struct PlanningInput<'a> {
    pub(crate) observed: &'a ObservedCluster,
    pub(crate) previous: &'a Plan,
    pub(crate) index: &'a ClusterIndex,
    pub(crate) policy: &'a PlannerPolicy,
    pub(crate) now: Moment,
    /// For both apps of each rename under way, the other app.
    renames: BTreeMap<AppName, AppName>,
    apps: BTreeMap<AppName, AppIndex<'a>>,
    acknowledged: OnceCell<Option<AcknowledgedRevisions>>,
    awaited_router: OnceCell<Option<MachineName>>,
}

/// Everything that the previous plan and the reports contain about one app.
#[derive(Default)]
struct AppIndex<'a> {
    /// The allocations of each slot, by rising number.
    assigned: BTreeMap<&'a Slot, Vec<PlacedAllocation<'a>>>,
    /// The reported allocations with their addresses.
    reported: BTreeMap<&'a AllocationId, Option<MachineAddress>>,
    /// The reported allocations of machines that are not fenced.
    alive: BTreeSet<&'a AllocationId>,
    /// Everything that the app's previous routes lead to.
    named: NamedInstances<'a>,
    /// The allocations of each stop-first role. Other roles look at no other copy.
    stop_first: BTreeMap<&'a RoleName, Vec<PlacedAllocation<'a>>>,
    /// The live routers with requests at the app's instances.
    busy_routers: OnceCell<Vec<RouterId>>,
}

/// An allocation in the previous plan.
#[derive(Clone, Copy)]
pub(crate) struct PlacedAllocation<'a> {
    pub(crate) id: &'a AllocationId,
    pub(crate) machine: &'a MachineName,
    pub(crate) assignment: &'a Assignment,
}

/// The lowest and the highest revision that live routers have acknowledged.
struct AcknowledgedRevisions {
    lowest: (Generation, RouterId),
    highest: (Generation, RouterId),
}

/// State of an instance, as its machine reports it.
pub(crate) enum ReportedState<'a> {
    /// Unknown: the machine has not accepted the plan with the instance, or has never reported.
    Unknown,
    /// Absent: the machine reports that the instance does not exist.
    Absent,
    /// Present, with the machine's report of the instance.
    Here(&'a ObservedInstance),
}

impl<'a> PlanningInput<'a> {
    /// Builds the indexes of the planned apps.
    pub(crate) fn new(input: &PlannerInput<'a>, renames: BTreeMap<AppName, AppName>) -> Self {
        let PlannerInput { observed, previous, index, policy, now, .. } = *input;
        let apps = input.scope.apps.iter().map(|app| (app.clone(), AppIndex::of(app, input))).collect();
        Self {
            observed,
            previous,
            index,
            policy,
            now,
            renames,
            apps,
            acknowledged: OnceCell::new(),
            awaited_router: OnceCell::new(),
        }
    }

    /// The other app of an app's rename.
    pub(crate) fn renamed(&self, app: &AppName) -> Option<&AppName> {
        self.renames.get(app)
    }

    /// The assignments of an app in the previous plan, by allocation.
    pub(crate) fn assignments_of(&self, app: &AppName) -> impl Iterator<Item = (&'a AllocationId, &'a Assignment)> {
        let index = self.apps.get(app).into_iter();
        let placed = index.flat_map(|index| index.assigned.values().flatten());
        placed.map(|PlacedAllocation { id, assignment, .. }| (*id, *assignment))
    }

    /// The allocation that stands for a slot: the newest that is not told to stop, or else the newest.
    pub(crate) fn current(&self, slot: &Slot) -> Option<PlacedAllocation<'a>> {
        let placed = self.apps.get(&slot.app)?.assigned.get(slot)?;
        let lives = |placed: &&PlacedAllocation<'_>| placed.assignment.goal != InstanceGoal::Stop;
        placed.iter().rev().find(lives).or(placed.last()).copied()
    }

    /// The allocations of a slot in the previous plan, by rising number.
    pub(crate) fn allocations(&self, slot: &Slot) -> &[PlacedAllocation<'a>] {
        let placed = self.apps.get(&slot.app).and_then(|index| index.assigned.get(slot));
        placed.map_or(&[], Vec::as_slice)
    }

    /// The allocations of all copies of a slot's role, in the slot's release.
    pub(crate) fn allocations_of_role(&self, of: &Slot) -> impl Iterator<Item = PlacedAllocation<'a>> {
        let is_of_role = move |slot: &&Slot| (slot.release, &slot.role) == (of.release, &of.role);
        let index = self.apps.get(&of.app).into_iter();
        let slots = index.flat_map(move |index| index.assigned.iter().filter(move |(slot, _)| is_of_role(slot)));
        slots.flat_map(|(_, placed)| placed.iter().copied())
    }

    /// Reports whether a machine is lost.
    pub(crate) fn is_lost(&self, machine: &MachineName) -> bool {
        self.index.readiness(machine) == MachineReadiness::Lost
    }

    /// The highest number of a slot's allocations that is recorded or in use. A machine may report an allocation that
    /// restored records do not know.
    pub(crate) fn highest_number(&self, slot: &Slot) -> u32 {
        let recorded = self.previous.numbers.get(&slot.app).map_or(0, |numbers| numbers.highest(slot));
        let Some(index) = self.apps.get(&slot.app) else { return recorded };
        let assigned = index.assigned.get(slot).and_then(|placed| placed.last()).map_or(0, |placed| placed.id.number);
        let (first, last) = (slot.numbered(0), slot.numbered(u32::MAX));
        let reported =
            index.reported.range::<&AllocationId, _>(&first..=&last).next_back().map_or(0, |(id, _)| id.number);
        recorded.max(assigned).max(reported)
    }

    /// The highest release number of an app that a machine reports.
    pub(crate) fn highest_reported_release(&self, app: &AppName) -> Option<u64> {
        self.apps.get(app)?.reported.keys().map(|id| id.slot.release.0).max()
    }

    /// The revision of an app's previous routes.
    pub(crate) fn routes_revision(&self, app: &AppName) -> Generation {
        self.previous.routes.get(app).map(|routes| routes.revision).unwrap_or_default()
    }

    /// The instance's endpoint in the app's previous routes.
    pub(crate) fn routed_address(&self, id: &AllocationId) -> Option<&'a MachineAddress> {
        self.apps.get(&id.slot.app)?.named.routed.get(id).copied()
    }

    /// Reports whether the app's previous routes name an instance, so that requests or name look-ups may lead there.
    /// Names are compared by address, because names do not identify instances.
    pub(crate) fn is_named(&self, machine: &MachineName, id: &AllocationId) -> bool {
        let Some(index) = self.apps.get(&id.slot.app) else { return false };
        index.named.has_instance(id)
            || self.address(id).is_some_and(|address| index.named.has_address(address))
            || self.may_be_named(machine, &index.named)
    }

    /// Reports whether an instance on a machine may have one of the named addresses, because the machine has not reported
    /// since the server started.
    pub(crate) fn may_be_named(&self, machine: &MachineName, named: &NamedInstances<'_>) -> bool {
        !self.observed.machines.contains_key(machine) && named.has_machine(machine)
    }

    /// Another allocation of a role, of this app or of the other app of its rename, that blocks a slot of a stop-first
    /// role because the allocation still exists. Restored records may not know an allocation that a machine reports.
    pub(crate) fn stop_first_blocker(&self, slot: &Slot, role: &Role) -> Option<AllocationId> {
        let own = self.current(slot).filter(|own| own.assignment.goal != InstanceGoal::Stop).map(|own| own.id);
        let is_other = |other: &AllocationId| other.slot.role == slot.role && Some(other) != own;
        let blocks = |placed: &&PlacedAllocation<'_>| {
            let stop_first = role.stop_first() || placed.assignment.spec.role.stop_first();
            is_other(placed.id) && stop_first && !self.has_ended_by_fence(placed) && !self.has_ended(placed)
        };
        let apps = || {
            let names = [Some(&slot.app), self.renamed(&slot.app)].into_iter().flatten();
            names.filter_map(|app| self.apps.get(app))
        };
        let assigned = match role.stop_first() {
            true => apps().flat_map(|index| index.assigned.values().flatten()).find(blocks),
            false => apps().filter_map(|index| index.stop_first.get(&slot.role)).flatten().find(blocks),
        };
        if assigned.is_some() || !role.stop_first() {
            return assigned.map(|placed| placed.id.clone());
        }
        let mut reported = apps().flat_map(|index| match role.moves_fenced() {
            true => index.alive.iter().copied().collect::<Vec<_>>(),
            false => index.reported.keys().copied().collect(),
        });
        reported.find(|other| is_other(other)).cloned()
    }

    /// Reports whether a single copy is told to stop, on a machine that is lost and has ended such copies by itself. Once
    /// the machine is back, it learns of the order before it starts a copy again.
    fn has_ended_by_fence(&self, placed: &PlacedAllocation<'_>) -> bool {
        let is_told = placed.assignment.goal == InstanceGoal::Stop;
        is_told && placed.assignment.spec.role.moves_fenced() && self.index.is_fenced(placed.machine)
    }

    /// Reports whether a single copy has the goal to stop, and its machine reports that the copy is gone. The assignment
    /// remains, so that the next copy avoids the machine.
    pub(crate) fn has_ended(&self, placed: &PlacedAllocation<'_>) -> bool {
        let is_told = placed.assignment.goal == InstanceGoal::Stop;
        let is_absent = || matches!(self.reported_state_on(placed.machine, placed.id), ReportedState::Absent);
        is_told && placed.assignment.spec.role.moves_fenced() && is_absent()
    }

    /// Reports whether the deploy is in its bake time: after promotion the old release stands by for a while.
    pub(crate) fn is_baking(&self, deploy: &Deploy) -> bool {
        match deploy.state {
            DeployState::Promoting => true,
            // The bake time restarts with the server: failures from its absence are reported first.
            DeployState::Draining => {
                self.now.since(deploy.entered.max(self.observed.began)) < self.policy.watch.millis()
            }
            _ => false,
        }
    }

    /// Milliseconds since the routes lost an instance that was retired at `since`. The count restarts with the
    /// server, because the wall clock may have jumped while no server ran.
    pub(crate) fn retired_for(&self, since: Moment) -> u64 {
        self.now.since(since.max(self.observed.began))
    }

    /// The address of an instance in its machine's last report.
    pub(crate) fn address(&self, id: &AllocationId) -> Option<&MachineAddress> {
        self.apps.get(&id.slot.app)?.reported.get(id)?.as_ref()
    }

    /// The assignment of an allocation in the previous plan.
    pub(crate) fn assigned(&self, id: &AllocationId) -> Option<&'a Assignment> {
        let placed = self.apps.get(&id.slot.app)?.assigned.get(&id.slot)?;
        placed.iter().find(|placed| placed.id == id).map(|placed| placed.assignment)
    }

    /// The reported state of the allocation that stands for a slot.
    pub(crate) fn reported_state(&self, slot: &Slot) -> ReportedState<'a> {
        self.current(slot).map_or(ReportedState::Unknown, |placed| self.reported_state_on(placed.machine, placed.id))
    }

    /// The state of an instance in the report of `machine`.
    pub(crate) fn reported_state_on(&self, machine: &MachineName, id: &AllocationId) -> ReportedState<'a> {
        let Some(report) = self.observed.machines.get(machine) else {
            return ReportedState::Unknown;
        };
        let planned = self.previous.machines.get(machine).map_or(Generation(0), |part| part.generation);
        match report.instances.get(id) {
            Some(instance) => ReportedState::Here(instance),
            None if report.generation < planned => ReportedState::Unknown,
            None => ReportedState::Absent,
        }
    }

    /// A machine whose router has not reported since the server started.
    fn awaited_router(&self) -> Option<&MachineName> {
        let find = || self.observed.awaited_router(self.previous.machines.keys(), self.now).cloned();
        self.awaited_router.get_or_init(find).as_ref()
    }

    /// Reason why some router is not at `revision`; `None` if every live router is there. A router with a revision that was
    /// never assigned, or was assigned before records were lost, counts as behind.
    pub(crate) fn routers_behind(&self, revision: Generation) -> Option<Reason> {
        if self.observed.awaits_routers(self.now) {
            return Some(Reason::NoRouter);
        }
        if let Some(machine) = self.awaited_router() {
            return Some(Reason::RouterAwaited { machine: machine.clone() });
        }
        let AcknowledgedRevisions { lowest, highest } =
            self.acknowledged.get_or_init(|| AcknowledgedRevisions::of(self.observed, self.now)).as_ref()?;
        let head = &self.previous.routing;
        let behind = |(has, router): &(Generation, RouterId)| Reason::RouterBehind {
            router: router.clone(),
            has: *has,
            needs: revision,
        };
        if lowest.0 < revision.max(head.floor) {
            return Some(behind(lowest));
        }
        (highest.0 > head.revision).then(|| behind(highest))
    }

    /// The highest revision that any router has reported, live or not.
    pub(crate) fn highest_acknowledged(&self) -> Generation {
        self.observed.routers.values().map(|router| router.generation).max().unwrap_or_default()
    }

    /// Requests in progress at an instance. The routers of the instance's machine count every request; the router that a
    /// request of another machine came in through counts that request as well. So the largest count of one machine has
    /// each request once.
    pub(crate) fn active_requests(&self, id: &AllocationId) -> u64 {
        let mut of_machines = BTreeMap::<&MachineName, u64>::new();
        for router in self.busy_routers(&id.slot.app) {
            let active = self.observed.routers.get(router).and_then(|observed| observed.active.get(id));
            *of_machines.entry(&router.machine).or_default() += active.copied().unwrap_or_default();
        }
        of_machines.into_values().max().unwrap_or_default()
    }

    /// The live routers with requests at the instances of a planned app.
    fn busy_routers(&self, app: &AppName) -> &[RouterId] {
        let Some(index) = self.apps.get(app) else { return &[] };
        index.busy_routers.get_or_init(|| {
            let routers = self.observed.live_routers(self.now);
            let busy = routers.filter(|(_, router)| instances_of(&router.active, app).next().is_some());
            busy.map(|(id, _)| id.clone()).collect()
        })
    }
}

impl<'a> AppIndex<'a> {
    fn of(app: &'a AppName, input: &PlannerInput<'a>) -> Self {
        let mut index = Self::default();
        for machine in input.index.assigned_to(app) {
            let Some((machine, part)) = input.previous.machines.get_key_value(machine) else { continue };
            for (id, assignment) in instances_of(&part.instances, app) {
                index.assigned.entry(&id.slot).or_default().push(PlacedAllocation { id, machine, assignment });
            }
        }
        index.assigned.values_mut().for_each(|placed| placed.sort_by_key(|placed| placed.id.number));
        for placed in index.assigned.values().flatten().filter(|placed| placed.assignment.spec.role.stop_first()) {
            index.stop_first.entry(&placed.id.slot.role).or_default().push(*placed);
        }
        for machine in input.index.reported_by(app) {
            let Some(report) = input.observed.machines.get(machine) else { continue };
            for (id, instance) in instances_of(&report.instances, app) {
                if !input.index.is_fenced(machine) {
                    index.alive.insert(id);
                }
                let address = index.reported.entry(id).or_default();
                let reported = || instance.address.map(|address| MachineAddress::new(machine.clone(), address));
                *address = address.take().or_else(reported);
            }
        }
        if let Some(routes) = input.previous.routes.get(app) {
            index.named = NamedInstances::of(routes);
        }
        index
    }
}

impl AcknowledgedRevisions {
    fn of(observed: &ObservedCluster, now: Moment) -> Option<Self> {
        let routers = || observed.live_routers(now).map(|(id, router)| (router.generation, id));
        let owned = |(generation, id): (Generation, &RouterId)| (generation, id.clone());
        Some(Self { lowest: routers().min().map(owned)?, highest: routers().max().map(owned)? })
    }
}
