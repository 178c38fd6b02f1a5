//! Preview of a deploy: the planner's own decision about a deploy that does not exist. Nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{
    AppName, Deploy, DeployCause, DeployNumber, DeployState, InstanceGoal, Kind, MachineName, Reason, Release, Slot,
};
use gantry_planner::{ClusterIndex, DesiredCluster, PlanScope, PlannerInput, PlannerPolicy, plan};

use crate::liveness::Liveness;
use crate::machines::ClusterMachines;
use crate::state::ClusterView;
use crate::step::desired;

/// Effect of a deploy that does not exist.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeployPreview {
    /// The copies that start at once, each with its machine.
    pub starts: BTreeMap<Slot, MachineName>,
    /// The copies of other releases that end, each with its machine.
    pub stops: Vec<(Slot, MachineName)>,
    /// Reasons why the deploy would wait.
    pub waits: Vec<Reason>,
}

/// Returns what a deploy of a release would do now: as if no other deploy of the app were under way, and as if the release
/// step had succeeded.
#[must_use]
pub fn preview(view: &ClusterView, release: Release) -> DeployPreview {
    let (records, observed) = (&*view.records, &*view.observed);
    let (name, previous) = (release.app.clone(), &*records.plan);
    let mut index = ClusterIndex::of(previous, observed);
    let mut machines = ClusterMachines { liveness: Liveness::of(&view.states), ..ClusterMachines::default() };
    machines.load(records, &mut index);
    let scope = scope_of(view, &name);
    let mut desired = desired(records, &scope.apps);
    let number = release.number;
    add_deploy(&mut desired, release, view);
    let policy = &PlannerPolicy::from(&records.policy);
    let input =
        PlannerInput { scope: &scope, desired: &desired, observed, previous, index: &index, policy, now: view.now };
    let decision = plan(&input, &mut machines.loads);
    let planned = decision.applied_to(previous);
    let of_app = || planned.assignments_of(&name).filter(|(_, _, assigned)| assigned.spec.role.kind == Kind::Service);
    let is_new = |id: &gantry_model::AllocationId| id.slot.release == number;
    let starts = of_app().filter(|(_, id, _)| is_new(id));
    let old = previous.assignments_of(&name).filter(|(_, id, assigned)| {
        !is_new(id) && assigned.goal == InstanceGoal::Run && assigned.spec.role.kind == Kind::Service
    });
    DeployPreview {
        starts: starts.map(|(machine, id, _)| (id.slot.clone(), machine.clone())).collect(),
        stops: old.map(|(machine, id, _)| (id.slot.clone(), machine.clone())).collect(),
        waits: decision.report.waits.get(&name).cloned().unwrap_or_default(),
    }
}

/// The app, and the other app of its rename.
fn scope_of(view: &ClusterView, name: &AppName) -> PlanScope {
    let other = view.records.apps.get(name).and_then(|app| app.renamed().cloned());
    PlanScope { apps: other.into_iter().chain([name.clone()]).collect(), ..PlanScope::default() }
}

/// Adds a deploy of the release to its app, in the place of all others. The release has no release step.
fn add_deploy(desired: &mut DesiredCluster, mut release: Release, view: &ClusterView) {
    let Some(app) = desired.apps.get_mut(&release.app) else { return };
    release.roles.retain(|_, role| role.kind == Kind::Service);
    let number = DeployNumber(app.app.last_deploy.saturating_add(1));
    let cause = DeployCause::Config { keys: Vec::new() };
    let mut deploy = Deploy::new(release.app.clone(), number, cause, String::new(), true, view.now);
    deploy.enter(DeployState::Placing, view.now);
    (deploy.release, deploy.previous) = (Some(release.number), app.app.current);
    app.app.last_release = release.number.0;
    app.releases.insert(release.number, Arc::new(release));
    app.deploys = vec![deploy];
}
