//! News for connected peers.

use gantry_model::Generation;
use tokio::sync::watch;

use crate::Server;

/// News for a peer: another part of the plan, other rules, or other members of the cluster.
pub(super) struct PeerNews {
    parts: watch::Receiver<Generation>,
    rules: watch::Receiver<u64>,
    members: watch::Receiver<u64>,
}

impl PeerNews {
    /// Subscribes to the news. `parts` are the changes of the peer's part.
    pub(super) fn new(server: &Server, parts: watch::Receiver<Generation>) -> Self {
        Self { parts, rules: server.core.watch_policy(), members: server.core.watch_members() }
    }

    /// Counts all news up to now as seen.
    pub(super) fn mark_seen(&mut self) {
        self.parts.borrow_and_update();
        self.rules.borrow_and_update();
        self.members.borrow_and_update();
    }

    /// Resolves when there is news. A dropped call loses none.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.parts.changed() => {}
            _ = self.rules.changed() => {}
            _ = self.members.changed() => {}
        }
    }
}
