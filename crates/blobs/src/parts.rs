//! Parts of blobs: digests with which a receiver verifies a large blob part by part.
//!
//! The list of a blob's parts is made at the first request, from content with the blob's digest, and kept beside the blob:
//!
//! ```text
//! gantry-parts 1 SIZE PART_SIZE
//! DIGEST of each part, in hex, a line each
//! DIGEST of all lines above
//! ```
//! A list that is damaged is made again. Garbage collection removes the list before its blob.
//!
//! A task of its own makes a list, and goes on when the requests for the list end. Requests for one list share the task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_model::Digest;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tokio::sync::{Semaphore, watch};

use crate::error::{failed, verify};
use crate::store::blob_path;
use crate::{BlobError, BlobStore, DigestHasher};

/// Size of each part but the last one.
pub const PART_SIZE: u64 = 4 << 20;

/// Number of lists that are made at once. Each reads and hashes a whole blob.
const LISTS_AT_ONCE: usize = 2;

/// First words of a list.
const MAGIC: &str = "gantry-parts 1";

/// The parts of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobParts {
    /// Size of the blob.
    pub size: u64,
    /// Size of each part but the last one.
    pub part_size: u64,
    /// Digest of each part.
    pub digests: Vec<Digest>,
}

/// Path of the list of a blob's parts below the folder.
pub(crate) fn parts_path(digest: &Digest) -> Path {
    Path::from(format!("parts/{}/{}", &digest.hex()[..2], digest.hex()))
}

impl BlobParts {
    fn write(&self) -> String {
        let mut text = format!("{MAGIC} {} {}\n", self.size, self.part_size);
        self.digests.iter().for_each(|digest| {
            text.push_str(digest.hex());
            text.push('\n');
        });
        let checksum = DigestHasher::of(text.as_bytes());
        text + checksum.hex() + "\n"
    }

    /// Reads a list; none if the list is damaged.
    fn read(text: &str) -> Option<Self> {
        let (lines, checksum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let above = &text[..=lines.len()];
        if DigestHasher::of(above.as_bytes()).hex() != checksum {
            return None;
        }
        let mut lines = lines.lines();
        let (size, part_size) = lines.next()?.strip_prefix(MAGIC)?.trim().split_once(' ')?;
        let digests = lines.map(|line| Digest::from_hex(line).ok()).collect::<Option<_>>()?;
        Some(Self { size: size.parse().ok()?, part_size: part_size.parse().ok()?, digests })
    }
}

/// Collects the digests of a blob's parts.
struct PartHasher {
    whole: DigestHasher,
    part: DigestHasher,
    size: u64,
    digests: Vec<Digest>,
}

impl PartHasher {
    fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = PART_SIZE - self.size % PART_SIZE;
            let count = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            self.part.update(&bytes[..count]);
            self.size += count as u64;
            bytes = &bytes[count..];
            if self.size.is_multiple_of(PART_SIZE) {
                self.digests.push(std::mem::take(&mut self.part).finish());
            }
        }
    }

    /// Returns the digest of the blob, and its parts.
    fn finish(mut self) -> (Digest, BlobParts) {
        if !self.size.is_multiple_of(PART_SIZE) {
            self.digests.push(self.part.finish());
        }
        (self.whole.finish(), BlobParts { size: self.size, part_size: PART_SIZE, digests: self.digests })
    }
}

/// Result of the task that makes a list; none while the task runs.
type MadeList = Option<Result<BlobParts, Arc<BlobError>>>;

/// The lists that tasks make now.
pub(crate) struct PartLists {
    making: Mutex<BTreeMap<Digest, watch::Receiver<MadeList>>>,
    room: Semaphore,
}

impl Default for PartLists {
    fn default() -> Self {
        Self { making: Mutex::default(), room: Semaphore::new(LISTS_AT_ONCE) }
    }
}

impl BlobStore {
    /// Returns the parts of a blob; none if their list takes longer than `timeout` to make. The first call starts a task
    /// that reads the whole blob, verifies its digest, and keeps the list for later calls.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::WrongDigest`], [`BlobError::Backend`].
    pub async fn parts(&self, digest: &Digest, timeout: Duration) -> Result<Option<BlobParts>, Arc<BlobError>> {
        if let Some(parts) = self.kept_parts(digest).await {
            return Ok(Some(parts));
        }
        let mut making = self.making_parts(digest);
        let made = tokio::time::timeout(timeout, making.wait_for(Option::is_some)).await;
        // A task that panicked has made no list.
        let made = made.ok().and_then(Result::ok).and_then(|made| made.clone());
        made.transpose()
    }

    /// Returns the result to come of the task that makes a list. Starts the task unless the task runs.
    fn making_parts(&self, digest: &Digest) -> watch::Receiver<MadeList> {
        let mut making = self.part_lists.making.lock().unwrap_or_else(PoisonError::into_inner);
        // A task drops the sender at its end.
        making.retain(|_, made| made.has_changed().is_ok());
        if let Some(made) = making.get(digest) {
            return made.clone();
        }
        let (sender, made) = watch::channel(None);
        making.insert(digest.clone(), made.clone());
        let (blobs, digest) = (self.clone(), digest.clone());
        tokio::spawn(async move {
            let parts = blobs.make_parts(&digest).await;
            sender.send_replace(Some(parts.map_err(Arc::new)));
        });
        made
    }

    /// Makes the list of a blob's parts, and keeps it.
    async fn make_parts(&self, digest: &Digest) -> Result<BlobParts, BlobError> {
        let _room = self.part_lists.room.acquire().await;
        // The task before may have kept the list after this one was asked for.
        if let Some(parts) = self.kept_parts(digest).await {
            return Ok(parts);
        }
        let parts = self.read_parts(digest).await?;
        if let Err(error) = self.keep_parts(digest, &parts).await {
            tracing::warn!(%digest, %error, "cannot keep the list of a blob's parts; the next request reads the blob again");
        }
        Ok(parts)
    }

    async fn kept_parts(&self, digest: &Digest) -> Option<BlobParts> {
        let kept = self.backend.get(&parts_path(digest)).await.ok()?.bytes().await.ok()?;
        BlobParts::read(std::str::from_utf8(&kept).ok()?)
    }

    async fn read_parts(&self, digest: &Digest) -> Result<BlobParts, BlobError> {
        let (whole, part) = (DigestHasher::default(), DigestHasher::default());
        let mut hasher = PartHasher { whole, part, size: 0, digests: Vec::new() };
        let mut stream = self.get(digest).await?.stream;
        while let Some(piece) = stream.next().await {
            hasher.update(&piece.map_err(|error| failed("read")(error.into()))?);
        }
        let (found, parts) = hasher.finish();
        verify(digest, &found)?;
        Ok(parts)
    }

    /// Keeps the list, unless garbage collection has removed the blob meanwhile.
    async fn keep_parts(&self, digest: &Digest, parts: &BlobParts) -> Result<(), BlobError> {
        let _guard = self.gc_lock.read().await;
        match self.backend.head(&blob_path(digest)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(()),
            found => found.map_err(|error| failed("look for")(error.into()))?,
        };
        let payload = PutPayload::from(Bytes::from(parts.write()));
        self.backend.put(&parts_path(digest), payload).await.map_err(|error| failed("write")(error.into()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
