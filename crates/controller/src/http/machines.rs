//! `/v1/machines`: the machines of the cluster. `/internal/v1`: the control connections of agents and routers, each an
//! upgraded request.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use gantry_api::endpoints::machines as endpoints;
use gantry_api::types::MachineInfo;
use gantry_api::{ErrorCode, Problem};
use gantry_control::{LinkStream, link};
use gantry_model::{Machine, MachineName, MachineState};

use super::auth::Caller;
use super::call::{Call, Routes};
use super::sessions::{switching_protocols, take_upgrade};
use super::{HttpResult, json, parse_name};
use crate::core::ClusterView;
use crate::{Server, control_links};

/// Builds the public API's description of a machine.
fn machine_info(view: &ClusterView, machine: &Machine) -> MachineInfo {
    let seen = view.observed.machines.get(&machine.name).map(|report| report.seen);
    let part = view.records.plan.machines.get(&machine.name);
    MachineInfo {
        name: machine.name.clone(),
        id: machine.id.clone(),
        state: MachineState::of(seen, view.observed.began, view.now).into(),
        cpu: machine.capacity.cpu,
        memory: machine.capacity.memory,
        instances: part.map_or(0, |part| part.instances.len()),
        program: machine.program.clone(),
        protocol: machine.protocol,
        registered: machine.registered,
        seen,
    }
}

/// Adds the endpoints of machines.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(list).endpoint(show)
}

async fn list(Call { server, .. }: Call<endpoints::List>) -> HttpResult<Vec<MachineInfo>> {
    let view = server.core.view();
    Ok(view.records.machines.values().map(|machine| machine_info(&view, machine)).collect())
}

async fn show(Call { server, at, .. }: Call<endpoints::Show>) -> HttpResult<MachineInfo> {
    let view = server.core.view();
    match view.records.machines.get(&at.name) {
        Some(machine) => Ok(machine_info(&view, machine)),
        None => Err(Problem::new(ErrorCode::MachineNotFound, format!("there is no machine {}", at.name))
            .hint("`gantry machine ls` lists them")
            .into()),
    }
}

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
