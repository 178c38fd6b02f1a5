//! The servers: leadership, connections of peers, and the loop around the product's core. The loop mirrors
//! `gantry_server::core`, which runs the same steps against a real store.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_admission::{JumpedRecords, newest_stamp};
use gantry_cluster::{ChangedParts, CoreEvent, CoreState, DirtySet};
use gantry_control::{
    MachineReport, PeerMessage, Receipt, ReportSender, RouterReport, ServerMessage, SharedRoutes, Update,
    UpdateReceiver, UpdateSender,
};
use gantry_model::clock::{ClockJumps, ClockReading, SteadyClock};
use gantry_model::{MachinePlan, Moment, RouterId};
use gantry_records::RecordChange;

use crate::events::{Event, Life, LinkId, Peer};
use crate::shapes::machine_name;
use crate::simulation::Simulation;
use crate::writes::WriteError;

/// Interval of a server's timer, in milliseconds.
const TICK: u64 = 500;

/// Time in which messages gather before the next plan, in milliseconds.
const GATHER_MILLIS: u64 = 3;

/// Ticks between two renewals of leadership.
const RENEWAL_TICKS: u64 = 5;

/// A server's process.
#[derive(Default)]
pub(crate) struct SimulatedServer {
    pub(crate) life: Life,
    pub(crate) is_up: bool,
    /// The process stands still.
    pub(crate) is_paused: bool,
    /// Events for the time after the pause.
    backlog: Vec<Event>,
    /// Present if the server believes that it leads.
    pub(crate) leader: Option<Box<Leader>>,
    /// Lead of the wall clock of the server's machine over the virtual time, in milliseconds.
    wall_lead: i64,
}

impl SimulatedServer {
    /// Reports whether the server accepts connections.
    pub(crate) fn answers(&self) -> bool {
        self.is_up && !self.is_paused && self.leader.is_some()
    }
}

/// A server's state while it leads.
pub(crate) struct Leader {
    pub(crate) core: CoreState,
    clock: SteadyClock,
    /// The records after a jump of the wall clock, until they are known to be written.
    jumped: Option<JumpedRecords>,
    pub(crate) term: u64,
    pub(crate) dirty: DirtySet,
    pub(crate) changed: ChangedParts,
    /// The outcome of a write is unknown: the records must be read again before the next decision.
    pub(crate) is_stale: bool,
    pub(crate) peers: BTreeMap<LinkId, PeerLink>,
    routes: Arc<SharedRoutes>,
    ticks: u64,
    /// Messages arrived that no plan accounts for yet.
    is_unsettled: bool,
}

/// A server's end of a connection.
pub(crate) enum PeerLink {
    Agent { machine: usize, parts: UpdateSender<MachinePlan>, reports: UpdateReceiver<MachineReport> },
    Router { index: usize, number: u64, tables: UpdateSender<SharedRoutes>, reports: UpdateReceiver<RouterReport> },
}

impl Leader {
    /// Applies an event. Returns the events for the audit trail.
    pub(crate) fn apply(&mut self, event: CoreEvent, now: Moment) -> Vec<RecordChange> {
        let effects = self.core.apply(event, now);
        self.dirty.merge(effects.dirty);
        self.changed.merge(effects.changed);
        effects.trail
    }

    /// The routes of the present plan.
    fn routes(&mut self) -> Arc<SharedRoutes> {
        let plan = self.core.view().records.plan.clone();
        if self.routes.revision() != plan.routing.revision {
            self.routes = Arc::new(SharedRoutes::of(&plan));
        }
        Arc::clone(&self.routes)
    }

    /// The update that brings a peer to its present part, if the peer needs one.
    fn update_for(&mut self, link: LinkId) -> Option<Update> {
        let (routes, view) = (self.routes(), self.core.view());
        match self.peers.get_mut(&link)? {
            PeerLink::Agent { machine, parts, .. } => {
                let part = view.records.plan.machines.get(&machine_name(*machine))?;
                parts.advance(part.generation.0, part).map(|step| step.update())
            }
            PeerLink::Router { tables, .. } => tables.advance(routes.revision().0, &routes).map(|step| step.update()),
        }
    }
}

/// Outcome of a peer's message at the server.
enum Received {
    Event(CoreEvent),
    /// The server needs the complete report.
    Gap,
    Nothing,
}

