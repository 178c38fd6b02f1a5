//! The planner: `(desired, observed, previous plan, now)` to `(plan, deploys, report)`, for the apps that changed.
//!
//! The planner is pure: no I/O, no clock, no randomness; its manifest names no crate that offers them. The
//! executors make no choices. A second call with the planner's own result and no news changes nothing. Each call makes
//! at most one transition per deploy, so a process that dies between two calls loses nothing.
//!
//! A call plans the apps in its scope and looks at no other app: its cost is that of these apps, whatever the size of
//! the cluster. Planning the apps that an event affects gives the same as planning everything. The two apps of a rename
//! are always planned together.
//!
//! Begin with [`plan`]: from `scope`, `desired` and `policy` to a `decision`. The parts, in the order they run; each uses
//! only `input`, `demand` and `draft`:
//! - `index`: which machines have instances of an app; the caller keeps the index between calls;
//! - `input`: the inputs, indexed by app; `demand`: the instances that a release asks for;
//! - `deploys`: each app's active deploy takes at most one transition of its state machine;
//! - `instances`: which instances run, and how unwanted instances retire; `draft`: the machines' parts under way;
//! - `moves`: which copies leave their machine; `loads`: the machines with their loads, kept by the caller;
//! - `routes`: each app's routes, after the barrier rules.
//!
//! The crate `gantry-plan-audit` checks the invariants, without regard to how the planner computed the plan.
//!
//! Rejected: storing the plan's steps as a list of commands. A list must be resumed; a state is simply read again.

mod decision;
mod demand;
mod deploys;
mod desired;
mod draft;
mod index;
mod input;
mod instances;
mod loads;
mod moves;
mod named;
mod policy;
mod routes;
mod scope;

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{App, AppName, Deploy, Moment, ObservedCluster, Plan};
use gantry_placement::MachineReadiness;

use draft::DraftParts;
use input::PlanningInput;
use instances::AssignedSlots;
use routes::Revisions;

pub use decision::{PlanDecision, PlanReport, RoutesGroup};
pub use desired::{DesiredApp, DesiredCluster};
pub use index::ClusterIndex;
pub use loads::{MachineLoads, unregistered};
pub use policy::{PlannerPolicy, RebalanceBudget};
pub use scope::{PlanScope, PlannerInput};

/// Plans all apps and machines, and builds the indexes for this call alone. All machines that report take copies.
#[must_use]
pub fn plan_everything(
    desired: &DesiredCluster,
    observed: &ObservedCluster,
    previous: &Plan,
    policy: &PlannerPolicy,
    now: Moment,
) -> PlanDecision {
    let index = ClusterIndex::of(previous, observed);
    let apps = desired.apps.keys().chain(previous.routes.keys()).chain(index.assigned_apps());
    let scope = PlanScope { apps: apps.cloned().collect(), machines: observed.machines.keys().cloned().collect() };
    let machines = observed.machines.keys().map(|machine| unregistered(machine.clone(), MachineReadiness::Ready));
    let mut loads = MachineLoads::of(machines, previous);
    plan(&PlannerInput { scope: &scope, desired, observed, previous, index: &index, policy, now }, &mut loads)
}

