//! A pull: the agent fetches an image from another registry, and streams the blobs to the server. The server opens no
//! connection to other registries.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join;
use futures_util::stream::BoxStream;
use gantry_api::{Client, ClientError, ErrorCode, Problem};
use gantry_build::Output;
use gantry_control::builds::{BuildEvent, PullOrder};
use gantry_error::ErrorChain;
use gantry_image::{Credentials, NoRoom, PullError, PullIdentity, PullTarget, ReferenceError, Remote};
use gantry_model::Digest;
use tokio::sync::mpsc;

use super::order_blobs::OrderBlobs;

/// Pieces of a blob that wait for the server.
const PIECES_MAX: usize = 4;

/// Pulls an image, and returns the last event of the order.
pub(super) async fn pull(blobs: &OrderBlobs, order: &PullOrder, output: &Output) -> BuildEvent {
    tokio::select! {
        last = fetch(blobs, order, output) => last.unwrap_or_else(|problem| BuildEvent::Refused { problem }),
        () = output.cancelled() => cancelled(order),
    }
}

/// The last event of an order whose session ended.
pub(super) fn cancelled(order: &PullOrder) -> BuildEvent {
    let problem = Problem::new(ErrorCode::PullFailed, format!("the pull of {} was cancelled", order.reference));
    BuildEvent::Refused { problem }
}

async fn fetch(blobs: &OrderBlobs, order: &PullOrder, output: &Output) -> Result<BuildEvent, Problem> {
    let invalid = |error: ReferenceError| Problem::new(ErrorCode::InvalidImageReference, error.to_string());
    let no_registry = || invalid(ReferenceError::NoRegistry(order.reference.clone()));
    let remote = Remote::parse(&order.reference).map_err(invalid)?.ok_or_else(no_registry)?;
    let credentials = order
        .credentials
        .as_ref()
        .map(|who| Credentials { username: who.username.clone(), password: who.password.clone() });
    let identity = PullIdentity { credentials: credentials.as_ref(), own: Some(&order.own) };
    match gantry_image::pull(&remote, identity, blobs, |line| output.note(&line)).await {
        Ok(image) => Ok(BuildEvent::Done { image }),
        Err(PullError::Own(_)) => Ok(BuildEvent::OwnRegistry),
        Err(error) => Err(problem(&remote, error)),
    }
}

fn problem(remote: &Remote, error: PullError) -> Problem {
    match error {
        PullError::Unreachable { .. } => Problem::new(ErrorCode::RegistryUnreachable, error.to_string()),
        PullError::NoRoom(why) => Problem::new(ErrorCode::DiskFull, ErrorChain(&why).to_string()),
        error => Problem::new(ErrorCode::PullFailed, format!("{remote} cannot be pulled: {}", ErrorChain(&error))),
    }
}

/// A blob that the server did not take.
#[derive(Debug, thiserror::Error)]
pub(super) enum TargetError {
    /// The server refused. The code belongs to the request, and not to the pull.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Client(ClientError),
}

impl From<ClientError> for TargetError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => Self::Refused(problem.message),
            error => Self::Client(error),
        }
    }
}

impl PullTarget for OrderBlobs {
    type Error = TargetError;

    async fn is_intact(&self, digest: &Digest) -> Result<bool, TargetError> {
        Ok(OrderBlobs::is_intact(self, digest).await?)
    }

    async fn check_room(&self, bytes: u64) -> Result<(), NoRoom> {
        let checked = OrderBlobs::check_room(self, bytes).await;
        checked.map_err(|error| NoRoom(TargetError::from(error).into()))
    }

    async fn put_stream(&self, digest: &Digest, pieces: BoxStream<'_, io::Result<Bytes>>) -> Result<(), TargetError> {
        upload(self.client(), &self.path_of(digest), pieces).await
    }

    async fn put(&self, digest: &Digest, document: Bytes) -> Result<(), TargetError> {
        Ok(OrderBlobs::put(self, digest, document).await?)
    }

    async fn read(&self, digest: &Digest) -> Result<Bytes, TargetError> {
        Ok(self.client().bytes(&self.path_of(digest), "*/*").await?)
    }
}

/// Uploads a stream piece by piece. The upload fails when the stream does.
async fn upload(client: &Client, path: &str, mut pieces: BoxStream<'_, io::Result<Bytes>>) -> Result<(), TargetError> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let forward = async move {
        while let Some(piece) = pieces.next().await {
            let ends = piece.is_err();
            // The server may refuse the blob before its end.
            if sender.send(piece).await.is_err() || ends {
                return;
            }
        }
    };
    Ok(join(client.upload_pieces(path, receiver), forward).await.0?)
}
