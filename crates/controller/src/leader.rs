//! Leadership: one server at a time writes. The create revision of the leadership key is the fencing token. Every write
//! carries the token, so a server that lost leadership without noticing writes nothing more.

use std::sync::Arc;
use std::time::Duration;

use gantry_store::{Compare, LeaseId, Outcome, Revision, Store, Txn};

use crate::ServerError;

/// Leadership key in the store.
pub(crate) const KEY: &str = "leader";

/// How long leadership outlives a server that does not renew it.
const TTL: Duration = Duration::from_secs(10);

/// Timeout for another server's leadership to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Leadership of this server, until another server takes over. All clones share one state.
#[derive(Clone)]
pub(crate) struct Lead {
    store: Arc<dyn Store>,
    name: String,
    term: Arc<tokio::sync::Mutex<Term>>,
}

/// One term of leadership: a lease and its fencing token.
#[derive(Debug, Clone, Copy)]
struct Term {
    lease: LeaseId,
    /// The fencing token.
    revision: Revision,
}

/// Takes leadership. A server of the same name must be dead or about to be fenced off, so takeover from that server is
/// immediate. Takeover from a server of another name waits until that server's lease has run out.
pub(crate) async fn take(store: &Arc<dyn Store>, name: &str) -> Result<Lead, ServerError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let lease = store.grant(TTL).await?;
        let held = store.get(KEY).await?;
        let txn = match &held {
            None => Txn::default().when(Compare::Absent(KEY.to_owned())).put_leased(KEY, name, lease),
            // The key is deleted first: the new key gets its own create revision, which fences off the old leader.
            Some(entry) if entry.value == name.as_bytes() => {
                let removed = Txn::default().when(Compare::Modified(KEY.to_owned(), entry.modified)).delete(KEY);
                store.commit(removed).await?;
                store.revoke(lease).await?;
                continue;
            }
            Some(entry) => {
                store.revoke(lease).await?;
                let other = String::from_utf8_lossy(&entry.value).into_owned();
                if tokio::time::Instant::now() > deadline {
                    return Err(ServerError::NotLeading(other));
                }
                tracing::info!(leader = other, "waiting for the lead");
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        if let Outcome::Committed(revision) = store.commit(txn).await? {
            return Ok(Lead::of(store, name, Term { lease, revision }));
        }
        store.revoke(lease).await?;
    }
}

impl Lead {
    /// Leadership of a server that cannot write. The term is not in the store, so the store refuses every write under
    /// its token.
    pub(crate) fn none(store: &Arc<dyn Store>, name: &str) -> Self {
        Self::of(store, name, Term { lease: LeaseId(0), revision: 0 })
    }

    fn of(store: &Arc<dyn Store>, name: &str, term: Term) -> Self {
        Self { store: Arc::clone(store), name: name.to_owned(), term: Arc::new(tokio::sync::Mutex::new(term)) }
    }

    /// Returns the current fencing token.
    pub(crate) async fn revision(&self) -> Revision {
        self.term.lock().await.revision
    }

    /// Takes leadership again after the token `lost` became void, unless another server leads. The lease of a suspended
    /// process or machine runs out, but another server need not have taken over. The new token differs from the old
    /// one, so decisions made under the old token are not written.
    pub(crate) async fn take_again(&self, lost: Revision) -> Result<(), ServerError> {
        let mut term = self.term.lock().await;
        if term.revision != lost {
            return Ok(());
        }
        let lease = self.store.grant(TTL).await?;
        let absent = Compare::Absent(KEY.to_owned());
        match self.store.commit(Txn::default().when(absent).put_leased(KEY, self.name.as_str(), lease)).await? {
            Outcome::Committed(revision) => {
                tracing::warn!("the lease of the lead ran out, nobody else took it, and this server has it again");
                *term = Term { lease, revision };
                Ok(())
            }
            Outcome::Conflict => {
                let _ = self.store.revoke(lease).await;
                Err(ServerError::NotLeading("the lead was taken over".to_owned()))
            }
        }
    }

    /// Renews leadership periodically; returns the cause when leadership is lost.
    pub(crate) async fn hold(&self) -> ServerError {
        let (mut renewed, mut told) = (tokio::time::Instant::now(), false);
        loop {
            tokio::time::sleep(TTL / 4).await;
            let term = *self.term.lock().await;
            let kept = match self.store.keep_alive(term.lease).await {
                Err(gantry_store::StoreError::LeaseGone(_)) => self.take_again(term.revision).await,
                kept => kept.map_err(ServerError::from),
            };
            match kept {
                Ok(()) => (renewed, told) = (tokio::time::Instant::now(), false),
                Err(error @ ServerError::NotLeading(_)) => return error,
                // A store that refuses writes also lets no other server take leadership.
                Err(ServerError::Store(error)) if error.is_refusal() => {
                    renewed = tokio::time::Instant::now();
                    // Logged once, because the loop tries again every few seconds.
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(%error, "cannot renew the lead");
                    }
                }
                // A briefly unreachable store does not affect running workloads; only writes fail meanwhile.
                Err(error) if renewed.elapsed() < TTL => tracing::warn!(%error, "cannot renew the lead"),
                Err(error) => return error,
            }
        }
    }

    /// Gives up leadership, so that the next server can take over at once.
    pub(crate) async fn give_up(&self) {
        let lease = self.term.lock().await.lease;
        let _ = self.store.revoke(lease).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
        let address = gantry_store::Address::File(folder.path().join("store.db"));
        gantry_store::open(&address).await.expect("a store")
    }

    async fn write(store: &Arc<dyn Store>, token: Revision) -> Outcome {
        let guarded = Txn::default().when(Compare::Created(KEY.to_owned(), token)).put("x", "1");
        store.commit(guarded).await.expect("an answer")
    }

    #[tokio::test]
    async fn a_leader_that_stood_still_has_the_lead_again_under_another_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let lead = take(&store, "one").await.expect("the lead");
        let old = lead.revision().await;
        assert!(matches!(write(&store, old).await, Outcome::Committed(_)));
        // Stands for a lease that ran out while the server was suspended.
        lead.give_up().await;
        assert_eq!(write(&store, old).await, Outcome::Conflict, "nothing is written under the old token");
        lead.take_again(old).await.expect("nobody else has it");
        let new = lead.revision().await;
        assert_ne!(new, old);
        assert_eq!(write(&store, old).await, Outcome::Conflict, "the old token stays void");
        assert!(matches!(write(&store, new).await, Outcome::Committed(_)));
        lead.take_again(old).await.expect("that was done already");
        assert_eq!(lead.revision().await, new);
    }

    #[tokio::test]
    async fn a_leader_that_was_replaced_writes_nothing_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let lead = take(&store, "one").await.expect("the lead");
        let old = lead.revision().await;
        lead.give_up().await;
        let other = take(&store, "two").await.expect("the lead");
        let refused = lead.take_again(old).await.expect_err("another one leads");
        assert!(matches!(refused, ServerError::NotLeading(_)), "{refused}");
        assert_eq!(write(&store, lead.revision().await).await, Outcome::Conflict);
        assert!(matches!(write(&store, other.revision().await).await, Outcome::Committed(_)));
    }
}
