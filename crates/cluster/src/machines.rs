//! The machines as the planner sees them: records, reports and liveness together.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{
    AllocationId, App, AppName, ClusterPolicy, Machine, MachineAvailability, MachineCapacity, MachineName, MachinePlan,
    MachineState, Moment, Plan, Reason, Slot,
};
use gantry_placement::{MachineReadiness, PlacementMachine, Resources};
use gantry_plan_audit::AuditedMachine;
use gantry_planner::{ClusterIndex, MachineLoads, PlanReport, unregistered};
use gantry_records::RecordIndex;

use crate::liveness::Liveness;

/// The machines with their loads and their liveness.
#[derive(Debug, Default)]
pub(crate) struct ClusterMachines {
    pub(crate) liveness: Liveness,
    pub(crate) loads: MachineLoads,
    /// A machine began to take copies since the last tick.
    pub(crate) opened: bool,
    /// When the apps with crowded copies were last planned for their `rebalance-interval`.
    pub(crate) crowded: Moment,
}

/// Shortest and longest time between two passes over the apps with crowded copies, in milliseconds.
const CROWDED_PAUSE: (u64, u64) = (5_000, 60_000);

impl ClusterMachines {
    /// Builds the loads anew from all records. The liveness stays.
    pub(crate) fn load(&mut self, records: &RecordIndex, index: &mut ClusterIndex) {
        let known: Vec<MachineName> = names(records).cloned().collect();
        let machines = known.iter().map(|name| self.placement_machine(name, records));
        self.loads = MachineLoads::of(machines.collect::<Vec<_>>(), &records.plan);
        for name in &known {
            index.machine_is(name, self.readiness(name));
            index.machine_is_fenced(name, self.liveness.is_fenced(name));
        }
    }

    /// Takes over a change of a machine's record or liveness. Returns whether a machine with a tunnel was lost, or
    /// returned: the routes of all apps share the list of these machines.
    pub(crate) fn follow(&mut self, name: &MachineName, records: &RecordIndex, index: &mut ClusterIndex) -> bool {
        let machine = self.placement_machine(name, records);
        self.opened |= machine.readiness == MachineReadiness::Ready;
        let is_lost = |readiness| readiness == MachineReadiness::Lost;
        let has_tunnel = records.tunnels.machines().contains_key(name);
        let is_changed = has_tunnel && is_lost(index.readiness(name)) != is_lost(machine.readiness);
        index.machine_is(name, machine.readiness);
        index.machine_is_fenced(name, self.liveness.is_fenced(name));
        self.loads.put_machine(machine);
        is_changed
    }

    /// Reports whether the apps with crowded copies are to be planned: a machine began to take copies, or copies may have
    /// been ready for long enough to move. Without a `rebalance-interval`, each move follows the report that ends the one
    /// before.
    pub(crate) fn may_spread(&mut self, policy: &ClusterPolicy, now: Moment) -> bool {
        let interval = policy.rebalance_interval().millis();
        let pause = interval.clamp(CROWDED_PAUSE.0, CROWDED_PAUSE.1);
        let is_due = interval > 0 && now.since(self.crowded) >= pause;
        if is_due {
            self.crowded = now;
        }
        std::mem::take(&mut self.opened) || is_due
    }

    /// Takes over that the wall clock jumped by `by` milliseconds.
    pub(crate) fn move_stamps(&mut self, by: i64) {
        self.liveness.move_stamps(by);
        self.crowded = self.crowded.moved(by);
    }

    fn readiness(&self, name: &MachineName) -> MachineReadiness {
        self.loads.readiness(name).unwrap_or(MachineReadiness::Joining)
    }

    fn placement_machine(&self, name: &MachineName, records: &RecordIndex) -> PlacementMachine {
        let state = self.liveness.state(name).unwrap_or(MachineState::Joining);
        let Some(machine) = records.machines.get(name) else {
            return unregistered(name.clone(), readiness(state, &MachineAvailability::Schedulable));
        };
        let Machine { capacity, architecture, labels, availability, .. } = &**machine;
        PlacementMachine {
            name: name.clone(),
            capacity: Resources { memory: capacity.memory.0, cpu: u64::from(capacity.cpu.0) },
            reserve: Resources { memory: records.policy.system_memory().0, cpu: 0 },
            architecture: architecture.clone(),
            labels: labels.clone(),
            readiness: readiness(state, availability),
        }
    }

