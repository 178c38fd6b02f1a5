//! Container registry: OCI distribution specification 1.1 over the blob store.
//!
//! The repository of an app has the app's name; the repository of a base is `base/<name>`. An app's repository has
//! the images of its releases, tagged with their commits. Other repositories may hold images for any app. Pushed
//! blobs are streamed to the blob store. A manifest is accepted only if all blobs and manifests named in it are
//! present.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use gantry_admission::{NewManifest, app_of_repository_is_missing};
use gantry_api::{ErrorCode, Problem};
use gantry_blobs::{BlobError, BlobParts};
use gantry_control::layers::LayerParts;
use gantry_image::{
    Descriptor, Index, MANIFEST_OCI, Manifest, ManifestDecision, ManifestError, REGISTRY_ID, ReferenceParts, Selection,
};
use gantry_model::{Digest, DigestError};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::auth::Caller;
use super::range::{self, RequestedRange};
use super::{ErrorResponse, HttpResult, json, referrers, uploads};
use crate::{Server, causes};

/// Size limit of a manifest in bytes: the minimum that the specification requires registries to accept.
const MANIFEST_MAX: usize = 4 << 20;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Maximum number of tags of one push.
const TAGS_MAX: usize = 50;

/// Longest time for which a request waits for the list of a blob's parts. Agents then fetch the blob as a whole.
const LIST_WAIT: Duration = Duration::from_secs(5);

/// Default tag of a reference without a tag.
const LATEST: &str = "latest";

/// `GET /v2/`: tells clients that this server is a registry.
pub(crate) async fn version(caller: Result<Caller, ErrorResponse>) -> Response {
    let empty = || json(&BTreeMap::<String, String>::new());
    caller.and_then(|_| empty()).unwrap_or_else(oci_error)
}

/// Adds the API version to every response, including errors. Docker's client requires the header before it creates an
/// index (`docker manifest`). Also adds this registry's id.
pub(crate) async fn versioned(State(server): State<Arc<Server>>, mut response: Response) -> Response {
    let version = header_field(HeaderName::from_static("docker-distribution-api-version"), "registry/2.0");
    let own = header_field(HeaderName::from_static(REGISTRY_ID), &server.registry_id);
    response.headers_mut().extend(version.into_iter().chain(own));
    response
}

/// `/v2/<repository>/(manifests|blobs|tags)/…`. Error responses have the specification's form.
pub(crate) async fn route(
    State(server): State<Arc<Server>>,
    caller: Result<Caller, ErrorResponse>,
    Path(path): Path<String>,
    request: Request,
) -> Response {
    let result = match caller {
        Ok(caller) => dispatch(&server, &caller, &path, request).await,
        Err(refusal) => Err(refusal),
    };
    result.unwrap_or_else(oci_error)
}

/// Converts an error response into the specification's form. `detail` has the stable code.
fn oci_error(response: ErrorResponse) -> Response {
    let problem = &response.0;
    let code = problem.code.known().map_or("UNKNOWN", oci_code);
    let detail = serde_json::json!({ "code": problem.code, "hint": problem.hint });
    let text = serde_json::json!({ "errors": [{ "code": code, "message": problem.message, "detail": detail }] });
    // Keeps the headers of the usual error response.
    let mut response = response.into_response();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|_| Body::from(text.to_string()))
}

/// Returns the specification's error code (section "Error Codes").
fn oci_code(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::TokenRequired | ErrorCode::TokenUnknown | ErrorCode::TokenExpired => "UNAUTHORIZED",
        ErrorCode::ScopeInsufficient
        | ErrorCode::RepositoryFull
        | ErrorCode::UploadTakenOver
        | ErrorCode::DiskFull
        | ErrorCode::DiskReadOnly => "DENIED",
        ErrorCode::MethodNotAllowed => "UNSUPPORTED",
        ErrorCode::RequestTooLarge => "SIZE_INVALID",
        ErrorCode::TooManyUploads => "TOOMANYREQUESTS",
        ErrorCode::UploadNotFound => "BLOB_UPLOAD_UNKNOWN",
        ErrorCode::UploadOutOfOrder | ErrorCode::RequestBroken => "BLOB_UPLOAD_INVALID",
        ErrorCode::BlobNotFound => "BLOB_UNKNOWN",
        ErrorCode::ImageNotFound => "MANIFEST_UNKNOWN",
        ErrorCode::RepositoryNotFound | ErrorCode::EndpointNotFound => "NAME_UNKNOWN",
        ErrorCode::InvalidRepository => "NAME_INVALID",
        ErrorCode::InvalidPageSize => "PAGINATION_NUMBER_INVALID",
        ErrorCode::ManifestIncomplete => "MANIFEST_BLOB_UNKNOWN",
        ErrorCode::InvalidManifest | ErrorCode::InvalidTag => "MANIFEST_INVALID",
        ErrorCode::InvalidDigest | ErrorCode::DigestMismatch => "DIGEST_INVALID",
        _ => "UNKNOWN",
    }
}

