//! Invariants of a plan, checked without regard to how the planner computed the plan.

use std::collections::BTreeMap;

use gantry_model::{Assignment, Generation, InstanceGoal, InstanceId, Moment, ObservedCluster, Plan, RoutingTable};

use crate::DesiredCluster;

/// A violated invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// The routing table leads to an instance without the goal to run.
    RoutedButNotRunning(InstanceId),
    /// An instance must stop while a live router may still send it requests.
    StoppedBeforeAcknowledged(InstanceId),
    /// Two copies of a role with a single writer exist at once.
    TwoWriters(InstanceId, InstanceId),
    /// The routing table changed under the same generation, or its generation fell.
    TableNotRenumbered,
    /// A machine's part changed under the same generation, or its generation fell.
    PartNotRenumbered,
    /// Two machines are assigned the same instance.
    AssignedTwice(InstanceId),
    /// A route leads to a release that is neither current nor held.
    WrongRelease(InstanceId),
}

/// Returns every violation in `plan`, which the planner computed from `previous` and `observed`.
#[must_use]
pub fn audit(
    desired: &DesiredCluster,
    observed: &ObservedCluster,
    previous: &Plan,
    plan: &Plan,
    now: Moment,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let all: Vec<(&InstanceId, &Assignment)> = plan.assignments().map(|(_, id, a)| (id, a)).collect();
    routed_run(plan, &all, &mut found);
    stops_are_acknowledged(observed, previous, &all, now, &mut found);
    one_writer(&all, &mut found);
    numbered(previous, plan, &mut found);
    assigned_once(&all, &mut found);
    right_release(desired, plan, &mut found);
    found
}

fn routed_run(plan: &Plan, all: &[(&InstanceId, &Assignment)], found: &mut Vec<Violation>) {
    for endpoint in plan.table.routes.values().flat_map(|route| &route.endpoints) {
        let runs = all.iter().any(|(id, a)| **id == endpoint.instance && a.goal == InstanceGoal::Run);
        if !runs {
            found.push(Violation::RoutedButNotRunning(endpoint.instance.clone()));
        }
    }
}

/// Checks that each newly stopped instance is absent from the routing tables of all live routers.
fn stops_are_acknowledged(
    observed: &ObservedCluster,
    previous: &Plan,
    all: &[(&InstanceId, &Assignment)],
    now: Moment,
    found: &mut Vec<Violation>,
) {
    for (id, _) in all.iter().filter(|(_, a)| a.goal == InstanceGoal::Stop) {
        let address = observed.machines.values().find_map(|report| report.instances.get(*id)?.address);
        let named = || {
            let routes = previous.table.routes.values().flat_map(|route| &route.endpoints);
            let names = previous.table.names.values().flat_map(|roles| roles.values()).flatten();
            routes.into_iter().any(|endpoint| endpoint.instance == **id)
                || names.into_iter().any(|a| Some(*a) == address)
        };
        let was = previous.assignments().find(|(_, other, _)| other == id).map(|(_, _, a)| a.goal);
        let unacknowledged = match was {
            Some(InstanceGoal::Retire { removed_in, .. }) => {
                observed.awaits_routers(now)
                    || observed.live_routers(now).any(|(_, router)| router.generation < removed_in)
            }
            Some(InstanceGoal::Stop) => false,
            _ => named(),
        };
        if unacknowledged {
            found.push(Violation::StoppedBeforeAcknowledged((*id).clone()));
        }
    }
}

fn one_writer(all: &[(&InstanceId, &Assignment)], found: &mut Vec<Violation>) {
    let mut writers: BTreeMap<_, &InstanceId> = BTreeMap::new();
    for (id, _) in all.iter().filter(|(_, a)| a.spec.role.stop_first()) {
        if let Some(other) = writers.insert((&id.app, &id.role), id) {
            found.push(Violation::TwoWriters(other.clone(), (*id).clone()));
        }
    }
}

fn numbered(previous: &Plan, plan: &Plan, found: &mut Vec<Violation>) {
    let (old, new) = (&previous.table, &plan.table);
    let said = |table: &RoutingTable| RoutingTable { generation: Generation::default(), ..table.clone() };
    let changed = said(old) != said(new);
    if new.generation < old.generation || (changed && new.generation == old.generation) {
        found.push(Violation::TableNotRenumbered);
    }
    for (machine, part) in &plan.machines {
        let Some(old) = previous.machines.get(machine) else {
            continue;
        };
        let changed = old.instances != part.instances;
        if part.generation < old.generation || (changed && part.generation == old.generation) {
            found.push(Violation::PartNotRenumbered);
        }
    }
}

fn assigned_once(all: &[(&InstanceId, &Assignment)], found: &mut Vec<Violation>) {
    let mut ids: Vec<&InstanceId> = all.iter().map(|(id, _)| *id).collect();
    ids.sort();
    found.extend(ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|p| Violation::AssignedTwice(p[0].clone())));
}

fn right_release(desired: &DesiredCluster, plan: &Plan, found: &mut Vec<Violation>) {
    for endpoint in plan.table.routes.values().flat_map(|route| &route.endpoints) {
        let id = &endpoint.instance;
        let right = desired.apps.get(&id.app).is_some_and(|app| {
            app.app.current == Some(id.release) || app.deploys.iter().any(|deploy| deploy.release == Some(id.release))
        });
        if !right {
            found.push(Violation::WrongRelease(id.clone()));
        }
    }
}
