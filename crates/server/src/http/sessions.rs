//! Interactive sessions. The server upgrades a person's request and joins the connection with an agent's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use gantry_admission::find_app;
use gantry_api::endpoints::sessions as endpoints;
use gantry_api::frame::Frame;
use gantry_api::{ErrorCode, Problem};
use gantry_control::endpoints::CallBack;
use gantry_control::sessions::SessionKind;
use gantry_model::role::Role;
use gantry_model::{
    AllocationId, AppName, Assignment, AuditAction, Digest, InstancePhase, InstanceSpec, Kind, MachineName,
    ReleaseConfig, ReleaseNumber, RoleCommand, VolumeName,
};
use http::{StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::call::{Call, Routes};
use super::volume_machines::machine_of_volume;
use super::{HttpResult, logs, registry, volumes};
use crate::Server;
use crate::core::ClusterView;
use crate::machine_choice::by_use;
use crate::session_broker::OpenError;
use crate::tasks::CONNECTION;

/// Adds the endpoints of logs and sessions.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(logs::read).endpoint(exec).endpoint(run)
}

/// Adds the endpoint at which agents call back.
pub(super) fn internal_routes(routes: Routes) -> Routes {
    routes.endpoint(call_back)
}

/// Refusal of a request that does not ask for an upgrade of its connection.
pub(super) fn no_session() -> Problem {
    Problem::new(ErrorCode::SessionRequired, "this path turns into a session; use `gantry`")
}

pub(super) fn switching_protocols() -> Response {
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "gantry-session")];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

/// Timeout of an agent while another machine could take the session.
const NEXT_AFTER: Duration = Duration::from_secs(3);

/// Copies data between a person and an agent until both directions end or fail. `machines` are asked one after another
/// until an agent answers.
pub(super) fn join_connections(
    server: &Arc<Server>,
    person: OnUpgrade,
    machines: Vec<MachineName>,
    kind: SessionKind,
) -> Response {
    let (tasks, server) = (&server.tasks, Arc::clone(server));
    tasks.spawn(CONNECTION, async move {
        let Ok(person) = person.await else { return };
        let mut person = TokioIo::new(person);
        match open_on_first(&server, machines, kind).await {
            Ok(agent) => {
                let mut agent = TokioIo::new(agent);
                let _ = tokio::io::copy_bidirectional(&mut person, &mut agent).await;
            }
            Err(message) => {
                let _ = Frame::Failed(message.to_string()).write(&mut person).await;
                let _ = person.shutdown().await;
            }
        }
    });
    switching_protocols()
}

/// Opens a session on the first machine whose agent answers.
async fn open_on_first(
    server: &Server,
    mut machines: Vec<MachineName>,
    kind: SessionKind,
) -> Result<Upgraded, OpenError> {
    let last = machines.pop().unwrap_or_else(|| server.settings.machine.clone());
    for machine in machines {
        match server.sessions.open_within(NEXT_AFTER, &machine, kind.clone()).await {
            Ok(agent) => return Ok(agent),
            Err(error) => tracing::warn!(%machine, %error, "no agent takes the session; trying another machine"),
        }
    }
    server.sessions.open(&last, kind).await
}

/// Returns the machine that an instance is assigned to.
fn machine_of(view: &ClusterView, id: &AllocationId) -> Option<MachineName> {
    view.records.plan.assignment(id).map(|(machine, _)| machine.clone())
}

/// Refusal of a request for which a machine is needed.
pub(super) fn no_machine() -> Problem {
    Problem::new(ErrorCode::NoMachine, "no machine has reported yet")
        .hint("check the output of `gantry up` for errors of the agent")
}

/// Reports whether a text names an allocation, or the slot of the allocation.
fn names(id: &AllocationId, text: &str) -> bool {
    [id.to_string(), id.short(), id.slot.to_string(), id.slot.short()].iter().any(|name| name == text)
}