async fn dispatch(server: &Arc<Server>, caller: &Caller, path: &str, request: Request) -> HttpResult {
    let unknown = || Problem::new(ErrorCode::EndpointNotFound, "the registry has no endpoint at this path");
    let parts: Vec<&str> = path.split('/').collect();
    let (repository, target) = match parts.as_slice() {
        [repository @ .., "blobs", "uploads", ""] | [repository @ .., "blobs", "uploads"] => {
            (repository, RegistryTarget::Begin)
        }
        [repository @ .., "blobs", "uploads", id] => (repository, RegistryTarget::Upload(id)),
        [repository @ .., "manifests", reference] => (repository, RegistryTarget::Manifest(reference)),
        [repository @ .., "blobs", reference] => (repository, RegistryTarget::Blob(parse_digest(reference)?)),
        [repository @ .., "blobs", reference, "parts"] => {
            (repository, RegistryTarget::BlobParts(parse_digest(reference)?))
        }
        [repository @ .., "tags", "list"] => (repository, RegistryTarget::Tags),
        [repository @ .., "referrers", subject] => (repository, RegistryTarget::Referrers(parse_digest(subject)?)),
        _ => return Err(unknown().into()),
    };
    let repository = checked_repository(repository)?;
    let method = request.method().clone();
    let reads = method == Method::GET || method == Method::HEAD;
    if reads {
        caller.pull(&repository)?
    } else {
        caller.push(&repository)?
    }
    let body = method == Method::GET;
    match (target, method) {
        (RegistryTarget::Manifest(reference), Method::GET | Method::HEAD) => {
            manifest(server, &repository, reference, body, caller.is_machine()).await
        }
        (RegistryTarget::Manifest(reference), Method::PUT) => {
            put_manifest(server, caller, repository, reference, request).await
        }
        (RegistryTarget::Blob(digest), Method::GET) => {
            let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
            blob(server, &digest, range).await
        }
        (RegistryTarget::BlobParts(digest), Method::GET) => blob_parts(server, &digest).await,
        (RegistryTarget::Blob(digest), Method::HEAD) => has_blob(server, &digest).await,
        (RegistryTarget::Manifest(reference), Method::DELETE) => untag(server, caller, repository, reference).await,
        (RegistryTarget::Tags, Method::GET) => tags(server, &repository, request.uri()),
        (RegistryTarget::Referrers(subject), Method::GET) => {
            referrers::list(server, &repository, &subject, request.uri()).await
        }
        (RegistryTarget::Begin, Method::POST) => uploads::begin(server, &repository, request).await,
        (RegistryTarget::Upload(id), Method::PATCH) => uploads::write(server, &repository, id, request).await,
        (RegistryTarget::Upload(id), Method::PUT) => uploads::finish(server, &repository, id, request).await,
        (RegistryTarget::Upload(id), Method::GET) => uploads::status(server, &repository, id).await,
        (RegistryTarget::Upload(id), Method::DELETE) => uploads::cancel(server, &repository, id).await,
        (_, method) => {
            let message = format!("{method} is not for this path of the registry");
            Err(Problem::new(ErrorCode::MethodNotAllowed, message).into())
        }
    }
}

