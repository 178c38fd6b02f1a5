//! `/v2/<repository>/referrers/<digest>`: what was pushed to the repository and names that image as its subject.

use axum::response::IntoResponse;
use gantry_api::Problem;
use gantry_blobs::Hasher;
use gantry_image::{INDEX_OCI, Referrer};
use gantry_model::Digest;
use http::{HeaderName, HeaderValue, Uri, header};

use super::{Answer, registry};
use crate::Server;

/// The most that may refer to one image: the list is one answer, and each line of it a manifest that is read.
pub(super) const MOST: usize = 200;

/// The most that a line of the list may have, in bytes: all of them together are as large as a manifest may be.
const LINE_MAX: usize = 16 << 10;

/// A manifest that refers to something, and would be listed with more than may be told of it, is refused.
pub(super) fn check(bytes: &[u8]) -> Answer<()> {
    let line = Referrer::parse(Hasher::of(bytes), bytes).map(|referrer| serde_json::json!(referrer).to_string());
    if line.is_some_and(|line| line.len() > LINE_MAX) {
        let why = format!("the annotations of a manifest with a subject have at most {LINE_MAX} bytes");
        return Err(Problem::invalid(why).into());
    }
    Ok(())
}

/// The list, of one `artifactType=` if the query names one. An image that is not known has none.
pub(super) async fn list(server: &Server, repository: &str, subject: &Digest, uri: &Uri) -> Answer {
    let digests: Vec<Digest> = {
        let view = server.core.view();
        let manifests = view.mirror.manifests.get(repository).into_iter().flatten();
        manifests
            .filter(|(_, pushed)| pushed.subject.as_ref() == Some(subject))
            .map(|(digest, _)| digest.clone())
            .collect()
    };
    // No kind has a space in it: that was a plus which nobody escaped.
    let wanted = registry::parameter(uri, "artifactType").map(|kind| kind.replace(' ', "+"));
    let mut referrers = Vec::new();
    for digest in digests {
        // One whose record is younger than this look, or older than its collection, is not listed.
        let Ok(bytes) = server.blobs.read(&digest).await else { continue };
        let referrer = Referrer::parse(digest, &bytes);
        referrers.extend(referrer.filter(|one| wanted.is_none() || one.artifact_type == wanted));
    }
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_OCI, "manifests": referrers });
    let mut response = ([(header::CONTENT_TYPE, INDEX_OCI)], index.to_string()).into_response();
    if wanted.is_some() {
        let applied = HeaderName::from_static("oci-filters-applied");
        response.headers_mut().insert(applied, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}
