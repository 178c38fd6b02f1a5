//! Blob uploads into the registry: `POST` begins, `PATCH` appends, `PUT` finishes. Data is streamed to the blob store
//! as it arrives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Guard, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use gantry_api::{ErrorCode, Problem};
use gantry_blobs::{BlobError, BlobWriter};
use gantry_model::Digest;
use http::{HeaderMap, HeaderName, StatusCode, header};
use tokio::sync::{Mutex, watch};

use super::HttpResult;
use super::registry::{self, query_parameter};
use crate::disk_reserve::{ReserveCheck, check_reserve};
use crate::{Server, causes};

/// Limits on concurrent uploads: in total, and per repository. The second keeps one repository from using up the
/// total.
const UPLOADS_MAX: usize = 200;
const UPLOADS_PER_REPOSITORY_MAX: usize = 50;

/// Time without a write after which an upload is discarded.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Size limit of a blob in bytes.
const BLOB_MAX: u64 = 16 << 30;

/// Open uploads by id.
#[derive(Default)]
pub(crate) struct Uploads(Guard<HashMap<String, Upload>>);

#[derive(Clone)]
struct Upload {
    repository: String,
    /// The blob writer, locked by the request that writes; none after the upload has ended.
    writer: Arc<Mutex<Option<BlobWriter>>>,
    /// Changes with each request. A client that sends a new request has lost its previous connection; the previous
    /// request then stops.
    turn: watch::Sender<()>,
    touched: Instant,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, repository: &str, writer: BlobWriter) -> HttpResult<String> {
        self.prune();
        let mut uploads = self.lock();
        let own = uploads.values().filter(|upload| upload.repository == repository).count();
        if uploads.len() >= UPLOADS_MAX || own >= UPLOADS_PER_REPOSITORY_MAX {
            return Err(
                Problem::new(ErrorCode::TooManyUploads, "too many uploads are under way; try again later").into()
            );
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let upload = Upload {
            repository: repository.to_owned(),
            writer: Arc::new(Mutex::new(Some(writer))),
            turn: watch::Sender::default(),
            touched: Instant::now(),
        };
        uploads.insert(id.clone(), upload);
        Ok(id)
    }

    /// Returns an upload to this repository and a receiver for the caller's turn. Signals a request that still writes
    /// to the upload to stop.
    fn get(&self, repository: &str, id: &str) -> HttpResult<(Upload, watch::Receiver<()>)> {
        let mut uploads = self.lock();
        let upload = uploads.get_mut(id).filter(|upload| upload.repository == repository);
        let upload =
            upload.ok_or_else(|| Problem::new(ErrorCode::UploadNotFound, "this upload is not known; begin again"))?;
        upload.touched = Instant::now();
        upload.turn.send_replace(());
        Ok((upload.clone(), upload.turn.subscribe()))
    }

    fn touch(&self, id: &str) {
        if let Some(upload) = self.lock().get_mut(id) {
            upload.touched = Instant::now();
        }
    }

    fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Discards idle uploads and their data on disk.
    pub(crate) fn prune(&self) {
        self.lock().retain(|_, upload| upload.touched.elapsed() < IDLE_TIMEOUT || upload.writer.try_lock().is_err());
    }
}

/// Waits until another request takes over the upload.
async fn taken_over(mut turn: watch::Receiver<()>) {
    if turn.changed().await.is_err() {
        // The upload has ended, so no other request can take over.
        std::future::pending::<()>().await;
    }
}

fn upload_ended() -> Problem {
    Problem::new(ErrorCode::UploadNotFound, "this upload has ended")
}

fn write_error(error: &BlobError) -> Problem {
    match error {
        BlobError::WrongDigest { .. } => Problem::new(ErrorCode::DigestMismatch, error.to_string()),
        _ => Problem::internal(causes(error)),
    }
}

fn wanted_digest(request: &Request) -> HttpResult<Option<Digest>> {
    match query_parameter(request.uri(), "digest") {
        Some(text) => registry::parse_digest(&text).map(Some),
        None => Ok(None),
    }
}

pub(super) async fn begin(server: &Server, repository: &str, request: Request) -> HttpResult {
    // A blob that is already stored and undamaged need not be sent again. A caller with push rights may learn that the
    // blob exists.
    if let Some(Ok(digest)) = query_parameter(request.uri(), "mount").map(|text| text.parse::<Digest>())
        && server.blobs.is_intact(&digest).await.map_err(|error| write_error(&error))?
    {
        return Ok(created_response(repository, &digest));
    }
    check_reserve(server, "an upload", content_length(&request))?;
    let mut writer = server.blobs.writer().await.map_err(|error| write_error(&error))?;
    if let Some(digest) = wanted_digest(&request)? {
        append(server, &mut writer, request, std::future::pending()).await?;
        writer.finish(Some(&digest)).await.map_err(|error| write_error(&error))?;
        return Ok(created_response(repository, &digest));
    }
    let id = server.uploads.add(repository, writer)?;
    Ok(accepted_response(repository, &id, 0))
}