/// Target of a registry path.
enum RegistryTarget<'a> {
    Begin,
    Upload(&'a str),
    Manifest(&'a str),
    Blob(Digest),
    /// The parts of a blob, for agents; no part of the specification.
    BlobParts(Digest),
    Tags,
    Referrers(Digest),
}

/// Validates a repository's name: an app's name, or several names separated by slashes.
pub(crate) fn checked_repository(parts: &[&str]) -> HttpResult<String> {
    let plain = |part: &&str| {
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(lower)
            && part.ends_with(lower)
            && !part.contains("..")
            && part.len() <= 100
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    if (1..=4).contains(&parts.len()) && parts.iter().all(plain) {
        return Ok(parts.join("/"));
    }
    let message = "a repository has one to four names of lower-case letters, digits, dots and hyphens";
    Err(Problem::new(ErrorCode::InvalidRepository, message).into())
}

pub(crate) fn is_tag(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 128
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Reads the reference of a manifest. A tag has no colon, so any other text is meant as a digest.
fn read_reference(reference: &str) -> HttpResult<Option<Digest>> {
    if reference.contains(':') { parse_digest(reference).map(Some) } else { Ok(None) }
}

/// Tags that a push by digest names in its query (`?tag=1.0&tag=latest`).
fn query_tags(uri: &Uri) -> Vec<String> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|query| query.0).unwrap_or_default();
    pairs.into_iter().filter(|(name, _)| name == "tag").map(|(_, tag)| tag).collect()
}

/// Checks the tags of a manifest.
fn check_tags(tags: &[String]) -> HttpResult<()> {
    if let Some(bad) = tags.iter().find(|tag| !is_tag(tag)) {
        let message = format!("{bad:?} is neither a tag nor a digest");
        return Err(Problem::new(ErrorCode::InvalidTag, message).into());
    }
    if tags.len() > TAGS_MAX {
        let message = format!("a push has at most {TAGS_MAX} tags");
        return Err(Problem::new(ErrorCode::InvalidTag, message).into());
    }
    Ok(())
}

/// Stores a manifest and its tags, if all blobs and manifests named in it are present.
async fn put_manifest(
    server: &Server,
    caller: &Caller,
    repository: String,
    reference: &str,
    request: Request,
) -> HttpResult {
    let requested_digest = read_reference(reference)?;
    let in_query = query_tags(request.uri());
    let own = requested_digest.is_none().then(|| reference.to_owned());
    let tags: Vec<String> = in_query.iter().cloned().chain(own).collect();
    check_tags(&tags)?;
    let bytes = axum::body::to_bytes(request.into_body(), MANIFEST_MAX).await.map_err(|_| {
        Problem::new(ErrorCode::RequestTooLarge, format!("a manifest has at most {MANIFEST_MAX} bytes"))
    })?;
    let named: Vec<Descriptor> = match Index::parse(&bytes) {
        Some(index) => index.manifests,
        None => {
            let manifest = Manifest::parse(&bytes).map_err(invalid_manifest)?;
            manifest.blobs().cloned().collect()
        }
    };
    for descriptor in named {
        let size = server.blobs.size(&descriptor.digest).await.map_err(|e| Problem::internal(e.to_string()))?;
        if size != Some(descriptor.size) {
            let why = format!(
                "the manifest names blob {} of {} bytes, which is not here",
                descriptor.digest, descriptor.size
            );
            return Err(Problem::new(ErrorCode::ManifestIncomplete, why).into());
        }
    }
    let subject = gantry_image::subject(&bytes).map_err(invalid_manifest)?;
    referrers::check_entry_size(&bytes)?;
    let digest = server.blobs.put(bytes).await.map_err(|error| Problem::internal(error.to_string()))?;
    if let Some(requested_digest) = requested_digest.filter(|requested_digest| *requested_digest != digest) {
        let message = format!("the manifest is {digest}, not {requested_digest}");
        return Err(Problem::new(ErrorCode::DigestMismatch, message).into());
    }
    let new = NewManifest {
        repository: repository.clone(),
        digest: digest.clone(),
        subject: subject.clone(),
        tags: tags.into_iter().collect(),
    };
    caller.mutate(server, move |actor| actor.push_manifest(new)).await?;
    let headers =
        [(header::LOCATION, format!("/v2/{repository}/manifests/{digest}")), (CONTENT_DIGEST, digest.to_string())];
    // Tells the client that this registry lists referrers, so the client need not maintain a list itself.
    let subject_header =
        subject.and_then(|subject| header_field(HeaderName::from_static("oci-subject"), &subject.to_string()));
    let mut response = (StatusCode::CREATED, headers).into_response();
    response.headers_mut().extend(subject_header);
    // Tells the client which tags of its query this registry has set.
    for (name, tag) in in_query.iter().filter_map(|tag| header_field(OCI_TAG, tag)) {
        response.headers_mut().append(name, tag);
    }
    let missing = app_of_repository_is_missing(&server.core.view().records, &repository);
    let warning = missing.and_then(|app| {
        let text = format!("there is no app {app}; create it with: gantry app create {app}");
        header_field(header::WARNING, &format!("299 - \"{text}\""))
    });
    response.headers_mut().extend(warning);
    Ok(response)
}

/// Error response for a manifest that cannot be parsed.
fn invalid_manifest(error: impl std::fmt::Display) -> Problem {
    Problem::new(ErrorCode::InvalidManifest, error.to_string())
}

pub(super) fn parse_digest(text: &str) -> HttpResult<Digest> {
    text.parse().map_err(|error: DigestError| Problem::new(ErrorCode::InvalidDigest, error.to_string()).into())
}

fn tagged_image(server: &Server, repository: &str, reference: &str) -> Option<Digest> {
    let view = server.core.view();
    if let Some(base) = view.records.base_of(repository) {
        return Some(base.image.clone());
    }
    view.records.tags.get(repository)?.get(reference).cloned()
}

/// Returns a manifest. A machine gets each by its digest: it runs jobs whose image or code was removed after they were
/// queued.
async fn manifest(server: &Server, repository: &str, reference: &str, body: bool, is_machine: bool) -> HttpResult {
    let has = |digest: &Digest| is_machine || server.core.view().records.has_image(repository, digest);
    let found = match read_reference(reference)? {
        Some(digest) => Some(digest).filter(has),
        None => tagged_image(server, repository, reference),
    };
    let missing = || Problem::new(ErrorCode::ImageNotFound, format!("there is no image {repository}:{reference}"));
    let digest = found.ok_or_else(missing)?;
    let bytes = server.blobs.read(&digest).await.map_err(|_| missing())?;
    let of_manifest =
        || Manifest::parse(&bytes).map_or_else(|_| MANIFEST_OCI.to_owned(), |manifest| manifest.media_type);
    let kind = Index::parse(&bytes).map_or_else(of_manifest, |index| index.media_type);
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (CONTENT_DIGEST, digest.to_string()),
    ];
    Ok((headers, if body { Body::from(bytes) } else { Body::empty() }).into_response())
}

