//! Decides which instances run where, and how unwanted instances retire.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::app::Rename;
use gantry_model::{
    AppName, Assignment, Deploy, DeployState, InstanceGoal, InstanceId, InstancePhase, InstanceSpec, Reason, Release,
    Role, RoleName, RoutingTable,
};

use crate::demand::{MachinePlans, WantedInstances, release_step, release_step_done, spec, wanted_of};
use crate::input::{PlanningInput, ReportedState};
use crate::{DesiredApp, DesiredCluster};

type WaitReasons = BTreeMap<AppName, Vec<Reason>>;

/// Every instance that must run now.
pub(crate) fn wanted(desired: &DesiredCluster, input: &PlanningInput<'_>) -> WantedInstances {
    let mut wanted: WantedInstances = desired.apps.values().flat_map(|app| wanted_of_app(app, input)).collect();
    for app in desired.apps.values() {
        if let Some(Rename::From { name: old }) = &app.app.rename
            && let Some(old) = desired.apps.get(old)
        {
            wanted.retain(|id, _| id.app != old.app.name || !is_taken_over(old, app, &id.role));
        }
    }
    wanted
}

fn wanted_of_app(app: &DesiredApp, input: &PlanningInput<'_>) -> BTreeMap<InstanceId, InstanceSpec> {
    let mut wanted = BTreeMap::new();
    if app.app.destroying {
        return wanted;
    }
    let coming = coming(app);
    if let Some(current) = app.app.current.and_then(|number| app.releases.get(&number)) {
        let handed_over = |role: &RoleName| coming.is_some_and(|(_, new)| hands_over(current, new, role));
        wanted.extend(wanted_of(&app.app, current).filter(|(id, _)| !handed_over(&id.role)));
    }
    if let Some((deploy, release)) = coming {
        if let Some(id) = release_step(release) {
            let role = &release.roles[&id.role];
            wanted.insert(id, spec(&app.app, release, role, true));
        }
        if deploy.state != DeployState::Starting || release_step_done(release, input) {
            wanted.extend(wanted_of(&app.app, release));
        }
    }
    for spec in wanted.values_mut().filter(|spec| spec.role.health.path.is_some()) {
        // An application may refuse a host name other than its own.
        spec.role.health.host.get_or_insert_with(|| format!("{}.{}", app.app.name, input.policy.domain));
    }
    wanted
}

/// Reports whether the successor of a renamed app takes the role over at once. The role then leaves the old app as soon
/// as the successor starts.
fn is_taken_over(old: &DesiredApp, successor: &DesiredApp, role: &RoleName) -> bool {
    let release = |app: &DesiredApp| app.app.current.and_then(|number| app.releases.get(&number)).cloned();
    let new = coming(successor).map(|(_, release)| release.clone()).or_else(|| release(successor));
    new.zip(release(old)).is_some_and(|(new, current)| hands_over(&current, &new, role))
}

/// The deploy whose instances run beside those of the current release, or have already replaced them.
fn coming(app: &DesiredApp) -> Option<(&Deploy, &Release)> {
    use DeployState::{Draining, Held, Promoting, Starting, Verifying};
    let deploy = app.deploys.iter().find(|d| matches!(d.state, Starting | Verifying | Held | Promoting | Draining))?;
    Some((deploy, app.releases.get(&deploy.release?)?))
}

/// Reports whether the new release takes the role over at once. A stop-first role leaves the current release as soon as
/// the new release starts.
fn hands_over(current: &Release, new: &Release, role: &RoleName) -> bool {
    let stop_first = |release: &Release| release.roles.get(role).is_some_and(Role::stop_first);
    current.number != new.number && new.roles.contains_key(role) && (stop_first(current) || stop_first(new))
}

