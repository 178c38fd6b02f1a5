//! The agents. An agent's process may end; its containers and its part of the plan, which is on disk, stay.

use std::collections::BTreeMap;

use gantry_control::{MachineReport, PeerMessage, Receipt, ReportSender, ServerMessage, UpdateReceiver};
use gantry_model::{AllocationId, Generation, MachinePlan, Moment};

use crate::containers::SimulatedContainer;
use crate::events::{Event, Life, LinkId, Peer};
use crate::servers::report_sender;
use crate::simulation::Simulation;

/// Interval between two messages without news, in milliseconds.
pub(crate) const HEARTBEAT: u64 = 1_000;

/// An agent and its machine.
pub(crate) struct SimulatedAgent {
    pub(crate) life: Life,
    pub(crate) is_up: bool,
    pub(crate) link: Option<LinkId>,
    /// The plan in force. The disk has the same.
    pub(crate) plans: UpdateReceiver<MachinePlan>,
    reports: ReportSender<MachineReport>,
    pub(crate) containers: BTreeMap<AllocationId, SimulatedContainer>,
    /// The lease that the process knows, with the revision of its plan.
    lease: (Moment, Generation),
    /// The lease of the single copies that run.
    pub(crate) fence: Moment,
    /// The number of addresses given out so far.
    pub(crate) addresses: u32,
}

impl SimulatedAgent {
    /// Creates the agent of a new machine.
    pub(crate) fn new() -> Self {
        Self {
            life: 0,
            is_up: false,
            link: None,
            plans: UpdateReceiver::new(None),
            reports: report_sender(),
            containers: BTreeMap::new(),
            lease: (Moment(0), Generation(0)),
            fence: Moment(0),
            addresses: 0,
        }
    }

    /// Reports whether a single copy may start now.
    pub(crate) fn has_lease(&self, now: Moment) -> bool {
        let (end, revision) = self.lease;
        now < end && self.plans.part().is_some_and(|plan| plan.generation >= revision)
    }

    fn has_single_copy(&self) -> bool {
        self.plans.part().is_some_and(|plan| plan.instances.values().any(|assigned| assigned.spec.role.single))
    }

    fn report(&self) -> MachineReport {
        let generation = self.plans.part().map(|plan| plan.generation).unwrap_or_default();
        let instances = self.containers.iter().map(|(id, container)| (id.clone(), container.status.clone())).collect();
        MachineReport { generation, instances, network: Vec::new() }
    }
}

impl Simulation {
    /// Starts an agent's process.
    pub(crate) fn start_agent(&mut self, machine: usize) {
        let agent = &mut self.agents[machine];
        if agent.is_up {
            return;
        }
        agent.is_up = true;
        let life = agent.life;
        self.connect_soon(Peer::Agent(machine), life);
        self.reconcile(machine);
    }

    /// Ends an agent's process, which starts again after `pause` milliseconds.
    pub(crate) fn stop_agent(&mut self, machine: usize, pause: u64) {
        let agent = &mut self.agents[machine];
        (agent.is_up, agent.life) = (false, agent.life + 1);
        let known = agent.plans.part().map(|plan| (plan.generation.0, plan.clone()));
        agent.plans = UpdateReceiver::new(known);
        agent.lease = (Moment(0), Generation(0));
        if let Some(link) = agent.link.take() {
            self.break_link(link, 1_000);
        }
        self.timeline.after(pause, Event::StartPeer(Peer::Agent(machine)));
    }

    /// The agent's end of a new connection.
    pub(crate) fn agent_connected(&mut self, machine: usize, link: LinkId) {
        let agent = &mut self.agents[machine];
        (agent.link, agent.reports) = (Some(link), report_sender());
    }

    /// Sends the report if it changed. Returns whether it did.
    pub(crate) fn report_agent(&mut self, machine: usize) -> bool {
        let agent = &mut self.agents[machine];
        let Some(link) = agent.link.filter(|_| agent.is_up) else { return false };
        let report = agent.report();
        let Some(update) = agent.reports.next(&report) else { return false };
        self.send_up(link, PeerMessage::Update(update));
        true
    }

    /// A message of the server reaches an agent.
    pub(crate) fn deliver_to_agent(&mut self, machine: usize, message: &ServerMessage) {
        let agent = &mut self.agents[machine];
        let before = agent.plans.revision();
        match message {
            ServerMessage::Update(update) => match agent.plans.receive(update) {
                Receipt::Applied(unread) => {
                    assert_eq!(unread, []);
                    let after = agent.plans.revision();
                    assert!(after > before, "agent {machine} goes back from plan {before:?} to {after:?}");
                    self.reconcile(machine);
                    self.report_agent(machine);
                }
                Receipt::Old => {}
                Receipt::Gap => {
                    if let Some(link) = agent.link {
                        self.send_up(link, PeerMessage::Resend);
                    }
                }
            },
            ServerMessage::Lease { asked, millis, revision } => {
                let end = Moment(asked + millis);
                agent.lease = (agent.lease.0.max(end), agent.lease.1.max(Generation(*revision)));
                agent.fence = agent.fence.max(end);
                self.timeline.after(end.since(self.timeline.now), Event::Fence(machine));
            }
            ServerMessage::Resend => {
                agent.reports.resend();
                self.report_agent(machine);
            }
            _ => {}
        }
    }

    /// A peer confirms its report, for as long as the connection lasts.
    pub(crate) fn heartbeat(&mut self, peer: Peer, link: LinkId) {
        let (known, is_news) = match peer {
            Peer::Agent(machine) => (self.agents[machine].link, self.report_agent(machine)),
            Peer::Router(router) => (self.routers[router].link, self.report_router(router)),
        };
        if known != Some(link) {
            return;
        }
        if !is_news {
            self.send_up(link, PeerMessage::Alive);
        }
        if matches!(peer, Peer::Agent(machine) if self.agents[machine].has_single_copy()) {
            self.send_up(link, PeerMessage::Lease { asked: self.timeline.now.0 });
        }
        self.timeline.after(HEARTBEAT, Event::Heartbeat { peer, link });
    }
}
