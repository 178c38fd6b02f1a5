//! Codes: the roles of the app's current release.

use gantry_admission::find_app;
use gantry_api::{ErrorCode, Problem};
use gantry_model::{Release, RoleName};
use gantry_queue_store::QueueSetting;
use serde_json::{Value, json};

use super::super::HttpResult;
use super::{IronCall, answer, unknown_code};

/// The current release of the project.
fn release(call: &IronCall) -> HttpResult<std::sync::Arc<Release>> {
    call.may_read()?;
    let view = call.server.core.view();
    let current = find_app(&view.records, &call.project)?.current;
    let release = current.and_then(|number| view.records.release(&call.project, number));
    let none = || Problem::new(ErrorCode::NoRelease, format!("{} has no release", call.project));
    Ok(std::sync::Arc::clone(release.ok_or_else(none)?))
}

fn described(call: &IronCall, release: &Release, role: &RoleName) -> Value {
    json!({
        "id": role,
        "project_id": call.project,
        "name": role,
        "rev": release.number.0,
        "runtime": "image",
        "latest_checksum": release.image,
    })
}

pub(super) fn list(call: &IronCall) -> HttpResult {
    let release = release(call)?;
    let codes: Vec<Value> = release.roles.keys().map(|role| described(call, &release, role)).collect();
    Ok(answer(json!({ "codes": codes })))
}

pub(super) fn show(call: &IronCall, id: &str) -> HttpResult {
    let release = release(call)?;
    let role = release.roles.keys().find(|role| role.as_str() == id).ok_or_else(|| unknown_code(id))?;
    Ok(answer(described(call, &release, role)))
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

/// Reason why a code cannot be uploaded.
pub(super) fn no_upload() -> Problem {
    let message = "code is not uploaded here: a code is a role of the app";
    Problem::new(ErrorCode::InvalidJob, message).hint("push the code with git, or deploy an image with `gantry deploy`")
}
