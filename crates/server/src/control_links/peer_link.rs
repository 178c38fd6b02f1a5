//! One connection of an agent or a router: greeting, rules, updates, and reports.

use std::sync::Arc;

use gantry_admission::Refusal;
use gantry_control::jobs::JobsReport;
use gantry_control::layers::LayersReport;
use gantry_control::update::UnreadItem;
use gantry_control::version::SUPPORTED_VERSIONS;
use gantry_control::{
    EncodedLine, Hello, LinkError, LinkStream, PartStep, PeerMessage, PeerPolicy, ProtocolVersion, Receipt, Replicated,
    SentPart, ServerMessage, SharedRoutes, Update, UpdateReceiver, UpdateSender, Welcome, version_one,
};
use gantry_error::ErrorChain;
use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{Generation, MachineAvailability, MachineName, Moment};
use tokio_util::sync::CancellationToken;

use super::{ControlLinks, Peer};
use crate::Server;
use crate::core::ClusterView;
use crate::http::auth::Caller;

/// Outcome of receiving from a peer.
pub(super) enum Received<R> {
    /// The report, changed.
    Report(R),
    /// The report, confirmed.
    Alive(Arc<R>),
    /// The report, confirmed by a peer that asks for a lease; with the time of the request.
    Lease(u64, Arc<R>),
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
pub(super) struct PeerLink<'a, P: SentPart, R: Replicated> {
    links: &'a ControlLinks,
    peer: Peer,
    pub(super) version: ProtocolVersion,
    superseded: CancellationToken,
    pub(super) stream: LinkStream,
    parts: UpdateSender<P>,
    /// The rules that the peer has.
    policy: Option<PeerPolicy>,
    reports: UpdateReceiver<R>,
    /// The peer has ended its work.
    pub(super) left: bool,
}

impl<P: SentPart, R: Replicated> Drop for PeerLink<'_, P, R> {
    fn drop(&mut self) {
        self.links.leave(&self.peer, &self.superseded);
    }
}

impl<'a, P: SentPart, R: Replicated> PeerLink<'a, P, R> {
    /// Agrees on a version with the peer, and welcomes or refuses the peer.
    pub(super) async fn welcome(
        server: &'a Arc<Server>,
        peer: Peer,
        hello: Hello,
        stream: LinkStream,
    ) -> Result<Self, LinkError> {
        let version = match SUPPORTED_VERSIONS.agree(hello.versions) {
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
    pub(super) async fn revalidate(&mut self, server: &Server, caller: &Caller) -> Result<(), LinkError> {
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
    pub(super) async fn send_part(&mut self, revision: Generation, part: &Arc<P>) -> Result<(), LinkError> {
        let Some(step) = self.parts.advance(revision.0, part) else { return Ok(()) };
        let line = self.own_line(&step)?;
        self.stream.sender.send_line(line).await
    }

    /// The message that carries out a step, for this peer alone.
    fn own_line(&self, step: &PartStep<P>) -> Result<EncodedLine, LinkError> {
        let mut update = step.update();
        version_one::translate_sent(self.version, &mut update, self.peer.machine());
        EncodedLine::of(&ServerMessage::Update(update))
    }

    /// Receives the next message that the caller must act upon. A dropped call loses no message.
    pub(super) async fn receive(&mut self) -> Result<Received<R>, LinkError> {
        loop {
            let message = tokio::select! {
                // The newer connection may have reported already, and its heartbeats do not repeat the report: what is left
                // of this connection must not follow.
                biased;
                () = self.superseded.cancelled() => None,
                message = self.stream.receiver.next() => message?,
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
                PeerMessage::Alive => match self.reports.shared() {
                    Some(report) => return Ok(Received::Alive(Arc::clone(report))),
                    None => continue,
                },
                PeerMessage::Lease { asked } => match self.reports.shared() {
                    Some(report) => return Ok(Received::Lease(asked, Arc::clone(report))),
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

impl<R: Replicated> PeerLink<'_, SharedRoutes, R> {
    /// Sends the routes if the router does not have them. The routers that are at the same revision get one message.
    pub(super) async fn send_routes(&mut self, routes: &Arc<SharedRoutes>) -> Result<(), LinkError> {
        let Some(step) = self.parts.advance(routes.revision().0, routes) else { return Ok(()) };
        let line = match version_one::is_translated(self.version) {
            true => self.own_line(&step)?,
            false => self.links.route_updates.line(&step)?,
        };
        self.stream.sender.send_line(line).await
    }
}

/// Logs why a connection ended. The end of a program or of a machine is no fault.
pub(super) fn log_end(machine: &MachineName, served: Result<(), LinkError>) {
    match served {
        Ok(()) | Err(LinkError::Connection(_) | LinkError::Ended) => {}
        Err(error) => tracing::warn!(%machine, error = %ErrorChain(&error), "control connection closed"),
    }
}
