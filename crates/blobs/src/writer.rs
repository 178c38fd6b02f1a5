//! Writing a blob whose size and digest are known at its end.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gantry_model::Digest;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use crate::error::{failed, verify};
use crate::store::blob_path;
use crate::{BlobError, DigestHasher, Replicas};

/// Number of bytes that a writer buffers before a write: enough for S3, whose parts have at least 5 MiB.
const PART: usize = 8 << 20;

/// An upload in progress. A writer that is dropped before [`BlobWriter::finish`] leaves no blob.
pub struct BlobWriter {
    backend: Arc<dyn ObjectStore>,
    gc_lock: Arc<tokio::sync::RwLock<()>>,
    replicas: Option<Arc<dyn Replicas>>,
    /// The upload of a large blob, under a temporary name. A small blob is written at once, at the end.
    upload: Option<(Path, Box<dyn MultipartUpload>)>,
    pending: BytesMut,
    hasher: DigestHasher,
    size: u64,
    broken: bool,
}

impl BlobWriter {
    pub(crate) fn new(
        backend: Arc<dyn ObjectStore>,
        gc_lock: Arc<tokio::sync::RwLock<()>>,
        replicas: Option<Arc<dyn Replicas>>,
    ) -> Self {
        Self {
            backend,
            gc_lock,
            replicas,
            upload: None,
            pending: BytesMut::new(),
            hasher: DigestHasher::default(),
            size: 0,
            broken: false,
        }
    }

    /// Reports whether a write failed. The lost bytes cannot be written again, and [`BlobWriter::finish`] fails.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Returns the number of bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends bytes to the blob.
    ///
    /// # Errors
    /// [`BlobError::Backend`].
    pub async fn write(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.hasher.update(&piece);
        self.size += piece.len() as u64;
        self.pending.extend_from_slice(&piece);
        if self.pending.len() >= PART {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BlobError> {
        if self.broken {
            return Err(BlobError::Broken);
        }
        let written = self.put_pending().await;
        self.broken = written.is_err();
        written.map_err(|error| failed("write")(error.into()))
    }

    async fn put_pending(&mut self) -> object_store::Result<()> {
        let part = PutPayload::from(self.pending.split().freeze());
        if self.upload.is_none() {
            let name = Path::from(format!("uploads/{:032x}", rand::random::<u128>()));
            let upload = self.backend.put_multipart(&name).await?;
            self.upload = Some((name, upload));
        }
        match &mut self.upload {
            Some((_, upload)) => upload.put_part(part).await,
            None => Ok(()),
        }
    }

    /// Completes the blob and names it by its digest. With several servers a second one has the blob on return.
    ///
    /// # Errors
    /// [`BlobError::WrongDigest`] when the digest is not `expected`; the upload is then removed. [`BlobError::Copy`].
    pub async fn finish(self, expected: Option<&Digest>) -> Result<(Digest, u64), BlobError> {
        let replicas = self.replicas.clone();
        let (digest, size) = self.finish_here(expected).await?;
        if let Some(replicas) = replicas {
            replicas.copy(digest.clone()).await?;
            gantry_failpoint::failpoint!("blob.copied");
        }
        Ok((digest, size))
    }

    async fn finish_here(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), BlobError> {
        let digest = self.hasher.clone().finish();
        if let Some(Err(error)) = expected.map(|expected| verify(expected, &digest)) {
            self.abort().await;
            return Err(error);
        }
        if self.upload.is_none() && !self.broken {
            return self.put_at_once(digest).await;
        }
        self.flush().await?;
        let Some((name, mut upload)) = self.upload.take() else { return Err(BlobError::Broken) };
        gantry_failpoint::failpoint!("blob.written");
        upload.complete().await.map_err(|error| failed("finish")(error.into()))?;
        gantry_failpoint::failpoint!("blob.completed");
        // Garbage collection must not remove the new blob between its check of an old blob of the same name and the
        // removal.
        let _guard = self.gc_lock.read().await;
        self.backend.rename(&name, &blob_path(&digest)).await.map_err(|error| failed("name")(error.into()))?;
        gantry_failpoint::failpoint!("blob.named");
        Ok((digest, self.size))
    }

    /// Writes a small blob, with half the syncs of an upload.
    async fn put_at_once(mut self, digest: Digest) -> Result<(Digest, u64), BlobError> {
        let _guard = self.gc_lock.read().await;
        let content = PutPayload::from(self.pending.split().freeze());
        self.backend.put(&blob_path(&digest), content).await.map_err(|error| failed("write")(error.into()))?;
        gantry_failpoint::failpoint!("blob.put");
        Ok((digest, self.size))
    }

    /// Aborts the upload and removes its bytes.
    pub async fn abort(mut self) {
        if let Some((_, mut upload)) = self.upload.take() {
            let _ = upload.abort().await;
        }
    }
}
