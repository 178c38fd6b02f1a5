//! Images and source archives in the blobs.

use std::fs::File;
use std::path::PathBuf;

use futures_util::StreamExt;
use gantry_blobs::{BlobError, BlobStore};
use gantry_build::{BuildError, ImageDocuments, Recipe, Source};
use gantry_image::{Config, Layer, Manifest, ManifestError};
use gantry_model::{BuildPhase, Digest};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

/// Reader of images and source archives.
#[derive(Clone)]
pub(crate) struct ImageReader {
    blobs: BlobStore,
    scratch: PathBuf,
}

/// Failure to read an image or a source archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageReadError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("cannot write a temporary file")]
    File(#[from] std::io::Error),
}

impl ImageReader {
    /// A reader of these blobs. `scratch` is a folder for temporary files.
    pub(crate) fn new(blobs: BlobStore, scratch: PathBuf) -> Self {
        Self { blobs, scratch }
    }

    /// The folder for temporary files.
    pub(crate) fn scratch(&self) -> &std::path::Path {
        &self.scratch
    }

    /// Reads the manifest and configuration of an image.
    pub(crate) async fn image(&self, digest: &Digest) -> Result<(Manifest, Config), ImageReadError> {
        let manifest = Manifest::parse(&self.blobs.read(digest).await?)?;
        let config = Config::parse(&self.blobs.read(&manifest.config.digest).await?, &manifest)?;
        Ok((manifest, config))
    }

    /// Reports whether every part of an image is there and undamaged.
    pub(crate) async fn is_whole(&self, digest: &Digest) -> Result<bool, BlobError> {
        let bytes = match self.blobs.read(digest).await {
            Ok(bytes) => bytes,
            Err(BlobError::Missing(_) | BlobError::WrongDigest { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let Ok(manifest) = Manifest::parse(&bytes) else { return Ok(false) };
        for part in manifest.blobs() {
            if !self.blobs.is_intact(&part.digest).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stores an image whose only new layer is `layer`. The documents come last, so an interrupted call leaves blobs that
    /// no manifest names.
    pub(crate) async fn store(&self, layer: Layer, documents: ImageDocuments) -> Result<Digest, BlobError> {
        let file = tokio::fs::File::from_std(layer.file);
        let stream = ReaderStream::with_capacity(file, 256 << 10).boxed();
        self.blobs.put_stream(stream, Some(&layer.digest)).await?;
        self.blobs.put(documents.config).await?;
        self.blobs.put(documents.manifest).await
    }

    /// Reads the recipe of a source archive.
    pub(crate) async fn recipe(&self, source: &Digest) -> Result<Recipe, BuildError> {
        let fail = |error: ImageReadError| BuildError::new(BuildPhase::Source, crate::causes(&error));
        let file = self.file(source).await.map_err(fail)?;
        let opened = tokio::task::spawn_blocking(move || Source::open(file).map(|(_, recipe)| recipe));
        opened.await.map_err(|error| BuildError::new(BuildPhase::Source, error))?
    }

    /// Opens a blob as a file. A blob that is not in a local folder is copied into a temporary file.
    pub(crate) async fn file(&self, digest: &Digest) -> Result<File, ImageReadError> {
        if let Some(file) = self.blobs.local_file(digest).await? {
            return Ok(file);
        }
        let mut blob = self.blobs.get(digest).await?;
        let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(&self.scratch)?);
        while let Some(piece) = blob.stream.next().await {
            file.write_all(&piece?).await?;
        }
        file.flush().await?;
        Ok(file.into_std().await)
    }
}
