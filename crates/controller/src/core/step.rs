//! Plans one step and returns its changes. Pure.

use std::collections::BTreeMap;

use gantry_admission::events_of_deploys;
use gantry_model::{AppName, Deploy, Moment, ReleaseNumber, Scope};
use gantry_plan_audit::{AuditInput, RoutableReleases, audit};
use gantry_planner::{DesiredApp, DesiredCluster, PlanDecision, PlanReport, PlannerPolicy, plan};

use super::dirty::DirtySet;
use super::state::ClusterView;
use super::transactions::ChangeGroup;
use gantry_records::{
    RecordChange, RecordIndex, StoreRecord, build_key, deploy_key, manifest_key, release_key, tag_key, token_key,
};

/// One planned step.
pub(super) struct PlannedStep {
    /// Changes in the order in which they are written; see `transactions`.
    pub(super) groups: Vec<ChangeGroup>,
    /// Reasons for the plan that the step leads to.
    pub(super) report: PlanReport,
}

/// Plans the next step for everything in `dirty`; returns `None` if nothing is dirty. The planner still plans the whole
/// cluster whenever anything is dirty.
pub(super) fn plan_step(
    view: &ClusterView,
    dirty: &DirtySet,
    policy: &PlannerPolicy,
    now: Moment,
) -> Option<PlannedStep> {
    if dirty.is_empty() {
        return None;
    }
    let records = &*view.records;
    let desired = desired(records);
    let decision = plan(&desired, &view.observed, &records.plan, policy, now);
    if cfg!(debug_assertions) {
        assert_audited(&desired, &decision, view, now);
    }
    let mut apps: BTreeMap<AppName, ChangeGroup> = BTreeMap::new();
    let mut general = ChangeGroup::new();
    for change in events_of_deploys(records, &decision.deploys, now) {
        match app_of(&change) {
            Some(app) => apps.entry(app).or_default().push(change),
            None => general.push(change),
        }
    }
    // A transaction may write each key only once, so the records of a removed app are not changed before.
    let stays = |app: &AppName| !decision.gone.contains(app);
    for app in decision.apps.into_iter().filter(|app| stays(&app.name)) {
        apps.entry(app.name.clone()).or_default().push(StoreRecord::App(app).into());
    }
    for deploy in decision.deploys.into_iter().filter(|deploy| stays(&deploy.app)) {
        apps.entry(deploy.app.clone()).or_default().push(StoreRecord::Deploy(deploy).into());
    }
    let changed =
        decision.plan.machines.into_iter().filter(|(name, part)| records.plan.machines.get(name) != Some(part));
    let mut groups: Vec<ChangeGroup> =
        changed.map(|(name, part)| vec![StoreRecord::Machine(name, part).into()]).collect();
    if records.plan.table != decision.plan.table {
        groups.push(vec![StoreRecord::Table(decision.plan.table).into()]);
    }
    groups.push(general);
    groups.extend(apps.into_values());
    groups.extend(decision.gone.iter().map(|app| removal(records, app)));
    groups.retain(|group| !group.is_empty());
    Some(PlannedStep { groups, report: decision.report })
}

/// Audits a decision before its write. A violation is an error of the planner: the process ends without the write.
fn assert_audited(desired: &DesiredCluster, decision: &PlanDecision, view: &ClusterView, now: Moment) {
    let mut routable = RoutableReleases::default();
    for (name, app) in &desired.apps {
        let decided = decision.apps.iter().find(|decided| decided.name == *name).unwrap_or(&app.app);
        routable.add(decided, &app.deploys);
    }
    let (observed, previous) = (&*view.observed, &*view.records.plan);
    let violations = audit(&AuditInput { routable: &routable, observed, previous, plan: &decision.plan, now });
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

/// Returns the removal of every record of an app. The app's own record comes last, so that an interrupted removal
/// starts again.
fn removal(records: &RecordIndex, app: &AppName) -> ChangeGroup {
    let releases = records.releases.get(app).into_iter().flatten().map(|(number, _)| release_key(app, *number));
    let of_app = |scope: &Scope| matches!(scope, Scope::Deploy { app: of } if of == app);
    let tokens = records.tokens.iter().filter(|(_, token)| of_app(&token.scope)).map(|(hash, _)| token_key(hash));
    let deploys = records.deploys.get(app).into_iter().flatten().map(|(number, _)| deploy_key(app, *number));
    let builds = records.builds.keys().filter(|(of, _)| of == app).map(|(_, commit)| build_key(app, commit));
    let tags = records.tags.get(app.as_str()).into_iter().flatten().map(|(tag, _)| tag_key(app.as_str(), tag));
    let manifests = records.manifests.get(app.as_str()).into_iter().flatten();
    let manifests = manifests.map(|(digest, _)| manifest_key(app.as_str(), digest));
    let own = [format!("apps/{app}")];
    releases
        .chain(tokens)
        .chain(deploys)
        .chain(builds)
        .chain(tags)
        .chain(manifests)
        .chain(own)
        .map(RecordChange::Remove)
        .collect()
}

/// Returns the planner's input: each app's record, the releases that run or may come back, and the deploys under way.
pub(super) fn desired(records: &RecordIndex) -> DesiredCluster {
    let apps = records.apps.values().map(|app| {
        let deploys: Vec<Deploy> = records.open_deploys(&app.name).map(|deploy| (**deploy).clone()).collect();
        let wanted: Vec<ReleaseNumber> =
            deploys.iter().flat_map(|d| [d.release, d.previous]).chain([app.current]).flatten().collect();
        let releases = records.releases.get(&app.name).into_iter().flatten();
        let releases = releases
            .filter(|(number, _)| wanted.contains(number))
            .map(|(number, release)| (*number, (**release).clone()))
            .collect();
        (app.name.clone(), DesiredApp { app: (**app).clone(), releases, deploys })
    });
    DesiredCluster { apps: apps.collect(), trusted_proxies: records.policy.trusted_proxies.clone() }
}
