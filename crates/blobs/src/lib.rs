//! Content-addressed bytes over `object_store`: a local folder today. S3 and similar services would take the same
//! calls.
//!
//! A blob is written under a temporary name, and renamed to its digest once the digest is known and verified. A blob
//! named by a digest is therefore whole. Writes are synced; a crash leaves at most an unfinished upload.
//!
//! ```text
//! sha256/ab/abcd…   a blob
//! uploads/…         an unfinished upload of a large blob
//! ```

mod hash;
mod replicas;

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
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

pub use hash::DigestHasher;
pub use replicas::Replicas;

/// Number of bytes that a writer buffers before a write: enough for S3, whose parts have at least 5 MiB.
const PART: usize = 8 << 20;

/// Limit of a blob that [`BlobStore::read`] loads into memory: manifests and configurations have a few KiB.
pub const READ_MAX: u64 = 4 << 20;

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

fn failed(action: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> BlobError {
    move |source| BlobError::Backend { action, source }
}

/// A store of blobs.
#[derive(Clone)]
pub struct BlobStore {
    backend: Arc<dyn ObjectStore>,
    folder: PathBuf,
    /// Locked for reading while a caller looks for a blob or names a new blob, and for writing while garbage collection
    /// decides to remove one.
    gc_lock: Arc<tokio::sync::RwLock<()>>,
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

fn blob_path(digest: &Digest) -> Path {
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
        Ok(Self { backend: Arc::new(backend), folder: folder.to_owned(), gc_lock: Arc::default(), replicas: None })
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
    async fn bring(&self, digest: &Digest) -> bool {
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
        let staged = entries(self.folder.join("sha256")).flat_map(|folder| entries(folder.path()));
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
            None if self.bring(digest).await => self.own_size(digest).await,
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
            Err(object_store::Error::NotFound { .. }) if self.bring(digest).await => {
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
            Err(object_store::Error::NotFound { .. }) if self.bring(digest).await => {
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
        Ok(BlobWriter {
            backend: Arc::clone(&self.backend),
            gc_lock: Arc::clone(&self.gc_lock),
            replicas: self.replicas.clone(),
            upload: None,
            pending: BytesMut::new(),
            hasher: DigestHasher::default(),
            size: 0,
            broken: false,
        })
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

    /// Removes a blob; a missing blob is not an error.
    ///
    /// # Errors
    /// [`BlobError::Backend`].
    pub async fn delete(&self, digest: &Digest) -> Result<(), BlobError> {
        match self.backend.delete(&blob_path(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("remove")(error.into())),
        }
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

fn verify(expected: &Digest, found: &Digest) -> Result<(), BlobError> {
    if expected == found {
        return Ok(());
    }
    Err(BlobError::WrongDigest { expected: expected.clone(), found: found.clone() })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, BlobStore) {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = BlobStore::in_folder(&folder.path().join("blobs")).expect("blobs");
        (folder, blobs)
    }

    #[tokio::test]
    async fn reads_and_removes_what_was_put() {
        let (_folder, blobs) = blobs();
        let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
        assert_eq!(digest.hex(), "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!(blobs.put(Bytes::from_static(b"hello")).await.expect("put again"), digest);
        assert_eq!(blobs.read(&digest).await.expect("read"), "hello");
        assert_eq!(blobs.list().await.expect("a list"), [(digest.clone(), 5)]);
        blobs.delete(&digest).await.expect("removed");
        blobs.delete(&digest).await.expect("removed twice");
        assert!(matches!(blobs.read(&digest).await, Err(BlobError::Missing(_))));
        assert_eq!(blobs.size(&digest).await.expect("an answer"), None);
    }

    #[tokio::test]
    async fn a_damaged_blob_is_not_intact_until_it_is_written_again() {
        let (folder, blobs) = blobs();
        let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
        assert!(blobs.is_intact(&digest).await.expect("an answer"));
        let path = folder.path().join("blobs").join(blob_path(&digest).to_string());
        for damage in [&b"hellO"[..], b"hell", b"", b"hello!"] {
            std::fs::write(&path, damage).expect("damaged");
            assert!(!blobs.is_intact(&digest).await.expect("an answer"), "{}", damage.escape_ascii());
            blobs.put(Bytes::from_static(b"hello")).await.expect("put again");
            assert!(blobs.is_intact(&digest).await.expect("an answer"));
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(!blobs.is_intact(&digest).await.expect("an answer"));
    }

    #[tokio::test]
    async fn round_trips_a_large_blob_and_discards_one_with_a_wrong_digest() {
        let (folder, blobs) = blobs();
        let pieces = || futures_util::stream::iter((0..40u8).map(|n| Ok(Bytes::from(vec![n; 500_000])))).boxed();
        let (digest, size) = blobs.put_stream(pieces(), None).await.expect("put");
        assert_eq!(size, 20_000_000);
        let mut hasher = DigestHasher::default();
        let mut stream = blobs.get(&digest).await.expect("a blob").stream;
        while let Some(piece) = stream.next().await {
            hasher.update(&piece.expect("a piece"));
        }
        assert_eq!(hasher.finish(), digest);
        let other = DigestHasher::of(b"other");
        assert!(matches!(blobs.put_stream(pieces(), Some(&other)).await, Err(BlobError::WrongDigest { .. })));
        assert_eq!(blobs.size(&other).await.expect("an answer"), None);
        let broken = futures_util::stream::iter([Ok(Bytes::from_static(b"x")), Err(std::io::Error::other("gone"))]);
        assert!(blobs.put_stream(broken.boxed(), None).await.is_err());
        let left = || std::fs::read_dir(folder.path().join("blobs/uploads")).map_or(0, Iterator::count);
        while left() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn refuses_to_read_a_damaged_blob() {
        let (folder, blobs) = blobs();
        let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
        let path = folder.path().join("blobs").join(blob_path(&digest).as_ref());
        std::fs::write(path, b"hellp").expect("damaged");
        assert!(matches!(blobs.read(&digest).await, Err(BlobError::WrongDigest { .. })));
    }

    #[tokio::test]
    async fn sweep_removes_unfinished_writes_only() {
        let (folder, blobs) = blobs();
        let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
        let path = folder.path().join("blobs").join(blob_path(&digest).to_string());
        let (staged, upload) = (path.with_extension("#1"), folder.path().join("blobs/uploads/x#1"));
        std::fs::create_dir_all(upload.parent().expect("a folder")).expect("made");
        for unfinished in [&staged, &upload] {
            std::fs::write(unfinished, b"hel").expect("written");
        }
        blobs.sweep();
        assert!(!staged.exists() && !upload.exists());
        assert_eq!(blobs.read(&digest).await.expect("read"), "hello");
        let mut file = blobs.local_file(&digest).await.expect("an answer").expect("a local folder");
        let mut content = String::new();
        std::io::Read::read_to_string(&mut file, &mut content).expect("read");
        assert_eq!(content, "hello");
    }

    /// The blobs of another folder stand for those of another server.
    struct OtherServer(BlobStore);

    impl Replicas for Arc<OtherServer> {
        fn copy(&self, digest: Digest) -> futures_util::future::BoxFuture<'_, Result<(), BlobError>> {
            Box::pin(async move {
                match digest.hex().starts_with("2cf2") {
                    true => self.0.put(Bytes::from_static(b"hello")).await.map(drop),
                    false => Err(BlobError::Copy { digest, server: "two".into(), source: "refused".into() }),
                }
            })
        }

        fn fetch(&self, digest: Digest) -> futures_util::future::BoxFuture<'_, Option<OpenBlob>> {
            Box::pin(async move { self.0.get(&digest).await.ok() })
        }
    }

    #[tokio::test]
    async fn a_blob_is_acknowledged_once_another_server_has_it_and_is_fetched_from_there() {
        let ((folder, own), (other_folder, other)) = (blobs(), blobs());
        let blobs = own.with_replicas(Arc::new(Arc::new(OtherServer(other.clone()))));
        let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
        assert_eq!(other.read(&digest).await.expect("a copy"), "hello");
        assert!(matches!(blobs.put(Bytes::from_static(b"x")).await, Err(BlobError::Copy { .. })));
        let path = |folder: &tempfile::TempDir| folder.path().join("blobs").join(blob_path(&digest).to_string());
        for lookup in 0..4 {
            own.delete(&digest).await.expect("removed");
            match lookup {
                0 => assert_eq!(blobs.read(&digest).await.expect("fetched"), "hello"),
                1 => assert_eq!(blobs.size(&digest).await.expect("fetched"), Some(5)),
                2 => assert!(blobs.local_file(&digest).await.expect("fetched").is_some()),
                _ => assert!(blobs.is_intact(&digest).await.expect("fetched")),
            }
            assert!(path(&folder).exists());
        }
        // A damaged copy is no copy.
        own.delete(&digest).await.expect("removed");
        std::fs::write(path(&other_folder), b"hellO").expect("damaged");
        assert!(matches!(blobs.read(&digest).await, Err(BlobError::Missing(_))));
        assert!(!path(&folder).exists());
    }

    /// Checks the grace period. Garbage collection without pause removes no blob that a caller has just written or
    /// found to exist.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn garbage_collection_keeps_blobs_that_a_caller_is_about_to_use() {
        const GRACE: std::time::Duration = std::time::Duration::from_millis(300);
        let (_folder, blobs) = blobs();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (collected, collector) = (blobs.clone(), Arc::clone(&stop));
        let collecting = tokio::spawn(async move {
            let mut gone = 0;
            while !collector.load(std::sync::atomic::Ordering::Relaxed) {
                for (digest, _) in collected.list().await.expect("listed") {
                    let gone_now = collected.delete_older(&digest, SystemTime::now() - GRACE).await.expect("an answer");
                    gone += usize::from(gone_now);
                }
            }
            gone
        });
        let users = (0..8u64).map(|user| {
            let blobs = blobs.clone();
            tokio::spawn(async move {
                for turn in 0..250u64 {
                    // Use few contents, so that the same blobs come and go again and again.
                    let content = Bytes::from(format!("{}", (user * 31 + turn * 7) % 40));
                    let digest = DigestHasher::of(&content);
                    // Some users first ask whether the blob exists, and some write it again.
                    if user % 2 == 0 || blobs.size(&digest).await.expect("an answer").is_none() {
                        let pieces = futures_util::stream::iter([Ok(content.clone())]).boxed();
                        blobs.put_stream(pieces, Some(&digest)).await.expect("written");
                    }
                    assert_eq!(blobs.read(&digest).await.expect("it is there"), content);
                    if turn % 50 == 0 {
                        tokio::time::sleep(GRACE).await;
                    }
                }
            })
        });
        for user in users.collect::<Vec<_>>() {
            user.await.expect("all was there");
        }
        tokio::time::sleep(GRACE * 2).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(collecting.await.expect("ended") > 0, "nothing was collected");
    }
}
