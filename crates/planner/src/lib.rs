//! The planner: `(desired, observed, previous plan, now)` to `(plan, deploys, report)`.
//!
//! Pure: no I/O, no clock, no randomness; its manifest names nothing that could do either. Whoever carries the plan out
//! makes no choices. Called again with its own result and nothing new, it changes nothing, and each call makes at most
//! one transition per deploy, so that a process that dies between two calls loses nothing.
//!
//! Begin with [`plan`]. The parts, in the order they run:
//! - `deploys`: each app's active deploy takes at most one step of its state machine;
//! - `instances`: what is to run, and what becomes of what no longer is;
//! - `table`: what routers route, after the barrier rules;
//! - [`audit`]: the invariants, written without regard to how the plan came about; run after every test.
//!
//! Rejected: storing the plan's steps as a list of commands. A list has to be resumed; a state is simply read again.

mod audit;
mod deploys;
mod instances;
mod scene;
mod table;

use std::collections::BTreeMap;

use gantry_model::{
    App, AppName, Deploy, HostName, Moment, Observed, Plan, Reason, Release, ReleaseNumber, Seconds, TrustedProxies,
};
use serde::{Deserialize, Serialize};

pub use audit::{Violation, audit};
use scene::Scene;

/// What is asked for: every app with what belongs to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// By name.
    pub apps: BTreeMap<AppName, DesiredApp>,
    /// Proxies that every app trusts.
    pub trusted_proxies: TrustedProxies,
}

/// One app, its releases and its deploys.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredApp {
    /// The app.
    pub app: App,
    /// At least the current release and those that a deploy under way names.
    pub releases: BTreeMap<ReleaseNumber, Release>,
    /// The deploys that are not final, oldest first.
    pub deploys: Vec<Deploy>,
}

/// The rules that an operator may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long a retired instance may finish its requests.
    pub drain: Seconds,
    /// How long the old release stands by after promotion.
    pub watch: Seconds,
    /// How long a deploy may make no progress.
    pub progress: Seconds,
    /// Every app is reached as `<app>.<domain>`.
    pub domain: HostName,
}

impl Policy {
    /// The defaults of the design for `domain`.
    #[must_use]
    pub fn new(domain: HostName) -> Self {
        Self { drain: Seconds(30), watch: Seconds(15), progress: Seconds(120), domain }
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The next state of everything.
    pub plan: Plan,
    /// The apps whose record changes.
    pub apps: Vec<App>,
    /// The deploys whose record changes.
    pub deploys: Vec<Deploy>,
    /// Destroyed apps of which nothing is left: their records may go.
    pub gone: Vec<AppName>,
    /// Why.
    pub report: Report,
}

/// The reasons beside a plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What each app waits for, most important first.
    pub waits: BTreeMap<AppName, Vec<Reason>>,
}

/// Decides the next plan.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, previous: &Plan, policy: &Policy, now: Moment) -> Decision {
    let scene = Scene { observed, previous, policy, now };
    let mut next = desired.clone();
    let mut report = Report::default();
    let (mut apps, mut deploys) = (Vec::new(), Vec::new());
    for (name, app) in &mut next.apps {
        app.deploys.iter_mut().for_each(|deploy| end_the_future(deploy, now));
        skip_numbers_in_use(&mut app.app, observed);
        let waits = deploys::advance(app, &scene);
        if !waits.is_empty() {
            report.waits.insert(name.clone(), waits);
        }
        let before = &desired.apps[name];
        if app.app != before.app {
            apps.push(app.app.clone());
        }
        deploys.extend(app.deploys.iter().filter(|deploy| !before.deploys.contains(deploy)).cloned());
    }
    let wanted = instances::wanted(&next, &scene);
    let (machines, mut notes) = instances::assign(&wanted, &scene);
    let table = table::compose(&next, &wanted, &machines, &scene);
    let machines = instances::retire(machines, &wanted, &next, &table, &scene);
    for (app, reasons) in &mut notes {
        report.waits.entry(app.clone()).or_default().append(reasons);
    }
    let plan = Plan { machines, table };
    let gone = next.apps.values().filter(|app| is_gone(app, &plan)).map(|app| app.app.name.clone()).collect();
    Decision { plan, apps, deploys, gone, report }
}

/// Records out of a backup know nothing of the releases that came after it. Where a machine still has one, its number is not
/// given to another: an instance's name says what runs in it.
fn skip_numbers_in_use(app: &mut App, observed: &Observed) {
    let reported = observed.machines.values().flat_map(|report| report.instances.keys());
    let highest = reported.filter(|id| id.app == app.name).map(|id| id.release.0).max().unwrap_or_default();
    app.last_release = app.last_release.max(highest);
}

/// A stamp in the future counts as now: a wall clock that went back while no planner ran holds nothing up.
fn end_the_future(deploy: &mut Deploy, now: Moment) {
    deploy.entered = deploy.entered.min(now);
    deploy.progressed = deploy.progressed.min(now);
}

fn is_gone(app: &DesiredApp, plan: &Plan) -> bool {
    app.app.destroying
        && app.deploys.iter().all(|deploy| deploy.state.is_final())
        && plan.assignments().all(|(_, id, _)| id.app != app.app.name)
}
