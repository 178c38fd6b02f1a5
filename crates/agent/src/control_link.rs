//! Connection to the server: receives the plan and requests for sessions, and sends status reports.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::endpoint::Endpoint;
use gantry_control::endpoints::AgentControl;
use gantry_control::sessions::SessionRequest;
use gantry_control::update::UnreadItem;
use gantry_control::version::SUPPORTED_VERSIONS;
use gantry_control::{
    Connection, Hello, LinkError, MachineReport, PeerMessage, PeerPolicy, ProtocolVersion, Receipt, ReportSender,
    ServerMessage, Update, UpdateReceiver, link, version_one,
};
use gantry_model::{AllocationId, Generation, InstancePhase, MachinePlan, ObservedInstance};
use gantry_supervision::{Backoff, ReconcileLoop};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::status::{reading, wall};
use crate::{AgentContext, jobs, machine, sessions};

/// Pause before the next connection.
const RETRY: Duration = Duration::from_millis(250);

/// Failures in a row before the agent logs a warning: five seconds. The machine's server may start at the same time.
const WARN_AFTER: u64 = 20;

/// Interval between two messages without a change. Each message renews the machine's lease.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Interval between two messages with this machine's time.
const CLOCK: Duration = Duration::from_secs(5);

/// Shortest interval between two reports. The first change is reported at once; further changes within this time go
/// into one report.
const GATHER: Duration = Duration::from_millis(5);

/// Keeps the connection to the server, for ever. `known` is the plan in force. Each new plan goes to `plans`.
pub(crate) async fn follow(
    agent: &Arc<AgentContext>,
    known: Option<MachinePlan>,
    plans: &watch::Sender<Option<MachinePlan>>,
) {
    let mut received = UpdateReceiver::new(known.map(|plan| (plan.generation.0, plan)));
    let pass = async || connect(agent, &mut received, plans).await;
    let connections = ReconcileLoop::new("control connection", Duration::ZERO, Backoff::constant(RETRY));
    connections.quiet_for(WARN_AFTER).run(pass).await;
}

/// Opens a connection, and serves it until it ends.
async fn connect(
    agent: &Arc<AgentContext>,
    received: &mut UpdateReceiver<MachinePlan>,
    plans: &watch::Sender<Option<MachinePlan>>,
) -> Result<(), LinkError> {
    let path = AgentControl { machine: agent.settings.machine.clone() }.path();
    let program = env!("CARGO_PKG_VERSION").to_owned();
    let machine = machine::facts(&agent.settings).map_err(LinkError::Machine)?;
    let hello = Hello {
        versions: SUPPORTED_VERSIONS,
        program,
        revision: received.revision(),
        machine: Some(machine),
        number: 0,
    };
    let Connection { stream, welcome, .. } = &mut link::connect(&agent.client, &path, hello).await?;
    let (version, here) = (welcome.version, &agent.settings.machine);
    agent.exchange.connected(version);
    let mut reports = ReportSender::default();
    let mut next_report = Instant::now();
    stream.sender.send(&PeerMessage::Jobs(agent.jobs.report(true))).await?;
    stream.sender.send(&PeerMessage::Layers(agent.exchange.report())).await?;
    let (mut heartbeat, mut clock) = (tokio::time::interval(HEARTBEAT), tokio::time::interval(CLOCK));
    loop {
        let message = tokio::select! {
            message = stream.receiver.next() => match message? {
                Some(message) => message,
                None => return Err(LinkError::Ended),
            },
            () = agent.status.changed() => {
                tokio::time::sleep_until(next_report).await;
                next_report = Instant::now() + GATHER;
                if let Some(update) = next_update(agent, &mut reports, version) {
                    stream.sender.send(&PeerMessage::Update(update)).await?;
                }
                continue;
            }
            _ = heartbeat.tick() => {
                let update = next_update(agent, &mut reports, version);
                stream.sender.send(&update.map_or(PeerMessage::Alive, PeerMessage::Update)).await?;
                if agent.fence.is_needed() {
                    stream.sender.send(&lease_request()).await?;
                }
                if !agent.jobs.is_idle() {
                    stream.sender.send(&PeerMessage::Jobs(agent.jobs.report(false))).await?;
                }
                continue;
            }
            _ = clock.tick() => {
                stream.sender.send(&PeerMessage::Clock { now: wall() }).await?;
                continue;
            }
            () = agent.fence.lease_requested() => {
                stream.sender.send(&lease_request()).await?;
                continue;
            }
            () = agent.exchange.changed() => {
                stream.sender.send(&PeerMessage::Layers(agent.exchange.report())).await?;
                continue;
            }
            () = agent.jobs.changed() => {
                stream.sender.send(&PeerMessage::Jobs(agent.jobs.report(false))).await?;
                continue;
            }
        };
        match message {
            ServerMessage::Update(mut update) => {
                version_one::translate_received(version, &mut update, here);
                match received.receive(&update) {
                    Receipt::Applied(unread) => {
                        if let Some(plan) = received.part() {
                            plans.send_replace(Some(plan.clone()));
                        }
                        unread.iter().for_each(|item| refuse(agent, received.part(), item));
                    }
                    Receipt::Old => {}
                    Receipt::Gap => stream.sender.send(&PeerMessage::Resend).await?,
                }
            }
            ServerMessage::Lease { asked, millis, revision } => agent.fence.renew(asked, millis, Generation(revision)),
            ServerMessage::Policy(policy) => apply_policy(agent, policy),
            ServerMessage::Resend => reports.resend(),
            ServerMessage::Session { request } => sessions::open(agent, SessionRequest::read(request)),
            ServerMessage::Jobs(orders) => jobs::carry_out(agent, orders),
            ServerMessage::Layers(orders) => agent.exchange.apply_orders(orders),
            ServerMessage::Refused { reason } => return Err(LinkError::Refused(reason)),
            ServerMessage::Welcome(_) => return Err(LinkError::Greeting),
            ServerMessage::Unknown => {}
        }
    }
}

/// The change of the report since the last one, in the form of the connection's version; none if nothing changed.
fn next_update(
    agent: &AgentContext,
    reports: &mut ReportSender<MachineReport>,
    version: ProtocolVersion,
) -> Option<Update> {
    let mut update = reports.next(&agent.status.report())?;
    version_one::translate_sent(version, &mut update, &agent.settings.machine);
    Some(update)
}

/// A request for a lease. The lease counts from now on.
fn lease_request() -> PeerMessage {
    PeerMessage::Lease { asked: reading().booted }
}

/// Applies the rules of the cluster.
fn apply_policy(agent: &AgentContext, policy: PeerPolicy) {
    agent.builds.resize(policy.builds);
    agent.layers.keep_free(policy.reserve.0);
    agent.policy.take(policy);
}

/// Reports an item of the plan that this agent cannot read. A workload that already runs goes on as it was.
fn refuse(agent: &AgentContext, plan: Option<&MachinePlan>, item: &UnreadItem) {
    tracing::warn!(item = item.key, reason = item.reason, "an item of the plan cannot be read; update this machine");
    let Some(id) = item.key.strip_prefix("allocation/").and_then(AllocationId::parse) else { return };
    if plan.is_some_and(|plan| plan.instances.contains_key(&id)) {
        return;
    }
    let why = format!("this machine's agent cannot read the plan of {id}: {}; update the machine", item.reason);
    let phase = InstancePhase::Failed;
    agent.status.set(&id, ObservedInstance { phase, failure: Some(why), ..crate::status::new_status() });
}

#[cfg(test)]
mod tests;
