//! Preview of a deploy, for `gantry deploy --plan`: the planner's decision about a deploy that does not exist.

use std::collections::{BTreeMap, BTreeSet};

use gantry_admission::find_changeable_app;
use gantry_api::types::{DeployPlan, PlannedCopy, PlannedRole, PlannedWait, RoleChange};
use gantry_api::{ErrorCode, Problem};
use gantry_blobs::DigestHasher;
use gantry_cluster::{DeployPreview, preview};
use gantry_model::{
    App, AppName, DeployCause, DeployNumber, Kind, Reason, Release, ReleaseNumber, Role, RoleName, Slot,
};
use serde_json::Value;

use crate::http::HttpResult;
use crate::{Server, builds};

/// Number of hexadecimal digits of a plan's identifier.
const ID_DIGITS: usize = 12;

/// Returns what a deploy for this cause would do now; without a cause, a deploy of the current release.
pub(crate) async fn plan(server: &Server, app: &AppName, cause: Option<&DeployCause>) -> HttpResult<DeployPlan> {
    find_changeable_app(&server.core.view().records, app)?;
    let requested = match cause {
        Some(cause) => Some(
            builds::contents(server, app, cause)
                .await
                .map_err(|error| Problem::new(ErrorCode::ImageUnusable, error.message))?,
        ),
        None => None,
    };
    let view = server.core.view();
    let record = find_changeable_app(&view.records, app)?;
    let current = record.current.and_then(|number| view.records.release(app, number));
    let repeated = current.map(|current| (current.image.clone(), current.roles.clone()));
    let no_release = || Problem::new(ErrorCode::NoRelease, format!("{app} has no release to deploy again"));
    let (image, roles) = requested.or(repeated).ok_or_else(no_release)?;
    let release = Release {
        app: app.clone(),
        number: ReleaseNumber(record.last_release.saturating_add(1)),
        image,
        commit: None,
        config: record.config.clone().into(),
        roles,
        deploy: DeployNumber(record.last_deploy.saturating_add(1)),
        created: view.now,
        by: String::new(),
        cause: cause.cloned().unwrap_or(DeployCause::Config { keys: Vec::new() }),
    };
    let found = preview(&view, release.clone());
    let open = view.records.open_deploys(app).next().map(|deploy| Reason::WaitsForDeploy { deploy: deploy.number });
    let no_room = found.waits.iter().filter(|reason| matches!(reason, Reason::NoRoom { .. }));
    let wait = |reason: &Reason| PlannedWait { code: reason.into(), text: reason.to_string() };
    let mut waits: Vec<PlannedWait> = open.iter().chain(no_room).map(wait).collect();
    // Each preview has the same order, because the plan's identifier is a digest of the whole plan.
    waits.sort_by(|one, other| one.text.cmp(&other.text));
    waits.dedup();
    let plan = DeployPlan {
        app: app.clone(),
        id: String::new(),
        release: release.number,
        previous: record.current,
        image: release.image.clone(),
        roles: planned_roles(record, current.map(AsRef::as_ref), &release, &found),
        waits,
    };
    let text = serde_json::to_string(&plan).unwrap_or_default();
    let id = DigestHasher::of(text.as_bytes()).hex()[..ID_DIGITS].to_owned();
    Ok(DeployPlan { id, ..plan })
}

/// The roles of both releases, in the order of their names.
fn planned_roles(app: &App, current: Option<&Release>, next: &Release, found: &DeployPreview) -> Vec<PlannedRole> {
    let empty = BTreeMap::new();
    let before = current.map_or(&empty, |release| &release.roles);
    let names: BTreeSet<&RoleName> = before.keys().chain(next.roles.keys()).collect();
    let planned = |name: &RoleName| {
        let (old, new) = (before.get(name), next.roles.get(name));
        let settings = old.zip(new).map(|(old, new)| different_settings(old, new)).unwrap_or_default();
        let change = match (old, new) {
            (None, _) => RoleChange::Added,
            (_, None) => RoleChange::Removed,
            _ if settings.is_empty() => RoleChange::Same,
            _ => RoleChange::Changed,
        };
        let stops = found.stops.iter().filter(|(slot, _)| slot.role == *name);
        PlannedRole {
            role: name.clone(),
            change,
            settings,
            stop_first: old.is_some() && new.is_some_and(Role::stop_first),
            starts: new.map(|role| starts(app, next, name, role, found)).unwrap_or_default(),
            stops: stops.map(|(slot, machine)| copy(slot.clone(), Some(machine.clone()))).collect(),
        }
    };
    let runs = |role: &PlannedRole| !role.starts.is_empty() || !role.stops.is_empty();
    names.into_iter().map(planned).filter(runs).collect()
}

/// The copies of a role that start. A copy without a machine waits for room, or for the end of the old copy.
fn starts(app: &App, next: &Release, name: &RoleName, role: &Role, found: &DeployPreview) -> Vec<PlannedCopy> {
    let copies = match role.kind {
        Kind::Service if role.placement.global => 0,
        Kind::Service if role.stop_first() => app.scale.get(name).copied().unwrap_or(role.instances).min(1),
        Kind::Service => app.scale.get(name).copied().unwrap_or(role.instances),
        // The release step.
        Kind::Job => 1,
        _ => 0,
    };
    let slot = |index| Slot { app: app.name.clone(), release: next.number, role: name.clone(), index };
    let mut slots: BTreeSet<Slot> = found.starts.keys().filter(|slot| slot.role == *name).cloned().collect();
    slots.extend((1..=copies).map(slot));
    let data = || role.volumes.keys().find_map(|volume| app.data.get(volume)).cloned();
    slots.into_iter().map(|slot| copy(slot.clone(), found.starts.get(&slot).cloned().or_else(data))).collect()
}

fn copy(slot: Slot, machine: Option<gantry_model::MachineName>) -> PlannedCopy {
    PlannedCopy { slot, machine }
}

/// The names of the settings that two roles do not share.
fn different_settings(old: &Role, new: &Role) -> Vec<String> {
    let settings = |role: &Role| match serde_json::to_value(role) {
        Ok(Value::Object(settings)) => settings,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (settings(old), settings(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use gantry_model::{Bytes, RoleCommand};

    use super::*;

    #[test]
    fn names_the_settings_that_change() {
        let old = Role::new(RoleCommand::Shell("serve".into()));
        let mut new = old.clone();
        assert_eq!(different_settings(&old, &new), [""; 0]);
        new.limits.memory = Bytes::mebi(64);
        new.single = true;
        assert_eq!(different_settings(&old, &new), ["limits", "single"]);
    }
}
