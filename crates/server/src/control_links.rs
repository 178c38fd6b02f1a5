//! Connections of agents and routers: gives each peer its part of the plan, and passes its reports to the core.
//!
//! - `agent`, `router`: serve one connection until it ends.
//! - `peer_link`: the state of a connection, for both. `peer_news`: what wakes a connection.
//! - [`ControlLinks`]: the newest connection of each peer, and the messages that many peers get.

mod agent;
mod peer_link;
mod peer_news;
mod router;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_control::EncodedUpdates;
use gantry_model::MachineName;
use tokio_util::sync::CancellationToken;

pub(crate) use self::agent::serve_agent;
pub(crate) use self::router::serve_router;
use crate::Server;
use crate::http::auth::Caller;

/// A caller that may connect as a peer of its machine.
#[derive(Clone)]
pub(crate) struct AdmittedPeer {
    pub(crate) server: Arc<Server>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) machine: MachineName,
}

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

/// The connections of all peers.
#[derive(Default)]
pub(crate) struct ControlLinks {
    /// The newest connection of each peer. A new connection ends the connection before, which may be dead: sessions would
    /// go to a peer that never opens them.
    newest: Mutex<HashMap<Peer, CancellationToken>>,
    /// The updates of the routes.
    route_updates: EncodedUpdates,
}

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
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
