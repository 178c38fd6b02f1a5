//! Moves: copies that leave their machine for another one.
//!
//! A move places a new allocation first. The old one serves until the new one is ready, and then retires as any unwanted
//! allocation does. Only a copy on a lost machine is replaced without a wait.
//!
//! - **Lost machine**: its copies are placed elsewhere at once.
//! - **Draining machine**: its copies leave, one copy of a role at a time.
//! - **Failures**: a copy that fails again and again on one machine is tried on another one.
//! - **Crowding**: once there is room on other machines again, copies of a role that share a machine spread, one at a time
//!   unless the policy allows more (`rebalance-copies`, `rebalance-interval`), while all other copies of the role are ready.
//!   No copy moves for the balance of load between machines.
//!
//! A copy with a volume never moves: its data is on its machine. A single copy without a volume moves stop-first: its agent
//! has ended the copy before another one is placed. From a lost machine such a copy moves only once the machine is fenced. While a deploy of the app is under way, only copies on lost machines move:
//! the deploy places its own copies elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{
    AppName, DeployState, InstanceGoal, InstancePhase, Kind, MachineName, ObservedInstance, Reason, ReleaseNumber,
    Role, RoleName, Slot,
};
use gantry_placement::{MachineReadiness, PlacementDemand, PlacementIndex};

use crate::demand::DesiredSlots;
use crate::input::{PlacedAllocation, PlanningInput, ReportedState};
use crate::loads::demand;
use crate::{DesiredApp, DesiredCluster};

/// Failures on one machine after which a copy is tried on another one. The bound rises with each placement, so a copy that
/// fails everywhere settles down.
const FAILURES: u32 = 3;

/// A copy that ran for this long before it failed is only restarted, in milliseconds.
const LONG_RUN_MILLIS: u64 = 600_000;

/// Reason why a copy leaves its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MoveCause {
    /// The machine is lost.
    Lost,
    /// The machine is being drained.
    Drained,
    /// The copy failed on the machine too often.
    Failed,
    /// The machine has more copies of the role than another one would have.
    Crowded,
}

/// Returns why a copy should leave its machine; none if it stays.
pub(crate) fn cause(placed: PlacedAllocation<'_>, is_settled: bool, input: &PlanningInput<'_>) -> Option<MoveCause> {
    let PlacedAllocation { id, machine, assignment } = placed;
    let role = &assignment.spec.role;
    if role.stop_first() {
        return cause_of_single(placed, is_settled, input);
    }
    let seen = input.reported_state_on(machine, id);
    match input.index.readiness(machine) {
        MachineReadiness::Lost => {
            // A release step that ended, or may have, does not run again.
            let is_unfinished = matches!(seen, ReportedState::Here(i) if i.phase != InstancePhase::Exited);
            (role.kind != Kind::Job || is_unfinished).then_some(MoveCause::Lost)
        }
        _ if !is_settled || role.kind != Kind::Service => None,
        MachineReadiness::Draining => Some(MoveCause::Drained),
        _ => {
            let ReportedState::Here(instance) = seen else { return None };
            fails_again_and_again(instance, id.number).then_some(MoveCause::Failed)
        }
    }
}

/// Reports whether a copy has failed too often on its machine. `number` is that of its allocation.
fn fails_again_and_again(instance: &ObservedInstance, number: u32) -> bool {
    let fails = matches!(instance.phase, InstancePhase::Exited | InstancePhase::Failed);
    let ran = instance.started.zip(instance.exit.as_ref()).map_or(0, |(started, exit)| exit.at.since(started));
    fails && ran < LONG_RUN_MILLIS && instance.restarts >= FAILURES.saturating_mul(number)
}