impl PeerLink {
    fn is_of(&self, peer: Peer) -> bool {
        match self {
            Self::Agent { machine, .. } => peer == Peer::Agent(*machine),
            Self::Router { index, .. } => peer == Peer::Router(*index),
        }
    }

    fn resend(&mut self) {
        match self {
            Self::Agent { parts, .. } => parts.resend(),
            Self::Router { tables, .. } => tables.resend(),
        }
    }

    fn receive(&mut self, message: &PeerMessage) -> Received {
        let update = match message {
            PeerMessage::Update(update) => Some(update),
            _ => None,
        };
        let receipt = match (&mut *self, update) {
            (Self::Agent { reports, .. }, Some(update)) => reports.receive(update),
            (Self::Router { reports, .. }, Some(update)) => reports.receive(update),
            (_, None) => Receipt::Applied(Vec::new()),
        };
        match (receipt, self) {
            (Receipt::Gap, _) => Received::Gap,
            (Receipt::Old, _) => Received::Nothing,
            (Receipt::Applied(unread), Self::Agent { machine, reports, .. }) => {
                assert_eq!(unread, []);
                let machine = machine_name(*machine);
                match (update, reports.shared()) {
                    (Some(_), Some(report)) => Received::Event(CoreEvent::Machine(machine, (**report).clone())),
                    (None, Some(report)) => Received::Event(CoreEvent::MachineAlive(machine, Arc::clone(report))),
                    (_, None) => Received::Nothing,
                }
            }
            (Receipt::Applied(unread), Self::Router { index, number, reports, .. }) => {
                assert_eq!(unread, []);
                let (machine, number) = (machine_name(Peer::Router(*index).machine()), *number);
                match (update, reports.shared()) {
                    (Some(_), Some(report)) => {
                        let report = RouterReport { number, ..(**report).clone() };
                        Received::Event(CoreEvent::Router(machine, report))
                    }
                    (None, Some(report)) => {
                        let router = RouterId { machine, number };
                        Received::Event(CoreEvent::RouterAlive(router, Arc::clone(report)))
                    }
                    (_, None) => Received::Nothing,
                }
            }
        }
    }
}

/// Creates the sender of a peer's reports for a new connection.
pub(crate) fn report_sender<R>() -> ReportSender<R> {
    ReportSender::default()
}

impl Simulation {
    /// Runs `work` on a leader, and sends what changed. A leader that dies or learns of its deposition ends.
    fn with_leader(
        &mut self,
        server: usize,
        work: impl FnOnce(&mut Self, &mut Leader) -> Result<(), WriteError>,
    ) -> bool {
        let Some(mut leader) = self.servers[server].leader.take() else { return false };
        let worked = work(self, &mut leader);
        self.distribute(&mut leader);
        match worked {
            Ok(()) | Err(WriteError::Refused | WriteError::Unknown) => {
                self.servers[server].leader = Some(leader);
                true
            }
            Err(WriteError::Deposed | WriteError::Died) => {
                let pause = self.random.between(200, 3_000);
                self.stop_server(server, pause);
                false
            }
        }
    }

    /// Sends the changed parts to their peers.
    fn distribute(&mut self, leader: &mut Leader) {
        let changed = std::mem::take(&mut leader.changed);
        if changed == ChangedParts::default() {
            return;
        }
        let is_affected = |peer: &PeerLink| match peer {
            PeerLink::Agent { machine, .. } => changed.machines.contains(&machine_name(*machine)),
            PeerLink::Router { .. } => changed.routes,
        };
        let links: Vec<LinkId> = leader.peers.iter().filter(|(_, peer)| is_affected(peer)).map(|(id, _)| *id).collect();
        links.into_iter().for_each(|link| self.send_part(leader, link));
    }

    /// Sends a peer its part, if the peer does not have it.
    fn send_part(&mut self, leader: &mut Leader, link: LinkId) {
        if let Some(update) = leader.update_for(link) {
            self.send_down(link, ServerMessage::Update(update));
        }
    }

    /// Ends a server's process, which starts again after `pause` milliseconds.
    pub(crate) fn stop_server(&mut self, server: usize, pause: u64) {
        let process = &mut self.servers[server];
        let (life, wall_lead) = (process.life + 1, process.wall_lead);
        *process = SimulatedServer { life, wall_lead, ..SimulatedServer::default() };
        self.break_links(1_000, |link| link.server == server);
        self.timeline.after(pause, Event::StartServer(server));
    }

