//! `/v1/volumes` and `/v1/apps/{app}/volumes`. The machine's agent does the work, in a session.
//!
//! A volume outlives its app, so the app need not exist. What a token may do follows from the app in the path alone.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use gantry_admission::find_app;
use gantry_api::endpoints::volumes as endpoints;
use gantry_api::frame::Frame;
use gantry_api::types::SessionKind;
use gantry_api::volumes::{VolumeAction, VolumeAnswer, VolumeInfo, VolumeReport, VolumeRequest, VolumeRole};
use gantry_api::{ErrorCode, Problem};
use gantry_model::{AppName, AuditAction, Bytes as Size, MachineName, ResourceLimits, Role, RoleName, VolumeName};
use gantry_records::RecordIndex;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::HttpResult;
use super::auth::Caller;
use super::call::{Call, Routes};
use super::sessions::{any_machine, join_connections};
use crate::Server;
use crate::core::ClusterView;

/// Timeout of an agent that works on volumes and sends nothing. A working agent sends an empty frame every 15 s.
const SILENCE: Duration = Duration::from_secs(60);

/// Limit in bytes on an agent's answer.
const ANSWER_MAX: usize = 16 << 20;

/// Requests work from a machine's agent and returns its answer.
async fn ask(server: &Server, machine: &MachineName, request: VolumeRequest) -> HttpResult<VolumeAnswer> {
    let opened = server.sessions.open(machine, SessionKind::Volumes { request }).await;
    let mut agent = TokioIo::new(opened.map_err(|why| Problem::new(ErrorCode::AgentUnreachable, why.to_string()))?);
    let broken = |why: &str| Problem::new(ErrorCode::AgentFailed, format!("the agent on {machine} broke off: {why}"));
    let mut text = Vec::new();
    loop {
        let frame = tokio::time::timeout(SILENCE, Frame::read(&mut agent)).await;
        match frame.map_err(|_| broken("it is silent"))?.map_err(|error| broken(&error.to_string()))? {
            Some(Frame::Answer(piece)) if text.len() < ANSWER_MAX => text.extend_from_slice(&piece),
            Some(Frame::Answer(_)) => return Err(broken("its answer is too long").into()),
            Some(Frame::Exit(_)) => break,
            Some(Frame::Failed(why)) => return Err(broken(&why).into()),
            Some(_) => {}
            None => return Err(broken("the connection ended").into()),
        }
    }
    match serde_json::from_slice(&text).map_err(|error| broken(&error.to_string()))? {
        VolumeAnswer::Refused { problem } => Err(problem.into()),
        answer => Ok(answer),
    }
}

fn unexpected(machine: &MachineName) -> Problem {
    Problem::new(
        ErrorCode::AgentFailed,
        format!("the agent on {machine} answered with something else; do both run the same version?"),
    )
}

/// Works on one volume.
async fn work(server: &Server, app: &AppName, name: &VolumeName, what: VolumeAction) -> HttpResult<VolumeInfo> {
    let view = server.core.view();
    let machine = any_machine(&view)?;
    let request = VolumeRequest::One { app: folder_of(&view.records, app)?, name: name.clone(), what };
    match ask(server, &machine, request).await? {
        VolumeAnswer::One { volume } => Ok(with_roles(&view, *volume)),
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
                .hint(format!("`gantry volume ls {owner}` lists them")))
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

async fn list_of(server: &Server, app: Option<AppName>) -> HttpResult<Vec<VolumeInfo>> {
    let view = server.core.view();
    let app = app.map(|app| folder_of(&view.records, &app)).transpose()?;
    let mut all = Vec::new();
    // With one machine that has reported, the error says why there is none.
    let machines: Vec<MachineName> = view.observed.machines.keys().cloned().collect();
    let machines = if machines.is_empty() { vec![any_machine(&view)?] } else { machines };
    for machine in machines {
        match ask(server, &machine, VolumeRequest::List { app: app.clone() }).await? {
            VolumeAnswer::List { volumes } => all.extend(volumes.into_iter().map(|volume| with_roles(&view, volume))),
            _ => return Err(unexpected(&machine).into()),
        }
    }
    Ok(all)
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

async fn list_all(Call { server, .. }: Call<endpoints::ListAll>) -> HttpResult<Vec<VolumeInfo>> {
    list_of(&server, None).await
}

async fn list(Call { server, at, .. }: Call<endpoints::List>) -> HttpResult<Vec<VolumeInfo>> {
    let volumes = list_of(&server, Some(at.app.clone())).await?;
    if volumes.is_empty() {
        // An app that is gone may have volumes; a name that never was an app's has none.
        find_app(&server.core.view().records, &at.app)?;
    }
    Ok(volumes)
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
    let view = server.core.view();
    let machine = any_machine(&view)?;
    let folder = folder_of(&view.records, &app)?;
    caller.mutate(server, move |actor| actor.record(Some(&app), audited)).await?;
    let request = VolumeRequest::One { app: folder, name: volume, what: action };
    Ok(join_connections(server, person, machine, SessionKind::Volumes { request }))
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
    let view = server.core.view();
    // A mistyped name would make a volume that no app ever uses.
    find_app(&view.records, &app)?;
    let largest = roles(&view, &app, &name).map(|(_, role, _)| role.limits.disk).max();
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