pub(super) async fn write(server: &Server, repository: &str, id: &str, request: Request) -> HttpResult {
    check_reserve(server, "an upload", content_length(&request))?;
    let (upload, turn) = server.uploads.get(repository, id)?;
    let mut guard = upload.writer.lock().await;
    let writer = guard.as_mut().ok_or_else(upload_ended)?;
    in_order(request.headers(), writer.size())?;
    let appended = append(server, writer, request, taken_over(turn)).await;
    let size = writer.size();
    if writer.is_broken() {
        // The written data no longer matches the computed digest.
        guard.take();
        server.uploads.remove(id);
    } else {
        server.uploads.touch(id);
    }
    appended.map(|()| accepted_response(repository, id, size))
}

pub(super) async fn finish(server: &Server, repository: &str, id: &str, request: Request) -> HttpResult {
    let digest =
        wanted_digest(&request)?.ok_or_else(|| Problem::new(ErrorCode::InvalidDigest, "the digest is missing"))?;
    check_reserve(server, "an upload", content_length(&request))?;
    let (upload, _) = server.uploads.get(repository, id)?;
    let mut guard = upload.writer.lock().await;
    in_order(request.headers(), guard.as_ref().ok_or_else(upload_ended)?.size())?;
    let mut writer = guard.take().ok_or_else(upload_ended)?;
    server.uploads.remove(id);
    append(server, &mut writer, request, std::future::pending()).await?;
    writer.finish(Some(&digest)).await.map_err(|error| write_error(&error))?;
    Ok(created_response(repository, &digest))
}

pub(super) async fn status(server: &Server, repository: &str, id: &str) -> HttpResult {
    let (upload, _) = server.uploads.get(repository, id)?;
    let size = upload.writer.lock().await.as_ref().ok_or_else(upload_ended)?.size();
    let mut response = accepted_response(repository, id, size);
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

pub(super) async fn cancel(server: &Server, repository: &str, id: &str) -> HttpResult {
    let (upload, _) = server.uploads.get(repository, id)?;
    server.uploads.remove(id);
    if let Some(writer) = upload.writer.lock().await.take() {
        writer.abort().await;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses a piece whose `Content-Range` does not continue at the current size.
fn in_order(headers: &HeaderMap, size: u64) -> HttpResult<()> {
    let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let begin = range.and_then(range_start);
    match (range, begin) {
        (None, _) => Ok(()),
        (Some(_), Some(begin)) if begin == size => Ok(()),
        _ => {
            let message = format!("the upload has {size} bytes; go on from there");
            Err(Problem::new(ErrorCode::UploadOutOfOrder, message).into())
        }
    }
}

/// Returns the start offset of a `Content-Range`. The specification's form has no unit, but some clients send one.
pub(crate) fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ").unwrap_or(range).split('-').next()?.trim().parse().ok()
}

/// Returns the `Content-Length` of a request, or 0 if the request has none.
fn content_length(request: &Request) -> u64 {
    request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Appends the request's body to the blob, until the request ends or another request takes over.
async fn append(
    server: &Server,
    writer: &mut BlobWriter,
    request: Request,
    taken_over: impl Future<Output = ()>,
) -> HttpResult<()> {
    let mut stream = request.into_body().into_data_stream();
    let mut taken_over = std::pin::pin!(taken_over);
    let mut room = ReserveCheck::new("an upload");
    loop {
        let piece = tokio::select! {
            piece = stream.next() => piece,
            () = &mut taken_over => {
                let message = "another request goes on with this upload";
                return Err(Problem::new(ErrorCode::UploadTakenOver, message).into());
            }
        };
        let Some(piece) = piece else { return Ok(()) };
        let piece = piece.map_err(|error| Problem::new(ErrorCode::RequestBroken, error.to_string()))?;
        if writer.size() + piece.len() as u64 > BLOB_MAX {
            let message = format!("a blob has at most {BLOB_MAX} bytes");
            return Err(Problem::new(ErrorCode::RequestTooLarge, message).into());
        }
        room.take(server, piece.len())?;
        writer.write(piece).await.map_err(|error| write_error(&error))?;
    }
}

fn accepted_response(repository: &str, id: &str, size: u64) -> Response {
    let headers = [
        (header::LOCATION, format!("/v2/{repository}/blobs/uploads/{id}")),
        (header::RANGE, format!("0-{}", size.saturating_sub(1))),
        (HeaderName::from_static("docker-upload-uuid"), id.to_owned()),
    ];
    (StatusCode::ACCEPTED, headers).into_response()
}

fn created_response(repository: &str, digest: &Digest) -> Response {
    let headers = [
        (header::LOCATION, format!("/v2/{repository}/blobs/{digest}")),
        (HeaderName::from_static("docker-content-digest"), digest.to_string()),
    ];
    (StatusCode::CREATED, headers).into_response()
}