/// Finds the running instance that a request names, or the app's first running instance.
fn find_instance(view: &ClusterView, app: &AppName, wanted: Option<&str>) -> HttpResult<AllocationId> {
    let running = view.records.plan.assignments_of(app).filter(|(machine, id, _)| {
        let seen = view.observed.machines.get(*machine).and_then(|report| report.instances.get(*id));
        seen.is_some_and(|seen| {
            matches!(seen.phase, InstancePhase::Starting | InstancePhase::Ready | InstancePhase::Unhealthy)
        })
    });
    let current = view.records.apps.get(app).and_then(|app| app.current);
    let mut found: Vec<(&AllocationId, &Assignment)> = running.map(|(_, id, assigned)| (id, assigned)).collect();
    // Several releases may have a copy of the same name, and a copy may be moving.
    found.sort_by_key(|(id, assigned)| {
        (Some(id.slot.release) != current, !assigned.spec.role.serves_http(), id.slot.index, Reverse(id.number))
    });
    let mut ids = found.into_iter().map(|(id, _)| id);
    let found = match wanted {
        None => ids.next(),
        Some(text) => ids.find(|id| names(id, text)),
    };
    found.cloned().ok_or_else(|| {
        let message = wanted.map_or_else(
            || format!("{app} has no running instance"),
            |text| format!("{app} has no running instance {text}"),
        );
        Problem::new(ErrorCode::InstanceNotFound, message).hint("`gantry ps` lists the instances").into()
    })
}

/// The instance in which a command runs, and its machine.
fn exec_target(server: &Server, app: &AppName, wanted: Option<&str>) -> HttpResult<(AllocationId, MachineName)> {
    let view = server.core.view();
    find_app(&view.records, app)?;
    let instance = find_instance(&view, app, wanted)?;
    let machine = machine_of(&view, &instance)
        .ok_or_else(|| Problem::new(ErrorCode::InstanceNotFound, format!("{instance} has ended")))?;
    Ok((instance, machine))
}

async fn exec(mut call: Call<endpoints::Exec>) -> HttpResult<Response> {
    let person = call.take_upgrade()?;
    let Call { server, caller, at: endpoints::Exec { app }, body, .. } = call;
    let (instance, machine) = exec_target(&server, &app, body.instance.as_deref())?;
    let action = AuditAction::ExecOpened { instance: instance.clone() };
    caller.mutate(&server, move |actor| actor.record(Some(&app), action)).await?;
    let kind = SessionKind::Exec { instance, command: body.command, terminal: body.terminal };
    Ok(join_connections(&server, person, vec![machine], kind))
}

async fn run(mut call: Call<endpoints::Run>) -> HttpResult<Response> {
    let person = call.take_upgrade()?;
    let Call { server, caller, at: endpoints::Run { app }, body, .. } = call;
    find_app(&server.core.view().records, &app)?;
    let image = match &body.image {
        Some(reference) => Some(registry::resolve(&server, &caller, reference).await?),
        None => None,
    };
    if image.is_some() && !body.volumes.is_empty() {
        let message = format!("a run of another image gets no volume of {app}");
        return Err(Problem::new(ErrorCode::InvalidVolume, message).hint("leave out the volumes, or the image").into());
    }
    let (release, spec, alone) = {
        let view = server.core.view();
        let (release, mut spec) = one_off_spec(&view, &app, image.clone())?;
        let (mounts, alone) = one_off_volumes(&view, &app, std::mem::take(&mut spec.role.volumes), &body.volumes)?;
        spec.role.volumes = mounts;
        spec.role.kind = Kind::OneOff;
        spec.volumes_of.clone_from(&find_app(&view.records, &app)?.volumes_of);
        (release, spec, alone)
    };
    let machines = machines_for_one_off(&server, &app, &body.volumes).await?;
    let (action, of) = (AuditAction::RunOpened { release, image }, app.clone());
    caller.mutate(&server, move |actor| actor.record(Some(&of), action)).await?;
    let kind = SessionKind::Run {
        app,
        release: release.unwrap_or(ReleaseNumber(0)),
        spec: Box::new(spec),
        alone,
        command: body.command,
        terminal: body.terminal,
        trace: body.trace,
    };
    Ok(join_connections(&server, person, machines, kind))
}

