//! `/internal/v1/builds/{id}/blobs`: the blobs, for the agent that carries out an order. The id of an open order is
//! needed besides the token of the agent's machine.

use axum::body::Body;
use futures_util::StreamExt;
use gantry_api::{ErrorCode, Problem};
use gantry_blobs::BlobError;
use gantry_control::endpoints::{CheckRoom, IsBlobIntact, ReadBlob, WriteBlob};

use super::HttpResult;
use super::auth::Caller;
use super::call::{Call, Routes};
use crate::disk_reserve::check_reserve;
use crate::{Server, causes};

/// Adds the endpoints of orders.
pub(super) fn internal_routes(routes: Routes) -> Routes {
    routes.endpoint(read).endpoint(write).endpoint(is_intact).endpoint(check_room)
}

/// Requires an open order, and the token of the machine that carries it out.
fn check_order(server: &Server, caller: &Caller, id: &str) -> HttpResult<()> {
    match server.sessions.machine_of_order(id) {
        Some(machine) => caller.machine(&machine),
        None => Err(Problem::new(ErrorCode::SessionNotFound, "the order is no longer open").into()),
    }
}

fn problem(error: &BlobError) -> Problem {
    match error {
        BlobError::Missing(_) => Problem::new(ErrorCode::BlobNotFound, error.to_string()),
        BlobError::WrongDigest { .. } => Problem::new(ErrorCode::DigestMismatch, error.to_string()),
        _ => Problem::internal(causes(error)),
    }
}

async fn read(Call { server, caller, at, .. }: Call<ReadBlob>) -> HttpResult<Body> {
    check_order(&server, &caller, &at.id)?;
    let blob = server.blobs.get(&at.digest).await.map_err(|error| problem(&error))?;
    Ok(Body::from_stream(blob.stream))
}

/// Reports whether the blob exists undamaged. The blob is then protected from garbage collection, because the order is
/// about to use the blob.
async fn is_intact(Call { server, caller, at, .. }: Call<IsBlobIntact>) -> HttpResult<bool> {
    check_order(&server, &caller, &at.id)?;
    Ok(server.blobs.is_intact(&at.digest).await.map_err(|error| problem(&error))?)
}

/// Fails unless the disk has room for that many bytes of an image, besides the reserve.
async fn check_room(Call { server, caller, at, body, .. }: Call<CheckRoom>) -> HttpResult<()> {
    check_order(&server, &caller, &at.id)?;
    check_reserve(&server, "a pull", body)?;
    Ok(())
}

/// Stores a blob. The content must match the digest.
async fn write(Call { server, caller, at, body, .. }: Call<WriteBlob>) -> HttpResult<()> {
    check_order(&server, &caller, &at.id)?;
    let pieces = body.into_data_stream().map(|piece| piece.map_err(std::io::Error::other)).boxed();
    server.blobs.put_stream(pieces, Some(&at.digest)).await.map_err(|error| problem(&error))?;
    Ok(())
}
