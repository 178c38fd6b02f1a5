//! The planner: `(desired, observed, previous plan, now)` to `(plan, deploys, report)`.
//!
//! The planner is pure: no I/O, no clock, no randomness; its manifest names no crate that offers them. The
//! executors make no choices. A second call with the planner's own result and no news changes nothing. Each call makes
//! at most one transition per deploy, so a process that dies between two calls loses nothing.
//!
//! Begin with [`plan`]. The parts, in the order they run; each uses only `input` and `demand`, never another part:
//! - `input`: the inputs, indexed by app; `demand`: the instances that a release asks for;
//! - `deploys`: each app's active deploy takes at most one transition of its state machine;
//! - `instances`: which instances run, and how unwanted instances retire;
//! - `table`: the routing table, after the barrier rules;
//!
//! The crate `gantry-plan-audit` checks the invariants, without regard to how the planner computed the plan.
//!
//! Rejected: storing the plan's steps as a list of commands. A list must be resumed; a state is simply read again.

mod demand;
mod deploys;
mod input;
mod instances;
mod table;

use std::collections::BTreeMap;

use gantry_model::app::Rename;
use gantry_model::{
    App, AppName, Deploy, HostName, Moment, ObservedCluster, Plan, Reason, Release, ReleaseNumber, Seconds,
    TrustedProxies, defaults,
};
use serde::{Deserialize, Serialize};

use input::PlanningInput;

/// The desired state: every app with its releases and deploys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DesiredCluster {
    /// Apps by name.
    pub apps: BTreeMap<AppName, DesiredApp>,
    /// Proxies that every app trusts.
    pub trusted_proxies: TrustedProxies,
}

/// One app, its releases and its deploys.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredApp {
    /// The app.
    pub app: App,
    /// Releases by number: at least the current release and those that an unfinished deploy names.
    pub releases: BTreeMap<ReleaseNumber, Release>,
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
}

impl PlannerPolicy {
    /// Creates the default policy for `domain`.
    #[must_use]
    pub fn new(domain: HostName) -> Self {
        Self { drain: defaults::DRAIN_TIME, watch: defaults::BAKE_TIME, progress: defaults::DEPLOY_DEADLINE, domain }
    }
}

/// Result of a planning pass.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanDecision {
    /// The next state of all machines and routers.
    pub plan: Plan,
    /// The apps whose records change.
    pub apps: Vec<App>,
    /// The deploys whose records change.
    pub deploys: Vec<Deploy>,
    /// Destroyed apps without remaining instances: their records can be deleted.
    pub gone: Vec<AppName>,
    /// Reasons for the plan.
    pub report: PlanReport,
}

/// Reasons that accompany a plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// Reasons why each app waits, most important first.
    pub waits: BTreeMap<AppName, Vec<Reason>>,
}

/// Decides the next plan.
#[must_use]
pub fn plan(
    desired: &DesiredCluster,
    observed: &ObservedCluster,
    previous: &Plan,
    policy: &PlannerPolicy,
    now: Moment,
) -> PlanDecision {
    let input = PlanningInput::new(observed, previous, policy, renames(desired), now);
    let mut next = desired.clone();
    let mut report = PlanReport::default();
    let (mut apps, mut deploys) = (Vec::new(), Vec::new());
    for (name, app) in &mut next.apps {
        app.deploys.iter_mut().for_each(|deploy| end_the_future(deploy, now));
        skip_numbers_in_use(&mut app.app, &input);
        let waits = deploys::advance(app, &input);
        if !waits.is_empty() {
            report.waits.insert(name.clone(), waits);
        }
        let before = &desired.apps[name];
        if app.app != before.app {
            apps.push(app.app.clone());
        }
        deploys.extend(app.deploys.iter().filter(|deploy| !before.deploys.contains(deploy)).cloned());
    }
    let wanted = instances::wanted(&next, &input);
    let (machines, mut notes) = instances::assign(&wanted, &input);
    let table = table::compose(&next, &wanted, &machines, &input);
    let machines = instances::retire(machines, &wanted, &next, &table, &input);
    for (app, reasons) in &mut notes {
        report.waits.entry(app.clone()).or_default().append(reasons);
    }
    let plan = Plan { machines, table };
    let gone = next.apps.values().filter(|app| is_gone(app, &plan)).map(|app| app.app.name.clone()).collect();
    PlanDecision { plan, apps, deploys, gone, report }
}

/// For both apps of each rename under way, the other app.
fn renames(desired: &DesiredCluster) -> BTreeMap<AppName, AppName> {
    let other = |app: &DesiredApp| match &app.app.rename {
        Some(Rename::To { name } | Rename::From { name }) => Some((app.app.name.clone(), name.clone())),
        None => None,
    };
    desired.apps.values().filter_map(other).collect()
}

/// Skips release numbers that a machine still uses. After a restore, the records lack the releases made since the
/// backup. Such a number must not be reused, because an instance's id identifies the release inside.
fn skip_numbers_in_use(app: &mut App, input: &PlanningInput<'_>) {
    let highest = input.highest_reported_release(&app.name).unwrap_or_default();
    app.last_release = app.last_release.max(highest);
}

/// Replaces future stamps by `now`, so that a wall clock that went back while no planner ran delays nothing.
fn end_the_future(deploy: &mut Deploy, now: Moment) {
    deploy.entered = deploy.entered.min(now);
    deploy.progressed = deploy.progressed.min(now);
}

fn is_gone(app: &DesiredApp, plan: &Plan) -> bool {
    app.app.destroying
        && app.deploys.iter().all(|deploy| deploy.state.is_final())
        && plan.assignments().all(|(_, id, _)| id.app != app.app.name)
}