    /// Starts a server's process.
    pub(crate) fn start_server(&mut self, server: usize) {
        let process = &mut self.servers[server];
        if !process.is_up {
            process.is_up = true;
            self.timeline.after(0, Event::Tick { server, life: process.life });
        }
    }

    /// The wall clock of a server's machine jumps.
    pub(crate) fn move_clock(&mut self, server: usize, by: i64) {
        self.servers[server].wall_lead += by;
    }

    /// The clocks of a server's machine.
    fn reading(&self, server: usize) -> ClockReading {
        let awake = self.timeline.now.0;
        ClockReading { wall: self.timeline.now.moved(self.servers[server].wall_lead), awake, booted: awake }
    }

    /// The time by a leader's own clock.
    pub(crate) fn now_of(&self, leader: &Leader) -> Moment {
        let awake = self.timeline.now.0;
        // The clock without jumps counts.
        leader.clock.now(ClockReading { wall: self.timeline.now, awake, booted: awake })
    }

    /// Follows a jump of the wall clock, as the server's core does.
    fn follow_clock(&mut self, server: usize, leader: &mut Leader) -> Result<(), WriteError> {
        let reading = self.reading(server);
        let Some(jump) = leader.clock.jump(reading) else { return Ok(()) };
        let records = leader.core.view().records;
        let jumped = JumpedRecords::new(&records, jump, reading.wall, leader.jumped.as_ref());
        let changes = jumped.changes(&records);
        leader.jumped = Some(jumped);
        self.commit(leader, vec![changes], self.transaction_size)?;
        leader.jumped = None;
        leader.clock.follow(reading);
        self.clock_jumps += 1;
        let _ = leader.apply(CoreEvent::ClockJumped { jump, awake: reading.awake }, reading.wall);
        Ok(())
    }

    /// A server that stood still goes on with what has arrived meanwhile.
    pub(crate) fn resume_server(&mut self, server: usize) {
        let process = &mut self.servers[server];
        process.is_paused = false;
        for event in std::mem::take(&mut process.backlog) {
            self.timeline.after(0, event);
        }
    }

    /// A server's timer.
    pub(crate) fn tick(&mut self, server: usize, life: Life) {
        let process = &mut self.servers[server];
        if !process.is_up || process.life != life {
            return;
        }
        if process.is_paused {
            process.backlog.push(Event::Tick { server, life });
            return;
        }
        self.timeline.after(TICK, Event::Tick { server, life });
        if self.servers[server].leader.is_none() {
            self.run_for_leadership(server);
            return;
        }
        let is_leading = self.with_leader(server, |simulation, leader| {
            let now = simulation.timeline.now;
            leader.ticks += 1;
            if leader.ticks.is_multiple_of(RENEWAL_TICKS) && !simulation.store.is_away(now) {
                let renewed = simulation.store.renew(leader.term, now);
                renewed.then_some(()).ok_or(WriteError::Deposed)?;
            }
            simulation.refresh(leader)?;
            simulation.follow_clock(server, leader)?;
            let trail = leader.apply(CoreEvent::Tick, simulation.now_of(leader));
            simulation.commit_trail(leader, trail)?;
            leader.dirty.merge(leader.core.take_turns());
            simulation.plan_until_stable(leader)
        });
        if is_leading {
            self.with_leader(server, Self::finish_builds);
            self.with_leader(server, Self::conclude_renames);
        }
    }

    /// Takes leadership if no other server leads, and begins to plan.
    fn run_for_leadership(&mut self, server: usize) {
        let now = self.timeline.now;
        if self.store.is_away(now) {
            return;
        }
        let Some(term) = self.store.take(server, now) else { return };
        let records = self.store.load();
        self.assert_nothing_lost(&records);
        let reading = self.reading(server);
        let clock = SteadyClock::after(reading, newest_stamp(&records).unwrap_or_default());
        let leader = Leader {
            core: CoreState::new(records, ClockJumps::default(), clock.now(reading)),
            clock,
            jumped: None,
            term,
            dirty: DirtySet::everything(),
            changed: ChangedParts::default(),
            is_stale: false,
            peers: BTreeMap::new(),
            routes: Arc::default(),
            ticks: 0,
            is_unsettled: false,
        };
        self.servers[server].leader = Some(Box::new(leader));
        // Peers learn that another server leads.
        self.break_links(2_000, |link| link.server != server);
        self.with_leader(server, Self::plan_until_stable);
    }