/// Returns the size of a blob. A client that asks may then leave the blob out of its push. The request therefore
/// counts as a write, which protects the blob from garbage collection.
async fn blob_size(server: &Server, digest: &Digest) -> HttpResult<u64> {
    let size = server.blobs.size(digest).await.map_err(|error| Problem::internal(causes(&error)))?;
    Ok(size.ok_or_else(|| Problem::new(ErrorCode::BlobNotFound, format!("there is no blob {digest}")))?)
}

/// Answers a client that asks before an upload. The client leaves a blob that it finds here out of its push, so a
/// damaged blob counts as missing: the push then replaces the blob.
async fn has_blob(server: &Server, digest: &Digest) -> HttpResult {
    let length = blob_size(server, digest).await?;
    if !server.blobs.is_intact(digest).await.map_err(|error| Problem::internal(causes(&error)))? {
        let message = format!("blob {digest} is damaged");
        return Err(Problem::new(ErrorCode::BlobNotFound, message).hint("push the blob again").into());
    }
    Ok(blob_head(digest, length).into_response())
}

fn blob_head(digest: &Digest, length: u64) -> [(HeaderName, String); 4] {
    [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (CONTENT_DIGEST, digest.to_string()),
    ]
}

async fn blob(server: &Server, digest: &Digest, range_header: Option<&str>) -> HttpResult {
    let size = blob_size(server, digest).await?;
    let (status, range) = match range::parse_range(range_header, size) {
        RequestedRange::Whole => (StatusCode::OK, 0..size),
        RequestedRange::Bytes(range) => (StatusCode::PARTIAL_CONTENT, range),
        RequestedRange::Unsatisfiable => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            response.headers_mut().extend(header_field(header::CONTENT_RANGE, &format!("bytes */{size}")));
            return Ok(response);
        }
    };
    let length = range.end - range.start;
    let content_range = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
    let blob = server.blobs.get_part(digest, range).await.map_err(|error| unreadable_blob(&error))?;
    let mut response = (status, blob_head(digest, length), Body::from_stream(blob.stream)).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        response.headers_mut().extend(header_field(header::CONTENT_RANGE, &content_range));
    }
    Ok(response)
}

/// Lists the parts of a blob. The caller is about to fetch them, so garbage collection keeps the blob for a time. The
/// response is empty while the list of a large blob is being made.
async fn blob_parts(server: &Server, digest: &Digest) -> HttpResult {
    blob_size(server, digest).await?;
    match server.blobs.parts(digest, LIST_WAIT).await.map_err(|error| unreadable_blob(&error))? {
        Some(BlobParts { size, part_size, digests }) => json(&LayerParts { size, part_size, digests }),
        None => Ok(StatusCode::ACCEPTED.into_response()),
    }
}