/// The release and the specification of a one-off: those of the app's current release, with another image if one is
/// named. An image runs without a release, too.
fn one_off_spec(
    view: &ClusterView,
    app: &AppName,
    image: Option<Digest>,
) -> HttpResult<(Option<ReleaseNumber>, InstanceSpec)> {
    let current = view.records.apps.get(app).and_then(|app| app.current);
    let current = match (current, image.clone()) {
        (Some(current), _) => current,
        (None, Some(image)) => {
            let role = Role::new(RoleCommand::Argv(Vec::new()));
            let config = ReleaseConfig::default();
            return Ok((None, InstanceSpec { image, commit: None, config, role, volumes_of: None }));
        }
        (None, None) => {
            return Err(Problem::new(ErrorCode::NoRelease, format!("{app} has no release to run in")).into());
        }
    };
    let release = view
        .records
        .release(app, current)
        .ok_or_else(|| Problem::new(ErrorCode::ReleaseNotFound, format!("{app} has no release {current}")))?;
    let role = release.web().or_else(|| release.services().next());
    let (_, role) =
        role.ok_or_else(|| Problem::new(ErrorCode::RoleNotFound, format!("release {current} of {app} has no role")))?;
    let spec = InstanceSpec {
        commit: if image.is_none() { release.commit.clone() } else { None },
        image: image.unwrap_or_else(|| release.image.clone()),
        config: release.config.clone(),
        role: role.clone(),
        volumes_of: None,
    };
    Ok((Some(current), spec))
}

/// Maximum number of machines that are asked to take a one-off.
const ONE_OFF_CANDIDATES: usize = 3;

/// The machines that may take a one-off, best first: the machine with its volumes, or the machines with the fewest
/// instances.
async fn machines_for_one_off(
    server: &Server,
    app: &AppName,
    wanted: &BTreeMap<VolumeName, Option<String>>,
) -> HttpResult<Vec<MachineName>> {
    let folder = server.core.view().records.apps.get(app).map_or(app, |app| app.volume_folder()).clone();
    let mut found: Option<(MachineName, &VolumeName)> = None;
    for name in wanted.keys() {
        let machine = machine_of_volume(server, (app, &folder, name)).await?;
        match &found {
            Some((other, of)) if *other != machine => {
                let message =
                    format!("volume {of} of {app} is on machine {other}, and volume {name} on machine {machine}");
                return Err(Problem::new(ErrorCode::InvalidVolume, message)
                    .hint("name only one of the two volumes")
                    .into());
            }
            Some(_) => {}
            None => found = Some((machine, name)),
        }
    }
    let mut machines = found.map_or_else(|| by_use(&server.core.view()), |(machine, _)| vec![machine]);
    machines.truncate(ONE_OFF_CANDIDATES);
    if machines.is_empty() { Err(no_machine().into()) } else { Ok(machines) }
}

/// Volumes of a one-off, each with its path; and the names of those that the one-off needs for itself. A volume has a
/// single writer, unless several roles of the release name it.
fn one_off_volumes(
    view: &ClusterView,
    app: &AppName,
    of_role: BTreeMap<String, String>,
    wanted: &BTreeMap<VolumeName, Option<String>>,
) -> HttpResult<(BTreeMap<String, String>, BTreeSet<String>)> {
    let (mut mounts, mut alone) = (BTreeMap::new(), BTreeSet::new());
    for (name, path) in wanted {
        let paths: Vec<&String> = volumes::roles(view, app, name).map(|(_, _, path)| path).collect();
        let path = match path.as_ref().or(of_role.get(name.as_str())).or(paths.first().copied()) {
            Some(path) => path.clone(),
            None => {
                let message = format!("no role of {app} has a volume {name}, so its path is not known");
                return Err(Problem::new(ErrorCode::InvalidVolume, message)
                    .hint(format!("write --volume {name}:/path"))
                    .into());
            }
        };
        gantry_build::check_volume(name.as_str(), &path)
            .map_err(|error| Problem::new(ErrorCode::InvalidVolume, error.to_string()))?;
        if paths.len() < 2 {
            alone.insert(name.to_string());
        }
        mounts.insert(name.to_string(), path);
    }
    Ok((mounts, alone))
}

async fn call_back(mut call: Call<CallBack>) -> HttpResult<Response> {
    let agent = call.take_upgrade()?;
    let Call { server, caller, at: CallBack { id }, .. } = call;
    if let Some(machine) = server.sessions.machine_of_session(&id) {
        caller.machine(&machine)?;
    }
    let waiting = server
        .sessions
        .claim(&id)
        .ok_or_else(|| Problem::new(ErrorCode::SessionNotFound, "no client waits for this session any more"))?;
    server.tasks.spawn(CONNECTION, async move {
        if let Ok(agent) = agent.await {
            let _ = waiting.send(agent);
        }
    });
    Ok(switching_protocols())
}
