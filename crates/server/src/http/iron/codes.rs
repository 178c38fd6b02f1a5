//! Codes: the roles of the app's current release, and its uploaded codes.

use gantry_admission::find_app;
use gantry_api::codes::{CodeInfo, CodeRevision};
use gantry_api::{ErrorCode, Problem};
use gantry_model::{Release, RoleName};
use gantry_queue_store::QueueSetting;
use gantry_schedule::rfc3339;
use serde_json::{Value, json};

use super::super::HttpResult;
use super::super::codes::code_info;
use super::{IronCall, answer, unknown_code};

/// A role of the current release.
fn role(call: &IronCall, release: &Release, role: &RoleName) -> Value {
    json!({
        "id": role,
        "project_id": call.project,
        "name": role,
        "rev": release.number.0,
        "runtime": "image",
        "latest_checksum": release.image,
    })
}

/// A revision of an uploaded code.
fn revision(code: &CodeInfo, revision: &CodeRevision) -> Value {
    json!({
        "id": code.name,
        "project_id": code.project,
        "name": code.name,
        "rev": revision.number,
        "runtime": revision.stack,
        "latest_checksum": revision.image,
        "latest_change": rfc3339(revision.created),
    })
}

/// All codes with their names; a role goes before an uploaded code of its name.
fn all(call: &IronCall) -> HttpResult<Vec<(String, Value)>> {
    call.may_read()?;
    let view = call.server.core.view();
    let current = find_app(&view.records, &call.project)?.current;
    let release = current.and_then(|number| view.records.release(&call.project, number));
    let roles = release
        .into_iter()
        .flat_map(|release| release.roles.keys().map(|name| (name.to_string(), role(call, release, name))));
    let is_role = |name: &RoleName| release.is_some_and(|release| release.roles.contains_key(name));
    let codes = view.records.codes.get(&call.project).into_iter().flat_map(|codes| codes.values());
    let codes = codes.filter(|code| !is_role(&code.name)).filter_map(|code| code_info(code));
    let codes = codes.map(|code| (code.name.to_string(), revision(&code, &code.current)));
    Ok(roles.chain(codes).collect())
}

pub(super) fn list(call: &IronCall) -> HttpResult {
    let codes: Vec<Value> = all(call)?.into_iter().map(|(_, code)| code).collect();
    Ok(answer(json!({ "codes": codes })))
}

pub(super) fn show(call: &IronCall, id: &str) -> HttpResult {
    let found = all(call)?.into_iter().find(|(name, _)| name == id);
    Ok(answer(found.ok_or_else(|| unknown_code(id))?.1))
}

/// The revisions of an uploaded code; a role has one.
pub(super) fn revisions(call: &IronCall, id: &str) -> HttpResult {
    call.may_read()?;
    let name = RoleName::parse(id).map_err(|_| unknown_code(id))?;
    let code = call.server.core.view().records.code(&call.project, &name).and_then(|code| code_info(code));
    let revisions = match &code {
        Some(code) => code.revisions.iter().map(|known| revision(code, known)).collect(),
        None => vec![all(call)?.into_iter().find(|(name, _)| name == id).ok_or_else(|| unknown_code(id))?.1],
    };
    Ok(answer(json!({ "revisions": revisions })))
}

/// Removes an uploaded code.
pub(super) async fn remove(call: &IronCall, id: &str) -> HttpResult {
    call.may_change()?;
    let name = RoleName::parse(id).map_err(|_| unknown_code(id))?;
    let app = call.project.clone();
    call.caller.mutate(&call.server, move |actor| actor.remove_code(&app, &name)).await?;
    Ok(answer(json!({ "msg": "Deleted" })))
}

/// Pauses or resumes the queue of a code.
pub(super) async fn pause(call: &IronCall, id: &str, paused: bool) -> HttpResult {
    call.may_change()?;
    let queue = call.queue(id)?;
    if !call.server.jobs.set(queue, QueueSetting::Paused(paused)).await? {
        return Err(Problem::new(ErrorCode::QueueNotFound, format!("no task of {id} was ever queued")).into());
    }
    Ok(answer(json!({ "msg": if paused { "Paused" } else { "Resumed" } })))
}
