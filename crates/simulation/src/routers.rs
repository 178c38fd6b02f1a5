//! The routers. A router uses a table only once the table is on disk, and starts again with the table on disk.
//!
//! A router can be replaced: the new router starts with the table on disk beside the old one, which gets no new requests,
//! finishes those that it has, says that it is gone, and ends. Until then both follow the routes.

use std::collections::BTreeMap;

use gantry_control::{PeerMessage, Receipt, ReportSender, RouterReport, ServerMessage, UpdateReceiver};
use gantry_model::{AllocationId, Generation, RoutingTable};

use crate::events::{Event, Life, LinkId, Peer, ROUTERS_PER_MACHINE};
use crate::servers::report_sender;
use crate::simulation::Simulation;

/// A router.
pub(crate) struct SimulatedRouter {
    /// Number of the router on its machine. A router that starts beside another has a number of its own.
    number: u64,
    pub(crate) life: Life,
    pub(crate) is_up: bool,
    pub(crate) link: Option<LinkId>,
    /// The table in use. The disk has the same.
    pub(crate) tables: UpdateReceiver<RoutingTable>,
    reports: ReportSender<RouterReport>,
    /// Requests in progress.
    pub(crate) active: BTreeMap<AllocationId, u64>,
}

impl SimulatedRouter {
    /// Creates a router that has not started.
    pub(crate) fn new() -> Self {
        Self {
            number: 1,
            life: 0,
            is_up: false,
            link: None,
            tables: UpdateReceiver::new(None),
            reports: report_sender(),
            active: BTreeMap::new(),
        }
    }

    /// The table on disk with its revision. Both routers of a machine have the same disk.
    fn table_on_disk(&self) -> Option<(u64, RoutingTable)> {
        self.tables.part().map(|table| (table.generation.0, table.clone()))
    }

    fn report(&self) -> RouterReport {
        let generation = Generation(self.tables.revision().unwrap_or_default());
        RouterReport { number: self.number, generation, active: self.active.clone(), ..RouterReport::default() }
    }

    /// Number of the router on its machine.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Simulation {
    /// The router of a machine that takes new requests, or will once its process runs.
    pub(crate) fn serving_router(&self, machine: usize) -> usize {
        machine * ROUTERS_PER_MACHINE + self.serving_places[machine]
    }

    /// Starts a router's process, unless another router has taken its place.
    pub(crate) fn start_router(&mut self, index: usize) {
        let serving = self.serving_router(Peer::Router(index).machine());
        let router = &mut self.routers[index];
        if router.is_up || index != serving {
            return;
        }
        router.is_up = true;
        let life = router.life;
        self.connect_soon(Peer::Router(index), life);
    }

    /// Ends the process of the router that serves, which starts again after `pause` milliseconds.
    pub(crate) fn stop_router(&mut self, machine: usize, pause: u64) {
        let index = self.serving_router(machine);
        self.end_router(index);
        self.timeline.after(pause, Event::StartPeer(Peer::Router(index)));
    }

    /// Ends the processes of all routers of a machine. The one that serves starts again after `pause` milliseconds.
    pub(crate) fn stop_routers(&mut self, machine: usize, pause: u64) {
        let first = machine * ROUTERS_PER_MACHINE;
        (first..first + ROUTERS_PER_MACHINE).for_each(|index| self.end_router(index));
        self.stop_router(machine, pause);
    }

    fn end_router(&mut self, index: usize) {
        let router = &mut self.routers[index];
        (router.is_up, router.life) = (false, router.life + 1);
        router.active.clear();
        router.tables = UpdateReceiver::new(router.table_on_disk());
        if let Some(link) = router.link.take() {
            self.break_link(link, 1_000);
        }
    }

