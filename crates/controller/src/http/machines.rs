//! `/internal/v1`: endpoints for agents and routers. Requests for the plan, the table and sessions are long polls, so
//! that changes arrive at once.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use bytes::Bytes;
use gantry_api::Problem;
use gantry_api::types::{MachineReport, RouterReport, TableAnswer};
use gantry_model::{Generation, MachineName};
use serde::Deserialize;
use tokio::sync::watch;

use super::auth::Caller;
use super::{HttpResult, Params, json, json_text, parse_body, parse_name};
use crate::Server;
use crate::core::ClusterView;

/// Timeout of a long poll.
const LONG_POLL_TIMEOUT: Duration = Duration::from_secs(20);

/// Query parameters of a long poll. `?after=` is the generation that the caller has; a caller without any omits the
/// parameter.
#[derive(Deserialize)]
pub(crate) struct LongPollQuery {
    after: Option<Generation>,
}

/// Waits until `find` returns a value, and looks again at each change; returns none after [`LONG_POLL_TIMEOUT`].
async fn wait_for<T>(
    server: &Server,
    mut changes: watch::Receiver<Generation>,
    find: impl Fn(&ClusterView) -> Option<T>,
) -> Option<T> {
    let waiting = async {
        loop {
            changes.borrow_and_update();
            if let Some(found) = find(&server.core.view()) {
                return Some(found);
            }
            if changes.changed().await.is_err() {
                return None;
            }
        }
    };
    tokio::time::timeout(LONG_POLL_TIMEOUT, waiting).await.ok().flatten()
}

pub(crate) async fn plan(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(machine): Path<String>,
    Params(query): Params<LongPollQuery>,
) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    let newer = |view: &ClusterView| {
        let part = view.records.plan.machines.get(&machine)?;
        query.after.is_none_or(|after| part.generation > after).then(|| Arc::clone(part))
    };
    let response = wait_for(&server, server.core.watch_machine(&machine), newer).await;
    json(&response.as_deref())
}

pub(crate) async fn observed(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(machine): Path<String>,
    text: Bytes,
) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    let report: MachineReport = parse_body(&text)?;
    server.core.machine(machine, report).await;
    json(&())
}

pub(crate) async fn sessions(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(machine): Path<String>,
) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    json(&server.sessions.next(&machine, LONG_POLL_TIMEOUT).await)
}

/// The names of all apps. The agent removes build caches of other apps.
pub(crate) async fn apps(State(server): State<Arc<Server>>, caller: Caller, Path(machine): Path<String>) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    let view = server.core.view();
    json(&view.records.apps.keys().collect::<Vec<_>>())
}

pub(crate) async fn table(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(machine): Path<String>,
    Params(query): Params<LongPollQuery>,
) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    let newer = |view: &ClusterView| {
        let revision = view.records.plan.routing.revision;
        query.after.is_none_or(|after| revision > after).then(|| server.core.routing_table(view))
    };
    match wait_for(&server, server.core.watch_routes(), newer).await {
        Some(table) => Ok(json_text(table.map_err(|error| Problem::internal(error.to_string()))?)),
        None => json(&TableAnswer::None),
    }
}

pub(crate) async fn router_observed(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(machine): Path<String>,
    text: Bytes,
) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    let report: RouterReport = parse_body(&text)?;
    server.core.router(machine, report).await;
    json(&())
}
