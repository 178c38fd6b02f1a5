//! The registry: OCI distribution over the blobs (specification 1.1).
//!
//! Repositories are apps, whose releases' images are tagged with their commits, and `base/<name>` for each base. What is
//! pushed is streamed to the blobs; a manifest is taken only once all that it names is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use gantry_api::Problem;
use gantry_image::{Descriptor, Index, MANIFEST_OCI, Manifest};
use gantry_model::Digest;
use http::{Method, StatusCode, header};

use super::auth::Caller;
use super::{Answer, Refusal, json, uploads};
use crate::mirror::{Change, Record, tag_key};
use crate::{Server, causes};

/// The largest manifest: what the specification asks registries to take, at least.
const MANIFEST_MAX: usize = 4 << 20;

/// The tag that is meant where none is named.
const LATEST: &str = "latest";

/// `GET /v2/`: this is a registry.
pub(crate) async fn version(caller: Caller) -> Answer {
    drop(caller);
    json(&BTreeMap::<String, String>::new())
}

/// `/v2/<repository>/(manifests|blobs|tags)/…`; what is wrong is told in the specification's form.
pub(crate) async fn route(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(path): Path<String>,
    request: Request,
) -> Response {
    match answer(&server, &caller, &path, request).await {
        Ok(response) => response,
        Err(Refusal(problem)) => {
            let code = code(problem.status, &path, &problem.message);
            let text = serde_json::json!({ "errors": [{ "code": code, "message": problem.message }] });
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response()
        }
    }
}

/// The specification's word for what is wrong (section "Error Codes").
fn code(status: u16, path: &str, message: &str) -> &'static str {
    let of = |part: &str| path.contains(part);
    match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        405 => "UNSUPPORTED",
        413 => "SIZE_INVALID",
        429 => "TOOMANYREQUESTS",
        404 if of("/blobs/uploads/") => "BLOB_UPLOAD_UNKNOWN",
        404 if of("/blobs/") => "BLOB_UNKNOWN",
        404 if of("/manifests/") => "MANIFEST_UNKNOWN",
        404 => "NAME_UNKNOWN",
        _ if message.starts_with("a repository") => "NAME_INVALID",
        _ if message.starts_with("the manifest names") => "MANIFEST_BLOB_UNKNOWN",
        _ if of("/manifests/") => "MANIFEST_INVALID",
        416 => "BLOB_UPLOAD_INVALID",
        _ => "DIGEST_INVALID",
    }
}

