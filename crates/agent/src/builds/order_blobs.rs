//! The blobs at the server, as far as an order needs them. The order's id is the right to read and write them.

use std::fs::File;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_api::endpoint::Endpoint;
use gantry_api::{Client, ClientError};
use gantry_control::endpoints::{self, CheckRoom, IsBlobIntact, ReadBlob};
use gantry_image::Layer;
use gantry_model::Digest;
use tokio::io::AsyncWriteExt;

use crate::images::ImageSource;

/// Access to the blobs of one order.
pub(super) struct OrderBlobs {
    client: Client,
    /// Id of the order.
    id: String,
}

/// Failure to read or write a blob.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderBlobError {
    #[error(transparent)]
    Server(#[from] ClientError),
    #[error("cannot write a temporary file")]
    File(#[from] std::io::Error),
}

impl OrderBlobs {
    pub(super) fn new(client: &Client, id: &str) -> Self {
        Self { client: client.clone(), id: id.to_owned() }
    }

    /// Source of the images.
    pub(super) fn source(&self) -> ImageSource {
        ImageSource::folder(&endpoints::blobs_of_order(&self.id))
    }

    /// The client of the server.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Fails unless the server has room for that many bytes.
    pub(super) async fn check_room(&self, bytes: u64) -> Result<(), ClientError> {
        self.client.submit(&CheckRoom { id: self.id.clone() }, &bytes).await
    }

    /// Path at which a blob is read and written.
    pub(super) fn path_of(&self, digest: &Digest) -> String {
        ReadBlob { id: self.id.clone(), digest: digest.clone() }.path()
    }

    /// Copies a blob into a file without a name in the folder `scratch`.
    pub(super) async fn download(&self, digest: &Digest, scratch: &std::path::Path) -> Result<File, OrderBlobError> {
        let mut pieces = self.client.stream(&self.path_of(digest)).await?;
        let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(scratch)?);
        while let Some(piece) = pieces.next().await {
            file.write_all(&piece?).await?;
        }
        file.flush().await?;
        Ok(file.into_std().await)
    }

    /// Uploads a layer, unless the server has the layer undamaged.
    pub(super) async fn upload(&self, layer: &Layer) -> Result<(), OrderBlobError> {
        if !self.is_intact(&layer.digest).await? {
            let mut file = layer.file.try_clone()?;
            std::io::Seek::rewind(&mut file)?;
            self.client.upload::<()>(&self.path_of(&layer.digest), file).await?;
        }
        Ok(())
    }

    /// Reports whether the server has the blob undamaged.
    pub(super) async fn is_intact(&self, digest: &Digest) -> Result<bool, ClientError> {
        self.client.fetch(&IsBlobIntact { id: self.id.clone(), digest: digest.clone() }).await
    }

    /// Uploads a document.
    pub(super) async fn put(&self, digest: &Digest, document: Bytes) -> Result<(), ClientError> {
        self.client.post_bytes(&self.path_of(digest), document).await
    }
}