/// Returns why the only copy of a role should leave its machine; none if it stays.
fn cause_of_single(placed: PlacedAllocation<'_>, is_settled: bool, input: &PlanningInput<'_>) -> Option<MoveCause> {
    let PlacedAllocation { id, machine, assignment } = placed;
    if !assignment.spec.role.moves_fenced() {
        return None;
    }
    match input.index.readiness(machine) {
        MachineReadiness::Lost => input.index.is_fenced(machine).then_some(MoveCause::Lost),
        _ if !is_settled => None,
        MachineReadiness::Draining => Some(MoveCause::Drained),
        _ => {
            let ReportedState::Here(instance) = input.reported_state_on(machine, id) else { return None };
            fails_again_and_again(instance, id.number).then_some(MoveCause::Failed)
        }
    }
}

/// Reports whether no deploy of the app is under way, so that copies may move without need.
pub(crate) fn is_settled(app: &DesiredApp) -> bool {
    use DeployState::{Building, Held, Queued};
    let rests = |state: DeployState| state.is_final() || matches!(state, Queued | Building | Held);
    !app.app.destroying && app.app.rename.is_none() && app.deploys.iter().all(|deploy| rests(deploy.state))
}

/// The allocation that serves in the place of a newer one of its slot, which is not ready yet.
pub(crate) fn predecessor<'a>(
    current: PlacedAllocation<'a>,
    input: &PlanningInput<'a>,
) -> Option<PlacedAllocation<'a>> {
    if is_ready(current, input) {
        return None;
    }
    let serves = |placed: &&PlacedAllocation<'_>| {
        let may_serve = match input.reported_state_on(placed.machine, placed.id) {
            ReportedState::Here(instance) => instance.phase == InstancePhase::Ready,
            ReportedState::Unknown => true,
            ReportedState::Absent => false,
        };
        let is_older = placed.id.number < current.id.number && placed.assignment.goal == InstanceGoal::Run;
        is_older && may_serve && input.index.readiness(placed.machine) != MachineReadiness::Lost
    };
    input.allocations(&current.id.slot).iter().rev().find(serves).copied()
}

fn is_ready(placed: PlacedAllocation<'_>, input: &PlanningInput<'_>) -> bool {
    let seen = input.reported_state_on(placed.machine, placed.id);
    matches!(seen, ReportedState::Here(instance) if instance.phase == InstancePhase::Ready)
}

/// The demand of a copy that moves.
pub(crate) fn demand_elsewhere(
    placed: PlacedAllocation<'_>,
    cause: MoveCause,
    input: &PlanningInput<'_>,
) -> PlacementDemand {
    let mut demand = demand(&placed.id.slot, &placed.assignment.spec.role);
    if cause == MoveCause::Failed {
        demand.avoided = input.allocations(&placed.id.slot).iter().map(|other| other.machine.clone()).collect();
    }
    demand
}

/// Reason why a copy that should leave its machine cannot.
pub(crate) fn refused(
    placed: PlacedAllocation<'_>,
    cause: MoveCause,
    refusal: gantry_model::PlacementRefusal,
) -> Option<Reason> {
    let (instance, machine) = (placed.id.clone(), placed.machine.clone());
    match cause {
        MoveCause::Lost => Some(Reason::NoRoom { instance: instance.slot, refusal }),
        MoveCause::Drained => Some(Reason::CannotLeave { instance, machine, refusal }),
        // In a cluster of one machine there is no other one.
        MoveCause::Failed => (refusal.machines() > 1).then_some(Reason::CannotMove { instance, machine, refusal }),
        // A crowded copy serves as well.
        MoveCause::Crowded => None,
    }
}

/// Copies of each role of a release.
type RoleCopies<'a> = BTreeMap<(&'a AppName, ReleaseNumber, &'a RoleName), Vec<(&'a Slot, &'a Role)>>;

/// The copies that move because their machine has too many of their role: as many of each role as the budget allows, and
/// only of roles whose other copies are all ready and stay.
pub(crate) fn crowded(
    desired: &DesiredCluster,
    desired_slots: &DesiredSlots,
    index: &mut PlacementIndex,
    input: &PlanningInput<'_>,
) -> BTreeSet<Slot> {
    let mut roles = RoleCopies::new();
    let settled: BTreeSet<&AppName> =
        desired.apps.iter().filter(|(_, app)| is_settled(app)).map(|(name, _)| name).collect();
    for (slot, spec) in desired_slots.iter().filter(|(slot, _)| settled.contains(&slot.app)) {
        let role = &spec.role;
        if role.is_service() && !role.stop_first() && !role.placement.global {
            roles.entry((&slot.app, slot.release, &slot.role)).or_default().push((slot, role));
        }
    }
    let several = roles.into_values().filter(|copies| copies.len() > 1);
    several.flat_map(|copies| crowded_of_role(&copies, index, input)).collect()
}

