//! SHA-256 as a [`Digest`].

use gantry_model::Digest;
use sha2::{Digest as _, Sha256};

/// A digest in the making.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// The digest of bytes at hand.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Self::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Goes on.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that came.
    #[must_use]
    pub fn finish(self) -> Digest {
        // 32 bytes in hex are what a digest is made of, so this cannot fail.
        Digest::from_hex(&hex::encode(self.0.finalize())).unwrap_or_else(|error| unreachable!("{error}"))
    }
}

/// Everything that is written is hashed.
impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
