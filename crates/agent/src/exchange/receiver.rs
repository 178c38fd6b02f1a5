//! A range of a layer's bytes on its way to the disk.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gantry_blobs::DigestHasher;
use gantry_model::Digest;
use tokio::io::AsyncWriteExt;

use super::cache::PartError;

/// Receives a layer, or a part of one, and computes the digest of the bytes.
pub(super) struct RangeReceiver {
    /// The file, at the place of the next byte.
    file: tokio::fs::File,
    layer: Digest,
    range: Range<u64>,
    received: u64,
    hasher: DigestHasher,
    /// The range ends before the layer does. A router of an earlier version sends the layer to its end.
    ends_early: bool,
    counter: Arc<AtomicU64>,
}

impl RangeReceiver {
    /// Receives the bytes of a whole layer.
    pub(super) fn whole(file: tokio::fs::File, layer: Digest, size: u64, counter: Arc<AtomicU64>) -> Self {
        let hasher = DigestHasher::default();
        Self { file, layer, range: 0..size, received: 0, hasher, ends_early: false, counter }
    }

    /// Receives the bytes of a part of a layer.
    pub(super) fn part(file: tokio::fs::File, layer: Digest, range: Range<u64>, counter: Arc<AtomicU64>) -> Self {
        let hasher = DigestHasher::default();
        Self { file, layer, range, received: 0, hasher, ends_early: true, counter }
    }

    /// The digest of the layer.
    pub(super) fn layer(&self) -> &Digest {
        &self.layer
    }

    /// The range of the layer that has not arrived.
    pub(super) fn rest(&self) -> Range<u64> {
        self.range.start + self.received..self.range.end
    }

    /// Number of bytes to ask a router for; none for the rest of the layer.
    pub(super) fn requested_length(&self) -> Option<u64> {
        let Range { start, end } = self.rest();
        self.ends_early.then_some(end - start)
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub(super) fn is_whole(&self) -> bool {
        self.received == self.size()
    }

    /// Returns whether the rest of the source's bytes is of no interest.
    pub(super) fn has_enough(&self) -> bool {
        self.ends_early && self.is_whole()
    }

    /// Adds the next bytes.
    pub(super) async fn write(&mut self, piece: &Bytes) -> Result<(), PartError> {
        let left = self.size() - self.received;
        let count = match usize::try_from(left) {
            Ok(left) if left < piece.len() && self.ends_early => left,
            Ok(left) if left < piece.len() => return Err(PartError::TooLong),
            _ => piece.len(),
        };
        let piece = &piece[..count];
        self.file.write_all(piece).await.map_err(PartError::Disk)?;
        self.hasher.update(piece);
        self.received += count as u64;
        self.counter.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Fails unless all bytes are there.
    pub(super) fn check_length(&self) -> Result<(), PartError> {
        let (received, size) = (self.received, self.size());
        if self.is_whole() { Ok(()) } else { Err(PartError::Short { received, size }) }
    }

    /// Restarts the transfer with an empty file.
    pub(super) fn restart(&mut self, file: tokio::fs::File) {
        self.file = file;
        self.hasher = DigestHasher::default();
        self.received = 0;
    }

    /// Fails unless all bytes are there and have a digest. `wrong` makes the error from another digest.
    pub(super) async fn finish(
        &mut self,
        expected: &Digest,
        wrong: impl FnOnce(Digest) -> PartError + Send,
    ) -> Result<(), PartError> {
        self.check_length()?;
        let found = std::mem::take(&mut self.hasher).finish();
        if found != *expected {
            return Err(wrong(found));
        }
        self.file.flush().await.map_err(PartError::Disk)
    }
}
