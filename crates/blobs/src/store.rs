//! The store: reads, lookups and removal of blobs.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use gantry_model::Digest;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::error::{failed, verify};
use crate::parts::{PartLists, parts_path};
use crate::{BlobError, BlobWriter, DigestHasher, Replicas};

/// Limit of a blob that [`BlobStore::read`] loads into memory: manifests and configurations have a few KiB.
pub const READ_MAX: u64 = 4 << 20;

/// A store of blobs.
#[derive(Clone)]
pub struct BlobStore {
    pub(crate) backend: Arc<dyn ObjectStore>,
    folder: PathBuf,
    /// Locked for reading while a caller looks for a blob or names a new blob, and for writing while garbage collection
    /// decides to remove one.
    pub(crate) gc_lock: Arc<tokio::sync::RwLock<()>>,
    pub(crate) part_lists: Arc<PartLists>,
    /// The blobs of the other servers; none for the blobs of this server alone.
    replicas: Option<Arc<dyn Replicas>>,
}

/// An open blob.
pub struct OpenBlob {
    /// Number of bytes that the stream contains.
    pub size: u64,
    /// Unverified content; the reader that unpacks it verifies the digest.
    pub stream: BoxStream<'static, std::io::Result<Bytes>>,
}

/// Path of a blob below the folder.
pub(crate) fn blob_path(digest: &Digest) -> Path {
    Path::from(format!("sha256/{}/{}", &digest.hex()[..2], digest.hex()))
}

impl BlobStore {
    /// Opens the blobs in a folder, and creates a missing folder.
    ///
    /// # Errors
    /// When the folder cannot be created or opened.
    pub fn in_folder(folder: &FilePath) -> Result<Self, BlobError> {
        std::fs::create_dir_all(folder).map_err(|error| failed("create the folder of")(error.into()))?;
        let backend = LocalFileSystem::new_with_prefix(folder)
            .map_err(|error| failed("open")(error.into()))?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        let (backend, folder) = (Arc::new(backend), folder.to_owned());
        Ok(Self { backend, folder, gc_lock: Arc::default(), part_lists: Arc::default(), replicas: None })
    }

    /// Returns the same blobs with copies on other servers.
    #[must_use]
    pub fn with_replicas(&self, replicas: Arc<dyn Replicas>) -> Self {
        Self { replicas: Some(replicas), ..self.clone() }
    }

    /// Returns the blobs of this server alone.
    fn alone(&self) -> Self {
        Self { replicas: None, ..self.clone() }
    }

