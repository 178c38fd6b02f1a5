//! Referrers: signatures, lists of parts and other manifests that name an image as their subject (OCI distribution 1.1,
//! "Listing Referrers"). The parser is separate from [`crate::Manifest`], which is for images that run.

use std::collections::BTreeMap;

use gantry_model::Digest;
use serde::{Deserialize, Serialize};

use crate::manifest::MANIFEST_OCI;

/// An entry in the list of an image's referrers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Media type of the referring manifest.
    pub media_type: String,
    /// Digest of the referring manifest.
    pub digest: Digest,
    /// Size of the referring manifest in bytes.
    pub size: u64,
    /// Artifact type: the manifest's own field, else the media type of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifest's own annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerFields {
    media_type: Option<String>,
    artifact_type: Option<String>,
    subject: Option<SubjectFields>,
    config: Option<ConfigFields>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct SubjectFields {
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFields {
    media_type: String,
}

/// Returns the digest of the image that a manifest or index names as its subject.
///
/// # Errors
/// When the bytes or the subject cannot be parsed.
pub fn subject(bytes: &[u8]) -> Result<Option<Digest>, serde_json::Error> {
    serde_json::from_slice::<ReferrerFields>(bytes).map(|fields| fields.subject.map(|subject| subject.digest))
}

impl Referrer {
    /// Returns the list entry for the manifest `bytes` with the given digest. Returns none if the manifest has no
    /// subject.
    #[must_use]
    pub fn parse(digest: Digest, bytes: &[u8]) -> Option<Self> {
        let fields: ReferrerFields = serde_json::from_slice(bytes).ok()?;
        fields.subject.as_ref()?;
        let of_config = || fields.config.map(|config| config.media_type);
        Some(Self {
            media_type: fields.media_type.unwrap_or_else(|| MANIFEST_OCI.to_owned()),
            digest,
            size: bytes.len() as u64,
            artifact_type: fields.artifact_type.filter(|text| !text.is_empty()).or_else(of_config),
            annotations: fields.annotations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: &str) -> Digest {
        Digest::from_hex(&digit.repeat(64)).expect("a digest")
    }

    #[test]
    fn a_referrer_type_comes_from_its_manifest_or_its_config() {
        let text = |more: &str| {
            let subject = digest("a");
            format!(r#"{{"schemaVersion":2,"subject":{{"mediaType":"x","digest":"{subject}","size":1}},{more}"#)
                .into_bytes()
        };
        let config = r#""config":{"mediaType":"application/x-sbom","digest":"y","size":2},"layers":[]}"#;
        let parsed = |bytes: &[u8]| Referrer::parse(digest("b"), bytes).expect("a referrer");
        let by_config = parsed(&text(config));
        assert_eq!(by_config.artifact_type.as_deref(), Some("application/x-sbom"));
        assert_eq!((by_config.media_type.as_str(), by_config.digest), (MANIFEST_OCI, digest("b")));
        let own = text(&format!(r#""artifactType":"signature","annotations":{{"by":"ci"}},{config}"#));
        let own = parsed(&own);
        assert_eq!((own.artifact_type.as_deref(), own.annotations["by"].as_str()), (Some("signature"), "ci"));
        assert_eq!(subject(&text(config)).expect("read"), Some(digest("a")));
    }

    #[test]
    fn a_manifest_without_subject_refers_to_nothing_and_an_invalid_one_fails() {
        assert_eq!(subject(br#"{"schemaVersion":2}"#).expect("read"), None);
        assert_eq!(Referrer::parse(digest("b"), br#"{"schemaVersion":2}"#), None);
        for bad in [r#"{"subject":{"digest":"sha256:short"}}"#, r#"{"subject":7}"#, "[", r#"{"annotations":{"a":1}}"#] {
            assert!(subject(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
