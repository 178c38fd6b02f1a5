//! Decides which instances run where, and how unwanted instances retire.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::app::Rename;
use gantry_model::{
    AppName, AppRoutes, Assignment, Deploy, DeployState, InstanceGoal, InstanceId, InstancePhase, MachineName, Reason,
    Release, Role, RoleName,
};

use crate::demand::{WantedInstances, release_step, release_step_done, spec, wanted_of};
use crate::draft::DraftParts;
use crate::input::{PlanningInput, ReportedState};
use crate::{DesiredApp, DesiredCluster};

type WaitReasons = BTreeMap<AppName, Vec<Reason>>;

/// Every instance of the planned apps that must run now.
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

fn wanted_of_app(app: &DesiredApp, input: &PlanningInput<'_>) -> WantedInstances {
    let mut wanted = WantedInstances::new();
    if app.app.destroying {
        return wanted;
    }
    let domain = &input.policy.domain;
    let coming = coming(app);
    if let Some(current) = current_release(app) {
        let handed_over = |role: &RoleName| coming.is_some_and(|(_, new)| hands_over(current, new, role));
        wanted.extend(wanted_of(&app.app, current, domain, handed_over));
    }
    if let Some((deploy, release)) = coming {
        if let Some(id) = release_step(release) {
            let spec = spec(&app.app, release, &release.roles[&id.role], domain, true);
            wanted.insert(id, spec.into());
        }
        if deploy.state != DeployState::Starting || release_step_done(release, input) {
            wanted.extend(wanted_of(&app.app, release, domain, |_| false));
        }
    }
    wanted
}

/// Reports whether the successor of a renamed app takes the role over at once. The role then leaves the old app as soon
/// as the successor starts.
fn is_taken_over(old: &DesiredApp, successor: &DesiredApp, role: &RoleName) -> bool {
    let new = coming(successor).map(|(_, release)| release).or_else(|| current_release(successor));
    new.zip(current_release(old)).is_some_and(|(new, current)| hands_over(current, new, role))
}

fn current_release(app: &DesiredApp) -> Option<&Release> {
    app.releases.get(&app.app.current?).map(AsRef::as_ref)
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

/// Assigns wanted instances that have no machine yet, and returns why instances wait. This function removes no instance:
/// [`retire`] does so once the routes are known.
pub(crate) fn assign(wanted: &WantedInstances, draft: &mut DraftParts<'_>, input: &PlanningInput<'_>) -> WaitReasons {
    let mut notes = WaitReasons::new();
    for (id, spec) in wanted {
        if let Some(blocker) = input.stop_first_blocker(id, &spec.role) {
            let reason = Reason::StopFirst { role: id.role.clone(), instance: blocker };
            notes.entry(id.app.clone()).or_default().push(reason);
            continue;
        }
        // A stopping instance stops. An instance that the restored records do not know goes as well. Once the old
        // instance is gone, this function places the new instance.
        let stopping = match input.assigned(id) {
            Some((_, assignment)) if assignment.goal == InstanceGoal::Stop => true,
            Some((machine, assignment)) => {
                if assignment.goal != InstanceGoal::Run {
                    draft.set_goal(machine, id, InstanceGoal::Run);
                }
                false
            }
            None if input.is_reported(id) => true,
            None => {
                draft.place(id.clone(), spec.clone());
                false
            }
        };
        if stopping {
            notes.entry(id.app.clone()).or_default().push(Reason::Stopping { instance: id.clone() });
        }
    }
    notes
}

/// Decides the goal of each unwanted instance of an app.
pub(crate) fn retire(
    app: &AppName,
    wanted: &WantedInstances,
    standing_by: &BTreeSet<AppName>,
    routes: &AppRoutes,
    draft: &mut DraftParts<'_>,
    input: &PlanningInput<'_>,
) {
    let mut changes: Vec<(MachineName, InstanceId, Option<InstanceGoal>)> = Vec::new();
    for (machine, id, assignment) in draft.of_app(app) {
        if wanted.contains_key(id) && assignment.goal != InstanceGoal::Stop {
            continue;
        }
        if assignment.goal == InstanceGoal::Stop && matches!(input.seen_on(machine, id), ReportedState::Absent) {
            changes.push((machine.clone(), id.clone(), None));
            continue;
        }
        let goal = next_goal(id, assignment, standing_by.contains(app), routes, input);
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
    id: &InstanceId,
    assignment: &Assignment,
    standing_by: bool,
    routes: &AppRoutes,
    input: &PlanningInput<'_>,
) -> InstanceGoal {
    let goal = assignment.goal;
    match goal {
        InstanceGoal::Stop => InstanceGoal::Stop,
        // A renamed app leaves the routes before it ends, and may have requests all the same.
        InstanceGoal::Run if standing_by || input.is_named(id) || input.active_requests(id) > 0 => {
            InstanceGoal::Retire { removed_in: routes.revision, since: input.now }
        }
        InstanceGoal::Run => InstanceGoal::Stop,
        // The part that retires the instance was written, and the routes without the instance were not: another change
        // may have got their revision.
        InstanceGoal::Retire { since, .. } if leaves_routes(id, routes, input) => {
            InstanceGoal::Retire { removed_in: routes.revision, since: since.min(input.now) }
        }
        InstanceGoal::Retire { removed_in, since } => {
            let drain = assignment.spec.role.drain.unwrap_or(input.policy.drain);
            let of_dead_process =
                || matches!(input.seen(id), ReportedState::Here(i) if i.phase == InstancePhase::Exited);
            let drained =
                || input.retired_for(since) >= drain.millis() || input.active_requests(id) == 0 || of_dead_process();
            let may_stop = !standing_by && input.routers_behind(removed_in).is_none() && drained();
            // As with a deploy's stamps, a moment in the future counts as now.
            if may_stop { InstanceGoal::Stop } else { InstanceGoal::Retire { removed_in, since: since.min(input.now) } }
        }
    }
}

/// Reports whether the previous routes name an instance and the next routes do not. The next routes may name its address
/// for another instance.
fn leaves_routes(id: &InstanceId, routes: &AppRoutes, input: &PlanningInput<'_>) -> bool {
    let is_routed = || routes.endpoints().any(|endpoint| endpoint.instance == *id);
    let is_address_named = || input.address(id).is_some_and(|address| routes.addresses().any(|named| named == address));
    input.is_named(id) && !is_routed() && !is_address_named()
}
