//! Imports an OCI archive (an image layout in a tar file) into the blobs. Every blob must match its digest, and the
//! image must run on this machine.

use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use gantry_blobs::{BlobError, BlobStore, DigestHasher};
use gantry_model::Digest;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::archive::members;
use crate::manifest::{Config, Index, Manifest, ManifestError};
use crate::selection::{ManifestDecision, Selection};

/// Limit on the size of an index.
const INDEX_MAX: u64 = 1 << 20;

/// Limit in bytes on the size of a blob.
const BLOB_MAX: u64 = 16 << 30;

/// Limit on the number of blobs: an image has a blob per layer, and a few more.
const BLOBS_MAX: usize = 2000;

/// Reasons why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A blob could not be stored, or does not match its digest.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The image cannot run on this machine.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The stream is not an OCI archive.
    #[error("it is not an OCI archive of one image: {0}")]
    Layout(&'static str),
}

/// Imports an archive. Returns the digest of its image's manifest.
///
/// # Errors
/// [`ImportError`]. Blobs received before the error stay until garbage collection removes the unreferenced blobs.
pub async fn import(
    archive: BoxStream<'static, io::Result<Bytes>>,
    blobs: &BlobStore,
    scratch: &Path,
) -> Result<Digest, ImportError> {
    let reader = SyncIoBridge::new(StreamReader::new(archive));
    let (sender, mut files) = tokio::sync::mpsc::channel(1);
    let scratch = scratch.to_owned();
    let reading = tokio::task::spawn_blocking(move || split(reader, &scratch, &sender));
    let mut index = None;
    while let Some(found) = files.recv().await {
        match found {
            ArchiveMember::Index(text) => index = Some(text),
            ArchiveMember::Blob(digest, file) => {
                let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 256 << 10).boxed();
                blobs.put_stream(stream, Some(&digest)).await?;
            }
        }
    }
    reading.await.map_err(io::Error::other)??;
    let index = index.ok_or(ImportError::Layout("it has no index.json"))?;
    let (digest, text) = image_of(DigestHasher::of(&index), Bytes::from(index), blobs).await?;
    let manifest = Manifest::parse(&text)?;
    for descriptor in manifest.blobs() {
        if !blobs.is_intact(&descriptor.digest).await? {
            return Err(BlobError::Missing(descriptor.digest.clone()).into());
        }
    }
    Config::parse(&blobs.read(&manifest.config.digest).await?, &manifest)?;
    Ok(digest)
}

/// Finds the manifest of the image that the archive's index leads to.
async fn image_of(mut digest: Digest, mut text: Bytes, blobs: &BlobStore) -> Result<(Digest, Bytes), ImportError> {
    serde_json::from_slice::<Index>(&text).map_err(|source| ManifestError::Unreadable { what: "index", source })?;
    let mut selection = Selection::default();
    while let ManifestDecision::Read(descriptor) = selection.next(&digest, &text)? {
        text = blobs.read(&descriptor.digest).await?;
        digest = descriptor.digest;
    }
    Ok((digest, text))
}

enum ArchiveMember {
    Index(Vec<u8>),
    /// A blob in a temporary file, positioned at the beginning.
    Blob(Digest, std::fs::File),
}

/// Finds index and blobs by their names in the archive. Nothing is unpacked to a path that the archive chose.
fn split(reader: impl Read, scratch: &Path, found: &tokio::sync::mpsc::Sender<ArchiveMember>) -> io::Result<()> {
    use std::io::Seek;
    let mut blobs = 0;
    members(reader, io::Error::other, |entry| {
        let path = entry.path()?.into_owned();
        let path = path.strip_prefix("./").unwrap_or(&path);
        let digest = path.strip_prefix("blobs/sha256").ok().and_then(|name| Digest::from_hex(name.to_str()?).ok());
        let item = if path == Path::new("index.json") {
            let mut text = Vec::new();
            entry.take(INDEX_MAX).read_to_end(&mut text)?;
            ArchiveMember::Index(text)
        } else if let Some(digest) = digest {
            blobs += 1;
            if blobs > BLOBS_MAX {
                return Err(io::Error::other(format!("it has more than {BLOBS_MAX} blobs")));
            }
            let mut file = tempfile::tempfile_in(scratch)?;
            io::copy(&mut entry.take(BLOB_MAX), &mut file)?;
            file.rewind()?;
            ArchiveMember::Blob(digest, file)
        } else {
            return Ok(());
        };
        found.blocking_send(item).map_err(io::Error::other)
    })
}
