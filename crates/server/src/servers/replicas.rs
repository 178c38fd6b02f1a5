//! The blobs of the other servers, for the server that leads: each blob has a copy on one of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use gantry_blobs::{BlobError, BlobStore, DigestHasher, OpenBlob, Replicas};
use gantry_model::Digest;
use gantry_store::Revision;
use gantry_supervision::{Backoff, Retry};
use http::{Method, StatusCode};
use http_body_util::BodyDataStream;
use tokio::time::Instant;

use super::membership::{Membership, ServerRecord};
use super::peer_api::{BlobCollection, PATH};
use super::transport::{self, TransportError};

/// Time in which some other server must take a copy. A server that has ended counts as alive for a part of it.
const COPY_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause after no other server took a copy.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// Timeout of one copy: this, and a second for each MiB.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout for the response head when a server is asked for a blob, or whether it has one.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of digests of one order to remove blobs.
const COLLECT_MAX: usize = 1000;

/// The blobs of the other servers.
pub(crate) struct PeerBlobs {
    membership: Arc<Membership>,
    /// The blobs of this server alone.
    own: BlobStore,
}

impl PeerBlobs {
    pub(crate) fn new(membership: Arc<Membership>, own: BlobStore) -> Self {
        Self { membership, own }
    }

    /// Puts a copy on the first server that takes the copy. Without another server that lives, there is nothing to do: the
    /// repair makes the copy as soon as one lives.
    async fn put_anywhere(&self, digest: &Digest) -> Result<(), BlobError> {
        let mut failure = Ok(());
        for peer in in_order(digest, self.membership.peers()) {
            match self.put(&peer, digest).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    failure = Err(BlobError::Copy { digest: digest.clone(), server: peer.name, source: error.into() });
                }
            }
        }
        failure
    }

    /// Puts a copy on a server that lacks it.
    async fn put(&self, peer: &ServerRecord, digest: &Digest) -> Result<(), TransportError> {
        if self.has(peer, digest).await? {
            return Ok(());
        }
        let blob = self.own.get(digest).await.map_err(|error| TransportError::Http(error.into()))?;
        let timeout = TRANSFER_TIMEOUT + Duration::from_secs(blob.size >> 20);
        let path = format!("{PATH}/{digest}");
        let request = transport::request(&self.membership, Method::PUT, &path, Body::from_stream(blob.stream))?;
        let sent = tokio::time::timeout(timeout, transport::send(&self.membership, peer.connection_target(), request));
        sent.await.map_err(|_| TransportError::Slow)?.map(drop)
    }

    async fn has(&self, peer: &ServerRecord, digest: &Digest) -> Result<bool, TransportError> {
        let request = transport::request(&self.membership, Method::HEAD, &format!("{PATH}/{digest}"), Body::empty())?;
        let response = tokio::time::timeout(
            RESPONSE_TIMEOUT,
            transport::send(&self.membership, peer.connection_target(), request),
        );
        match response.await.map_err(|_| TransportError::Slow)? {
            Ok(_) => Ok(true),
            Err(TransportError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn open(&self, peer: &ServerRecord, digest: &Digest) -> Result<OpenBlob, TransportError> {
        let request = transport::request(&self.membership, Method::GET, &format!("{PATH}/{digest}"), Body::empty())?;
        let opened = tokio::time::timeout(
            RESPONSE_TIMEOUT,
            transport::send(&self.membership, peer.connection_target(), request),
        );
        let response = opened.await.map_err(|_| TransportError::Slow)??;
        let size = hyper::body::Body::size_hint(response.body()).exact().unwrap_or_default();
        let stream = BodyDataStream::new(response.into_body()).map_err(std::io::Error::other).boxed();
        Ok(OpenBlob { size, stream })
    }

    /// Returns the blobs of each other server that lives.
    pub(crate) async fn lists(&self) -> Result<BTreeMap<String, BTreeMap<Digest, u64>>, TransportError> {
        let mut lists = BTreeMap::new();
        for peer in self.membership.peers() {
            let list = self.list(&peer).await?;
            lists.insert(peer.name, list);
        }
        Ok(lists)
    }

    /// Returns the blobs of another server, with their sizes.
    pub(super) async fn list(&self, peer: &ServerRecord) -> Result<BTreeMap<Digest, u64>, TransportError> {
        let list: Vec<(Digest, u64)> =
            transport::call(&self.membership, peer.connection_target(), (Method::GET, PATH), &()).await?;
        Ok(list.into_iter().collect())
    }

    /// Removes blobs of another server that are older than that. The server obeys the term that leads alone. Returns the
    /// number of bytes freed.
    pub(crate) async fn collect(
        &self,
        name: &str,
        term: Revision,
        older: Duration,
        digests: &[Digest],
    ) -> Result<u64, TransportError> {
        let Some(peer) = self.membership.peers().into_iter().find(|peer| peer.name == name) else { return Ok(0) };
        let mut bytes = 0;
        for digests in digests.chunks(COLLECT_MAX) {
            let older_millis = u64::try_from(older.as_millis()).unwrap_or(u64::MAX);
            let order = BlobCollection { term, older_millis, digests: digests.to_vec() };
            let path = format!("{PATH}/collect");
            let freed: u64 =
                transport::call(&self.membership, peer.connection_target(), (Method::POST, &path), &order).await?;
            bytes += freed;
        }
        Ok(bytes)
    }
}

impl Replicas for PeerBlobs {
    fn copy(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        Box::pin(async move {
            let retry = Retry::new("copy of a blob", Backoff::constant(RETRY_PAUSE));
            retry.until(Instant::now() + COPY_TIMEOUT, || self.put_anywhere(&digest)).await
        })
    }

    fn fetch(&self, digest: Digest) -> BoxFuture<'_, Option<OpenBlob>> {
        Box::pin(async move {
            for peer in in_order(&digest, self.membership.peers()) {
                match self.open(&peer, &digest).await {
                    Ok(blob) => return Some(blob),
                    Err(TransportError::Refused { status: StatusCode::NOT_FOUND, .. }) => {}
                    Err(error) => {
                        tracing::warn!(%digest, error = crate::causes(&error), "cannot ask another server for a blob");
                    }
                }
            }
            None
        })
    }
}

/// Orders servers by their claim to a blob, so that the copies of all blobs spread over all servers and the copy of one
/// blob is found first where it is.
fn in_order(digest: &Digest, mut peers: Vec<ServerRecord>) -> Vec<ServerRecord> {
    peers.sort_by_cached_key(|peer| DigestHasher::of(format!("{}/{digest}", peer.name).as_bytes()).hex().to_owned());
    peers
}
