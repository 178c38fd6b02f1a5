//! Finds the machine that has a volume, and asks agents about volumes.

use std::time::Duration;

use futures_util::StreamExt;
use gantry_api::frame::Frame;
use gantry_api::types::UnreachableMachine;
use gantry_api::volumes::{VolumeAnswer, VolumeReport, VolumeRequest};
use gantry_api::{ErrorCode, Problem};
use gantry_control::sessions::SessionKind;
use gantry_model::{AppName, MachineName, VolumeName};
use hyper_util::rt::TokioIo;

use super::HttpResult;
use super::sessions::no_machine;
use crate::Server;
use crate::core::ClusterView;
use crate::machine_choice::{least_used, machines_by_report};

/// Timeout of an agent that works on volumes and sends nothing. A working agent sends an empty frame every 15 s.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Limit in bytes on an agent's answer.
const ANSWER_MAX: usize = 16 << 20;

/// Maximum number of machines that are asked at once.
const CONCURRENT_REQUESTS: usize = 32;

/// Requests work from a machine's agent and returns its answer.
pub(super) async fn send_volume_request(
    server: &Server,
    machine: &MachineName,
    request: VolumeRequest,
) -> HttpResult<VolumeAnswer> {
    let opened = server.sessions.open(machine, SessionKind::Volumes { request }).await;
    let mut agent = TokioIo::new(opened.map_err(|why| Problem::new(ErrorCode::AgentUnreachable, why.to_string()))?);
    let broken = |why: &str| {
        let message = format!("the agent on {machine} did not finish the work on the volume: {why}");
        Problem::new(ErrorCode::AgentFailed, message)
            .hint(format!("`gantry machine show {machine}` shows the state of the machine"))
    };
    let mut text = Vec::new();
    loop {
        let frame = tokio::time::timeout(STALL_TIMEOUT, Frame::read(&mut agent)).await;
        let silent = |_| broken(&format!("it sent nothing for {} s", STALL_TIMEOUT.as_secs()));
        match frame.map_err(silent)?.map_err(|error| broken(&error.to_string()))? {
            Some(Frame::Answer(piece)) if text.len() < ANSWER_MAX => text.extend_from_slice(&piece),
            Some(Frame::Answer(_)) => {
                return Err(broken(&format!("the answer is longer than {ANSWER_MAX} bytes")).into());
            }
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

pub(super) fn unexpected(machine: &MachineName) -> Problem {
    let message = format!("the agent on {machine} sent an unexpected answer about a volume");
    Problem::new(ErrorCode::AgentFailed, message).hint("give the server and the agent the same version of gantry")
}

/// The volumes of all machines, and the machines that could not be asked.
pub(super) struct FoundVolumes {
    pub(super) volumes: Vec<VolumeReport>,
    pub(super) unreachable: Vec<UnreachableMachine>,
}

/// Lists the volumes of all machines, or those of one folder. Fails if no machine can be asked.
pub(super) async fn find_all(server: &Server, folder: Option<&AppName>) -> HttpResult<FoundVolumes> {
    let machines = machines_by_report(&server.core.view());
    // A cluster without a machine that reports may have one that is back in a moment.
    let (machines_to_ask, silent) = match machines.reporting.is_empty() {
        true => (machines.silent, Vec::new()),
        false => (machines.reporting, machines.silent),
    };
    let listed = machines_to_ask.into_iter().map(|machine| async move {
        let answer = send_volume_request(server, &machine, VolumeRequest::List { app: folder.cloned() }).await;
        (machine, answer)
    });
    let mut listed = futures_util::stream::iter(listed).buffered(CONCURRENT_REQUESTS);
    let unreachable = silent.into_iter().map(UnreachableMachine::silent).collect();
    let mut found = FoundVolumes { volumes: Vec::new(), unreachable };
    let (mut answered, mut refused) = (false, None);
    while let Some((machine, answer)) = listed.next().await {
        match answer {
            Ok(VolumeAnswer::List { volumes }) => {
                found.volumes.extend(volumes);
                answered = true;
            }
            Ok(_) => return Err(unexpected(&machine).into()),
            Err(error) => {
                found.unreachable.push(UnreachableMachine { machine, reason: error.0.message.clone() });
                refused = refused.or(Some(error));
            }
        }
    }
    match refused {
        Some(error) if !answered => Err(error),
        None if !answered => Err(no_machine().into()),
        _ => Ok(found),
    }
}

/// The machine with a volume of an app: the one that has or gets an instance with the volume, or else the one that has
/// the volume's folder. A volume that is on no machine belongs on the machine with the fewest instances.
pub(super) async fn machine_of_volume(
    server: &Server,
    (app, folder, name): (&AppName, &AppName, &VolumeName),
) -> HttpResult<MachineName> {
    let nowhere = || least_used(&server.core.view()).ok_or_else(|| no_machine().into());
    {
        let view = server.core.view();
        if view.records.machines.len() < 2 {
            return nowhere();
        }
        if let Some(machine) = assigned_machine(&view, app, name) {
            return Ok(machine);
        }
    }
    let FoundVolumes { volumes, unreachable } = find_all(server, Some(folder)).await?;
    let mut machines = volumes.into_iter().filter(|volume| volume.name == *name).map(|volume| volume.machine);
    match (machines.next(), machines.next(), unreachable.first()) {
        (Some(machine), None, _) => Ok(machine),
        (Some(first), Some(second), _) => {
            let message = format!("machines {first} and {second} both have data of volume {name} of {app}");
            Err(Problem::new(ErrorCode::VolumeAmbiguous, message)
                .hint("start the role that has the volume: its machine then has the volume that counts")
                .into())
        }
        (None, _, Some(UnreachableMachine { machine, reason })) => {
            let message =
                format!("no machine that answers has volume {name} of {app}, and {machine} does not: {reason}");
            Err(Problem::new(ErrorCode::AgentUnreachable, message).into())
        }
        (None, _, None) => nowhere(),
    }
}

/// The machine of the instance that has or gets a volume.
fn assigned_machine(view: &ClusterView, app: &AppName, name: &VolumeName) -> Option<MachineName> {
    let mut assigned = view.records.plan.assignments_of(app);
    let found = assigned.find(|(_, _, assigned)| assigned.spec.role.volumes.contains_key(name.as_str()));
    found.map(|(machine, _, _)| machine.clone())
}
