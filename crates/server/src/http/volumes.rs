//! `/v1/volumes` and `/v1/apps/{app}/volumes`. The machine's agent does the work, in a session.
//!
//! A volume outlives its app, so the app need not exist. The app in the path alone decides about a token's rights.

use std::sync::Arc;

use axum::response::Response;
use gantry_admission::find_app;
use gantry_api::endpoints::volumes as endpoints;
use gantry_api::volumes::{
    VolumeAction, VolumeAnswer, VolumeInfo, VolumeList, VolumeReport, VolumeRequest, VolumeRole,
};
use gantry_api::{ErrorCode, Problem};
use gantry_control::sessions::SessionKind;
use gantry_model::{AppName, AuditAction, Bytes as Size, ResourceLimits, Role, RoleName, VolumeName};
use gantry_records::RecordIndex;
use hyper::upgrade::OnUpgrade;

use super::HttpResult;
use super::auth::Caller;
use super::call::{Call, Routes};
use super::sessions::join_connections;
use super::volume_machines::{FoundVolumes, find_all, machine_of_volume, send_volume_request, unexpected};
use crate::Server;
use crate::core::ClusterView;

/// Works on one volume.
async fn work(server: &Server, app: &AppName, name: &VolumeName, what: VolumeAction) -> HttpResult<VolumeInfo> {
    let folder = folder_of(&server.core.view().records, app)?;
    let machine = machine_of_volume(server, (app, &folder, name)).await?;
    let request = VolumeRequest::One { app: folder, name: name.clone(), what };
    match send_volume_request(server, &machine, request).await? {
        VolumeAnswer::One { volume } => Ok(with_roles(&server.core.view(), *volume)),
        _ => Err(unexpected(&machine).into()),
    }
}

/// Folder of an app's volumes. A renamed app keeps its volumes where they are; a destroyed app leaves its volumes.
fn folder_of(records: &RecordIndex, app: &AppName) -> Result<AppName, Problem> {
    if let Some(app) = records.apps.get(app) {
        return Ok(app.volume_folder().clone());
    }
    match owner_of(records, app) {
        Some(owner) => {
            Err(Problem::new(ErrorCode::AppNotFound, format!("there is no app {app}; its volumes belong to {owner}"))
                .hint(format!("`gantry volume ls {owner}` lists the volumes")))
        }
        None => Ok(app.clone()),
    }
}

/// The app whose volumes are in a folder.
fn owner_of<'a>(records: &'a RecordIndex, folder: &AppName) -> Option<&'a AppName> {
    records.apps.values().find(|app| app.volume_folder() == folder).map(|app| &app.name)
}

/// The roles of an app's current release that name a volume.
pub(crate) fn roles<'a>(
    view: &'a ClusterView,
    app: &AppName,
    name: &'a VolumeName,
) -> impl Iterator<Item = (&'a RoleName, &'a Role, &'a String)> {
    let current = view.records.apps.get(app).and_then(|app| app.current);
    let release = current.and_then(|current| view.records.release(app, current));
    let roles = release.into_iter().flat_map(|release| &release.roles);
    roles.filter_map(|(role, settings)| Some((role, settings, settings.volumes.get(name.as_str())?)))
}

fn with_roles(view: &ClusterView, report: VolumeReport) -> VolumeInfo {
    let mut volume = VolumeInfo::from(report);
    // The agent knows the folder only.
    if let Some(owner) = owner_of(&view.records, &volume.app) {
        volume.app = owner.clone();
    }
    volume.roles = roles(view, &volume.app, &volume.name)
        .map(|(role, _, path)| VolumeRole { role: role.clone(), path: path.clone() })
        .collect();
    volume
}

async fn list_of(server: &Server, app: Option<AppName>) -> HttpResult<VolumeList> {
    let folder = app.map(|app| folder_of(&server.core.view().records, &app)).transpose()?;
    let FoundVolumes { volumes, unreachable } = find_all(server, folder.as_ref()).await?;
    let view = server.core.view();
    Ok(VolumeList { volumes: volumes.into_iter().map(|volume| with_roles(&view, volume)).collect(), unreachable })
}

/// Adds the endpoints of volumes.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(list_all)
        .endpoint(list)
        .endpoint(show)
        .endpoint(remove)
        .endpoint(export)
        .endpoint(import)
        .endpoint(create_snapshot)
        .endpoint(remove_snapshot)
        .endpoint(restore_snapshot)
}

async fn list_all(Call { server, .. }: Call<endpoints::ListAll>) -> HttpResult<VolumeList> {
    list_of(&server, None).await
}

