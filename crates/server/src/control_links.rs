//! Connections of agents and routers: gives each peer its part of the plan, and passes its reports to the core.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_admission::{Actor, Refusal};
use gantry_control::jobs::JobsReport;
use gantry_control::layers::LayersReport;
use gantry_control::update::UnreadItem;
use gantry_control::version::SPOKEN;
use gantry_control::{
    Hello, LinkError, LinkStream, MachineFacts, MachineReport, PeerMessage, PeerPolicy, ProtocolVersion, Receipt,
    Replicated, RouterReport, ServerMessage, Update, UpdateReceiver, UpdateSender, Welcome, link, version_one,
};
use gantry_error::ErrorChain;
use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{
    Generation, Machine, MachineAvailability, MachineName, MachinePlan, MachineState, Moment, RoutingTable,
};
use gantry_records::RecordIndex;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::core::ClusterView;
use crate::http::auth::Caller;
use crate::jobs::JobsLink;
use crate::layer_sources::{self, LayersLink};
use crate::{ChangeError, Server};

/// A peer: an agent or a router of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Peer {
    Agent(MachineName),
    Router(MachineName, u64),
}

impl Peer {
    fn machine(&self) -> &MachineName {
        match self {
            Self::Agent(machine) | Self::Router(machine, _) => machine,
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(machine) => write!(f, "agent of {machine}"),
            Self::Router(machine, number) => write!(f, "router {number} of {machine}"),
        }
    }
}

/// The newest connection of each peer. A new connection ends the one before, which may be dead and would take sessions
/// that nobody opens.
#[derive(Default)]
pub(crate) struct ControlLinks(Mutex<HashMap<Peer, CancellationToken>>);

impl ControlLinks {
    /// Enters a connection, and returns what ends it.
    fn enter(&self, peer: &Peer) -> CancellationToken {
        let token = CancellationToken::new();
        let before = self.lock().insert(peer.clone(), token.clone());
        before.iter().for_each(CancellationToken::cancel);
        token
    }