/// Assigns wanted instances that have no machine yet. This function removes no instance: [`retire`] does so once the
/// routing table is known.
pub(crate) fn assign(wanted: &WantedInstances, input: &PlanningInput<'_>) -> (MachinePlans, WaitReasons) {
    let mut machines = input.previous.machines.clone();
    for machine in input.observed.machines.keys() {
        machines.entry(machine.clone()).or_default();
    }
    let mut notes = WaitReasons::new();
    for (id, spec) in wanted {
        if let Some(blocker) = input.stop_first_blocker(id, &spec.role) {
            let reason = Reason::StopFirst { role: id.role.clone(), instance: blocker };
            notes.entry(id.app.clone()).or_default().push(reason);
            continue;
        }
        // A stopping instance stops. An instance that the restored records do not know goes as well. Once the old
        // instance is gone, this function places the new instance.
        let assigned = input.assigned(id).and_then(|(machine, _)| machines.get_mut(machine)?.instances.get_mut(id));
        let stopping = match assigned {
            Some(assignment) if assignment.goal == InstanceGoal::Stop => true,
            Some(assignment) => {
                assignment.goal = InstanceGoal::Run;
                false
            }
            None if input.is_reported(id) => true,
            None => {
                place(&mut machines, id.clone(), spec.clone());
                false
            }
        };
        if stopping {
            notes.entry(id.app.clone()).or_default().push(Reason::Stopping { instance: id.clone() });
        }
    }
    (machines, notes)
}

/// Places an instance on the machine with the fewest instances. Today there is only one machine; the choice among
/// several belongs in a crate of its own.
fn place(machines: &mut MachinePlans, id: InstanceId, spec: InstanceSpec) {
    let emptiest = machines.values_mut().min_by_key(|part| part.instances.len());
    if let Some(part) = emptiest {
        part.instances.insert(id, Assignment { spec, goal: InstanceGoal::Run });
    }
}

/// Decides the goal of each unwanted instance, and raises the generation of each changed part.
pub(crate) fn retire(
    mut machines: MachinePlans,
    wanted: &WantedInstances,
    desired: &DesiredCluster,
    table: &RoutingTable,
    input: &PlanningInput<'_>,
) -> MachinePlans {
    let standing_by: BTreeSet<AppName> =
        desired.apps.values().filter(|app| stands_by(app, input)).map(|app| app.app.name.clone()).collect();
    for (machine, part) in &mut machines {
        part.instances.retain(|id, assignment| {
            if wanted.contains_key(id) && assignment.goal != InstanceGoal::Stop {
                return true;
            }
            let goal = next_goal(id, assignment, standing_by.contains(&id.app), table, input);
            let stopped =
                assignment.goal == InstanceGoal::Stop && matches!(input.seen_on(machine, id), ReportedState::Absent);
            assignment.goal = goal;
            !stopped
        });
        let before = input.previous.machines.get(machine);
        if before.is_none_or(|before| before.instances != part.instances) {
            part.generation = part.generation.next();
        }
        // As with the routing table, an agent accepts only newer generations.
        let heard = input.observed.machines.get(machine).map(|report| report.generation).unwrap_or_default();
        if heard > before.map(|before| before.generation).unwrap_or_default() {
            part.generation = heard.next();
        }
    }
    machines
}

fn stands_by(app: &DesiredApp, input: &PlanningInput<'_>) -> bool {
    !app.app.destroying && app.deploys.iter().any(|deploy| input.is_baking(deploy))
}

/// Next goal of an unwanted instance: absent from the routing table, then acknowledged, drained and stopped.
fn next_goal(
    id: &InstanceId,
    assignment: &Assignment,
    standing_by: bool,
    table: &RoutingTable,
    input: &PlanningInput<'_>,
) -> InstanceGoal {
    let goal = assignment.goal;
    match goal {
        InstanceGoal::Stop => InstanceGoal::Stop,
        // A renamed app leaves the routing table before it ends, and may have requests all the same.
        InstanceGoal::Run if standing_by || input.is_named(id) || input.active_requests(id) > 0 => {
            InstanceGoal::Retire { removed_in: table.generation, since: input.now }
        }
        InstanceGoal::Run => InstanceGoal::Stop,
        InstanceGoal::Retire { removed_in, since } => {
            let drain = assignment.spec.role.drain.unwrap_or(input.policy.drain);
            let drained = input.active_requests(id) == 0 || input.retired_for(since) >= drain.millis();
            let of_dead_process = matches!(input.seen(id), ReportedState::Here(i) if i.phase == InstancePhase::Exited);
            let may_stop = !standing_by && input.routers_behind(removed_in).is_none() && (drained || of_dead_process);
            // As with a deploy's stamps, a moment in the future counts as now.
            if may_stop { InstanceGoal::Stop } else { InstanceGoal::Retire { removed_in, since: since.min(input.now) } }
        }
    }
}
