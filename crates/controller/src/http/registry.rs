//! The registry: OCI distribution over the blobs (specification 1.1), as far as pulls go today.
//!
//! Repositories are apps; a release's image is tagged with its commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use gantry_api::Problem;
use gantry_build::BuildError;
use gantry_image::{MANIFEST_OCI, Manifest};
use gantry_model::role::{Command, DEFAULT_PORT, Role, Signal};
use gantry_model::{Digest, RoleName};
use http::{Method, StatusCode, header};

use super::auth::Caller;
use super::{Answer, json};
use crate::Server;

/// `GET /v2/`: this is a registry.
pub(crate) async fn version(caller: Caller) -> Answer {
    drop(caller);
    json(&BTreeMap::<String, String>::new())
}

/// `/v2/<repository>/(manifests|blobs|tags)/…`
pub(crate) async fn route(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(path): Path<String>,
    request: Request,
) -> Answer {
    let unknown = || Problem::missing("there is nothing at this path of the registry");
    let parts: Vec<&str> = path.split('/').collect();
    let [repository @ .., kind, reference] = parts.as_slice() else {
        return Err(unknown().into());
    };
    let repository = repository.join("/");
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    if !reads {
        return Err(Problem::new(405, "images cannot be pushed yet; push the source with git").into());
    }
    caller.pull(&repository)?;
    let body = request.method() == Method::GET;
    match *kind {
        "manifests" => manifest(&server, &repository, reference, body).await,
        "blobs" => blob(&server, &digest(reference)?, body).await,
        "tags" if *reference == "list" => tags(&server, &repository),
        _ => Err(unknown().into()),
    }
}

fn digest(text: &str) -> Answer<Digest> {
    text.parse().map_err(|error: String| Problem::invalid(error).into())
}

fn tagged(server: &Server, repository: &str, reference: &str) -> Option<Digest> {
    let view = server.core.view();
    view.mirror.tags.get(repository)?.get(reference).cloned()
}

async fn manifest(server: &Server, repository: &str, reference: &str, body: bool) -> Answer {
    let found = reference.parse().ok().or_else(|| tagged(server, repository, reference));
    let missing = || Problem::missing(format!("there is no image {repository}:{reference}"));
    let digest: Digest = found.ok_or_else(missing)?;
    let bytes = server.blobs.read(&digest).await.map_err(|_| missing())?;
    let kind = Manifest::parse(&bytes).map_or_else(|_| MANIFEST_OCI.to_owned(), |manifest| manifest.media_type);
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (http::HeaderName::from_static("docker-content-digest"), digest.to_string()),
    ];
    Ok((headers, if body { Body::from(bytes) } else { Body::empty() }).into_response())
}

async fn blob(server: &Server, digest: &Digest, body: bool) -> Answer {
    let missing = || Problem::missing(format!("there is no blob {digest}"));
    let blob = server.blobs.get(digest).await.map_err(|_| missing())?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, blob.size.to_string()),
        (http::HeaderName::from_static("docker-content-digest"), digest.to_string()),
    ];
    let response: Response =
        (StatusCode::OK, headers, if body { Body::from_stream(blob.stream) } else { Body::empty() }).into_response();
    Ok(response)
}

fn tags(server: &Server, repository: &str) -> Answer {
    let view = server.core.view();
    let names: Vec<&String> = view.mirror.tags.get(repository).into_iter().flat_map(|tags| tags.keys()).collect();
    json(&serde_json::json!({ "name": repository, "tags": names }))
}

/// The image that a reference means: `repository:tag` of this registry.
pub(crate) async fn resolve(server: &Server, reference: &str) -> Answer<Digest> {
    let unknown = || Problem::missing(format!("there is no image {reference} in this registry"));
    if let Some((_, digest)) = reference.split_once('@') {
        let digest: Digest = digest.parse().map_err(Problem::invalid)?;
        return match server.blobs.size(&digest).await {
            Ok(Some(_)) => Ok(digest),
            _ => Err(unknown().into()),
        };
    }
    let (repository, tag) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
    tagged(server, repository, tag).ok_or_else(|| unknown().into())
}

/// The one role that an image itself describes.
pub(crate) async fn roles_of(server: &Server, image: &Digest) -> Result<BTreeMap<RoleName, Role>, BuildError> {
    let fail =
        |error: &dyn std::fmt::Display| BuildError { phase: "image", message: error.to_string(), tail: Vec::new() };
    let (_, config) = server.builder.image(image).await.map_err(|error| fail(&error))?;
    let runtime = config.config;
    let words: Vec<String> =
        runtime.entrypoint.unwrap_or_default().into_iter().chain(runtime.cmd.unwrap_or_default()).collect();
    if words.is_empty() {
        return Err(fail(&"the image names no command (neither Entrypoint nor Cmd)"));
    }
    let mut role = Role::new(Command::Argv(words));
    let ports = runtime.exposed_ports.unwrap_or_default();
    let exposed = ports.keys().find_map(|port| port.strip_suffix("/tcp").unwrap_or(port).parse().ok());
    role.port = Some(exposed.unwrap_or(DEFAULT_PORT));
    if let Some(signal) = runtime.stop_signal.as_deref().and_then(Signal::parse) {
        role.stop_signal = signal;
    }
    let web = RoleName::parse("web").map_err(|error| fail(&error))?;
    Ok(BTreeMap::from([(web, role)]))
}