/// The copies of one role that move now.
fn crowded_of_role(copies: &[(&Slot, &Role)], index: &mut PlacementIndex, input: &PlanningInput<'_>) -> Vec<Slot> {
    let (Some((first, role)), Some(SpreadCopies { mut resting, leaving })) =
        (copies.first(), SpreadCopies::of(copies, input))
    else {
        return Vec::new();
    };
    let demand = demand(first, role);
    let room = usize::from(input.policy.rebalance.copies).saturating_sub(leaving.len());
    // The index as it will be after the moves that have begun, and after each move that begins now.
    leaving.iter().for_each(|machine| index.vacate(machine, &demand));
    let (mut chosen, mut moved) = (Vec::new(), Vec::new());
    while chosen.len() < room {
        let Some(from) = index.crowded(&demand) else { break };
        let Some(at) = resting.iter().position(|(_, machine)| **machine == from) else { break };
        let (slot, _) = resting.remove(at);
        index.vacate(&from, &demand);
        let to = index.place(&demand).ok();
        chosen.push(slot.clone());
        moved.push((from, to));
    }
    for (from, to) in moved {
        to.iter().for_each(|to| index.vacate(to, &demand));
        index.occupy(&from, &demand);
    }
    leaving.iter().for_each(|machine| index.occupy(machine, &demand));
    chosen
}

/// The copies of a role that may spread.
struct SpreadCopies<'a> {
    /// Copies that are ready and stay, with their machines.
    resting: Vec<(&'a Slot, &'a MachineName)>,
    /// The machines that copies leave: each copy has begun to move.
    leaving: Vec<&'a MachineName>,
}

impl<'a> SpreadCopies<'a> {
    /// None while a copy is not ready, or has not been for long enough.
    fn of(copies: &[(&'a Slot, &Role)], input: &PlanningInput<'a>) -> Option<Self> {
        let (mut resting, mut leaving) = (Vec::new(), Vec::new());
        for (slot, _) in copies {
            let allocations = input.allocations(slot);
            let (newest, older) = allocations.split_last()?;
            if newest.assignment.goal != InstanceGoal::Run {
                return None;
            }
            match older {
                [] => {
                    let ReportedState::Here(instance) = input.reported_state_on(newest.machine, newest.id) else {
                        return None;
                    };
                    let has_rested = input.now.since(instance.since) >= input.policy.rebalance.interval.millis();
                    if instance.phase != InstancePhase::Ready || !has_rested {
                        return None;
                    }
                    resting.push((*slot, newest.machine));
                }
                older => {
                    let fails = matches!(input.reported_state_on(newest.machine, newest.id), ReportedState::Here(i) if i.restarts > 0);
                    if fails {
                        return None;
                    }
                    leaving.extend(older.iter().map(|old| old.machine));
                }
            }
        }
        Some(Self { resting, leaving })
    }
}

/// A role of a release of an app.
type RoleOfRelease = (AppName, ReleaseNumber, RoleName);

/// The roles of which a copy moves now. Each role moves one copy at a time.
#[derive(Debug, Default)]
pub(crate) struct MovingRoles(BTreeSet<RoleOfRelease>);

impl MovingRoles {
    pub(crate) fn begin(&mut self, slot: &Slot) {
        self.0.insert(role_of_release(slot));
    }

    pub(crate) fn contains(&self, slot: &Slot) -> bool {
        self.0.contains(&role_of_release(slot))
    }
}

fn role_of_release(slot: &Slot) -> RoleOfRelease {
    (slot.app.clone(), slot.release, slot.role.clone())
}
