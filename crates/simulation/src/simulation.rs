//! The run: all state, and the loop over the events.

use gantry_model::{ClusterPolicy, Moment, Seconds};
use gantry_records::StoreRecord;

use crate::agents::SimulatedAgent;
use crate::checks::Checks;
use crate::events::{Event, Peer, ROUTERS_PER_MACHINE};
use crate::links::Links;
use crate::routers::SimulatedRouter;
use crate::servers::SimulatedServer;
use crate::settings::SimulationSettings;
use crate::shapes::SimulatedApp;
use crate::store::SimulatedStore;
use crate::timeline::{BEGIN, Timeline};
use gantry_random::Random;

/// Number of servers.
const SERVERS: usize = 2;

/// Time after the last fault within which the cluster must be at rest, in milliseconds: a deploy that does not progress
/// takes two minutes, and at most two deploys of an app wait for each other.
const REST_MILLIS: u64 = 600_000;

/// Time for which the cluster must then stay at rest.
const STAY_MILLIS: u64 = 10_000;

/// Poll interval for the state of the cluster, in milliseconds.
const POLL_MILLIS: u64 = 2_000;

/// Time after the last fault until nothing is broken any more, in milliseconds.
pub(crate) const RECOVERY_MILLIS: u64 = 25_000;

/// Outcome of a run. Two runs with the same settings have equal outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulationOutcome {
    /// Number of events.
    pub events: u64,
    /// Number of transactions.
    pub transactions: u64,
    /// Number of deploys with a verdict.
    pub deploys: usize,
    /// Virtual milliseconds from the last fault until the cluster was at rest.
    pub rest_after: u64,
    /// Number of requested copies that no machine takes at the end.
    pub waiting: usize,
    /// Number of jumps of the wall clock that a leader followed.
    pub clock_jumps: u64,
    /// Number of apps that got another name.
    pub renames: u64,
    /// Number of routers that another router replaced.
    pub replaced_routers: u64,
    /// Checksum of the order of all events, and of the records at the end.
    pub checksum: u64,
}

/// All state of a run.
pub(crate) struct Simulation {
    pub(crate) settings: SimulationSettings,
    pub(crate) timeline: Timeline,
    pub(crate) random: Random,
    pub(crate) store: SimulatedStore,
    pub(crate) links: Links,
    pub(crate) servers: Vec<SimulatedServer>,
    pub(crate) agents: Vec<SimulatedAgent>,
    /// The routers of all machines: two places for each machine.
    pub(crate) routers: Vec<SimulatedRouter>,
    /// For each machine, the place of the router that takes new requests.
    pub(crate) serving_places: Vec<usize>,
    /// Number of replacements of routers so far.
    pub(crate) replaced_routers: u64,
    /// Number of jumps of the wall clock that a leader followed.
    pub(crate) clock_jumps: u64,
    /// Number of good renames so far.
    pub(crate) renames: u64,
    pub(crate) apps: Vec<SimulatedApp>,
    pub(crate) checks: Checks,
    /// Maximum number of changes of a planned step in one transaction. Small transactions have more prefixes.
    pub(crate) transaction_size: usize,
    /// Transactions so far.
    pub(crate) written: u64,
    events: u64,
    checksum: u64,
}

/// Runs a simulation.
///
/// # Panics
/// When the cluster violates an invariant, or does not come to rest.
#[must_use]
pub fn simulate(settings: SimulationSettings) -> SimulationOutcome {
    let mut simulation = Simulation::new(settings);
    simulation.begin();
    simulation.run_until(simulation.last_fault());
    simulation.links.cut_off.clear();
    let rest_after = simulation.come_to_rest();
    simulation.assert_nothing_lost(&simulation.store.records);
    SimulationOutcome {
        events: simulation.events,
        transactions: simulation.written,
        deploys: simulation.store.records.deploys.values().map(|deploys| deploys.len()).sum(),
        rest_after,
        waiting: simulation.waiting_copies(),
        clock_jumps: simulation.clock_jumps,
        renames: simulation.renames,
        replaced_routers: simulation.replaced_routers,
        checksum: simulation.checksum ^ simulation.store.checksum(),
    }
}

impl Simulation {
    fn new(settings: SimulationSettings) -> Self {
        let mut random = Random::new(settings.seed);
        let apps = (0..settings.apps()).map(|number| SimulatedApp::random(number, &mut random)).collect();
        let (bake_time, deadline) = (Some(Seconds(10)), Some(Seconds(45)));
        let policy = ClusterPolicy { bake_time, deadline, ..ClusterPolicy::default() };
        let mut store = SimulatedStore::default();
        store.write(&[StoreRecord::Policy(policy).into()]);
        let transaction_size = *random.pick(&[1, 8, 127]);
        Self {
            settings,
            timeline: Timeline::new(),
            random,
            store,
            links: Links::default(),
            servers: (0..SERVERS).map(|_| SimulatedServer::default()).collect(),
            agents: (0..settings.machines).map(|_| SimulatedAgent::new()).collect(),
            routers: (0..settings.machines * ROUTERS_PER_MACHINE).map(|_| SimulatedRouter::new()).collect(),
            serving_places: vec![0; settings.machines],
            replaced_routers: 0,
            clock_jumps: 0,
            renames: 0,
            apps,
            checks: Checks::default(),
            transaction_size,
            written: 0,
            events: 0,
            checksum: 0,
        }
    }

