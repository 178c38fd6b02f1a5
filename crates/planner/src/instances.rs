//! Decides which instances run where, and how unwanted instances retire.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::app::Rename;
use gantry_model::{
    AllocationId, AppName, AppRoutes, Assignment, Deploy, DeployState, InstanceGoal, InstancePhase, MachineName,
    Reason, Release, Role, RoleName,
};

use crate::demand::{WantedSlots, release_step, release_step_done, spec, wanted_of};
use crate::draft::DraftParts;
use crate::input::{PlanningInput, ReportedState};
use crate::{DesiredApp, DesiredCluster};

/// The allocations that run for the wanted slots.
#[derive(Default)]
pub(crate) struct AssignedSlots {
    /// One allocation of each wanted slot that has or gets one. All other allocations retire.
    pub(crate) chosen: BTreeSet<AllocationId>,
    /// Reasons why slots of each app wait.
    pub(crate) waits: BTreeMap<AppName, Vec<Reason>>,
}

/// Every slot of the planned apps whose instance must run now.
pub(crate) fn wanted(desired: &DesiredCluster, input: &PlanningInput<'_>) -> WantedSlots {
    let mut wanted: WantedSlots = desired.apps.values().flat_map(|app| wanted_of_app(app, input)).collect();
    for app in desired.apps.values() {
        if let Some(Rename::From { name: old }) = &app.app.rename
            && let Some(old) = desired.apps.get(old)
        {
            wanted.retain(|slot, _| slot.app != old.app.name || !is_taken_over(old, app, &slot.role));
        }
    }
    wanted
}

fn wanted_of_app(app: &DesiredApp, input: &PlanningInput<'_>) -> WantedSlots {
    let mut wanted = WantedSlots::new();
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
        if let Some(slot) = release_step(release) {
            let spec = spec(&app.app, release, &release.roles[&slot.role], domain);
            wanted.insert(slot, spec.into());
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

/// Assigns a new allocation to each wanted slot without one, and returns why slots wait. This function removes no
/// allocation: [`retire`] does so once the routes are known.
pub(crate) fn assign(wanted: &WantedSlots, draft: &mut DraftParts<'_>, input: &PlanningInput<'_>) -> AssignedSlots {
    let mut assigned = AssignedSlots::default();
    for (slot, spec) in wanted {
        // An allocation that is told to stop stops. A new one takes its place.
        let current = input.current(slot).filter(|current| current.assignment.goal != InstanceGoal::Stop);
        assigned.chosen.extend(current.map(|current| current.id.clone()));
        if let Some(blocker) = input.stop_first_blocker(slot, &spec.role) {
            let reason = Reason::StopFirst { role: slot.role.clone(), instance: blocker };
            assigned.waits.entry(slot.app.clone()).or_default().push(reason);
            continue;
        }
        match current {
            Some(current) if current.assignment.goal != InstanceGoal::Run => {
                draft.set_goal(current.machine, current.id, InstanceGoal::Run);
            }
            Some(_) => {}
            None => assigned.chosen.extend(draft.place(slot, spec.clone())),
        }
    }
    assigned
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
    let mut changes: Vec<(MachineName, AllocationId, Option<InstanceGoal>)> = Vec::new();
    for (machine, id, assignment) in draft.of_app(app) {
        if chosen.contains(id) {
            continue;
        }
        if assignment.goal == InstanceGoal::Stop && matches!(input.seen_on(machine, id), ReportedState::Absent) {
            changes.push((machine.clone(), id.clone(), None));
            continue;
        }
        let goal = next_goal((machine, id, assignment), standing_by.contains(app), routes, input);
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
    routes: &AppRoutes,
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
            let of_dead_process =
                || matches!(input.seen_on(machine, id), ReportedState::Here(i) if i.phase == InstancePhase::Exited);
            let drained =
                || input.retired_for(since) >= drain.millis() || input.active_requests(id) == 0 || of_dead_process();
            let is_out = !standing_by && !input.may_be_named(machine, routes);
            let may_stop = is_out && input.routers_behind(removed_in).is_none() && drained();
            // As with a deploy's stamps, a moment in the future counts as now.
            if may_stop { InstanceGoal::Stop } else { InstanceGoal::Retire { removed_in, since: since.min(input.now) } }
        }
    }
}

/// Reports whether an instance may have or get requests. A renamed app leaves the routes before it ends, and may have
/// requests all the same. An instance that failed its checks left the routes long ago, and some router may not know.
fn may_get_requests(machine: &MachineName, id: &AllocationId, routes: &AppRoutes, input: &PlanningInput<'_>) -> bool {
    input.is_named(machine, id) || input.active_requests(id) > 0 || input.routers_behind(routes.revision).is_some()
}

/// Reports whether the previous routes name an instance and the next routes do not. The next routes may name its address
/// for another instance.
fn leaves_routes(machine: &MachineName, id: &AllocationId, routes: &AppRoutes, input: &PlanningInput<'_>) -> bool {
    let is_routed = || routes.endpoints().any(|endpoint| endpoint.allocation == *id);
    let is_address_named = || input.address(id).is_some_and(|address| routes.addresses().any(|named| named == address));
    let may_stay = || is_routed() || is_address_named() || input.may_be_named(machine, routes);
    input.is_named(machine, id) && !may_stay()
}
