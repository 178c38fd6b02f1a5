//! Invariants of a plan, checked without regard to how the plan was computed.
//!
//! This crate knows the vocabulary (`gantry-model`) and not the planner, so that both cannot share an error. The
//! planner's tests run [`audit`] after every pass, and a debug build of the server runs [`audit`] before each write of a
//! plan.
//!
//! Both plans share the parts that did not change. A check of changes passes over a part that is the same object in both
//! plans: nothing in it can be new, stopped or renumbered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::{
    AllocationId, App, AppName, Assignment, Deploy, Generation, InstanceGoal, MachineAddress, MachineName, MachinePlan,
    Moment, ObservedCluster, Plan, ReleaseNumber, instances_of,
};

/// A violated invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A route leads to an instance without the goal to run.
    RoutedButNotRunning(AllocationId),
    /// An instance must stop while a live router may still send it requests.
    StoppedBeforeAcknowledged(AllocationId),
    /// Two copies of a role with a single writer exist at once.
    TwoWriters(AllocationId, AllocationId),
    /// Routes changed under the same revision, or under a revision that is not new, or the highest revision fell.
    RoutesNotRenumbered,
    /// Routes of two apps changed under one revision.
    RevisionUsedTwice,
    /// A machine's part changed under the same generation, or its generation fell.
    PartNotRenumbered,
    /// An allocation has a number that its slot has had before.
    NumberUsedTwice(AllocationId),
    /// The number of an allocation is not recorded.
    NumberNotRecorded(AllocationId),
    /// Two machines are assigned the same allocation.
    AssignedTwice(AllocationId),
    /// A route leads to a machine that is lost.
    RoutedToLostMachine(AllocationId),
    /// A machine that takes no new copies got one.
    PlacedOnClosedMachine(AllocationId),
    /// A machine got a copy of a role whose promises its agent is too old to keep.
    PlacedOnOldAgent(AllocationId),
    /// A machine got a copy, and its copies reserve more than it has.
    Overcommitted(MachineName),
    /// A route leads to a release that is neither current nor part of an unfinished deploy.
    WrongRelease(AllocationId),
}

/// The releases that routes may lead to.
#[derive(Debug, Default)]
pub struct RoutableReleases(BTreeMap<AppName, BTreeSet<ReleaseNumber>>);

impl RoutableReleases {
    /// Adds an app's current release and the releases of its unfinished deploys, all as they are after the decision.
    pub fn add<'a>(&mut self, app: &App, deploys: impl IntoIterator<Item = &'a Deploy>) {
        let releases = deploys.into_iter().map(|deploy| deploy.release).chain([app.current]);
        self.0.entry(app.name.clone()).or_default().extend(releases.flatten());
    }

    fn contains(&self, id: &AllocationId) -> bool {
        self.0.get(&id.slot.app).is_some_and(|releases| releases.contains(&id.slot.release))
    }
}

/// A machine as the plan had to see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditedMachine {
    /// The machine takes new copies.
    pub takes_copies: bool,
    /// The machine is lost.
    pub is_lost: bool,
    /// The machine is lost, and has ended its copies of single roles by itself.
    pub is_fenced: bool,
    /// Memory and thousandths of a processor that copies may reserve.
    pub usable: (u64, u64),
    /// Version of the control protocol that the machine's agent speaks; 0 if unknown.
    pub protocol: u32,
}

/// Everything that the audit compares.
#[derive(Debug)]
pub struct AuditInput<'a> {
    /// The releases that routes may lead to.
    pub routable: &'a RoutableReleases,
    /// The reports that the plan was computed from.
    pub observed: &'a ObservedCluster,
    /// The previous plan.
    pub previous: &'a Plan,
    /// The plan to audit.
    pub plan: &'a Plan,
    /// The machines that are known. Nothing is checked of others.
    pub machines: &'a BTreeMap<MachineName, AuditedMachine>,
    /// When the plan was computed.
    pub now: Moment,
}

/// Returns every violation in a plan.
#[must_use]
pub fn audit(input: &AuditInput<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let before: Assigned<'_> = input.previous.assignments().map(|(_, id, assigned)| (id, assigned)).collect();
    let assigned = assigned_once(input.plan, &mut found);
    routes_lead_to_running_instances(input, &assigned, &mut found);
    stops_are_acknowledged(input, &before, &mut found);
    single_writers(input, &before, &mut found);
    numbers_are_new(input, &before, &mut found);
    generations_rise(input, &mut found);
    machines_are_respected(input, &mut found);
    found
}

type Assigned<'a> = BTreeMap<&'a AllocationId, &'a Assignment>;

/// Indexes the assignments, and checks that no two machines are assigned the same allocation.
fn assigned_once<'a>(plan: &'a Plan, found: &mut Vec<Violation>) -> Assigned<'a> {
    let mut assigned: Vec<(&AllocationId, &Assignment)> = plan.assignments().map(|(_, id, a)| (id, a)).collect();
    assigned.sort_by_key(|(id, _)| *id);
    let twice = assigned.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    found.extend(twice.map(|pair| Violation::AssignedTwice(pair[0].0.clone())));
    assigned.into_iter().collect()
}

