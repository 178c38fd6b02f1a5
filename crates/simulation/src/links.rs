//! Connections between peers and servers, and their faults. A connection loses no single message: a lost message means that
//! nothing more arrives, until both ends notice. Messages may come late, twice, and in another order than they were sent,
//! which is more than a real connection does to them.

use std::collections::{BTreeMap, BTreeSet};

use gantry_control::{PeerMessage, ServerMessage};

use crate::events::{Event, Life, LinkId, Peer};
use crate::simulation::Simulation;

/// A connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) peer: Peer,
    /// The peer's process.
    pub(crate) peer_life: Life,
    pub(crate) server: usize,
    /// Milliseconds that a message takes.
    latency: u64,
    /// True if the link delivers no more messages.
    is_dead: bool,
}

/// All connections that are not known to be broken.
#[derive(Debug, Default)]
pub(crate) struct Links {
    opened: u64,
    pub(crate) open: BTreeMap<LinkId, Link>,
    /// Machines that are cut off.
    pub(crate) cut_off: BTreeSet<usize>,
}

impl Simulation {
    /// Opens a connection to a server.
    pub(crate) fn open_link(&mut self, peer: Peer, peer_life: Life, server: usize) -> LinkId {
        let latency = self.random.between(1, 10);
        self.links.opened += 1;
        let link = Link { peer, peer_life, server, latency, is_dead: false };
        self.links.open.insert(self.links.opened, link);
        self.links.opened
    }

    /// Breaks a connection: nothing arrives from now on, and both ends notice within some seconds.
    pub(crate) fn break_link(&mut self, id: LinkId, notice_max: u64) {
        let Some(link) = self.links.open.get_mut(&id).filter(|link| !link.is_dead) else { return };
        link.is_dead = true;
        let notice = self.random.between(1, notice_max);
        self.timeline.after(notice, Event::Broken(id));
    }

    /// Breaks all connections that `is_affected` names.
    pub(crate) fn break_links(&mut self, notice_max: u64, is_affected: impl Fn(&Link) -> bool) {
        let ids: Vec<LinkId> =
            self.links.open.iter().filter(|(_, link)| is_affected(link)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.break_link(id, notice_max));
    }

    /// Sends a message to the server at the other end.
    pub(crate) fn send_up(&mut self, id: LinkId, message: PeerMessage) {
        for delay in self.deliveries(id) {
            self.timeline.after(delay, Event::ToServer { link: id, message: message.clone() });
        }
    }

    /// Sends a message to the peer at the other end.
    pub(crate) fn send_down(&mut self, id: LinkId, message: ServerMessage) {
        let Some(Link { peer, peer_life: life, .. }) = self.links.open.get(&id).cloned() else { return };
        for delay in self.deliveries(id) {
            self.timeline.after(delay, Event::ToPeer { peer, life, message: message.clone() });
        }
    }

    /// The delays after which a message arrives: none if the message is lost, two if it comes twice.
    fn deliveries(&mut self, id: LinkId) -> Vec<u64> {
        let Some(link) = self.links.open.get(&id).filter(|link| !link.is_dead) else { return Vec::new() };
        let (latency, machine) = (link.latency, link.peer.machine());
        let is_cut_off = self.links.cut_off.contains(&machine);
        if is_cut_off || (self.is_faulty() && self.random.chance(2)) {
            self.break_link(id, 8_000);
            return Vec::new();
        }
        if !self.is_faulty() {
            return vec![latency];
        }
        let late = if self.random.chance(10) { self.random.between(1, 3_000) } else { 0 };
        let mut delays = vec![latency + late];
        if self.random.chance(20) {
            delays.push(latency + self.random.between(0, 20_000));
        }
        delays
    }

    /// Both ends notice that a connection is broken.
    pub(crate) fn notice_broken_link(&mut self, id: LinkId) {
        let Some(link) = self.links.open.remove(&id) else { return };
        if let Some(leader) = &mut self.servers[link.server].leader {
            leader.peers.remove(&id);
        }
        let known = match link.peer {
            Peer::Agent(machine) => &mut self.agents[machine].link,
            Peer::Router(router) => &mut self.routers[router].link,
        };
        if *known == Some(id) {
            *known = None;
            self.connect_soon(link.peer, link.peer_life);
        }
    }

    /// Lets a peer connect after the pause between two attempts.
    pub(crate) fn connect_soon(&mut self, peer: Peer, life: Life) {
        let pause = self.random.between(250, 750);
        self.timeline.after(pause, Event::Connect { peer, life });
    }

    /// A peer tries to connect to the server that leads.
    pub(crate) fn connect(&mut self, peer: Peer, life: Life) {
        let (is_up, present_life, link) = match peer {
            Peer::Agent(machine) => (self.agents[machine].is_up, self.agents[machine].life, self.agents[machine].link),
            Peer::Router(router) => (self.routers[router].is_up, self.routers[router].life, self.routers[router].link),
        };
        // The server refuses a removed machine for good.
        if !is_up || present_life != life || link.is_some() || self.is_removed(peer.machine()) {
            return;
        }
        let is_cut_off = self.links.cut_off.contains(&peer.machine());
        let leading = self.store.leader(self.timeline.now).filter(|server| self.servers[*server].answers());
        let Some(server) = leading.filter(|_| !is_cut_off) else {
            self.connect_soon(peer, life);
            return;
        };
        let link = self.open_link(peer, life, server);
        match peer {
            Peer::Agent(machine) => self.agent_connected(machine, link),
            Peer::Router(router) => self.router_connected(router, link),
        }
        self.peer_connected(server, peer, link);
        self.heartbeat(peer, link);
    }
}