    /// The server's end of a new connection. A new connection of a peer ends the one before.
    pub(crate) fn peer_connected(&mut self, server: usize, peer: Peer, link: LinkId) {
        let peer_link = match peer {
            Peer::Agent(machine) => {
                let revision = self.agents[machine].plans.revision();
                PeerLink::Agent { machine, parts: UpdateSender::new(revision), reports: UpdateReceiver::new(None) }
            }
            Peer::Router(index) => {
                let (revision, number) = (self.routers[index].tables.revision(), self.routers[index].number());
                let (tables, reports) = (UpdateSender::new(revision), UpdateReceiver::new(None));
                PeerLink::Router { index, number, tables, reports }
            }
        };
        self.with_leader(server, |simulation, leader| {
            leader.peers.retain(|_, other| !other.is_of(peer));
            leader.peers.insert(link, peer_link);
            simulation.send_part(leader, link);
            match peer {
                Peer::Agent(machine) => simulation.register(leader, machine),
                Peer::Router(_) => Ok(()),
            }
        });
    }

    /// A message of a peer reaches its server.
    pub(crate) fn deliver_to_server(&mut self, link: LinkId, message: PeerMessage) {
        let Some(known) = self.links.open.get(&link) else { return };
        let (server, peer) = (known.server, known.peer);
        let life = self.servers[server].life;
        if self.servers[server].is_paused {
            self.servers[server].backlog.push(Event::ToServer { link, message });
            return;
        }
        if self.is_removed(peer.machine()) {
            self.break_link(link, 1);
            return;
        }
        self.with_leader(server, |simulation, leader| {
            let now = simulation.timeline.now;
            let Some(peer_link) = leader.peers.get_mut(&link) else { return Ok(()) };
            if message == PeerMessage::Resend {
                peer_link.resend();
                simulation.send_part(leader, link);
                return Ok(());
            }
            let asked = match message {
                PeerMessage::Lease { asked } => Some(asked),
                _ => None,
            };
            match peer_link.receive(&message) {
                Received::Nothing => Ok(()),
                Received::Gap => {
                    simulation.send_down(link, ServerMessage::Resend);
                    Ok(())
                }
                Received::Event(event) => {
                    if simulation.store.leads(leader.term, now) {
                        simulation.checks.record_report(peer, now);
                    }
                    let trail = leader.apply(event, simulation.now_of(leader));
                    if let Some(asked) = asked.filter(|_| simulation.store.leads(leader.term, now)) {
                        let records = leader.core.view().records;
                        let part = records.plan.machines.get(&machine_name(peer.machine()));
                        let revision = part.map(|part| part.generation.0).unwrap_or_default();
                        let millis = records.policy.single_lease();
                        simulation.send_down(link, ServerMessage::Lease { asked, millis, revision });
                    }
                    if !std::mem::replace(&mut leader.is_unsettled, true) {
                        simulation.timeline.after(GATHER_MILLIS, Event::Settle { server, life });
                    }
                    simulation.commit_trail(leader, trail)
                }
            }
        });
    }

    /// Plans for all messages that arrived meanwhile.
    pub(crate) fn settle_server(&mut self, server: usize, life: Life) {
        let process = &mut self.servers[server];
        if process.life != life {
            return;
        }
        if process.is_paused {
            process.backlog.push(Event::Settle { server, life });
            return;
        }
        self.with_leader(server, |simulation, leader| {
            leader.is_unsettled = false;
            simulation.plan_until_stable(leader)
        });
    }

    /// Runs a command on the server that answers. Returns the command's result if the server acknowledged it.
    pub(crate) fn on_answering_server<T>(
        &mut self,
        command: impl FnOnce(&mut Self, &mut Leader) -> Result<T, WriteError>,
    ) -> Option<T> {
        let server = (0..self.servers.len()).find(|server| self.servers[*server].answers())?;
        let mut result = None;
        self.with_leader(server, |simulation, leader| {
            result = Some(command(simulation, leader)?);
            Ok(())
        });
        result
    }
}