async fn answer(server: &Arc<Server>, caller: &Caller, path: &str, request: Request) -> Answer {
    let unknown = || Problem::missing("there is nothing at this path of the registry");
    let parts: Vec<&str> = path.split('/').collect();
    let (repository, what) = match parts.as_slice() {
        [repository @ .., "blobs", "uploads", ""] | [repository @ .., "blobs", "uploads"] => (repository, What::Begin),
        [repository @ .., "blobs", "uploads", id] => (repository, What::Upload(id)),
        [repository @ .., "manifests", reference] => (repository, What::Manifest(reference)),
        [repository @ .., "blobs", reference] => (repository, What::Blob(digest(reference)?)),
        [repository @ .., "tags", "list"] => (repository, What::Tags),
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
    match (what, method) {
        (What::Manifest(reference), Method::GET | Method::HEAD) => manifest(server, &repository, reference, body).await,
        (What::Manifest(reference), Method::PUT) => {
            put_manifest(server, &caller.name, repository, reference, request).await
        }
        (What::Blob(digest), Method::GET | Method::HEAD) => blob(server, &digest, body).await,
        (What::Manifest(reference), Method::DELETE) => untag(server, &caller.name, repository, reference).await,
        (What::Tags, Method::GET) => tags(server, &repository, request.uri().query()),
        (What::Begin, Method::POST) => uploads::begin(server, &repository, request).await,
        (What::Upload(id), Method::PATCH) => uploads::write(server, &repository, id, request).await,
        (What::Upload(id), Method::PUT) => uploads::finish(server, &repository, id, request).await,
        (What::Upload(id), Method::GET) => uploads::status(server, &repository, id).await,
        (What::Upload(id), Method::DELETE) => uploads::give_up(server, id).await,
        (_, method) => Err(Problem::new(405, format!("{method} is not for this path of the registry")).into()),
    }
}

/// What a path means.
enum What<'a> {
    Begin,
    Upload(&'a str),
    Manifest(&'a str),
    Blob(Digest),
    Tags,
}

/// A repository is an app's name, or names with slashes between them.
fn checked_repository(parts: &[&str]) -> Answer<String> {
    let plain = |part: &&str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.len() <= 100
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    if (1..=4).contains(&parts.len()) && parts.iter().all(plain) {
        return Ok(parts.join("/"));
    }
    Err(Problem::invalid("a repository has one to four names of lower-case letters, digits, dots and hyphens").into())
}

fn is_tag(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 128
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Keeps a manifest whose blobs are all here, and its tag.
async fn put_manifest(server: &Server, by: &str, repository: String, reference: &str, request: Request) -> Answer {
    let bytes = axum::body::to_bytes(request.into_body(), MANIFEST_MAX)
        .await
        .map_err(|_| Problem::new(413, format!("a manifest has at most {MANIFEST_MAX} bytes")))?;
    let named: Vec<Descriptor> = match Index::parse(&bytes) {
        Some(index) => index.manifests,
        None => {
            let manifest = Manifest::parse(&bytes).map_err(|error| Problem::invalid(error.to_string()))?;
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
            return Err(Problem::new(400, why).into());
        }
    }
    let digest = server.blobs.put(bytes).await.map_err(|error| Problem::internal(error.to_string()))?;
    match reference.parse::<Digest>() {
        Ok(wanted) if wanted != digest => {
            return Err(Problem::invalid(format!("the manifest is {digest}, not {wanted}")).into());
        }
        Ok(_) => {}
        Err(_) if is_tag(reference) => {
            let (tag, digest, by) = (reference.to_owned(), digest.clone(), by.to_owned());
            let what = format!("pushed image {repository}:{tag}");
            let (app, target) = (gantry_model::AppName::parse(&repository).ok(), repository.clone());
            let change = move |mirror: &crate::mirror::Mirror, now| {
                let event = crate::mutations::event(mirror, now, &by, app.as_ref(), what);
                Ok((vec![event, Record::Tag { repository: target, tag, digest }.into()], ()))
            };
            server.core.mutate(change).await?;
        }
        Err(_) => return Err(Problem::invalid("this is neither a tag nor a digest").into()),
    }
    let headers = [
        (header::LOCATION, format!("/v2/{repository}/manifests/{digest}")),
        (http::HeaderName::from_static("docker-content-digest"), digest.to_string()),
    ];
    Ok((StatusCode::CREATED, headers).into_response())
}

fn digest(text: &str) -> Answer<Digest> {
    text.parse().map_err(|error: String| Problem::invalid(error).into())
}

fn tagged(server: &Server, repository: &str, reference: &str) -> Option<Digest> {
    let view = server.core.view();
    if let Some(base) = repository.strip_prefix("base/") {
        let base = gantry_model::BaseName::parse(base).ok()?;
        return view.mirror.bases.get(&base).map(|base| base.image.clone());
    }
    view.mirror.tags.get(repository)?.get(reference).cloned()
}

async fn manifest(server: &Server, repository: &str, reference: &str, body: bool) -> Answer {
    let found = reference.parse().ok().or_else(|| tagged(server, repository, reference));
    let missing = || Problem::missing(format!("there is no image {repository}:{reference}"));
    let digest: Digest = found.ok_or_else(missing)?;
    let bytes = server.blobs.read(&digest).await.map_err(|_| missing())?;
    let of_manifest =
        || Manifest::parse(&bytes).map_or_else(|_| MANIFEST_OCI.to_owned(), |manifest| manifest.media_type);
    let kind = Index::parse(&bytes).map_or_else(of_manifest, |index| index.media_type);
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (http::HeaderName::from_static("docker-content-digest"), digest.to_string()),
    ];
    Ok((headers, if body { Body::from(bytes) } else { Body::empty() }).into_response())
}

async fn blob(server: &Server, digest: &Digest, body: bool) -> Answer {
    let missing = || Problem::missing(format!("there is no blob {digest}"));
    // Whoever looks for a blob means to name it, and leaves it out of a push: it is not collected meanwhile.
    let size =
        server.blobs.size(digest).await.map_err(|error| Problem::internal(causes(&error)))?.ok_or_else(missing)?;
    let body = match body {
        true => Body::from_stream(server.blobs.get(digest).await.map_err(|_| missing())?.stream),
        false => Body::empty(),
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
        (http::HeaderName::from_static("docker-content-digest"), digest.to_string()),
    ];
    Ok((StatusCode::OK, headers, body).into_response())
}

/// Removes a tag, or every tag of a digest. The image itself goes once nothing names it; what a release names stays.
async fn untag(server: &Server, by: &str, repository: String, reference: &str) -> Answer {
    let (by, reference) = (by.to_owned(), reference.to_owned());
    let change = move |mirror: &crate::mirror::Mirror, now| {
        let digest = reference.parse::<Digest>().ok();
        let meant = |(tag, known): &(&String, &Digest)| digest.as_ref().map_or(**tag == reference, |d| d == *known);
        let tags = mirror.tags.get(&repository).into_iter().flatten().filter(meant);
        let mut changes: Vec<Change> = tags.map(|(tag, _)| Change::Remove(tag_key(&repository, tag))).collect();
        if changes.is_empty() {
            return Err(Problem::missing(format!("there is no image {repository}:{reference}")));
        }
        let app = gantry_model::AppName::parse(&repository).ok();
        let what = format!("removed image {repository}:{reference}");
        changes.push(crate::mutations::event(mirror, now, &by, app.as_ref(), what));
        Ok((changes, ()))
    };
    server.core.mutate(change).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// A repository's tags in order: `?n=` of them after `?last=`, with a link to the rest.
fn tags(server: &Server, repository: &str, query: Option<&str>) -> Answer {
    let view = server.core.view();
    let known = view.mirror.tags.get(repository);
    let is_app = gantry_model::AppName::parse(repository).is_ok_and(|app| view.mirror.apps.contains_key(&app));
    // A base has one image, by whatever tag it is asked for.
    let base = tagged(server, repository, LATEST).filter(|_| known.is_none());
    if known.is_none() && base.is_none() && !is_app {
        return Err(Problem::missing(format!("there is no repository {repository}")).into());
    }
    let parameter = |name| query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let (last, most) = (parameter("last"), parameter("n").map(|n| n.parse::<usize>()));
    let most = match most {
        Some(Err(_)) => return Err(Problem::invalid("n is no number").into()),
        Some(Ok(most)) => most,
        None => usize::MAX,
    };
    let all = known.into_iter().flatten().map(|(tag, _)| tag.as_str()).chain(base.map(|_| LATEST));
    let mut rest = all.filter(|tag| last.is_none_or(|last| *tag > last));
    let names: Vec<&str> = rest.by_ref().take(most).collect();
    let mut response = json(&serde_json::json!({ "name": repository, "tags": names }))?;
    if let (Some(last), Some(_)) = (names.last(), rest.next()) {
        // A tag has no character that a header or an address would not take.
        let link = format!("</v2/{repository}/tags/list?n={most}&last={last}>; rel=\"next\"");
        response.headers_mut().extend(http::HeaderValue::from_str(&link).map(|link| (header::LINK, link)));
    }
    Ok(response)
}

/// The image that a reference means, `repository:tag` or `repository@digest` of this registry; for someone who may read
/// that repository.
pub(crate) async fn resolve(server: &Server, caller: &Caller, reference: &str) -> Answer<Digest> {
    let unknown = || Problem::missing(format!("there is no image {reference} in this registry"));
    let by_digest = reference.split_once('@');
    let (repository, tag) = by_digest.unwrap_or_else(|| reference.rsplit_once(':').unwrap_or((reference, LATEST)));
    caller.pull(repository)?;
    let digest = match by_digest {
        None => tagged(server, repository, tag).ok_or_else(unknown)?,
        Some((_, text)) => {
            let digest: Digest = text.parse().map_err(Problem::invalid)?;
            let view = server.core.view();
            let tags = view.mirror.tags.get(repository);
            let known = tags.is_some_and(|tags| tags.values().any(|known| *known == digest));
            known.then_some(digest).ok_or_else(unknown)?
        }
    };
    // Of several images under one name the one for this machine is meant.
    let bytes = server.blobs.read(&digest).await.map_err(|_| unknown())?;
    match Index::parse(&bytes) {
        None => Ok(digest),
        Some(index) => {
            let image = index.for_this_machine().map(|descriptor| descriptor.digest.clone());
            image.ok_or_else(|| Problem::conflict(format!("{reference} has no image for this machine")).into())
        }
    }
}
