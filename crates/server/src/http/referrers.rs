//! `/v2/<repository>/referrers/<digest>`: manifests in the repository that name the image as their subject.

use axum::response::IntoResponse;
use gantry_api::{ErrorCode, Problem};
use gantry_blobs::DigestHasher;
use gantry_image::{INDEX_OCI, Referrer};
use gantry_model::Digest;
use http::{HeaderName, HeaderValue, Uri, header};

use super::{HttpResult, registry};
use crate::Server;

/// Size limit of an entry of the list in bytes. A full list of such entries is about as large as the largest
/// manifest.
const LINE_MAX: usize = 16 << 10;

/// Refuses a manifest with a subject if its entry in the list would exceed [`LINE_MAX`].
pub(super) fn check_entry_size(bytes: &[u8]) -> HttpResult<()> {
    let line = Referrer::parse(DigestHasher::of(bytes), bytes).map(|referrer| serde_json::json!(referrer).to_string());
    if line.is_some_and(|line| line.len() > LINE_MAX) {
        let why = format!("the annotations of a manifest with a subject have at most {LINE_MAX} bytes");
        return Err(Problem::new(ErrorCode::InvalidManifest, why).into());
    }
    Ok(())
}

/// Lists the referrers of `subject`, filtered by `artifactType=` if the query has it. An unknown image has an empty
/// list.
pub(super) async fn list(server: &Server, repository: &str, subject: &Digest, uri: &Uri) -> HttpResult {
    let digests: Vec<Digest> = {
        let view = server.core.view();
        let manifests = view.records.manifests.get(repository).into_iter().flatten();
        manifests
            .filter(|(_, pushed)| pushed.subject.as_ref() == Some(subject))
            .map(|(digest, _)| digest.clone())
            .collect()
    };
    // Artifact types contain no spaces: a space here was an unescaped plus sign in the query.
    let wanted = registry::query_parameter(uri, "artifactType").map(|kind| kind.replace(' ', "+"));
    let mut referrers = Vec::new();
    for digest in digests {
        // Skips a manifest whose blob is missing: its record was written or garbage-collected during this request.
        let Ok(bytes) = server.blobs.read(&digest).await else { continue };
        let referrer = Referrer::parse(digest, &bytes);
        referrers.extend(referrer.filter(|referrer| wanted.is_none() || referrer.artifact_type == wanted));
    }
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_OCI, "manifests": referrers });
    let mut response = ([(header::CONTENT_TYPE, INDEX_OCI)], index.to_string()).into_response();
    if wanted.is_some() {
        let applied = HeaderName::from_static("oci-filters-applied");
        response.headers_mut().insert(applied, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}