    /// Replaces the router of a machine. The old router ends after `drain` milliseconds, whether or not its requests are
    /// complete.
    pub(crate) fn replace_router(&mut self, machine: usize, drain: u64) {
        let old = self.serving_router(machine);
        let place = (self.serving_places[machine] + 1) % ROUTERS_PER_MACHINE;
        let new = machine * ROUTERS_PER_MACHINE + place;
        // Only one replacement is under way at a time.
        if !self.routers[old].is_up || self.routers[new].is_up {
            return;
        }
        let (number, known) = (self.routers[old].number + 1, self.routers[old].table_on_disk());
        let router = &mut self.routers[new];
        (router.number, router.tables) = (number, UpdateReceiver::new(known));
        self.serving_places[machine] = place;
        self.replaced_routers += 1;
        self.start_router(new);
        let life = self.routers[old].life;
        self.timeline.after(drain, Event::RouterEnds { router: old, life });
    }

    /// A router that was replaced sends its last report and ends.
    pub(crate) fn router_ends(&mut self, index: usize, life: Life) {
        let router = &mut self.routers[index];
        if router.life != life || !router.is_up {
            return;
        }
        router.active.clear();
        let report = RouterReport { gone: true, ..router.report() };
        if let Some(link) = router.link
            && let Some(update) = router.reports.next(&report)
        {
            self.send_up(link, PeerMessage::Update(update));
        }
        self.end_router(index);
    }

    /// The router's end of a new connection.
    pub(crate) fn router_connected(&mut self, index: usize, link: LinkId) {
        let router = &mut self.routers[index];
        (router.link, router.reports) = (Some(link), report_sender());
    }

    /// Sends the report if it changed. Returns whether it did.
    pub(crate) fn report_router(&mut self, index: usize) -> bool {
        let router = &mut self.routers[index];
        let Some(link) = router.link.filter(|_| router.is_up) else { return false };
        let report = router.report();
        let Some(update) = router.reports.next(&report) else { return false };
        self.send_up(link, PeerMessage::Update(update));
        true
    }

    /// A message of the server reaches a router.
    pub(crate) fn deliver_to_router(&mut self, index: usize, message: &ServerMessage) {
        let router = &mut self.routers[index];
        let before = router.tables.revision();
        match message {
            ServerMessage::Update(update) => match router.tables.receive(update) {
                Receipt::Applied(unread) => {
                    assert_eq!(unread, []);
                    let after = router.tables.revision();
                    assert!(after > before, "router {index} goes back from table {before:?} to {after:?}");
                    self.report_router(index);
                }
                Receipt::Old => {}
                Receipt::Gap => {
                    if let Some(link) = router.link {
                        self.send_up(link, PeerMessage::Resend);
                    }
                }
            },
            ServerMessage::Resend => {
                router.reports.resend();
                self.report_router(index);
            }
            _ => {}
        }
    }

    /// A client sends a long request to an instance of the router's table.
    pub(crate) fn request_begins(&mut self, machine: usize) {
        if !self.is_faulty() {
            return;
        }
        let pause = self.random.between(3_000, 9_000);
        self.timeline.after(pause, Event::RequestBegins { machine });
        let index = self.serving_router(machine);
        let router = &mut self.routers[index];
        let Some(table) = router.tables.part().filter(|_| router.is_up) else { return };
        let endpoints = table.routes.values().flat_map(|route| &route.endpoints);
        let targets: Vec<&AllocationId> = endpoints.map(|endpoint| &endpoint.allocation).collect();
        if targets.is_empty() {
            return;
        }
        let id = (*self.random.pick(&targets)).clone();
        *router.active.entry(id.clone()).or_default() += 1;
        let (life, length) = (router.life, self.random.between(100, 15_000));
        self.timeline.after(length, Event::RequestEnds { router: index, life, id });
        self.report_router(index);
    }

    /// The response to a client's request is complete.
    pub(crate) fn request_ends(&mut self, index: usize, life: Life, id: &AllocationId) {
        let router = &mut self.routers[index];
        if router.life != life {
            return;
        }
        if let Some(count) = router.active.get_mut(id) {
            *count -= 1;
            router.active.retain(|_, count| *count > 0);
        }
        self.report_router(index);
    }
}