    /// Removes a connection, unless a newer one has taken its place.
    fn leave(&self, peer: &Peer, token: &CancellationToken) {
        if !token.is_cancelled() {
            self.lock().remove(peer);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Peer, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the connection of a machine's agent until it ends.
pub(crate) async fn serve_agent(
    server: Arc<Server>,
    caller: Arc<Caller>,
    machine: MachineName,
    mut stream: LinkStream,
) {
    let served = async {
        let hello = link::greet(&mut stream).await?;
        register(&server, &machine, &hello, &stream).await?;
        let peer = Peer::Agent(machine.clone());
        let mut agent = PeerLink::<MachinePlan, MachineReport>::welcome(&server, peer, hello, stream).await?;
        let mut jobs = JobsLink::open(&server, &machine);
        let mut layers = LayersLink::open(&server, &machine, agent.version);
        let mut changes = server.core.watch_machine(&machine);
        let mut rules = server.core.watch_policy();
        let mut members = server.core.watch_members();
        // The time of a request for a lease that was not granted yet.
        let mut asked: Option<u64> = None;
        loop {
            changes.borrow_and_update();
            rules.borrow_and_update();
            members.borrow_and_update();
            agent.revalidate(&server, &caller).await?;
            let part = server.core.view().records.plan.machines.get(&machine).cloned();
            let revision = part.as_ref().map(|part| part.generation.0).unwrap_or_default();
            if let Some(part) = part {
                agent.give(part.generation, &part).await?;
            }
            if let Some(asked) = asked.take().filter(|_| server.core.may_grant()) {
                let millis = server.core.view().records.policy.single_lease();
                agent.stream.sender.send(&ServerMessage::Lease { asked, millis, revision }).await?;
            }
            tokio::select! {
                received = agent.receive() => match received? {
                    Received::Report(report) => {
                        layers.iter().for_each(LayersLink::seen);
                        server.core.machine(machine.clone(), report).await;
                    }
                    Received::Lease(time, report) => {
                        server.core.lease(machine.clone(), report).await;
                        asked = Some(time);
                    }
                    Received::Jobs(report) => jobs.report(report),
                    Received::Layers(report) => {
                        if let Some(layers) = &mut layers {
                            layers.report(report);
                        }
                    }
                    Received::Clock(sent) => server.clock_offsets.observe(&machine, sent, clock::reading().wall),
                    Received::Request => {}
                    Received::End => return Ok(()),
                },
                _ = changes.changed() => {}
                _ = rules.changed() => {}
                _ = members.changed() => {}
                orders = jobs.next() => agent.stream.sender.send(&ServerMessage::Jobs(orders)).await?,
                orders = layer_sources::next(&mut layers) => {
                    agent.stream.sender.send(&ServerMessage::Layers(orders)).await?;
                }
                request = server.sessions.next(&machine) => {
                    let request = serde_json::to_value(request).map_err(LinkError::Message)?;
                    agent.stream.sender.send(&ServerMessage::Session { request }).await?;
                }
            }
        }
    };
    let ended = served.await;
    server.clock_offsets.forget(&machine);
    told(&machine, ended);
}

/// Serves the connection of a router until it ends.
pub(crate) async fn serve_router(
    server: Arc<Server>,
    caller: Arc<Caller>,
    machine: MachineName,
    mut stream: LinkStream,
) {
    let served = async {
        let hello = link::greet(&mut stream).await?;
        let number = hello.number;
        let peer = Peer::Router(machine.clone(), number);
        let mut router = PeerLink::<RoutingTable, RouterReport>::welcome(&server, peer, hello, stream).await?;
        let mut changes = server.core.watch_routes();
        let mut rules = server.core.watch_policy();
        let mut members = server.core.watch_members();
        loop {
            changes.borrow_and_update();
            rules.borrow_and_update();
            members.borrow_and_update();
            router.revalidate(&server, &caller).await?;
            let table = server.core.routing_table(&server.core.view());
            router.give(table.generation, &table).await?;
            tokio::select! {
                received = router.receive() => match received? {
                    Received::Report(report) => {
                        let gone = router.left;
                        server.core.router(machine.clone(), RouterReport { number, gone, ..report }).await;
                        if gone {
                            return Ok(());
                        }
                    }
                    Received::Lease(..)
                    | Received::Jobs(_)
                    | Received::Layers(_)
                    | Received::Clock(_)
                    | Received::Request => {}
                    Received::End => return Ok(()),
                },
                _ = changes.changed() => {}
                _ = rules.changed() => {}
                _ = members.changed() => {}
            }
        }
    };
    told(&machine, served.await);
}

/// Registers the machine of an agent that connects. Refuses a second machine with the name of a connected one.
async fn register(server: &Server, name: &MachineName, hello: &Hello, stream: &LinkStream) -> Result<(), LinkError> {
    let (Some(facts), Ok(version)) = (hello.machine.clone(), SPOKEN.agree(hello.versions)) else {
        return Ok(());
    };
    let (name, program, protocol) = (name.clone(), hello.program.clone(), version.0);
    let (seen, began) = {
        let view = server.core.view();
        (view.observed.machines.get(&name).map(|machine| machine.seen), view.observed.began)
    };
    let change = move |records: &RecordIndex, now: Moment| {
        let MachineFacts { id, capacity, addresses, subnet, architecture } = facts;
        let machine = Machine {
            id,
            name,
            capacity,
            program,
            protocol,
            registered: now,
            addresses,
            subnet,
            architecture,
            labels: BTreeMap::new(),
            availability: MachineAvailability::Schedulable,
        };
        Actor::new(records, now, "gantry").register_machine(machine, MachineState::of(seen, began, now))
    };
    match server.core.mutate(change).await {
        Ok(()) => Ok(()),
        Err(ChangeError::Refused(refusal)) => {
            let hint = refusal.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            let reason = format!("{refusal}{hint}");
            stream.sender.send(&ServerMessage::Refused { reason: reason.clone() }).await?;
            Err(LinkError::Refused(reason))
        }
        // A full disk takes no change. What runs goes on all the same.
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "cannot write the record of a machine");
            Ok(())
        }
    }
}

/// Logs why a connection ended. The end of a program or of a machine is no fault.
fn told(machine: &MachineName, served: Result<(), LinkError>) {
    match served {
        Ok(()) | Err(LinkError::Connection(_) | LinkError::Ended) => {}
        Err(error) => tracing::warn!(%machine, error = %ErrorChain(&error), "control connection closed"),
    }
}

/// Outcome of receiving from a peer.
enum Received<R> {
    /// The report, changed or confirmed.
    Report(R),
    /// The report, confirmed by a peer that asks for a lease; with the time of the request.
    Lease(u64, R),
    /// The report about the peer's jobs.
    Jobs(JobsReport),
    /// The layers that the peer's machine has and wants.
    Layers(LayersReport),
    /// The peer's wall clock.
    Clock(Moment),
    /// The peer needs its complete part.
    Request,
    /// The connection has ended, or a newer one has taken its place.
    End,
}

/// State of one connection: `P` is the part that the peer gets, `R` the report that the peer sends.
struct PeerLink<'a, P: Replicated, R: Replicated> {
    links: &'a ControlLinks,
    peer: Peer,
    version: ProtocolVersion,
    superseded: CancellationToken,
    stream: LinkStream,
    parts: UpdateSender<P>,
    /// The rules that the peer has.
    policy: Option<PeerPolicy>,
    reports: UpdateReceiver<R>,
    /// The peer has ended its work.
    left: bool,
}

impl<P: Replicated, R: Replicated> Drop for PeerLink<'_, P, R> {
    fn drop(&mut self) {
        self.links.leave(&self.peer, &self.superseded);
    }
}