async fn list(Call { server, at, .. }: Call<endpoints::List>) -> HttpResult<VolumeList> {
    let list = list_of(&server, Some(at.app.clone())).await?;
    if list.volumes.is_empty() {
        // An app that is gone may have volumes; a name that never was an app's has none.
        find_app(&server.core.view().records, &at.app)?;
    }
    Ok(list)
}

async fn show(Call { server, at, .. }: Call<endpoints::Show>) -> HttpResult<VolumeInfo> {
    work(&server, &at.app, &at.name, VolumeAction::Show).await
}

async fn remove(Call { server, caller, at, query, .. }: Call<endpoints::Remove>) -> HttpResult<VolumeInfo> {
    let endpoints::Remove { app, name: volume } = at;
    if !query.force {
        let view = server.core.view();
        let named: Vec<&str> = roles(&view, &app, &volume).map(|(role, _, _)| role.as_str()).collect();
        if !named.is_empty() {
            let message = format!("the current release of {app} has volume {volume} in its role {}", named.join(", "));
            return Err(Problem::new(ErrorCode::VolumeOfRole, message)
                .hint("its next copy would begin with an empty volume; `--force` removes the volume all the same")
                .into());
        }
    }
    let removed = work(&server, &app, &volume, VolumeAction::Remove).await?;
    let action = AuditAction::VolumeRemoved { volume };
    caller.mutate(&server, move |actor| actor.record(Some(&app), action)).await?;
    Ok(removed)
}

/// Begins a session about one volume. The client talks to the agent.
async fn begin(
    server: &Arc<Server>,
    caller: &Caller,
    person: OnUpgrade,
    (app, volume): (AppName, VolumeName),
    (action, audited): (VolumeAction, AuditAction),
) -> HttpResult<Response> {
    let folder = folder_of(&server.core.view().records, &app)?;
    let machine = machine_of_volume(server, (&app, &folder, &volume)).await?;
    caller.mutate(server, move |actor| actor.record(Some(&app), audited)).await?;
    let request = VolumeRequest::One { app: folder, name: volume, what: action };
    Ok(join_connections(server, person, vec![machine], SessionKind::Volumes { request }))
}

async fn export(mut call: Call<endpoints::Export>) -> HttpResult<Response> {
    let person = call.take_upgrade()?;
    let Call { server, caller, at: endpoints::Export { app, name }, body, .. } = call;
    let audited = AuditAction::VolumeExported { volume: name.clone() };
    begin(&server, &caller, person, (app, name), (VolumeAction::Export(body), audited)).await
}

async fn import(mut call: Call<endpoints::Import>) -> HttpResult<Response> {
    let person = call.take_upgrade()?;
    let Call { server, caller, at: endpoints::Import { app, name }, body, .. } = call;
    let largest = {
        let view = server.core.view();
        // A mistyped name would make a volume that no app ever uses.
        find_app(&view.records, &app)?;
        roles(&view, &app, &name).map(|(_, role, _)| role.limits.disk).max()
    };
    let limit: Size = body.limit.or(largest).unwrap_or(ResourceLimits::default().disk);
    let audited = AuditAction::VolumeImported { volume: name.clone() };
    let action = VolumeAction::Import { replace: body.replace, limit };
    begin(&server, &caller, person, (app, name), (action, audited)).await
}

async fn create_snapshot(mut call: Call<endpoints::Snapshot>) -> HttpResult<Response> {
    let person = call.take_upgrade()?;
    let Call { server, caller, at: endpoints::Snapshot { app, name }, body, .. } = call;
    let audited = AuditAction::SnapshotCreated { volume: name.clone() };
    begin(&server, &caller, person, (app, name), (VolumeAction::Snapshot(body), audited)).await
}

async fn remove_snapshot(Call { server, caller, at, .. }: Call<endpoints::RemoveSnapshot>) -> HttpResult<VolumeInfo> {
    let endpoints::RemoveSnapshot { app, name: volume, snapshot } = at;
    let action = AuditAction::SnapshotRemoved { volume: volume.clone(), snapshot: snapshot.clone() };
    let volume = work(&server, &app, &volume, VolumeAction::RemoveSnapshot { snapshot }).await?;
    caller.mutate(&server, move |actor| actor.record(Some(&app), action)).await?;
    Ok(volume)
}

async fn restore_snapshot(mut call: Call<endpoints::Restore>) -> HttpResult<Response> {
    let person = call.take_upgrade()?;
    let Call { server, caller, at: endpoints::Restore { app, name, snapshot }, .. } = call;
    let audited = AuditAction::SnapshotRestored { volume: name.clone(), snapshot: snapshot.clone() };
    begin(&server, &caller, person, (app, name), (VolumeAction::Restore { snapshot }, audited)).await
}
