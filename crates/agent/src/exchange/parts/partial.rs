//! The file of a layer that arrives in parts.

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gantry_blobs::DigestHasher;
use gantry_control::layers::LayerParts;
use gantry_model::Digest;
use tokio::io::AsyncSeekExt;

use crate::exchange::cache::{LayerCache, PartError};
use crate::exchange::receiver::RangeReceiver;

/// A layer whose parts come in any order. The file stays when the value is dropped.
pub(super) struct PartialLayer {
    path: PathBuf,
    digest: Digest,
    list: LayerParts,
    counter: Arc<AtomicU64>,
}

impl PartialLayer {
    /// Opens the file, or creates it. Returns the parts that are there, verified, too.
    pub(super) async fn open(
        cache: &LayerCache,
        digest: &Digest,
        list: LayerParts,
        counter: Arc<AtomicU64>,
    ) -> io::Result<(Self, BTreeSet<usize>)> {
        let path = cache.path_in_parts(digest);
        let layer = Self { path: path.clone(), digest: digest.clone(), list: list.clone(), counter };
        let verified = blocking(move || verified_parts(&path, &list)).await?;
        Ok((layer, verified))
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn size(&self) -> u64 {
        self.list.size
    }

    /// Number of parts.
    pub(super) fn count(&self) -> usize {
        self.list.digests.len()
    }

    /// Number of bytes of some parts.
    pub(super) fn length_of(&self, parts: &BTreeSet<usize>) -> u64 {
        let length = |part: &usize| range_of(&self.list, *part).map_or(0, |range| range.end - range.start);
        parts.iter().map(length).sum()
    }

    /// Begins to receive a part.
    pub(super) async fn begin(&self, part: usize) -> Result<RangeReceiver, PartError> {
        let range = range_of(&self.list, part).ok_or(PartError::TooLong)?;
        let opened = async {
            let mut file = tokio::fs::OpenOptions::new().write(true).open(&self.path).await?;
            file.seek(SeekFrom::Start(range.start)).await?;
            Ok(file)
        };
        let file = opened.await.map_err(PartError::Disk)?;
        Ok(RangeReceiver::part(file, self.digest.clone(), range, Arc::clone(&self.counter)))
    }

    /// Verifies a received part.
    pub(super) async fn verify(&self, part: usize, receiver: &mut RangeReceiver) -> Result<(), PartError> {
        let Some(expected) = self.list.digests.get(part) else { return Err(PartError::TooLong) };
        receiver.finish(expected, |found| PartError::WrongPart { part, found }).await
    }

    /// Verifies the layer as a whole, and gives it its name. A layer with another digest is removed: the list of its parts
    /// was wrong.
    pub(super) async fn keep(&self, cache: &LayerCache) -> Result<(), PartError> {
        let path = self.path.clone();
        let hashed = blocking(move || {
            let mut hasher = DigestHasher::default();
            io::copy(&mut std::fs::File::open(&path)?, &mut hasher)?;
            Ok(hasher.finish())
        });
        let found = hashed.await.map_err(PartError::Disk)?;
        if found != self.digest {
            cache.remove_in_parts(&self.digest);
            return Err(PartError::WrongDigest { found });
        }
        tokio::fs::rename(&self.path, cache.path(&self.digest)).await.map_err(PartError::Disk)
    }
}

/// The bytes of a part; none if the layer has no such part.
fn range_of(list: &LayerParts, part: usize) -> Option<Range<u64>> {
    let start = u64::try_from(part).ok()?.checked_mul(list.part_size)?;
    (start < list.size).then(|| start..list.size.min(start.saturating_add(list.part_size)))
}

/// Creates a missing file, and returns the parts that the file has.
fn verified_parts(path: &Path, list: &LayerParts) -> io::Result<BTreeSet<usize>> {
    let mut file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let length = file.metadata()?.len();
    if length > list.size {
        file.set_len(list.size)?;
    }
    let mut verified = BTreeSet::new();
    for (part, digest) in list.digests.iter().enumerate() {
        let Some(range) = range_of(list, part).filter(|range| range.end <= length) else { break };
        file.seek(SeekFrom::Start(range.start))?;
        let mut hasher = DigestHasher::default();
        io::copy(&mut (&file).take(range.end - range.start), &mut hasher)?;
        if hasher.finish() == *digest {
            verified.insert(part);
        }
    }
    Ok(verified)
}

/// Runs work of the disk on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use bytes::Bytes;

    use super::*;

    const PART: usize = 1000;

    /// Two parts and a half.
    fn content() -> Vec<u8> {
        (0..=255).cycle().take(PART * 5 / 2).collect()
    }

    fn list(content: &[u8]) -> LayerParts {
        let digests = content.chunks(PART).map(DigestHasher::of).collect();
        LayerParts { size: content.len() as u64, part_size: PART as u64, digests }
    }