    /// Schedules the start of all processes, the commands and the faults.
    fn begin(&mut self) {
        for server in 0..SERVERS {
            self.timeline.after(server as u64 * 100, Event::StartServer(server));
        }
        for machine in 0..self.settings.machines {
            for peer in [Peer::Agent(machine), Peer::Router(self.serving_router(machine))] {
                let at = self.random.between(0, 1_000);
                self.timeline.after(at, Event::StartPeer(peer));
            }
            let at = self.random.between(3_000, 9_000);
            self.timeline.after(at, Event::RequestBegins { machine });
        }
        self.schedule_commands();
        self.schedule_operations();
        self.schedule_faults();
    }

    /// The end of the part with faults.
    pub(crate) fn last_fault(&self) -> Moment {
        Moment(BEGIN.0 + self.settings.seconds * 1000)
    }

    /// Reports whether messages and writes may fail.
    pub(crate) fn is_faulty(&self) -> bool {
        self.timeline.now < self.last_fault()
    }

    /// Runs until the cluster is at rest and stays so. Returns when it came to rest.
    fn come_to_rest(&mut self) -> u64 {
        let begin = self.last_fault();
        let mut rest = None;
        for end in (begin.0..=begin.0 + REST_MILLIS + STAY_MILLIS).step_by(usize::try_from(POLL_MILLIS).expect("small"))
        {
            self.run_until(Moment(end));
            self.promote_held();
            let unrest = if end < begin.0 + RECOVERY_MILLIS {
                Some("faults last".to_owned())
            } else {
                self.reason_not_at_rest()
            };
            match (unrest, rest) {
                (None, None) => rest = Some(end),
                (None, Some(since)) if end - since >= STAY_MILLIS => return since - begin.0,
                (None, Some(_)) => {}
                (Some(unrest), Some(_)) => panic!("the cluster was at rest, and then: {unrest}"),
                (Some(unrest), None) => {
                    assert!(end < begin.0 + REST_MILLIS, "the cluster does not come to rest: {unrest}")
                }
            }
        }
        panic!("the cluster does not stay at rest");
    }

    fn run_until(&mut self, end: Moment) {
        while let Some(event) = self.timeline.next(end) {
            self.events += 1;
            let kind = std::mem::discriminant(&event);
            self.checksum = mix(self.checksum, self.timeline.now.0, &format!("{kind:?}"));
            self.happen(event);
        }
        self.timeline.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::StartServer(server) => self.start_server(server),
            Event::ResumeServer(server) => self.resume_server(server),
            Event::Tick { server, life } => self.tick(server, life),
            Event::Settle { server, life } => self.settle_server(server, life),
            Event::StartPeer(Peer::Agent(machine)) => self.start_agent(machine),
            Event::StartPeer(Peer::Router(router)) => self.start_router(router),
            Event::Connect { peer, life } => self.connect(peer, life),
            Event::Heartbeat { peer, link } => self.heartbeat(peer, link),
            Event::ToServer { link, message } => self.deliver_to_server(link, message),
            Event::ToPeer { peer, life, message } => self.deliver_to_peer(peer, life, &message),
            Event::Broken(link) => self.notice_broken_link(link),
            Event::Container { machine, id, step } => self.container_step(machine, &id, step),
            Event::Fence(machine) => self.fence(machine),
            Event::RequestBegins { machine } => self.request_begins(machine),
            Event::RequestEnds { router, life, id } => self.request_ends(router, life, &id),
            Event::RouterEnds { router, life } => self.router_ends(router, life),
            Event::Command => self.command(),
            Event::Operate => self.operate(),
            Event::Fault(fault) => self.inject(fault),
            Event::Healed(machine) => drop(self.links.cut_off.remove(&machine)),
        }
    }

    /// A message reaches a peer, if the process that it was sent to still runs.
    fn deliver_to_peer(&mut self, peer: Peer, life: u64, message: &gantry_control::ServerMessage) {
        match peer {
            Peer::Agent(machine) if self.agents[machine].is_up && self.agents[machine].life == life => {
                self.deliver_to_agent(machine, message);
            }
            Peer::Router(router) if self.routers[router].is_up && self.routers[router].life == life => {
                self.deliver_to_router(router, message);
            }
            _ => {}
        }
    }
}

/// Mixes a moment and a text into a checksum (FNV-1a).
fn mix(checksum: u64, moment: u64, text: &str) -> u64 {
    let bytes = moment.to_le_bytes().into_iter().chain(text.bytes());
    bytes.fold(checksum, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
