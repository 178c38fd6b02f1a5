//! SHA-256 as a [`Digest`].

use gantry_model::Digest;
use sha2::{Digest as _, Sha256};

/// A digest in progress.
#[derive(Clone, Default)]
pub struct DigestHasher(Sha256);

impl DigestHasher {
    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Self::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all added bytes.
    #[must_use]
    pub fn finish(self) -> Digest {
        // A digest consists of 32 bytes in hex, so this cannot fail.
        Digest::from_hex(&hex::encode(self.0.finalize())).unwrap_or_else(|error| unreachable!("{error}"))
    }
}

/// Adds all written bytes to the digest.
impl std::io::Write for DigestHasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