    struct Fixture {
        _folder: tempfile::TempDir,
        cache: LayerCache,
        content: Vec<u8>,
        digest: Digest,
        counter: Arc<AtomicU64>,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let (cache, _) = LayerCache::in_folder(folder.path().to_owned()).expect("a cache");
            let content = content();
            let digest = DigestHasher::of(&content);
            Self { _folder: folder, cache, content, digest, counter: Arc::default() }
        }

        async fn open(&self) -> (PartialLayer, Vec<usize>) {
            let counter = Arc::clone(&self.counter);
            let opened = PartialLayer::open(&self.cache, &self.digest, list(&self.content), counter).await;
            let (layer, verified) = opened.expect("opened");
            (layer, verified.into_iter().collect())
        }

        /// Receives some bytes as a part.
        async fn receive(&self, layer: &PartialLayer, part: usize, bytes: &[u8]) -> Result<(), PartError> {
            let mut receiver = layer.begin(part).await?;
            receiver.write(&Bytes::copy_from_slice(bytes)).await?;
            layer.verify(part, &mut receiver).await
        }
    }

    #[tokio::test]
    async fn parts_arrive_in_any_order_and_make_the_layer() {
        let fixture = Fixture::new();
        let (layer, verified) = fixture.open().await;
        assert_eq!((layer.count(), verified), (3, vec![]));
        for part in [2, 0, 1] {
            let bytes = fixture.content.chunks(PART).nth(part).expect("a part");
            fixture.receive(&layer, part, bytes).await.expect("verified");
        }
        layer.keep(&fixture.cache).await.expect("the layer");
        assert_eq!(std::fs::read(fixture.cache.path(&fixture.digest)).expect("kept"), fixture.content);
        assert!(!fixture.cache.path_in_parts(&fixture.digest).exists());
        assert_eq!(fixture.counter.load(Ordering::Relaxed), fixture.content.len() as u64);
    }

    #[tokio::test]
    async fn a_part_with_other_bytes_is_refused_and_replaced() {
        let fixture = Fixture::new();
        let (layer, _) = fixture.open().await;
        let wrong = fixture.receive(&layer, 1, &[7; PART]).await;
        assert!(matches!(wrong, Err(PartError::WrongPart { part: 1, .. })), "{wrong:?}");
        let short = fixture.receive(&layer, 1, &fixture.content[PART..PART + 10]).await;
        assert!(matches!(short, Err(PartError::Short { received: 10, size: 1000 })), "{short:?}");
        // A router of an earlier version sends the layer to its end.
        fixture.receive(&layer, 1, &fixture.content[PART..]).await.expect("verified");
        fixture.receive(&layer, 0, &fixture.content[..PART]).await.expect("verified");
        fixture.receive(&layer, 2, &fixture.content[PART * 2..]).await.expect("verified");
        layer.keep(&fixture.cache).await.expect("the layer");
    }

    #[tokio::test]
    async fn verified_parts_are_found_again() {
        let fixture = Fixture::new();
        let (layer, _) = fixture.open().await;
        fixture.receive(&layer, 2, &fixture.content[PART * 2..]).await.expect("verified");
        fixture.receive(&layer, 0, &[7; PART]).await.expect_err("wrong");
        drop(layer);
        let (layer, verified) = fixture.open().await;
        assert_eq!(verified, [2]);
        assert_eq!(layer.length_of(&verified.into_iter().collect()), PART as u64 / 2);
        fixture.receive(&layer, 0, &fixture.content[..PART]).await.expect("verified");
        // Bytes that did not reach the disk before a loss of power.
        let path = fixture.cache.path_in_parts(&fixture.digest);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[10] ^= 1;
        bytes.extend([0; 10]);
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(fixture.open().await.1, [2]);
        assert_eq!(std::fs::metadata(&path).expect("a file").len(), fixture.content.len() as u64);
        std::fs::write(&path, &fixture.content[..PART + 1]).expect("written");
        assert_eq!(fixture.open().await.1, [0]);
    }

    #[tokio::test]
    async fn a_layer_with_another_digest_than_its_own_is_removed() {
        let fixture = Fixture { digest: DigestHasher::of(b"another layer"), ..Fixture::new() };
        let (layer, _) = fixture.open().await;
        for (part, bytes) in fixture.content.chunks(PART).enumerate() {
            fixture.receive(&layer, part, bytes).await.expect("verified");
        }
        assert!(matches!(layer.keep(&fixture.cache).await, Err(PartError::WrongDigest { .. })));
        assert!(!fixture.cache.path_in_parts(&fixture.digest).exists());
        assert!(!fixture.cache.path(&fixture.digest).exists());
    }
}