    /// Copies a missing blob from another server to this one, and verifies its digest. Returns whether it is here now.
    async fn fetch_missing(&self, digest: &Digest) -> bool {
        let Some(replicas) = &self.replicas else { return false };
        let Some(found) = replicas.fetch(digest.clone()).await else { return false };
        match self.alone().put_stream(found.stream, Some(digest)).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%digest, %error, "cannot copy a blob from another server");
                false
            }
        }
    }

    /// Removes what earlier processes did not finish. Call before the first write of this process.
    pub fn sweep(&self) {
        let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries(self.folder.join("sha256")).chain(entries(self.folder.join("parts")));
        let staged = folders.flat_map(|folder| entries(folder.path()));
        let staged = staged.filter(|entry| entry.file_name().to_string_lossy().contains('#'));
        for path in entries(self.folder.join("uploads")).chain(staged).map(|entry| entry.path()) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished upload");
            }
        }
    }

    /// Returns the size of a blob; none if the blob does not exist. The caller is about to use the blob, so the call
    /// also sets the modification time to now. Garbage collection then keeps the blob long enough for a record to
    /// reference it.
    ///
    /// # Errors
    /// [`BlobError::Backend`].
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        match self.own_size(digest).await? {
            None if self.fetch_missing(digest).await => self.own_size(digest).await,
            size => Ok(size),
        }
    }

    async fn own_size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let _guard = self.gc_lock.read().await;
        let path = self.folder.join(blob_path(digest).to_string());
        let touched =
            std::fs::File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
        // On a disk that takes no writes, garbage collection removes nothing either.
        if let Err(error) = touched
            && !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ReadOnlyFilesystem)
        {
            return Err(failed("look for")(error.into()));
        }
        match self.backend.head(&blob_path(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("look for")(error.into())),
        }
    }

    /// Reports whether a blob exists and its content matches its digest, so that the caller need not write the blob
    /// again. Reads the whole blob. With several servers the second one has a copy on return.
    ///
    /// # Errors
    /// [`BlobError::Backend`] when the backend or the copy fails. A blob that cannot be read to its end is not intact.
    pub async fn is_intact(&self, digest: &Digest) -> Result<bool, BlobError> {
        if self.size(digest).await?.is_none() {
            return Ok(false);
        }
        let mut stream = match self.get(digest).await {
            Ok(blob) => blob.stream,
            Err(BlobError::Missing(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut hasher = DigestHasher::default();
        while let Some(piece) = stream.next().await {
            let Ok(piece) = piece else { return Ok(false) };
            hasher.update(&piece);
        }
        let is_intact = hasher.finish() == *digest;
        if is_intact && let Some(replicas) = &self.replicas {
            replicas.copy(digest.clone()).await?;
        }
        Ok(is_intact)
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Backend`].
    pub async fn get(&self, digest: &Digest) -> Result<OpenBlob, BlobError> {
        self.open(digest, None).await
    }

    /// Opens a blob as a file; none if the blob is not in a local folder.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Backend`].
    pub async fn local_file(&self, digest: &Digest) -> Result<Option<std::fs::File>, BlobError> {
        let found = match self.backend.get(&blob_path(digest)).await {
            Err(object_store::Error::NotFound { .. }) if self.fetch_missing(digest).await => {
                self.backend.get(&blob_path(digest)).await
            }
            found => found,
        };
        match found {
            Ok(GetResult { payload: GetResultPayload::File(file, _), .. }) => Ok(Some(file)),
            Ok(_) => Ok(None),
            Err(object_store::Error::NotFound { .. }) => Err(BlobError::Missing(digest.clone())),
            Err(error) => Err(failed("read")(error.into())),
        }
    }

    /// Opens part of a blob; `range` starts within the blob, and does not exceed the blob.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Backend`].
    pub async fn get_part(&self, digest: &Digest, range: Range<u64>) -> Result<OpenBlob, BlobError> {
        if range.is_empty() {
            return Ok(OpenBlob { size: 0, stream: futures_util::stream::empty().boxed() });
        }
        self.open(digest, Some(range)).await
    }

    async fn open(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<OpenBlob, BlobError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = match self.backend.get_opts(&blob_path(digest), options.clone()).await {
            Err(object_store::Error::NotFound { .. }) if self.fetch_missing(digest).await => {
                self.backend.get_opts(&blob_path(digest), options).await
            }
            found => found,
        };
        let result = match found {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Err(BlobError::Missing(digest.clone())),
            Err(error) => return Err(failed("read")(error.into())),
        };
        let Range { start, end } = result.range;
        let stream = match result.payload {
            // Read pieces large enough for a trip to the blocking pool; those of object_store have 8 KiB.
            GetResultPayload::File(file, _) => {
                let mut file = tokio::fs::File::from_std(file);
                file.seek(SeekFrom::Start(start)).await.map_err(|error| failed("read")(error.into()))?;
                ReaderStream::with_capacity(file.take(end - start), 256 << 10).boxed()
            }
            GetResultPayload::Stream(stream) => stream.map_err(std::io::Error::other).boxed(),
        };
        Ok(OpenBlob { size: end - start, stream })
    }

    /// Reads a whole small blob and verifies its digest.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], [`BlobError::WrongDigest`] and those of [`BlobStore::get`].
    pub async fn read(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let mut blob = self.get(digest).await?;
        if blob.size > READ_MAX {
            return Err(BlobError::TooLarge { digest: digest.clone(), size: blob.size });
        }
        let mut content = BytesMut::new();
        while let Some(piece) = blob.stream.next().await {
            content.extend_from_slice(&piece.map_err(|error| failed("read")(error.into()))?);
        }
        verify(digest, &DigestHasher::of(&content))?;
        Ok(content.freeze())
    }

    /// Writes a small blob.
    ///
    /// # Errors
    /// [`BlobError::Backend`].
    pub async fn put(&self, content: Bytes) -> Result<Digest, BlobError> {
        let mut writer = self.writer().await?;
        writer.write(content).await?;
        writer.finish(None).await.map(|(digest, _)| digest)
    }

    /// Starts a blob of unknown size and digest.
    ///
    /// # Errors
    /// [`BlobError::Backend`].
    pub async fn writer(&self) -> Result<BlobWriter, BlobError> {
        Ok(BlobWriter::new(Arc::clone(&self.backend), Arc::clone(&self.gc_lock), self.replicas.clone()))
    }

    /// Writes a stream as a blob, and verifies its digest if `expected` is given.
    ///
    /// # Errors
    /// [`BlobError::WrongDigest`] when the digest differs; the upload is then removed. [`BlobError::Backend`].
    pub async fn put_stream(
        &self,
        mut stream: BoxStream<'_, std::io::Result<Bytes>>,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64), BlobError> {
        let mut writer = self.writer().await?;
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) => writer.write(piece).await?,
                Err(error) => {
                    writer.abort().await;
                    return Err(failed("receive")(error.into()));
                }
            }
        }
        writer.finish(expected).await
    }

    /// Removes a blob, after the list of its parts; a missing blob is not an error.
    ///
    /// # Errors
    /// [`BlobError::Backend`].
    pub async fn delete(&self, digest: &Digest) -> Result<(), BlobError> {
        for path in [parts_path(digest), blob_path(digest)] {
            match self.backend.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("remove")(error.into())),
            }
        }
        Ok(())
    }

    /// Removes a blob that no caller has written or asked for since `before`. Returns whether the blob was removed.
    ///
    /// # Errors
    /// [`BlobError::Backend`].
    pub async fn delete_older(&self, digest: &Digest, before: SystemTime) -> Result<bool, BlobError> {
        let _guard = self.gc_lock.write().await;
        match self.backend.head(&blob_path(digest)).await {
            Ok(meta) if SystemTime::from(meta.last_modified) < before => self.delete(digest).await.map(|()| true),
            // The blob is from before the wall clock was set back: count its age from now.
            Ok(meta) if SystemTime::from(meta.last_modified) > SystemTime::now() => {
                let path = self.folder.join(blob_path(digest).to_string());
                let _ = std::fs::File::options()
                    .append(true)
                    .open(path)
                    .and_then(|file| file.set_modified(SystemTime::now()));
                Ok(false)
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("look for")(error.into())),
        }
    }

    /// Returns every blob with its size.
    ///
    /// # Errors
    /// [`BlobError::Backend`].
    pub async fn list(&self) -> Result<Vec<(Digest, u64)>, BlobError> {
        let listing: Vec<_> = self
            .backend
            .list(Some(&Path::from("sha256")))
            .try_collect()
            .await
            .map_err(|error| failed("list")(error.into()))?;
        let blob =
            |meta: object_store::ObjectMeta| Some((Digest::from_hex(meta.location.filename()?).ok()?, meta.size));
        Ok(listing.into_iter().filter_map(blob).collect())
    }
}
