//! The lead: one server at a time writes. The key's create revision is the fencing token that every write carries, so a
//! server that lost the lead without knowing writes nothing more.

use std::sync::Arc;
use std::time::Duration;

use gantry_store::{Compare, LeaseId, Outcome, Revision, Store, Txn};

use crate::ServerError;

/// The key.
pub(crate) const KEY: &str = "leader";

/// How long the lead outlives a server that does not renew it.
const TTL: Duration = Duration::from_secs(10);

/// The longest wait for another server's lead to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lead, while it lasts.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    lease: LeaseId,
    /// The fencing token.
    pub(crate) revision: Revision,
}

/// Takes the lead. From a server of the same name, which must be dead or about to be fenced off, at once; from another
/// only when its lease has run out.
pub(crate) async fn take(store: &Arc<dyn Store>, name: &str) -> Result<Lead, ServerError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let lease = store.grant(TTL).await?;
        let held = store.get(KEY).await?;
        let txn = match &held {
            None => Txn::default().when(Compare::Absent(KEY.to_owned())).put_leased(KEY, name, lease),
            // Deleted first: the new key has a create revision of its own, which fences the old holder off.
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
            return Ok(Lead { lease, revision });
        }
        store.revoke(lease).await?;
    }
}

impl Lead {
    /// Renews the lead for as long as it can; returns when it is lost.
    pub(crate) async fn hold(&self, store: &Arc<dyn Store>) -> ServerError {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(TTL / 4).await;
            match store.keep_alive(self.lease).await {
                Ok(()) => renewed = tokio::time::Instant::now(),
                Err(gantry_store::StoreError::LeaseGone(_)) => {
                    return ServerError::NotLeading("the lease ran out".to_owned());
                }
                // Where nobody can write nobody can take the lead either.
                Err(error @ gantry_store::StoreError::Full { .. }) => {
                    renewed = tokio::time::Instant::now();
                    tracing::error!(%error, "cannot renew the lead");
                }
                // A store that is away for a moment changes nothing that runs; writes fail until it is back.
                Err(error) if renewed.elapsed() < TTL => tracing::warn!(%error, "cannot renew the lead"),
                Err(error) => return error.into(),
            }
        }
    }

    /// Lets the next server begin at once.
    pub(crate) async fn give_up(&self, store: &Arc<dyn Store>) {
        let _ = store.revoke(self.lease).await;
    }
}
