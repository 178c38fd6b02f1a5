//! The routers. A router uses a table only once the table is on disk, and starts again with the table on disk.

use std::collections::BTreeMap;

use gantry_control::{PeerMessage, Receipt, ReportSender, RouterReport, ServerMessage, UpdateReceiver};
use gantry_model::{AllocationId, Generation, RoutingTable};

use crate::events::{Event, Life, LinkId, Peer};
use crate::servers::report_sender;
use crate::simulation::Simulation;

/// A router.
pub(crate) struct SimulatedRouter {
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
    /// Creates the router of a new machine.
    pub(crate) fn new() -> Self {
        Self {
            life: 0,
            is_up: false,
            link: None,
            tables: UpdateReceiver::new(None),
            reports: report_sender(),
            active: BTreeMap::new(),
        }
    }
}

impl Simulation {
    /// Starts a router's process.
    pub(crate) fn start_router(&mut self, machine: usize) {
        let router = &mut self.routers[machine];
        if router.is_up {
            return;
        }
        router.is_up = true;
        let life = router.life;
        self.connect_soon(Peer::Router(machine), life);
    }

    /// Ends a router's process, which starts again after `pause` milliseconds.
    pub(crate) fn stop_router(&mut self, machine: usize, pause: u64) {
        let router = &mut self.routers[machine];
        (router.is_up, router.life) = (false, router.life + 1);
        router.active.clear();
        let known = router.tables.part().map(|table| (table.generation.0, table.clone()));
        router.tables = UpdateReceiver::new(known);
        if let Some(link) = router.link.take() {
            self.break_link(link, 1_000);
        }
        self.timeline.after(pause, Event::StartPeer(Peer::Router(machine)));
    }

    /// The router's end of a new connection.
    pub(crate) fn router_connected(&mut self, machine: usize, link: LinkId) {
        let router = &mut self.routers[machine];
        (router.link, router.reports) = (Some(link), report_sender());
    }

    /// Sends the report if it changed. Returns whether it did.
    pub(crate) fn report_router(&mut self, machine: usize) -> bool {
        let router = &mut self.routers[machine];
        let Some(link) = router.link.filter(|_| router.is_up) else { return false };
        let generation = Generation(router.tables.revision().unwrap_or_default());
        let report = RouterReport { generation, active: router.active.clone(), ..RouterReport::default() };
        let Some(update) = router.reports.next(&report) else { return false };
        self.send_up(link, PeerMessage::Update(update));
        true
    }

    /// A message of the server reaches a router.
    pub(crate) fn deliver_to_router(&mut self, machine: usize, message: &ServerMessage) {
        let router = &mut self.routers[machine];
        let before = router.tables.revision();
        match message {
            ServerMessage::Update(update) => match router.tables.receive(update) {
                Receipt::Applied(unread) => {
                    assert_eq!(unread, []);
                    let after = router.tables.revision();
                    assert!(after > before, "router {machine} goes back from table {before:?} to {after:?}");
                    self.report_router(machine);
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
                self.report_router(machine);
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
        let router = &mut self.routers[machine];
        let Some(table) = router.tables.part().filter(|_| router.is_up) else { return };
        let endpoints = table.routes.values().flat_map(|route| &route.endpoints);
        let targets: Vec<&AllocationId> = endpoints.map(|endpoint| &endpoint.allocation).collect();
        if targets.is_empty() {
            return;
        }
        let id = (*self.random.pick(&targets)).clone();
        *router.active.entry(id.clone()).or_default() += 1;
        let (life, length) = (router.life, self.random.between(100, 15_000));
        self.timeline.after(length, Event::RequestEnds { machine, life, id });
        self.report_router(machine);
    }

    /// The response to a client's request is complete.
    pub(crate) fn request_ends(&mut self, machine: usize, life: Life, id: &AllocationId) {
        let router = &mut self.routers[machine];
        if router.life != life {
            return;
        }
        if let Some(count) = router.active.get_mut(id) {
            *count -= 1;
            router.active.retain(|_, count| *count > 0);
        }
        self.report_router(machine);
    }
}