/// Decides the next plan of the apps and machines in the scope. `loads` are those of the previous plan, and the same when
/// this function returns: they change once the plan is written.
#[must_use]
pub fn plan(inputs: &PlannerInput<'_>, loads: &mut MachineLoads) -> PlanDecision {
    let PlannerInput { scope, desired, previous, .. } = *inputs;
    let input = PlanningInput::new(inputs, renames(desired));
    let mut next = desired.clone();
    let mut decision = PlanDecision::default();
    for (name, app) in &mut next.apps {
        advance(app, &desired.apps[name], &input, loads, &mut decision);
    }
    let desired_slots = instances::desired_slots(&next, &input, loads);
    let mut draft = DraftParts::new(&input, loads);
    let AssignedSlots { chosen, waits } = instances::assign(&next, &desired_slots, &mut draft, &input);
    instances::record_data(&mut next, &desired_slots, &chosen, &draft);
    let is_changed = |app: &&DesiredApp| app.app != desired.apps[&app.app.name].app;
    decision.apps.extend(next.apps.values().filter(is_changed).map(|app| app.app.clone()));
    for (app, mut reasons) in waits {
        decision.report.waits.entry(app).or_default().append(&mut reasons);
    }
    let mut revisions = Revisions::new(desired, &input);
    let standing_by = instances::standing_by(&next, &input);
    for pair in pairs(scope, &input) {
        let mut group = RoutesGroup::new();
        for app in pair {
            let routes = routes::compose(app, &next, &chosen, &draft, &input);
            let numbered = revisions.number(routes, previous.routes.get(app).map(AsRef::as_ref));
            if numbered.changed {
                group.push((app.clone(), Arc::clone(&numbered.routes)));
            }
            instances::retire(app, &chosen, &standing_by, &numbered.routes, &mut draft, &input);
        }
        if !group.is_empty() {
            decision.routes.push(group);
        }
    }
    decision.routing = revisions.head;
    decision.gone =
        next.apps.values().filter(|app| is_gone(app, previous, &draft)).map(|app| app.app.name.clone()).collect();
    (decision.numbers, decision.machines) = draft.finish(&scope.machines);
    decision
}

/// Advances the deploys of an app, and notes what changes.
fn advance(
    app: &mut DesiredApp,
    before: &DesiredApp,
    input: &PlanningInput<'_>,
    loads: &MachineLoads,
    decision: &mut PlanDecision,
) {
    app.deploys.iter_mut().for_each(|deploy| end_the_future(deploy, input.now));
    skip_numbers_in_use(&mut app.app, input);
    let waits = deploys::advance(app, input, loads);
    if !waits.is_empty() {
        decision.report.waits.insert(app.app.name.clone(), waits);
    }
    decision.deploys.extend(app.deploys.iter().filter(|deploy| !before.deploys.contains(deploy)).cloned());
}

/// The apps of the scope; both apps of a rename are one element.
fn pairs<'a>(scope: &'a PlanScope, input: &'a PlanningInput<'_>) -> Vec<Vec<&'a AppName>> {
    let mut pairs: Vec<Vec<&AppName>> = Vec::new();
    for app in &scope.apps {
        match input.renamed(app).filter(|other| scope.apps.contains(other)) {
            // The first of the two apps brings the other.
            Some(other) if *other < *app && input.renamed(other) == Some(app) => {}
            Some(other) if input.renamed(other) == Some(app) => pairs.push(vec![app, other]),
            _ => pairs.push(vec![app]),
        }
    }
    pairs
}

/// For both apps of each rename under way, the other app.
fn renames(desired: &DesiredCluster) -> BTreeMap<AppName, AppName> {
    let other = |app: &DesiredApp| Some((app.app.name.clone(), app.app.renamed()?.clone()));
    desired.apps.values().filter_map(other).collect()
}

/// Skips release numbers that a machine still uses. After a restore, the records lack the releases made since the
/// backup. Such a number must not be reused, because an allocation's id identifies the release inside.
fn skip_numbers_in_use(app: &mut App, input: &PlanningInput<'_>) {
    let highest = input.highest_reported_release(&app.name).unwrap_or_default();
    app.last_release = app.last_release.max(highest);
}

/// Replaces future stamps by `now`, so that a wall clock that went back while no planner ran delays nothing.
fn end_the_future(deploy: &mut Deploy, now: Moment) {
    deploy.entered = deploy.entered.min(now);
    deploy.progressed = deploy.progressed.min(now);
}

/// Reports whether nothing is left of a destroyed app. Its empty routes must be written first, because routers learn of
/// a change only by its revision.
fn is_gone(app: &DesiredApp, previous: &Plan, draft: &DraftParts<'_>) -> bool {
    app.app.destroying
        && previous.routes.get(&app.app.name).is_none_or(|routes| routes.is_empty())
        && app.deploys.iter().all(|deploy| deploy.state.is_final())
        && draft.of_app(&app.app.name).is_empty()
}
