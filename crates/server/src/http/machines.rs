//! `/v1/machines`: the machines of the cluster. `/internal/v1`: the control connections of agents and routers, each an
//! upgraded request.

use std::sync::Arc;

use axum::response::Response;
use gantry_api::endpoints::machines as endpoints;
use gantry_api::types::{AvailabilityInfo, ChangeAvailability, MachineInfo, StayInfo};
use gantry_api::{ErrorCode, Problem};
use gantry_control::endpoints::{AgentControl, AppNames, RouterControl};
use gantry_control::{LinkStream, link};
use gantry_model::{AppName, Bytes, Machine, MachineAvailability, MachineName, Moment, Reason};
use hyper::upgrade::OnUpgrade;

use super::HttpResult;
use super::call::{Call, Routes};
use super::sessions::switching_protocols;
use crate::control_links;
use crate::control_links::AdmittedPeer;
use crate::core::ClusterView;
use crate::tasks::{CONNECTION, CONTROL_LINK};

/// Builds the public API's description of a machine.
fn machine_info(view: &ClusterView, machine: &Machine) -> MachineInfo {
    let seen = view.observed.machines.get(&machine.name).map(|report| report.seen);
    let part = view.records.plan.machines.get(&machine.name);
    let reserved = part.into_iter().flat_map(|part| part.instances.values());
    let reserved = reserved.filter_map(|assignment| assignment.spec.role.placement.reserve_memory);
    MachineInfo {
        name: machine.name.clone(),
        id: machine.id.clone(),
        state: view.machine_state(&machine.name).into(),
        cpu: machine.capacity.cpu,
        memory: machine.capacity.memory,
        instances: part.map_or(0, |part| part.instances.len()),
        program: machine.program.clone(),
        protocol: machine.protocol,
        registered: machine.registered,
        seen,
        availability: (&machine.availability).into(),
        reason: machine.availability.reason().map(str::to_owned),
        deadline: machine.availability.deadline(),
        labels: machine.labels.clone(),
        addresses: machine.addresses.clone(),
        reserved_memory: Bytes(reserved.map(|bytes| bytes.0).sum()),
        stays: stays(view, &machine.name),
    }
}

/// The copies that are to leave a machine and cannot.
fn stays(view: &ClusterView, name: &MachineName) -> Vec<StayInfo> {
    let of_machine = |reason: &Reason| match reason {
        Reason::CannotLeave { instance, machine, .. } | Reason::DataStays { instance, machine } if machine == name => {
            Some(StayInfo { instance: instance.clone(), code: reason.into(), text: reason.to_string() })
        }
        _ => None,
    };
    view.report.waits.values().flatten().filter_map(of_machine).collect()
}

/// Adds the endpoints of machines.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(list).endpoint(show).endpoint(label).endpoint(set_availability).endpoint(remove)
}

async fn list(Call { server, .. }: Call<endpoints::List>) -> HttpResult<Vec<MachineInfo>> {
    let view = server.core.view();
    let present = view.records.machines.values().filter(|m| m.availability != MachineAvailability::Removed);
    Ok(present.map(|machine| machine_info(&view, machine)).collect())
}

async fn show(Call { server, at, .. }: Call<endpoints::Show>) -> HttpResult<MachineInfo> {
    let view = server.core.view();
    match view.records.machines.get(&at.name) {
        Some(machine) => Ok(machine_info(&view, machine)),
        None => Err(Problem::new(ErrorCode::MachineNotFound, format!("there is no machine {}", at.name))
            .hint("`gantry machine ls` lists the machines")
            .into()),
    }
}

async fn label(Call { server, caller, at, body, .. }: Call<endpoints::Label>) -> HttpResult<MachineInfo> {
    let machine = caller.mutate(&server, move |actor| actor.label_machine(&at.name, &body.labels)).await?;
    Ok(machine_info(&server.core.view(), &machine))
}

async fn set_availability(
    Call { server, caller, at, body, .. }: Call<endpoints::SetAvailability>,
) -> HttpResult<MachineInfo> {
    let ChangeAvailability { availability, reason, within } = body;
    if availability == AvailabilityInfo::Removed {
        let text = "a machine is removed with DELETE".to_owned();
        return Err(Problem::new(ErrorCode::InvalidRequest, text).into());
    }
    let change = move |actor: gantry_admission::Actor<'_>| {
        let availability = match availability {
            AvailabilityInfo::Cordoned => MachineAvailability::Cordoned { reason },
            AvailabilityInfo::Draining => {
                let deadline = within.map(|within| Moment(actor.now.0.saturating_add(within)));
                MachineAvailability::Draining { reason, deadline }
            }
            AvailabilityInfo::Schedulable | AvailabilityInfo::Removed => MachineAvailability::Schedulable,
        };
        actor.make_machine(&at.name, availability)
    };
    let machine = caller.mutate(&server, change).await?;
    Ok(machine_info(&server.core.view(), &machine))
}

async fn remove(Call { server, caller, at, query, .. }: Call<endpoints::Remove>) -> HttpResult<MachineInfo> {
    let state = server.core.view().machine_state(&at.name);
    let machine = caller.mutate(&server, move |actor| actor.remove_machine(&at.name, state, query.force)).await?;
    if let Some(servers) = &server.servers
        && let Err(error) = servers.forget_removed(&server).await
    {
        tracing::warn!(error = crate::causes(&error), "cannot forget the server of a removed machine yet");
    }
    Ok(machine_info(&server.core.view(), &machine))
}

/// Adds the endpoints of agents and routers.
pub(super) fn internal_routes(routes: Routes) -> Routes {
    routes.endpoint(agent).endpoint(router).endpoint(app_names)
}

async fn agent(mut call: Call<AgentControl>) -> HttpResult<Response> {
    let upgrade = call.take_upgrade()?;
    let Call { server, caller, at: AgentControl { machine }, .. } = call;
    let peer = AdmittedPeer { server, caller: Arc::new(caller), machine };
    Ok(serve_links(upgrade, peer, control_links::serve_agent))
}

async fn router(mut call: Call<RouterControl>) -> HttpResult<Response> {
    let upgrade = call.take_upgrade()?;
    let Call { server, caller, at: RouterControl { machine }, .. } = call;
    let peer = AdmittedPeer { server, caller: Arc::new(caller), machine };
    Ok(serve_links(upgrade, peer, control_links::serve_router))
}

/// The names of all apps. The agent removes build caches of other apps.
async fn app_names(Call { server, .. }: Call<AppNames>) -> HttpResult<Vec<AppName>> {
    Ok(server.core.view().records.apps.keys().cloned().collect())
}

/// Serves the streams of a control connection, which the peer's request becomes.
fn serve_links<F: Future<Output = ()> + Send + 'static>(
    upgrade: OnUpgrade,
    peer: AdmittedPeer,
    serve: impl Fn(AdmittedPeer, LinkStream) -> F + Send + Sync + 'static,
) -> Response {
    let (tasks, links) = (peer.server.tasks.clone(), peer.server.tasks.clone());
    tasks.spawn(CONNECTION, async move {
        if let Ok(connection) = upgrade.await {
            let serve = move |stream| drop(links.spawn(CONTROL_LINK, serve(peer.clone(), stream)));
            link::accept(connection, serve).await;
        }
    });
    switching_protocols()
}
