//! Garbage collection and repair of the copies of blobs on other servers. The leader alone knows which blobs the records
//! name; so it decides for all servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_blobs::{BlobError, Replicas};
use gantry_linux::clock::file_time;
use gantry_model::Digest;
use gantry_supervision::{Backoff, ReconcileLoop};
use tokio::sync::Mutex;

use super::transport::TransportError;
use crate::collect::UsedBlobs;
use crate::{Server, causes};

/// Interval of a repair without a cause.
const INTERVAL: Duration = Duration::from_secs(300);

/// Time that a change of the servers lasts before the repair begins: a restart is not worth a copy of everything.
const REPAIR_DELAY: Duration = Duration::from_secs(3);

/// Removes unused blobs of the other servers that are older than `before`. Returns the number of bytes freed.
pub(crate) async fn collect_copies(server: &Server, used: &UsedBlobs, before: SystemTime) -> u64 {
    let Some(servers) = &server.servers else { return 0 };
    let older = file_time().duration_since(before).unwrap_or_default();
    let term = servers.leadership.revision().await;
    let lists = match servers.blobs.lists().await {
        Ok(lists) => lists,
        Err(error) => {
            tracing::warn!(error = causes(&error), "cannot garbage-collect the blobs of other servers");
            return 0;
        }
    };
    let mut bytes = 0;
    for (name, list) in lists {
        let unused: Vec<Digest> = list.into_keys().filter(|digest| !used.contains(digest)).collect();
        match servers.blobs.collect(&name, term, older, &unused).await {
            Ok(freed) => bytes += freed,
            Err(error) => tracing::warn!(server = name, error = causes(&error), "cannot garbage-collect blobs"),
        }
    }
    bytes
}

/// Brings back the second copy of each used blob: at the start of a term, after a change of the servers, and now and then.
pub(crate) async fn repair_copies(server: Arc<Server>) {
    let Some(servers) = &server.servers else { return std::future::pending().await };
    let mut changes = servers.membership.changes();
    changes.mark_changed();
    let changes = Arc::new(Mutex::new(changes));
    let pass = move || {
        let (server, changes) = (Arc::clone(&server), Arc::clone(&changes));
        async move {
            let mut changes = changes.lock().await;
            let _ = tokio::time::timeout(INTERVAL, changes.changed()).await;
            tokio::time::sleep(REPAIR_DELAY).await;
            changes.mark_unchanged();
            let copied = repair(&server).await?;
            if copied > 0 {
                tracing::info!(copied, "blobs have a second copy again");
            }
            Ok::<(), RepairError>(())
        }
    };
    // A pass waits for its cause itself.
    let repairs =
        ReconcileLoop::new("repair of the copies of blobs", Duration::ZERO, Backoff::constant(Duration::ZERO));
    repairs.run(pass).await;
}

/// Failure of a repair. The next one starts over.
#[derive(Debug, thiserror::Error)]
enum RepairError {
    #[error("cannot list the blobs of another server")]
    List(#[from] TransportError),
    #[error("cannot read the blobs of this server")]
    Blobs(#[from] BlobError),
}

async fn repair(server: &Server) -> Result<u64, RepairError> {
    let Some(servers) = &server.servers else { return Ok(0) };
    if servers.membership.peers().is_empty() {
        return Ok(0);
    }
    let own: BTreeMap<Digest, u64> = server.blobs.list().await?.into_iter().collect();
    let lists = servers.blobs.lists().await?;
    let used = UsedBlobs::of(server).await?;
    let mut copied = 0;
    for digest in used.all() {
        let here = own.contains_key(digest);
        let there = lists.values().filter(|list| list.contains_key(digest)).count();
        let repaired = match (here, there) {
            (true, 0) => servers.blobs.copy(digest.clone()).await.map(|()| true),
            // Asking for the blob fetches it.
            (false, 1) => server.blobs.size(digest).await.map(|size| size.is_some()),
            _ => Ok(false),
        };
        gantry_failpoint::failpoint!("replica.repaired");
        match repaired {
            Ok(repaired) => copied += u64::from(repaired),
            Err(error @ BlobError::Copy { .. }) => return Err(error.into()),
            Err(error) => tracing::warn!(%digest, error = causes(&error), "a blob has only one copy"),
        }
    }
    Ok(copied)
}
