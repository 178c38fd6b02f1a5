//! Connections of agents.

use std::collections::BTreeMap;

use gantry_admission::Actor;
use gantry_control::version::SUPPORTED_VERSIONS;
use gantry_control::{Hello, LinkError, LinkStream, MachineFacts, MachineReport, ServerMessage, link};
use gantry_error::ErrorChain;
use gantry_model::{Machine, MachineAvailability, MachineName, MachinePlan, MachineState, Moment};
use gantry_records::RecordIndex;

use super::peer_link::{PeerLink, Received, log_end};
use super::peer_news::PeerNews;
use super::{AdmittedPeer, Peer};
use crate::jobs::JobsLink;
use crate::layer_sources::{self, LayersLink};
use crate::{ChangeError, Server, clock};

/// Serves the connection of a machine's agent until it ends.
pub(crate) async fn serve_agent(AdmittedPeer { server, caller, machine }: AdmittedPeer, mut stream: LinkStream) {
    let served = async {
        let hello = link::receive_hello(&mut stream).await?;
        register(&server, &machine, &hello, &stream).await?;
        let peer = Peer::Agent(machine.clone());
        let mut agent = PeerLink::<MachinePlan, MachineReport>::welcome(&server, peer, hello, stream).await?;
        let mut jobs = JobsLink::open(&server, &machine);
        let mut layers = LayersLink::open(&server, &machine, agent.version);
        let mut news = PeerNews::new(&server, server.core.watch_machine(&machine));
        // The time of a request for a lease that was not granted yet.
        let mut asked: Option<u64> = None;
        loop {
            news.mark_seen();
            agent.revalidate(&server, &caller).await?;
            let part = server.core.view().records.plan.machines.get(&machine).cloned();
            let revision = part.as_ref().map(|part| part.generation.0).unwrap_or_default();
            if let Some(part) = part {
                agent.send_part(part.generation, &part).await?;
            }
            if let Some(asked) = asked.take().filter(|_| server.core.may_grant()) {
                let millis = server.core.view().records.policy.single_lease();
                agent.stream.sender.send(&ServerMessage::Lease { asked, millis, revision }).await?;
            }
            tokio::select! {
                received = agent.receive() => match received? {
                    Received::Report(report) => {
                        layers.iter().for_each(LayersLink::mark_alive);
                        server.core.machine(machine.clone(), report).await;
                    }
                    Received::Alive(report) => {
                        layers.iter().for_each(LayersLink::mark_alive);
                        server.core.machine_alive(machine.clone(), report).await;
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
                () = news.next() => {}
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
    log_end(&machine, ended);
}

/// Registers the machine of an agent that connects. Refuses a second machine with the name of a connected one.
async fn register(server: &Server, name: &MachineName, hello: &Hello, stream: &LinkStream) -> Result<(), LinkError> {
    let (Some(facts), Ok(version)) = (hello.machine.clone(), SUPPORTED_VERSIONS.agree(hello.versions)) else {
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
