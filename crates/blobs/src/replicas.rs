//! Copies of blobs on other servers.

use futures_util::future::BoxFuture;
use gantry_model::Digest;

use crate::{BlobError, OpenBlob};

/// The other servers' blobs. A store with replicas acknowledges a blob only once a second server has it, and fetches a
/// blob that it lacks.
pub trait Replicas: Send + Sync + 'static {
    /// Ensures that another server has a blob of this server. Returns once the copy is durable, or if no other server
    /// lives.
    fn copy(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>>;

    /// Opens the copy of another server; none if no other server has the blob. The content is unverified.
    fn fetch(&self, digest: Digest) -> BoxFuture<'_, Option<OpenBlob>>;
}
