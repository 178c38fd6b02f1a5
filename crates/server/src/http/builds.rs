//! `/internal/v1/builds/{id}/blobs`: the blobs, for the agent that carries out an order. The id of an open order is
//! needed besides the token of the agent's machine.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::StreamExt;
use gantry_api::{ErrorCode, Problem};
use gantry_blobs::BlobError;
use gantry_model::Digest;

use super::auth::Caller;
use super::{HttpResult, json, parse_body};
use crate::disk_reserve::check_reserve;
use crate::{Server, causes};

/// Requires an open order, and the token of the machine that carries it out.
fn check_order(server: &Server, caller: &Caller, id: &str) -> HttpResult<()> {
    match server.sessions.machine_of_order(id) {
        Some(machine) => caller.machine(&machine),
        None => {
            caller.any_machine()?;
            Err(Problem::new(ErrorCode::SessionNotFound, "the order is no longer open").into())
        }
    }
}

/// Requires an open order and its machine's token, and parses the digest.
fn checked(server: &Server, caller: &Caller, id: &str, digest: &str) -> HttpResult<Digest> {
    check_order(server, caller, id)?;
    digest.parse().map_err(|_| Problem::new(ErrorCode::InvalidDigest, format!("{digest:?} is not a digest")).into())
}

fn problem(error: &BlobError) -> Problem {
    match error {
        BlobError::Missing(_) => Problem::new(ErrorCode::BlobNotFound, error.to_string()),
        BlobError::WrongDigest { .. } => Problem::new(ErrorCode::DigestMismatch, error.to_string()),
        _ => Problem::internal(causes(error)),
    }
}

pub(crate) async fn blob(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((id, digest)): Path<(String, String)>,
) -> HttpResult {
    let digest = checked(&server, &caller, &id, &digest)?;
    let blob = server.blobs.get(&digest).await.map_err(|error| problem(&error))?;
    Ok(Body::from_stream(blob.stream).into_response())
}

/// Reports whether the blob exists undamaged. The blob is then protected from garbage collection, because the order is
/// about to use the blob.
pub(crate) async fn is_intact(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((id, digest)): Path<(String, String)>,
) -> HttpResult {
    let digest = checked(&server, &caller, &id, &digest)?;
    json(&server.blobs.is_intact(&digest).await.map_err(|error| problem(&error))?)
}

/// Fails unless the disk has room for that many bytes of an image, besides the reserve.
pub(crate) async fn check_room(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(id): Path<String>,
    text: Bytes,
) -> HttpResult {
    check_order(&server, &caller, &id)?;
    check_reserve(&server, "a pull", parse_body(&text)?)?;
    json(&())
}

/// Stores a blob. The content must match the digest.
pub(crate) async fn put(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((id, digest)): Path<(String, String)>,
    body: Body,
) -> HttpResult {
    let digest = checked(&server, &caller, &id, &digest)?;
    let pieces = body.into_data_stream().map(|piece| piece.map_err(std::io::Error::other)).boxed();
    server.blobs.put_stream(pieces, Some(&digest)).await.map_err(|error| problem(&error))?;
    json(&())
}
