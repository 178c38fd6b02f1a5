//! API of each server, leader or follower, for the other servers: `/internal/v1/servers/blobs`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use gantry_api::{ErrorCode, Problem};
use gantry_blobs::{BlobError, BlobStore};
use gantry_linux::clock::file_time;
use gantry_model::Digest;
use gantry_store::{Revision, Store};
use gantry_trust::Peer;
use http::header;
use serde::{Deserialize, Serialize};

use super::membership::Membership;
use crate::http::auth::secret;
use crate::http::{ErrorResponse, HttpResult};
use crate::leadership;

/// Path of the blobs.
pub(super) const PATH: &str = "/internal/v1/servers/blobs";

/// Order to remove blobs that no record names.
#[derive(Serialize, Deserialize)]
pub(super) struct BlobCollection {
    /// Fencing token of the term that gives the order.
    pub(super) term: Revision,
    /// Age below which a blob stays, by the clock of the server that has the blob.
    pub(super) older_millis: u64,
    pub(super) digests: Vec<Digest>,
}

/// Routes that the other servers may use.
pub(super) struct PeerApi {
    pub(super) membership: Arc<Membership>,
    pub(super) blobs: BlobStore,
    pub(super) store: Arc<dyn Store>,
}

/// Builds the routes, each for servers alone.
pub(super) fn routes(api: PeerApi) -> Router {
    let api = Arc::new(api);
    Router::new()
        .route(PATH, get(list))
        .route(&format!("{PATH}/collect"), post(collect))
        .route(
            &format!("{PATH}/{{digest}}"),
            get(read).head(report_presence).put(write).layer(DefaultBodyLimit::disable()),
        )
        .layer(from_fn_with_state(Arc::clone(&api), servers_only))
        .with_state(api)
}

async fn servers_only(State(api): State<Arc<PeerApi>>, request: Request, next: Next) -> Response {
    let (secret, peer) = (secret(request.headers().get(header::AUTHORIZATION)), request.extensions().get::<Peer>());
    if secret.is_some_and(|secret| api.membership.is_server(&secret, peer)) {
        return next.run(request).await;
    }
    ErrorResponse(Problem::new(ErrorCode::TokenUnknown, "only servers of the cluster may do this")).into_response()
}

fn problem(error: &BlobError) -> Problem {
    match error {
        BlobError::Missing(_) => Problem::new(ErrorCode::BlobNotFound, error.to_string()),
        BlobError::WrongDigest { .. } => Problem::new(ErrorCode::DigestMismatch, error.to_string()),
        _ => Problem::internal(crate::causes(error)),
    }
}

fn parse(text: &str) -> HttpResult<Digest> {
    text.parse().map_err(|_| Problem::new(ErrorCode::InvalidDigest, format!("{text:?} is not a digest")).into())
}

async fn list(State(api): State<Arc<PeerApi>>) -> HttpResult<Json<Vec<(Digest, u64)>>> {
    Ok(Json(api.blobs.list().await.map_err(|error| problem(&error))?))
}

/// Reports whether this server has a blob. A blob that is here stays for the time that garbage collection leaves a new
/// one.
async fn report_presence(State(api): State<Arc<PeerApi>>, Path(digest): Path<String>) -> HttpResult<()> {
    let digest = parse(&digest)?;
    match api.blobs.size(&digest).await.map_err(|error| problem(&error))? {
        Some(_) => Ok(()),
        None => Err(problem(&BlobError::Missing(digest)).into()),
    }
}

async fn read(State(api): State<Arc<PeerApi>>, Path(digest): Path<String>) -> HttpResult {
    let blob = api.blobs.get(&parse(&digest)?).await.map_err(|error| problem(&error))?;
    Ok(([(header::CONTENT_LENGTH, blob.size)], Body::from_stream(blob.stream)).into_response())
}

async fn write(State(api): State<Arc<PeerApi>>, Path(digest): Path<String>, body: Body) -> HttpResult<()> {
    let digest = parse(&digest)?;
    let pieces = body.into_data_stream().map(|piece| piece.map_err(std::io::Error::other)).boxed();
    api.blobs.put_stream(pieces, Some(&digest)).await.map_err(|error| problem(&error))?;
    gantry_failpoint::failpoint!("replica.written");
    Ok(())
}

/// Removes blobs, if the order comes from the term that leads now.
async fn collect(State(api): State<Arc<PeerApi>>, Json(order): Json<BlobCollection>) -> HttpResult<Json<u64>> {
    let BlobCollection { term, older_millis, digests } = order;
    let leader = api.store.get(leadership::KEY).await;
    let leader = leader.map_err(|error| Problem::new(ErrorCode::StoreUnavailable, crate::causes(&error)))?;
    if leader.is_none_or(|leader| leader.created != term) {
        return Err(Problem::new(ErrorCode::LeadershipChanged, "the ordering server has lost leadership").into());
    }
    let older = Duration::from_millis(older_millis);
    let before = file_time().checked_sub(older).unwrap_or(SystemTime::UNIX_EPOCH);
    let sizes: std::collections::BTreeMap<Digest, u64> =
        api.blobs.list().await.map_err(|error| problem(&error))?.into_iter().collect();
    let mut bytes = 0;
    for digest in digests {
        let Some(size) = sizes.get(&digest) else { continue };
        if api.blobs.delete_older(&digest, before).await.map_err(|error| problem(&error))? {
            bytes += size;
        }
    }
    Ok(Json(bytes))
}
