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
//! Begin with [`plan`]. The parts, in the order they run; each uses only `input`, `demand` and `draft`:
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

mod demand;
mod deploys;
mod draft;
mod index;
mod input;
mod instances;
mod loads;
mod moves;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::{
    AllocationNumbers, App, AppName, AppRoutes, ClusterPolicy, Deploy, HostName, MachineName, MachinePlan,
    MachineTunnels, Moment, ObservedCluster, Plan, Reason, Release, ReleaseNumber, RoutingHead, Seconds,
    TrustedProxies,
};
use gantry_placement::MachineReadiness;
use serde::{Deserialize, Serialize};

use draft::DraftParts;
use input::PlanningInput;
use instances::AssignedSlots;
use routes::Revisions;

pub use index::ClusterIndex;
pub use loads::{MachineLoads, unregistered};

/// The desired state: apps with their releases and deploys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DesiredCluster {
    /// Apps by name.
    pub apps: BTreeMap<AppName, DesiredApp>,
    /// Proxies that every app trusts.
    pub trusted_proxies: TrustedProxies,
    /// Tunnel addresses of the machines.
    pub tunnels: MachineTunnels,
}

/// One app, its releases and its deploys.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredApp {
    /// The app.
    pub app: App,
    /// Releases by number: at least the current release and those that an unfinished deploy names.
    pub releases: BTreeMap<ReleaseNumber, Arc<Release>>,
    /// The deploys that are not final, oldest first.
    pub deploys: Vec<Deploy>,
}

/// Policy that an operator may set.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannerPolicy {
    /// Drain time: how long a retired instance may finish its requests.
    pub drain: Seconds,
    /// Bake time: how long the old release stands by after promotion.
    pub watch: Seconds,
    /// Deploy deadline: how long a deploy may make no progress.
    pub progress: Seconds,
    /// Domain of all apps: each app is reached as `<app>.<domain>`.
    pub domain: HostName,
    /// Budget of moves that spread the copies of a role.
    pub rebalance: RebalanceBudget,
}

/// Budget of moves that spread the copies of a role over machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebalanceBudget {
    /// Most copies of a role that move at the same time.
    pub copies: u16,
    /// How long all copies of a role must be ready before one of them moves.
    pub interval: Seconds,
}

impl From<&ClusterPolicy> for RebalanceBudget {
    fn from(policy: &ClusterPolicy) -> Self {
        Self { copies: policy.rebalance_copies(), interval: policy.rebalance_interval() }
    }
}

impl PlannerPolicy {
    /// Creates the default policy for `domain`.
    #[must_use]
    pub fn new(domain: HostName) -> Self {
        Self { domain, ..Self::from(&ClusterPolicy::default()) }
    }
}

impl From<&ClusterPolicy> for PlannerPolicy {
    fn from(policy: &ClusterPolicy) -> Self {
        Self {
            drain: policy.drain(),
            watch: policy.bake_time(),
            progress: policy.deadline(),
            domain: policy.domain(),
            rebalance: RebalanceBudget::from(policy),
        }
    }
}

/// Scope of a planning pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanScope {
    /// The apps, including apps that have instances or routes and no record. Both apps of a rename are in the scope, or
    /// none.
    pub apps: BTreeSet<AppName>,
    /// Machines whose reports are news.
    pub machines: BTreeSet<MachineName>,
}

/// Inputs of a planning pass.
#[derive(Debug, Clone, Copy)]
pub struct PlannerInput<'a> {
    /// The apps and machines to plan.
    pub scope: &'a PlanScope,
    /// The apps of the scope that have a record.
    pub desired: &'a DesiredCluster,
    /// The latest reports.
    pub observed: &'a ObservedCluster,
    /// The plan before.
    pub previous: &'a Plan,
    /// The index over `previous` and `observed`.
    pub index: &'a ClusterIndex,
    /// Policy of the cluster.
    pub policy: &'a PlannerPolicy,
    /// The present moment.
    pub now: Moment,
}

/// Result of a planning pass: everything that changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlanDecision {
    /// The numbers of allocations that change. To be written before the parts that have the allocations.
    pub numbers: BTreeMap<AppName, Arc<AllocationNumbers>>,
    /// The machines' parts that change.
    pub machines: BTreeMap<MachineName, Arc<MachinePlan>>,
    /// The part that all routes share, if it changes. To be written before the routes.
    pub routing: Option<RoutingHead>,
    /// The routes that change, by rising revision. The routes of one group are to be written in one transaction: hosts
    /// move from one app of the group to another.
    pub routes: Vec<RoutesGroup>,
    /// The apps whose records change.
    pub apps: Vec<App>,
    /// The deploys whose records change.
    pub deploys: Vec<Deploy>,
    /// Destroyed apps without remaining instances: their records can be deleted.
    pub gone: Vec<AppName>,
    /// Reasons for the plan, for each app of the scope that waits.
    pub report: PlanReport,
}

/// Routes that change together.
pub type RoutesGroup = Vec<(AppName, Arc<AppRoutes>)>;

impl PlanDecision {
    /// Reports whether no record changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { numbers, machines, routing, routes, apps, deploys, gone, report: _ } = self;
        numbers.is_empty()
            && machines.is_empty()
            && routing.is_none()
            && routes.is_empty()
            && apps.is_empty()
            && deploys.is_empty()
            && gone.is_empty()
    }

    /// Returns the plan that the decision leads to.
    #[must_use]
    pub fn applied_to(&self, previous: &Plan) -> Plan {
        let mut plan = previous.clone();
        plan.numbers.extend(self.numbers.iter().map(|(app, numbers)| (app.clone(), Arc::clone(numbers))));
        plan.machines.extend(self.machines.iter().map(|(machine, part)| (machine.clone(), Arc::clone(part))));
        self.routing.iter().for_each(|head| plan.put_routing(head.clone()));
        self.routes.iter().flatten().for_each(|(app, routes)| plan.put_routes(app.clone(), Arc::clone(routes)));
        plan
    }
}

/// Reasons that accompany a plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// Reasons why each app waits, most important first.
    pub waits: BTreeMap<AppName, Vec<Reason>>,
}

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
    let wanted = instances::wanted(&next, &input, loads);
    let mut draft = DraftParts::new(&input, loads);
    let AssignedSlots { chosen, waits } = instances::assign(&next, &wanted, &mut draft, &input);
    instances::record_data(&mut next, &wanted, &chosen, &draft);
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
