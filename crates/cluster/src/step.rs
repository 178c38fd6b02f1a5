//! Plans one step and returns its changes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_admission::events_of_deploys;
use gantry_model::{App, AppName, Deploy, Moment, Scope};
use gantry_plan_audit::{AuditInput, RoutableReleases, audit};
use gantry_planner::{
    ClusterIndex, DesiredApp, DesiredCluster, PlanDecision, PlanReport, PlanScope, PlannerInput, PlannerPolicy, plan,
};

use crate::dirty::DirtySet;
use crate::machines::ClusterMachines;
use crate::state::ClusterView;
use crate::transactions::ChangeGroup;
use gantry_records::{
    DestroyedApp, RecordChange, RecordIndex, StoreRecord, build_key, code_key, deploy_key, manifest_key, numbers_key,
    packs_key, release_key, routes_key, tag_key, token_key,
};

/// One planned step.
pub struct PlannedStep {
    /// Changes in the order in which they are written; see `transactions`.
    pub groups: Vec<ChangeGroup>,
    /// The apps that were planned.
    pub apps: BTreeSet<AppName>,
    /// Reasons of the planned apps that wait.
    pub report: PlanReport,
}

/// Plans the next step for everything in `dirty`; returns `None` if nothing is dirty.
pub(crate) fn plan_step(
    view: &ClusterView,
    index: &ClusterIndex,
    machines: &mut ClusterMachines,
    dirty: &DirtySet,
    now: Moment,
) -> Option<PlannedStep> {
    if dirty.is_empty() {
        return None;
    }
    let records = &*view.records;
    let policy = &PlannerPolicy::from(&records.policy);
    let scope = scope(view, index, dirty);
    let (desired, observed, previous) = (desired(records, &scope.apps), &*view.observed, &*records.plan);
    let input = PlannerInput { scope: &scope, desired: &desired, observed, previous, index, policy, now };
    let decision = plan(&input, &mut machines.loads);
    if cfg!(debug_assertions) {
        assert_audited(&decision, view, machines, now);
    }
    let PlanDecision { numbers, machines, routing, routes, apps, deploys, gone, report } = decision;
    let mut of_apps: BTreeMap<AppName, ChangeGroup> = BTreeMap::new();
    let mut general = ChangeGroup::new();
    for change in events_of_deploys(records, &deploys, now) {
        match app_of(&change) {
            Some(app) => of_apps.entry(app).or_default().push(change),
            None => general.push(change),
        }
    }
    // A transaction may write each key only once, so the records of a removed app are not changed before.
    let stays = |app: &AppName| !gone.contains(app);
    let (changed, ended): (Vec<App>, Vec<App>) = apps.into_iter().partition(|app| stays(&app.name));
    for app in changed {
        of_apps.entry(app.name.clone()).or_default().push(StoreRecord::App(app).into());
    }
    for deploy in deploys.into_iter().filter(|deploy| stays(&deploy.app)) {
        of_apps.entry(deploy.app.clone()).or_default().push(StoreRecord::Deploy(deploy).into());
    }
    let one = |record: StoreRecord| vec![RecordChange::from(record)];
    let mut groups: Vec<ChangeGroup> =
        numbers.into_iter().map(|(app, numbers)| one(StoreRecord::Numbers(app, numbers))).collect();
    let parts = machines.into_iter().map(|(name, part)| one(StoreRecord::Machine(name, part)));
    groups.extend(parts);
    // The removal of routes must not take the highest revision with it.
    let routing = routing.or_else(|| (!gone.is_empty()).then(|| previous.routing.clone()));
    groups.extend(routing.map(|head| one(StoreRecord::Routing(head))));
    for group in routes {
        let kept = group.into_iter().filter(|(app, _)| stays(app));
        groups.push(kept.map(|(app, routes)| StoreRecord::Routes(app, routes).into()).collect());
    }
    groups.push(general);
    groups.extend(of_apps.into_values());
    for app in &gone {
        let last = ended.iter().find(|ended| ended.name == *app).or_else(|| records.apps.get(app).map(AsRef::as_ref));
        groups.push(last.map(|app| last_numbers(app, now)).into_iter().chain(removal(records, app)).collect());
    }
    groups.retain(|group| !group.is_empty());
    Some(PlannedStep { groups, apps: scope.apps, report })
}