fn unreadable_blob(error: &BlobError) -> Problem {
    match error {
        BlobError::Missing(_) => Problem::new(ErrorCode::BlobNotFound, error.to_string()),
        _ => Problem::internal(causes(error)),
    }
}

fn header_field(name: HeaderName, value: &str) -> Option<(HeaderName, HeaderValue)> {
    HeaderValue::from_str(value).ok().map(|value| (name, value))
}

/// Removes a tag, or a manifest with all its tags. Garbage collection later removes blobs that no record names;
/// images of releases stay.
async fn untag(server: &Server, caller: &Caller, repository: String, reference: &str) -> HttpResult {
    let reference = reference.to_owned();
    caller.mutate(server, move |actor| actor.remove_image(&repository, &reference)).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Returns a parameter of a request's query.
pub(super) fn query_parameter(uri: &Uri, name: &str) -> Option<String> {
    Query::<BTreeMap<String, String>>::try_from_uri(uri).ok()?.0.remove(name)
}

/// Lists a repository's tags in order: `?n=` tags after `?last=`, with a link to the rest.
fn tags(server: &Server, repository: &str, uri: &Uri) -> HttpResult {
    let view = server.core.view();
    let known = view.records.tags.get(repository);
    let is_app = gantry_model::AppName::parse(repository).is_ok_and(|app| view.records.apps.contains_key(&app));
    // A base has one image, which every tag names.
    let base = tagged_image(server, repository, LATEST).filter(|_| known.is_none());
    if known.is_none() && base.is_none() && !is_app {
        return Err(Problem::new(ErrorCode::RepositoryNotFound, format!("there is no repository {repository}")).into());
    }
    let (last, page_size) = (query_parameter(uri, "last"), query_parameter(uri, "n").map(|n| n.parse::<usize>()));
    let page_size = match page_size {
        Some(Err(_)) => return Err(Problem::new(ErrorCode::InvalidPageSize, "the parameter n is not a number").into()),
        Some(Ok(page_size)) => page_size,
        None => usize::MAX,
    };
    let all = known.into_iter().flatten().map(|(tag, _)| tag.as_str()).chain(base.map(|_| LATEST));
    let mut rest = all.filter(|tag| last.as_deref().is_none_or(|last| *tag > last));
    let names: Vec<&str> = rest.by_ref().take(page_size).collect();
    let mut response = json(&serde_json::json!({ "name": repository, "tags": names }))?;
    if let (Some(last), Some(_)) = (names.last(), rest.next()) {
        // Every character of a tag is valid in a header and in a URL.
        let link = format!("</v2/{repository}/tags/list?n={page_size}&last={last}>; rel=\"next\"");
        response.headers_mut().extend(header_field(header::LINK, &link));
    }
    Ok(response)
}

/// Resolves a reference in this registry (`repository:tag`, `repository@digest` or both) to an image. The caller
/// needs the right to pull from the repository.
pub(crate) async fn resolve(server: &Server, caller: &Caller, reference: &str) -> HttpResult<Digest> {
    caller.pull(ReferenceParts::of(reference).name)?;
    find_image(server, reference).await
}

/// Finds the image of a reference in this registry.
pub(super) async fn find_image(server: &Server, reference: &str) -> HttpResult<Digest> {
    let unknown = || {
        Problem::new(ErrorCode::ImageNotFound, format!("there is no image {reference} in this registry"))
            .hint("push it with docker or podman, or name another registry: registry.example/team/app:tag")
    };
    let ReferenceParts { name: repository, tag, digest } = ReferenceParts::of(reference);
    let mut digest = match digest {
        None => tagged_image(server, repository, tag.unwrap_or(LATEST)).ok_or_else(unknown)?,
        Some(text) => {
            let digest = parse_digest(text)?;
            Some(digest)
                .filter(|digest| server.core.view().records.has_image(repository, digest))
                .ok_or_else(unknown)?
        }
    };
    // From an index, selects the image for this machine's platform.
    let mut selection = Selection::default();
    loop {
        let bytes = server.blobs.read(&digest).await.map_err(|_| unknown())?;
        match selection.next(&digest, &bytes) {
            Ok(ManifestDecision::Found) => return Ok(digest),
            Ok(ManifestDecision::Read(descriptor)) => digest = descriptor.digest,
            Err(error @ ManifestError::NoImage { .. }) => {
                return Err(Problem::new(ErrorCode::PlatformMissing, format!("{reference}: {error}")).into());
            }
            Err(error) => {
                return Err(Problem::new(ErrorCode::ImageUnusable, format!("{reference}: {error}")).into());
            }
        }
    }
}
