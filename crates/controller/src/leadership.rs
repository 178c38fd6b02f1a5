//! Leadership: one server at a time writes. The create revision of the leadership key is the fencing token. Every write
//! carries the token, so a server that lost leadership without noticing writes nothing more.

use std::sync::Arc;
use std::time::Duration;

use gantry_store::{LeaseId, Revision, Store, Txn, TxnCondition, TxnOutcome};

use crate::ServerError;

/// Leadership key in the store.
pub(crate) const KEY: &str = "leader";

/// Time that leadership outlives a server that does not renew it.
const TTL: Duration = Duration::from_secs(10);

/// Timeout for another server's leadership to end.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Leadership of this server, until another server takes over. All clones share one state.
#[derive(Clone)]
pub(crate) struct Leadership {
    store: Arc<dyn Store>,
    name: String,
    term: Arc<tokio::sync::Mutex<LeadershipTerm>>,
}

/// One term of leadership: a lease and its fencing token.
#[derive(Debug, Clone, Copy)]
struct LeadershipTerm {
    lease: LeaseId,
    /// The fencing token.
    revision: Revision,
}

/// Takes leadership. A server of the same name must be dead or about to be fenced off, so takeover from that server is
/// immediate. Takeover from a server of another name waits until that server's lease has run out.
pub(crate) async fn acquire(store: &Arc<dyn Store>, name: &str) -> Result<Leadership, ServerError> {
    let deadline = tokio::time::Instant::now() + TAKEOVER_TIMEOUT;
    loop {
        let lease = store.grant(TTL).await?;
        let held = store.get(KEY).await?;
        let txn = match &held {
            None => Txn::default().when(TxnCondition::Absent(KEY.to_owned())).put_leased(KEY, name, lease),
            // The key is deleted first: the new key gets its own create revision, which fences off the old leader.
            Some(entry) if entry.value == name.as_bytes() => {
                let removed = Txn::default().when(TxnCondition::Modified(KEY.to_owned(), entry.modified)).delete(KEY);
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
                tracing::info!(leader = other, "waiting until the other server's leadership ends");
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        if let TxnOutcome::Committed(revision) = store.commit(txn).await? {
            return Ok(Leadership::of(store, name, LeadershipTerm { lease, revision }));
        }
        store.revoke(lease).await?;
    }
}

impl Leadership {
    /// Leadership of a server that cannot write. The term is not in the store, so the store refuses every write under
    /// its token.
    pub(crate) fn none(store: &Arc<dyn Store>, name: &str) -> Self {
        Self::of(store, name, LeadershipTerm { lease: LeaseId(0), revision: 0 })
    }

    fn of(store: &Arc<dyn Store>, name: &str, term: LeadershipTerm) -> Self {
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
        let absent = TxnCondition::Absent(KEY.to_owned());
        match self.store.commit(Txn::default().when(absent).put_leased(KEY, self.name.as_str(), lease)).await? {
            TxnOutcome::Committed(revision) => {
                tracing::warn!("the leadership lease ran out; no other server took over, and this server leads again");
                *term = LeadershipTerm { lease, revision };
                Ok(())
            }
            TxnOutcome::Conflict => {
                let _ = self.store.revoke(lease).await;
                Err(ServerError::NotLeading("another server took over the leadership".to_owned()))
            }
        }
    }

    /// Renews leadership periodically; returns the cause when leadership is lost.
    pub(crate) async fn renew_until_lost(&self) -> ServerError {
        let (mut renewed, mut logged) = (tokio::time::Instant::now(), false);
        loop {
            tokio::time::sleep(TTL / 4).await;
            let term = *self.term.lock().await;
            let kept = match self.store.keep_alive(term.lease).await {
                Err(gantry_store::StoreError::LeaseGone(_)) => self.take_again(term.revision).await,
                kept => kept.map_err(ServerError::from),
            };
            match kept {
                Ok(()) => (renewed, logged) = (tokio::time::Instant::now(), false),
                Err(error @ ServerError::NotLeading(_)) => return error,
                // A store that refuses writes also lets no other server take leadership.
                Err(ServerError::Store(error)) if error.is_refusal() => {
                    renewed = tokio::time::Instant::now();
                    // Logged once, because the loop tries again every few seconds.
                    if !std::mem::replace(&mut logged, true) {
                        tracing::error!(%error, "cannot renew the leadership lease");
                    }
                }
                // A briefly unreachable store does not affect running workloads; only writes fail meanwhile.
                Err(error) if renewed.elapsed() < TTL => tracing::warn!(%error, "cannot renew the leadership lease"),
                Err(error) => return error,
            }
        }
    }

    /// Gives up leadership, so that the next server can take over at once.
    pub(crate) async fn resign(&self) {
        let lease = self.term.lock().await.lease;
        let _ = self.store.revoke(lease).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
        let address = gantry_store::StoreAddress::File(folder.path().join("store.db"));
        gantry_store::open(&address).await.expect("a store")
    }

    async fn write(store: &Arc<dyn Store>, token: Revision) -> TxnOutcome {
        let guarded = Txn::default().when(TxnCondition::Created(KEY.to_owned(), token)).put("x", "1");
        store.commit(guarded).await.expect("an answer")
    }

    #[tokio::test]
    async fn a_suspended_leader_leads_again_under_a_new_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let leadership = acquire(&store, "one").await.expect("the leadership");
        let old = leadership.revision().await;
        assert!(matches!(write(&store, old).await, TxnOutcome::Committed(_)));
        // Stands for a lease that ran out while the server was suspended.
        leadership.resign().await;
        assert_eq!(write(&store, old).await, TxnOutcome::Conflict, "the old token writes nothing");
        leadership.take_again(old).await.expect("no other leader");
        let new = leadership.revision().await;
        assert_ne!(new, old);
        assert_eq!(write(&store, old).await, TxnOutcome::Conflict, "the old token stays void");
        assert!(matches!(write(&store, new).await, TxnOutcome::Committed(_)));
        leadership.take_again(old).await.expect("leads already");
        assert_eq!(leadership.revision().await, new);
    }

    #[tokio::test]
    async fn a_replaced_leader_writes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let leadership = acquire(&store, "one").await.expect("the leadership");
        let old = leadership.revision().await;
        leadership.resign().await;
        let other = acquire(&store, "two").await.expect("the leadership");
        let refused = leadership.take_again(old).await.expect_err("another server leads");
        assert!(matches!(refused, ServerError::NotLeading(_)), "{refused}");
        assert_eq!(write(&store, leadership.revision().await).await, TxnOutcome::Conflict);
        assert!(matches!(write(&store, other.revision().await).await, TxnOutcome::Committed(_)));
    }
}