/// Returns what the planner must look at: dirty apps with the other apps of their renames, and dirty machines.
fn scope(view: &ClusterView, index: &ClusterIndex, dirty: &DirtySet) -> PlanScope {
    let (records, observed) = (&*view.records, &*view.observed);
    if dirty.everything {
        let apps = records.apps.keys().chain(records.plan.routes.keys()).chain(index.assigned_apps());
        return PlanScope { apps: apps.cloned().collect(), machines: observed.machines.keys().cloned().collect() };
    }
    let mut apps = dirty.apps.clone();
    apps.extend(dirty.apps.iter().filter_map(|app| records.apps.get(app)?.renamed().cloned()));
    PlanScope { apps, machines: dirty.machines.clone() }
}

/// Audits a decision before its write. A violation is an error of the planner: the process ends without the write.
fn assert_audited(decision: &PlanDecision, view: &ClusterView, machines: &ClusterMachines, now: Moment) {
    let records = &*view.records;
    let mut routable = RoutableReleases::default();
    for (name, app) in &records.apps {
        let decided = decision.apps.iter().find(|decided| decided.name == *name).unwrap_or(&**app);
        routable.add(decided, records.open_deploys(name).map(AsRef::as_ref));
    }
    let (observed, previous) = (&*view.observed, &*records.plan);
    let plan = decision.applied_to(previous);
    let machines = &machines.audited(records);
    let violations = audit(&AuditInput { routable: &routable, observed, previous, plan: &plan, machines, now });
    assert!(violations.is_empty(), "the plan violates its invariants: {violations:?}");
}

/// Returns the app of an event's record.
fn app_of(change: &RecordChange) -> Option<AppName> {
    match change {
        RecordChange::Put(record) => match &**record {
            StoreRecord::Event(event) => event.app.clone(),
            _ => None,
        },
        RecordChange::Remove(_) => None,
    }
}

/// Returns the record of an app's last numbers. An app without a release leaves one, too: the queue may have its jobs,
/// schedules and messages, and the next app of the name removes them.
fn last_numbers(app: &App, at: Moment) -> RecordChange {
    StoreRecord::Destroyed(DestroyedApp { app: app.name.clone(), at, last_release: app.last_release }).into()
}

/// Returns the removal of every record of an app. The app's own record comes last, so that an interrupted removal
/// starts again.
fn removal(records: &RecordIndex, app: &AppName) -> Vec<RecordChange> {
    let releases = records.releases.get(app).into_iter().flatten().map(|(number, _)| release_key(app, *number));
    let of_app = |scope: &Scope| matches!(scope, Scope::Deploy { app: of } if of == app);
    let tokens = records.tokens.iter().filter(|(_, token)| of_app(&token.scope)).map(|(hash, _)| token_key(hash));
    let deploys = records.deploys.get(app).into_iter().flatten().map(|(number, _)| deploy_key(app, *number));
    let builds = records.builds.keys().filter(|(of, _)| of == app).map(|(_, commit)| build_key(app, commit));
    let tags = records.tags.get(app.as_str()).into_iter().flatten().map(|(tag, _)| tag_key(app.as_str(), tag));
    let manifests = records.manifests.get(app.as_str()).into_iter().flatten();
    let manifests = manifests.map(|(digest, _)| manifest_key(app.as_str(), digest));
    let routes = records.plan.routes.get(app).map(|_| routes_key(app));
    let numbers = records.plan.numbers.get(app).map(|_| numbers_key(app));
    let packs = records.packs.get(app).map(|_| packs_key(app));
    let codes = records.codes.get(app).into_iter().flatten().map(|(code, _)| code_key(app, code));
    let own = [format!("apps/{app}")];
    releases
        .chain(tokens)
        .chain(deploys)
        .chain(builds)
        .chain(tags)
        .chain(manifests)
        .chain(routes)
        .chain(numbers)
        .chain(packs)
        .chain(codes)
        .chain(own)
        .map(RecordChange::Remove)
        .collect()
}

/// Returns the planner's input: the record of each app, the releases that run or may come back, and the deploys under
/// way.
pub(crate) fn desired(records: &RecordIndex, apps: &BTreeSet<AppName>) -> DesiredCluster {
    let apps = apps.iter().filter_map(|name| records.apps.get(name)).map(|app| {
        let deploys: Vec<Deploy> = records.open_deploys(&app.name).map(|deploy| (**deploy).clone()).collect();
        let used_numbers = deploys.iter().flat_map(|d| [d.release, d.previous]).chain([app.current]).flatten();
        let releases =
            used_numbers.filter_map(|number| Some((number, Arc::clone(records.release(&app.name, number)?)))).collect();
        (app.name.clone(), DesiredApp { app: (**app).clone(), releases, deploys })
    });
    let (trusted_proxies, tunnels) = (records.policy.trusted_proxies(), records.tunnels.clone());
    DesiredCluster { apps: apps.collect(), trusted_proxies, tunnels }
}