/// Checks that each endpoint is an instance with the goal to run, of a routable release.
fn routes_lead_to_running_instances(input: &AuditInput<'_>, assigned: &Assigned<'_>, found: &mut Vec<Violation>) {
    for endpoint in input.plan.endpoints() {
        let id = &endpoint.allocation;
        if assigned.get(id).is_none_or(|assignment| assignment.goal != InstanceGoal::Run) {
            found.push(Violation::RoutedButNotRunning(id.clone()));
        }
        if !input.routable.contains(id) {
            found.push(Violation::WrongRelease(id.clone()));
        }
    }
}

/// The parts that differ between the two plans, each with the previous part.
fn changed_parts<'a>(
    input: &AuditInput<'a>,
) -> impl Iterator<Item = (&'a MachineName, Option<&'a Arc<MachinePlan>>, &'a Arc<MachinePlan>)> {
    let previous = input.previous;
    let parts = input.plan.machines.iter().map(move |(name, part)| (name, previous.machines.get(name), part));
    parts.filter(|(_, before, part)| before.is_none_or(|before| !Arc::ptr_eq(before, part)))
}

/// The reported instances of apps with an address that the names in the previous routes lead to.
fn named_instances<'a>(input: &AuditInput<'a>, apps: &BTreeSet<&'a AppName>) -> BTreeSet<&'a AllocationId> {
    let mut found = BTreeSet::new();
    for app in apps.iter().copied() {
        let routes = input.previous.routes.get(app).into_iter();
        let named: BTreeSet<&MachineAddress> = routes.flat_map(|routes| routes.addresses()).collect();
        if named.is_empty() {
            continue;
        }
        for (machine, report) in &input.observed.machines {
            let is_named = |address| named.contains(&MachineAddress::new(machine.clone(), address));
            let instances = instances_of(&report.instances, app);
            found.extend(instances.filter(|(_, instance)| instance.address.is_some_and(is_named)).map(|(id, _)| id));
        }
    }
    found
}

/// Checks that each newly stopped instance is absent from the routes of all live routers.
fn stops_are_acknowledged(input: &AuditInput<'_>, before: &Assigned<'_>, found: &mut Vec<Violation>) {
    let goal_before = |id: &AllocationId| before.get(id).map(|assignment| assignment.goal);
    let stops = |(id, assignment): &(&AllocationId, &Assignment)| {
        assignment.goal == InstanceGoal::Stop && goal_before(id) != Some(InstanceGoal::Stop)
    };
    let stopped: Vec<&AllocationId> =
        changed_parts(input).flat_map(|(_, _, part)| &part.instances).filter(stops).map(|(id, _)| id).collect();
    if stopped.is_empty() {
        return;
    }
    let routed: BTreeSet<&AllocationId> = input.previous.endpoints().map(|endpoint| &endpoint.allocation).collect();
    let named = named_instances(input, &stopped.iter().map(|id| &id.slot.app).collect());
    let floor = input.previous.routing.floor;
    let is_awaited = input.observed.awaits_routers(input.now)
        || input.observed.awaited_router(input.previous.machines.keys(), input.now).is_some();
    let lowest = input.observed.live_routers(input.now).map(|(_, router)| router.generation).min();
    let has_router_below = |needed: Generation| is_awaited || lowest.is_some_and(|lowest| lowest < needed);
    for id in stopped {
        let may_receive_requests = match goal_before(id) {
            Some(InstanceGoal::Retire { removed_in, .. }) => {
                let needed = removed_in.max(floor);
                routed.contains(id) || has_router_below(needed)
            }
            // The routes before may have lost the instance only in their last change.
            _ => {
                let routes = input.previous.routes.get(&id.slot.app);
                let needed = routes.map(|routes| routes.revision).unwrap_or_default().max(floor);
                routed.contains(id) || named.contains(id) || has_router_below(needed)
            }
        };
        if may_receive_requests {
            found.push(Violation::StoppedBeforeAcknowledged(id.clone()));
        }
    }
}

/// Checks that each role with a single writer has at most one copy. A copy of a single role without a volume has ended if
/// it is told to stop and its machine was fenced when another copy was placed.
fn single_writers(input: &AuditInput<'_>, before: &Assigned<'_>, found: &mut Vec<Violation>) {
    let role_of = |id: &AllocationId| (id.slot.app.clone(), id.slot.role.clone());
    let placed = input.plan.assignments().filter(|(_, id, _)| !before.contains_key(*id));
    let placed: BTreeSet<_> = placed.map(|(_, id, _)| role_of(id)).collect();
    let is_fenced = |machine: &MachineName| input.machines.get(machine).is_some_and(|machine| machine.is_fenced);
    let was_told = |id: &AllocationId| before.get(id).is_some_and(|before| before.goal == InstanceGoal::Stop);
    let may_run = |(machine, id, assignment): &(&MachineName, &AllocationId, &Assignment)| {
        let role = &assignment.spec.role;
        let is_told = role.single && role.volumes.is_empty() && assignment.goal == InstanceGoal::Stop;
        let has_ended = is_told && (is_fenced(machine) || was_told(id) && !placed.contains(&role_of(id)));
        role.stop_first() && !has_ended
    };
    let mut writers: BTreeMap<_, &AllocationId> = BTreeMap::new();
    for (_, id, _) in input.plan.assignments().filter(may_run) {
        if let Some(other) = writers.insert((&id.slot.app, &id.slot.role), id) {
            found.push(Violation::TwoWriters(other.clone(), (*id).clone()));
        }
    }
}

