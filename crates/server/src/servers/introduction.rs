//! Introduction of a follower: the leader records the first tokens of each server, so that the follower's own agent,
//! router and administrator are known to the cluster.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use gantry_api::{ErrorCode, Problem};
use gantry_supervision::{Backoff, ReconcileLoop};
use gantry_trust::Peer;
use http::{HeaderMap, Method, header};

use super::node::Node;
use super::transport;
use crate::http::auth::secret;
use crate::http::{HttpResult, json, parse_body};
use crate::settings::PeerAddress;
use crate::tokens::{self, FirstToken};
use crate::{Server, ServerError};

/// Path of the introduction, at the leader.
pub(crate) const INTRODUCTION: &str = "/internal/v1/servers/tokens";

/// Poll interval for the leader, and pause before the next attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Introduces this server to each leader that it follows.
pub(super) async fn introduce(node: &Node) -> Infallible {
    let mut introduced_to = None;
    let pass = async || {
        let leader = node.gate.leader();
        if let Some(known) = leader.as_ref().filter(|leader| introduced_to.as_ref() != Some(*leader)) {
            introduce_to(node, &known.name, known.address.as_ref()).await?;
            introduced_to = leader;
        }
        Ok::<(), ServerError>(())
    };
    ReconcileLoop::new("introduction to the leader", RETRY_PAUSE, Backoff::constant(RETRY_PAUSE)).run(pass).await
}

async fn introduce_to(node: &Node, name: &str, address: Option<&PeerAddress>) -> Result<(), ServerError> {
    let Some(address) = address else { return Ok(()) };
    let tokens = tokens::first_tokens(&node.settings)?;
    let told: Result<(), _> =
        transport::call(&node.membership, (name, address), (Method::POST, INTRODUCTION), &tokens).await;
    told.map_err(|error| ServerError::NotIntroduced(Box::new(error)))?;
    tokens::adopt_new_secrets(&node.settings)
}

/// Records the first tokens of a follower.
pub(crate) async fn introduced(
    State(server): State<Arc<Server>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    text: Bytes,
) -> HttpResult {
    let (secret, peer) = (secret(headers.get(header::AUTHORIZATION)), peer.as_deref());
    let is_server =
        |secret: &String| server.servers.as_ref().is_some_and(|servers| servers.membership.is_server(secret, peer));
    if !secret.as_ref().is_some_and(is_server) {
        return Err(Problem::new(ErrorCode::TokenUnknown, "only servers of the cluster may do this").into());
    }
    let tokens: Vec<FirstToken> = parse_body(&text)?;
    match tokens::admit(&server.core, tokens, true).await {
        Ok(()) => json(&()),
        Err(ServerError::Refused(refused)) => Err(refused.into()),
        Err(error) => Err(Problem::internal(crate::causes(&error)).into()),
    }
}