    /// The machines for an audit of a plan, taken from the records and the liveness and not from the loads.
    pub(crate) fn audited(&self, records: &RecordIndex) -> BTreeMap<MachineName, AuditedMachine> {
        let reserve = records.policy.system_memory().0;
        let audited = |name: &MachineName| {
            let state = self.liveness.state(name).unwrap_or(MachineState::Joining);
            let machine = records.machines.get(name);
            let availability = machine.map_or(&MachineAvailability::Schedulable, |machine| &machine.availability);
            let readiness = readiness(state, availability);
            let usable = machine.map_or((0, 0), |machine| {
                let MachineCapacity { cpu, memory } = &machine.capacity;
                (memory.0.saturating_sub(reserve), u64::from(cpu.0))
            });
            let audited = AuditedMachine {
                takes_copies: readiness == MachineReadiness::Ready,
                is_lost: readiness == MachineReadiness::Lost,
                is_fenced: self.liveness.is_fenced(name),
                usable,
            };
            (name.clone(), audited)
        };
        names(records).map(audited).collect()
    }
}

/// Registered machines, and machines with a part of the plan.
pub(crate) fn names(records: &RecordIndex) -> impl Iterator<Item = &MachineName> {
    let unregistered = records.plan.machines.keys().filter(|name| !records.machines.contains_key(*name));
    records.machines.keys().chain(unregistered)
}

/// Returns whether a machine takes new copies. The machine's own state outweighs its operator's decision, except for its
/// removal.
fn readiness(state: MachineState, availability: &MachineAvailability) -> MachineReadiness {
    match (state, availability) {
        (_, MachineAvailability::Removed) => MachineReadiness::Removed,
        (MachineState::Joining, _) => MachineReadiness::Joining,
        (MachineState::Suspected, _) => MachineReadiness::Silent,
        (MachineState::Lost, _) => MachineReadiness::Lost,
        (MachineState::Ready, MachineAvailability::Cordoned { .. }) => MachineReadiness::Cordoned,
        (MachineState::Ready, MachineAvailability::Draining { .. }) => MachineReadiness::Draining,
        (MachineState::Ready, MachineAvailability::Schedulable) => MachineReadiness::Ready,
    }
}

/// The apps with copies on a machine.
pub(crate) fn apps_on<'a>(plan: &'a Plan, machine: &MachineName) -> impl Iterator<Item = &'a AppName> {
    plan.machines.get(machine).into_iter().flat_map(|part| part.instances.keys()).map(|id| &id.slot.app)
}

/// The apps that may place a copy on a machine that begins to take copies: those that wait for room, and those with a copy
/// on every machine.
pub(crate) fn apps_for_open_machine(records: &RecordIndex, report: &PlanReport) -> BTreeSet<AppName> {
    let current = |app: &App| records.release(&app.name, app.current?).cloned();
    let is_global = |app: &App| current(app).is_some_and(|release| release.roles.values().any(|r| r.placement.global));
    let global = records.apps.values().filter(|app| is_global(app)).map(|app| &app.name);
    apps_without_room(report).chain(global).cloned().collect()
}

/// The apps with several copies of a role on one machine. The copies may spread once another machine takes copies.
pub(crate) fn crowded_apps(plan: &Plan) -> BTreeSet<AppName> {
    let share_role =
        |one: &Slot, other: &Slot| (&one.app, one.release, &one.role) == (&other.app, other.release, &other.role);
    let of_part = |part: &MachinePlan| {
        let ids: Vec<&AllocationId> = part.instances.keys().collect();
        // Allocations of one role are next to each other.
        let pairs = ids.windows(2).filter(|pair| share_role(&pair[0].slot, &pair[1].slot));
        pairs.map(|pair| pair[0].slot.app.clone()).collect::<Vec<_>>()
    };
    plan.machines.values().flat_map(|part| of_part(part)).collect()
}

/// The apps that wait for a machine with room.
pub(crate) fn apps_without_room(report: &PlanReport) -> impl Iterator<Item = &AppName> {
    let waits_for_room = |reason: &Reason| matches!(reason, Reason::NoRoom { .. } | Reason::CannotLeave { .. });
    report.waits.iter().filter(move |(_, waits)| waits.iter().any(waits_for_room)).map(|(app, _)| app)
}
