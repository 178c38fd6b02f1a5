//! Failures of reading and writing blobs.

use gantry_model::Digest;

use crate::READ_MAX;

/// Failure of reading or writing blobs.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The blob does not exist.
    #[error("blob {0} does not exist")]
    Missing(Digest),
    /// The content does not match the digest.
    #[error("blob {expected} is damaged: its content has the digest {found}")]
    WrongDigest {
        /// The expected digest.
        expected: Digest,
        /// Digest of the content.
        found: Digest,
    },
    /// The blob is too large to be read at once.
    #[error("blob {digest} is too large to read at once: {size} bytes, at most {READ_MAX} are allowed")]
    TooLarge {
        /// Digest of the blob.
        digest: Digest,
        /// Size of the blob, in bytes.
        size: u64,
    },
    /// An earlier write failed, so the blob lacks some of its content.
    #[error("cannot finish the blob: an earlier write failed; start the upload again")]
    Broken,
    /// No other server took a copy of the blob.
    #[error(
        "blob {digest} is on one server alone, because server {server} did not take a copy; check its disk and its log, then \
         try again"
    )]
    Copy {
        /// Digest of the blob.
        digest: Digest,
        /// Name of the server that should have the copy.
        server: String,
        /// Cause of the failure.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The folder or service behind the blobs failed.
    #[error("cannot {action} blobs")]
    Backend {
        /// Operation that failed.
        action: &'static str,
        /// Error of the folder or service.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Makes the error of an operation of the backend.
pub(crate) fn failed(action: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> BlobError {
    move |source| BlobError::Backend { action, source }
}

/// Compares the digest of a content with the expected one.
pub(crate) fn verify(expected: &Digest, found: &Digest) -> Result<(), BlobError> {
    if expected == found {
        return Ok(());
    }
    Err(BlobError::WrongDigest { expected: expected.clone(), found: found.clone() })
}