impl<'a, P: Replicated, R: Replicated> PeerLink<'a, P, R> {
    /// Agrees on a version with the peer, and welcomes or refuses the peer.
    async fn welcome(server: &'a Arc<Server>, peer: Peer, hello: Hello, stream: LinkStream) -> Result<Self, LinkError> {
        let version = match SPOKEN.agree(hello.versions) {
            Ok(version) => version,
            Err(mismatch) => {
                let reason = mismatch.to_string();
                stream.sender.send(&ServerMessage::Refused { reason: reason.clone() }).await?;
                return Err(LinkError::Refused(reason));
            }
        };
        let superseded = server.links.enter(&peer);
        tracing::debug!(%peer, program = hello.program, version = version.0, "control connection opened");
        let welcome = Welcome { version, lease_millis: SILENCE_MILLIS };
        let (parts, reports) = (UpdateSender::new(hello.revision), UpdateReceiver::new(None));
        let link =
            Self { links: &server.links, peer, version, superseded, stream, parts, policy: None, reports, left: false };
        link.stream.sender.send(&ServerMessage::Welcome(welcome)).await?;
        Ok(link)
    }

    /// Refuses a peer that may not be connected any more, and sends the rules of the cluster if the peer does not have
    /// them. Each message of the peer leads to this check.
    async fn revalidate(&mut self, server: &Server, caller: &Caller) -> Result<(), LinkError> {
        let (refusal, policy) = {
            let view = server.core.view();
            (self.refusal(caller, &view), PeerPolicy::from(&view.records.policy))
        };
        if let Some(reason) = refusal {
            self.stream.sender.send(&ServerMessage::Refused { reason: reason.clone() }).await?;
            return Err(LinkError::Refused(reason));
        }
        if self.policy.as_ref() == Some(&policy) {
            return Ok(());
        }
        self.policy = Some(policy.clone());
        self.stream.sender.send(&ServerMessage::Policy(policy)).await
    }

    /// The reason to refuse a peer whose token was revoked or has expired, or whose machine was removed.
    fn refusal(&self, caller: &Caller, view: &ClusterView) -> Option<String> {
        let machine = self.peer.machine();
        let removed = || {
            let record = view.records.machines.get(machine)?;
            let is_removed = record.availability == MachineAvailability::Removed;
            is_removed.then(|| Refusal::MachineRemoved { machine: machine.clone() }.to_string())
        };
        let refused = caller.revalidate(view).err().map(|problem| problem.to_string());
        refused.or_else(removed)
    }

    /// Sends the part if the peer does not have it.
    async fn give(&mut self, revision: Generation, part: &P) -> Result<(), LinkError> {
        match self.parts.next(revision.0, part) {
            Some(mut update) => {
                version_one::translate_sent(self.version, &mut update, self.peer.machine());
                self.stream.sender.send(&ServerMessage::Update(update)).await
            }
            None => Ok(()),
        }
    }

    /// Receives the next message that the caller must act upon. A dropped call loses no message.
    async fn receive(&mut self) -> Result<Received<R>, LinkError> {
        loop {
            let message = tokio::select! {
                message = self.stream.receiver.next() => message?,
                () = self.superseded.cancelled() => None,
            };
            let Some(message) = message else { return Ok(Received::End) };
            match message {
                PeerMessage::Update(mut update) => {
                    version_one::translate_received(self.version, &mut update, self.peer.machine());
                    if !self.take(&update).await? {
                        continue;
                    }
                }
                PeerMessage::Jobs(report) => return Ok(Received::Jobs(report)),
                PeerMessage::Layers(report) => return Ok(Received::Layers(report)),
                PeerMessage::Clock { now } => return Ok(Received::Clock(now)),
                PeerMessage::Alive => {}
                PeerMessage::Lease { asked } => match self.reports.part() {
                    Some(report) => return Ok(Received::Lease(asked, report.clone())),
                    None => continue,
                },
                PeerMessage::Leaving => self.left = true,
                PeerMessage::Resend => {
                    self.parts.resend();
                    return Ok(Received::Request);
                }
                PeerMessage::Hello(_) => return Err(LinkError::Greeting),
                PeerMessage::Unknown => continue,
            }
            if let Some(report) = self.reports.part() {
                return Ok(Received::Report(report.clone()));
            }
            if self.left {
                return Ok(Received::End);
            }
        }
    }

    /// Applies an update of the report. Returns whether it could be applied.
    async fn take(&mut self, update: &Update) -> Result<bool, LinkError> {
        match self.reports.receive(update) {
            Receipt::Applied(unread) => {
                for UnreadItem { key, reason } in unread {
                    tracing::warn!(peer = %self.peer, key, reason, "an item of the report cannot be read");
                }
                Ok(true)
            }
            Receipt::Old => Ok(false),
            Receipt::Gap => {
                self.stream.sender.send(&ServerMessage::Resend).await?;
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests;
