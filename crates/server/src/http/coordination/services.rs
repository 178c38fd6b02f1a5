//! `/v1/services`: the ready instances of a role, as the names in DNS lead to them.

use gantry_admission::find_app;
use gantry_api::endpoints::applications::Service;
use gantry_api::services::{ServiceInfo, ServiceInstance};
use gantry_api::{ErrorCode, Problem};
use gantry_model::MachineName;
use gantry_model::role::DEFAULT_PORT;

use super::super::HttpResult;
use super::super::call::Call;
use super::AppCall;
use crate::coordination::WAIT_MAX;
use crate::core::ClusterView;

pub(super) async fn show(Call { server, caller, at, query, .. }: AppCall<Service>) -> HttpResult<ServiceInfo> {
    let mut changes = server.core.watch_app(&at.app);
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    loop {
        changes.borrow_and_update();
        let found = describe(&caller.machine, &server.core.view(), &at)?;
        if query.wait.is_none_or(|known| found.revision > known) {
            return Ok(found);
        }
        if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            return Ok(found);
        }
    }
}

/// Describes a service for a container on the machine `here`.
fn describe(here: &MachineName, view: &ClusterView, Service { app, role }: &Service) -> HttpResult<ServiceInfo> {
    let current = find_app(&view.records, app)?.current;
    let release = current.and_then(|number| view.records.release(app, number));
    let unknown = || Problem::new(ErrorCode::RoleNotFound, format!("the current release of {app} has no role {role}"));
    let settings = release.and_then(|release| release.roles.get(role)).ok_or_else(unknown)?;
    let routes = view.records.plan.routes.get(app);
    let named = routes.and_then(|routes| routes.names.as_ref()).and_then(|names| names.roles.get(role));
    let instances = named
        .into_iter()
        .flatten()
        .map(|at| ServiceInstance { machine: at.machine().clone(), address: at.address_on(here) });
    Ok(ServiceInfo {
        app: app.clone(),
        role: role.clone(),
        revision: routes.map_or(0, |routes| routes.revision.0),
        port: settings.port.unwrap_or(DEFAULT_PORT),
        instances: instances.collect(),
    })
}
