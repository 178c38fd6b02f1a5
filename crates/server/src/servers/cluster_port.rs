//! The cluster port of one of several servers.
//!
//! A follower has no records in memory. It reads the authority from the store, and makes a certificate of its own.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use gantry_records::{AUTHORITY_KEY, AuthorityRecord, RecordError};
use gantry_supervision::{Backoff, Retry};

use super::node::Node;
use crate::ServerError;
use crate::membership::ServerTrust;

/// Interval of reading the authority, until there is one.
const POLL: Duration = Duration::from_millis(100);

/// Attempts without an authority before the server logs a warning.
const WARN_AFTER: u64 = 50;

/// Serves machines, people and other servers for as long as the server lives. Returns the error that ends the server.
pub(super) async fn serve(node: &Node, router: Router) -> ServerError {
    if node.settings.cluster_listen.is_none() {
        return std::future::pending().await;
    }
    let begun = async {
        let trust = ServerTrust::of(&authority(node).await?, &node.settings)?;
        node.membership.set_certificate(&trust.credentials)?;
        let serving = trust.listen(&node.settings, router).await?;
        Ok::<_, ServerError>((trust, serving))
    };
    match begun.await {
        Ok((trust, Some(serving))) => match tokio::select! {
            never = serving => never,
            never = Arc::new(trust).renew() => never,
        } {},
        Ok((_, None)) => std::future::pending().await,
        Err(error) => error,
    }
}

/// Waits for the authority. The first term of a cluster writes it. A failure of the store is logged at once.
async fn authority(node: &Node) -> Result<AuthorityRecord, RecordError> {
    let attempt = || async {
        let read = Retry::new("read of the authority of the cluster", Backoff::constant(POLL));
        read.until_done(|| node.store.get(AUTHORITY_KEY)).await.ok_or(NoAuthority)
    };
    let retry = Retry::new("authority of the cluster", Backoff::constant(POLL)).quiet_for(WARN_AFTER);
    AuthorityRecord::parse(&retry.until_done(attempt).await.value)
}

/// Reason for a wait.
#[derive(Debug, thiserror::Error)]
#[error("the store has no authority yet; the first server to lead writes one")]
struct NoAuthority;
