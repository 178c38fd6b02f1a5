//! The cluster port of one of several servers.
//!
//! A follower has no records in memory. It reads the authority from the store, and makes a certificate of its own.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use gantry_records::{AUTHORITY_KEY, AuthorityRecord, RecordError};

use super::Node;
use crate::ServerError;
use crate::membership::ServerTrust;

/// Interval of reading the authority, until there is one.
const POLL: Duration = Duration::from_millis(100);

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

/// Waits for the authority. The first term of a cluster writes it.
async fn authority(node: &Node) -> Result<AuthorityRecord, RecordError> {
    let mut logged = false;
    loop {
        match node.store.get(AUTHORITY_KEY).await {
            Ok(Some(entry)) => return AuthorityRecord::parse(&entry.value),
            Ok(None) => {}
            Err(error) if !std::mem::replace(&mut logged, true) => {
                tracing::warn!(error = crate::causes(&error), "cannot read the authority of the cluster");
            }
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}
