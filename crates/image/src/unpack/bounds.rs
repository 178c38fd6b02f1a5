//! Limits of what is unpacked, and readers that count and hash.

use std::io::{self, Read};

use gantry_blobs::DigestHasher;
use gantry_model::Digest;

use super::UnpackError;

/// Limits on the size of an unpacked layer.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

impl Bounds {
    /// Formats the limit on bytes, as [`UnpackError::TooLarge`] shows the limit.
    pub(crate) fn describe(&self) -> String {
        format!("{} bytes", self.bytes)
    }
}

impl Default for Bounds {
    /// 32 GiB and two million entries, ten times the size of an image with a complete tool chain.
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 2_000_000 }
    }
}

/// Limit on the bytes after an archive's end. Padding takes kilobytes; a longer tail is an attack.
pub(super) const TAIL_MAX: u64 = 64 << 20;

pub(super) fn pass(rest: &mut impl Read) -> Result<(), UnpackError> {
    let passed = io::copy(&mut rest.take(TAIL_MAX + 1), &mut io::sink()).map_err(UnpackError::Stream)?;
    if passed > TAIL_MAX {
        return Err(UnpackError::TooLarge(format!("{TAIL_MAX} bytes after its end")));
    }
    Ok(())
}

/// A reader that fails after a number of bytes.
pub(super) struct Bounded<R> {
    pub(super) inner: R,
    pub(super) left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other("it has no end"))?;
        Ok(count)
    }
}

/// A reader that hashes the bytes read.
pub(super) struct Hashed<R> {
    pub(super) inner: R,
    hasher: DigestHasher,
}

impl<R> Hashed<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: DigestHasher::default() }
    }

    pub(super) fn finish(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
