//! The kinds of events. A process that ended must not get events of its former life, so events carry the number of the
//! process's life.

use gantry_control::{PeerMessage, ServerMessage};
use gantry_model::AllocationId;

use crate::faults::Fault;

/// Places for routers on a machine.
pub(crate) const ROUTERS_PER_MACHINE: usize = 2;

/// Number of a run of a process, from its start to its end.
pub(crate) type Life = u64;

/// A connection.
pub(crate) type LinkId = u64;

/// An agent by the index of its machine, or a router. A machine has two places for routers, so that a new router can take
/// over while the old one finishes its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Agent(usize),
    Router(usize),
}

impl Peer {
    /// Index of the peer's machine.
    pub(crate) fn machine(self) -> usize {
        match self {
            Self::Agent(machine) => machine,
            Self::Router(router) => router / ROUTERS_PER_MACHINE,
        }
    }
}

/// Something that happens at a moment.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A server's process starts.
    StartServer(usize),
    /// A server that stood still goes on.
    ResumeServer(usize),
    /// A server's timer.
    Tick { server: usize, life: Life },
    /// An operator gives a command.
    Operate,
    /// A server plans for all messages that arrived meanwhile.
    Settle { server: usize, life: Life },
    /// An agent's or a router's process starts.
    StartPeer(Peer),
    /// A peer tries to connect.
    Connect { peer: Peer, life: Life },
    /// A peer confirms its report.
    Heartbeat { peer: Peer, link: LinkId },
    /// A message reaches a server.
    ToServer { link: LinkId, message: PeerMessage },
    /// A message reaches a peer.
    ToPeer { peer: Peer, life: Life, message: ServerMessage },
    /// Both ends notice that a connection is broken.
    Broken(LinkId),
    /// A container takes its next step.
    Container { machine: usize, id: AllocationId, step: u64 },
    /// The lease of a machine's single copies may be over.
    Fence(usize),
    /// A client sends a long request through a router.
    RequestBegins { machine: usize },
    /// The response is complete.
    RequestEnds { router: usize, life: Life, id: AllocationId },
    /// A router that was replaced has finished its requests, or ends without.
    RouterEnds { router: usize, life: Life },
    /// A user gives a command.
    Command,
    /// A fault.
    Fault(Fault),
    /// A machine is no longer cut off.
    Healed(usize),
}