/// The allocations that a part has and the previous part lacks.
fn new_in<'a>(before: Option<&'a Arc<MachinePlan>>, part: &'a MachinePlan) -> impl Iterator<Item = &'a AllocationId> {
    part.instances.keys().filter(move |id| before.is_none_or(|before| !before.instances.contains_key(*id)))
}

/// Checks that each new allocation has a number of its own, and that the number is recorded.
fn numbers_are_new(input: &AuditInput<'_>, before: &Assigned<'_>, found: &mut Vec<Violation>) {
    let highest = |plan: &Plan, id: &AllocationId| plan.numbers.get(&id.slot.app).map_or(0, |n| n.highest(&id.slot));
    for id in changed_parts(input).flat_map(|(_, old, part)| new_in(old, part)) {
        // A copy that moves has a new number, so an allocation of another machine is not new.
        if before.contains_key(id) {
            continue;
        }
        if id.number <= highest(input.previous, id) {
            found.push(Violation::NumberUsedTwice(id.clone()));
        }
        if id.number > highest(input.plan, id) {
            found.push(Violation::NumberNotRecorded(id.clone()));
        }
    }
}

/// Checks that changed routes have new revisions, each its own, and that changed parts have higher generations.
fn generations_rise(input: &AuditInput<'_>, found: &mut Vec<Violation>) {
    let (previous, plan) = (input.previous, input.plan);
    let (before, after) = (&previous.routing, &plan.routing);
    let is_changed = (&before.trusted_proxies, &before.tunnels, &before.lost, before.floor)
        != (&after.trusted_proxies, &after.tunnels, &after.lost, after.floor);
    if after.revision < before.revision || (is_changed && after.revision == before.revision) {
        found.push(Violation::RoutesNotRenumbered);
    }
    let mut revisions = BTreeSet::new();
    for (app, routes) in &plan.routes {
        let old = previous.routes.get(app);
        if old.is_some_and(|old| Arc::ptr_eq(old, routes) || old == routes) {
            continue;
        }
        let is_new = routes.revision > before.revision && routes.revision <= after.revision;
        // Only empty routes may appear without a revision.
        if !is_new && (old.is_some() || !routes.is_empty()) {
            found.push(Violation::RoutesNotRenumbered);
        }
        if !revisions.insert(routes.revision) {
            found.push(Violation::RevisionUsedTwice);
        }
    }
    for (_, old, part) in changed_parts(input) {
        let Some(old) = old else { continue };
        let is_changed = old.instances != part.instances;
        if part.generation < old.generation || (is_changed && part.generation == old.generation) {
            found.push(Violation::PartNotRenumbered);
        }
    }
}

/// Checks that no route leads to a lost machine, and that each machine with a new copy takes copies and has room.
fn machines_are_respected(input: &AuditInput<'_>, found: &mut Vec<Violation>) {
    for endpoint in input.plan.endpoints() {
        if input.machines.get(endpoint.at.machine()).is_some_and(|machine| machine.is_lost) {
            found.push(Violation::RoutedToLostMachine(endpoint.allocation.clone()));
        }
    }
    for (name, before, part) in changed_parts(input) {
        let Some(machine) = input.machines.get(name) else { continue };
        let new: Vec<&AllocationId> = new_in(before, part).collect();
        if !machine.takes_copies {
            found.extend(new.iter().map(|id| Violation::PlacedOnClosedMachine((*id).clone())));
        }
        let needed = |id: &&&AllocationId| part.instances[**id].spec.role.needed_protocol() > machine.protocol;
        found.extend(new.iter().filter(needed).map(|id| Violation::PlacedOnOldAgent((*id).clone())));
        let rules = |id: &AllocationId| &part.instances[id].spec.role.placement;
        let memory = |id: &AllocationId| rules(id).reserve_memory.map_or(0, |bytes| bytes.0);
        let cpu = |id: &AllocationId| rules(id).reserve_cpu.map_or(0, |cpu| u64::from(cpu.0));
        // A copy without a reservation of a resource fits, even if other copies reserve more than there is.
        let exceeds = |reserved: &dyn Fn(&AllocationId) -> u64, usable: u64| {
            new.iter().any(|id| reserved(id) > 0) && part.instances.keys().map(reserved).sum::<u64>() > usable
        };
        if exceeds(&memory, machine.usable.0) || exceeds(&cpu, machine.usable.1) {
            found.push(Violation::Overcommitted(name.clone()));
        }
    }
}
