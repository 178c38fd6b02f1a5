//! `/v1/services`: the ready instances of a role, as the names in DNS lead to them.

use axum::response::Response;
use gantry_admission::find_app;
use gantry_api::{ErrorCode, Problem};
use gantry_model::role::DEFAULT_PORT;
use gantry_model::{AppName, RoleName};
use serde::{Deserialize, Serialize};

use super::super::{HttpResult, Params, json, parse_name};
use super::AppCaller;
use crate::coordination::WAIT_MAX;
use crate::core::ClusterView;

/// Query of a look at a service.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ServiceQuery {
    /// Wait for a revision of the app's routes after this one.
    wait: Option<u64>,
}

/// The ready instances of a role.
#[derive(Debug, Serialize)]
struct ServiceInfo {
    app: AppName,
    role: RoleName,
    /// Revision of the app's routes, for a watch.
    revision: u64,
    port: u16,
    instances: Vec<ServiceInstance>,
}

/// A ready instance.
#[derive(Debug, Serialize)]
struct ServiceInstance {
    machine: gantry_model::MachineName,
    /// The address; none if the instance is on another machine, where the address leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<std::net::Ipv4Addr>,
}

pub(super) async fn show(caller: AppCaller, Params(query): Params<ServiceQuery>) -> HttpResult<Response> {
    let (app, role): (AppName, RoleName) = (parse_name(caller.parameter("of"))?, parse_name(caller.parameter("role"))?);
    let mut changes = caller.server.core.watch_routes();
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    loop {
        changes.borrow_and_update();
        let found = describe(&caller, &caller.server.core.view(), &app, &role)?;
        if query.wait.is_none_or(|known| found.revision > known) {
            return json(&found);
        }
        if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            return json(&found);
        }
    }
}

fn describe(caller: &AppCaller, view: &ClusterView, app: &AppName, role: &RoleName) -> HttpResult<ServiceInfo> {
    let current = find_app(&view.records, app)?.current;
    let release = current.and_then(|number| view.records.release(app, number));
    let unknown = || Problem::new(ErrorCode::RoleNotFound, format!("the current release of {app} has no role {role}"));
    let settings = release.and_then(|release| release.roles.get(role)).ok_or_else(unknown)?;
    let routes = view.records.plan.routes.get(app);
    let named = routes.and_then(|routes| routes.names.as_ref()).and_then(|names| names.roles.get(role));
    let instances = named
        .into_iter()
        .flatten()
        .map(|at| ServiceInstance { machine: at.machine().clone(), address: at.on(&caller.machine) });
    Ok(ServiceInfo {
        app: app.clone(),
        role: role.clone(),
        revision: routes.map_or(0, |routes| routes.revision.0),
        port: settings.port.unwrap_or(DEFAULT_PORT),
        instances: instances.collect(),
    })
}
