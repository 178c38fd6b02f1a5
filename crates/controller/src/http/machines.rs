//! `/internal/v1`: the control connections of agents and routers. Each is an upgraded request.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use gantry_control::{LinkStream, link};
use gantry_model::MachineName;

use super::auth::Caller;
use super::sessions::{switching_protocols, take_upgrade};
use super::{HttpResult, json, parse_name};
use crate::{Server, control_links};

pub(crate) async fn agent(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(machine): Path<String>,
    request: Request,
) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    let caller = Arc::new(caller);
    let serve =
        move |stream| control_links::serve_agent(Arc::clone(&server), Arc::clone(&caller), machine.clone(), stream);
    upgrade(request, serve).await
}

pub(crate) async fn router(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(machine): Path<String>,
    request: Request,
) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    let caller = Arc::new(caller);
    let serve =
        move |stream| control_links::serve_router(Arc::clone(&server), Arc::clone(&caller), machine.clone(), stream);
    upgrade(request, serve).await
}

/// The names of all apps. The agent removes build caches of other apps.
pub(crate) async fn apps(State(server): State<Arc<Server>>, caller: Caller, Path(machine): Path<String>) -> HttpResult {
    let machine: MachineName = parse_name(&machine)?;
    caller.machine(&machine)?;
    let view = server.core.view();
    json(&view.records.apps.keys().collect::<Vec<_>>())
}

/// Upgrades a request to a control connection, and serves its streams.
async fn upgrade<F: Future<Output = ()> + Send + 'static>(
    request: Request,
    serve: impl Fn(LinkStream) -> F + Clone + Send + Sync + 'static,
) -> HttpResult<Response> {
    let upgrade = take_upgrade(request).await?;
    tokio::spawn(async move {
        if let Ok(connection) = upgrade.await {
            link::accept(connection, serve).await;
        }
    });
    Ok(switching_protocols())
}
