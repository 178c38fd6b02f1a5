//! Digests of contents.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text has another form.
    #[error("invalid digest: expected sha256: and 64 lower-case hex digits")]
    Malformed,
    /// The digest is of another algorithm.
    #[error("digests of {0} are not supported; use sha256")]
    Algorithm(String),
}

/// The SHA-256 digest of some content, written `sha256:<64 hex digits>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Creates a digest from its 64 hex digits.
    ///
    /// # Errors
    /// Fails if `hex` is not exactly 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() == 64 && hex.bytes().all(digit) {
            Ok(Self(format!("sha256:{hex}")))
        } else {
            Err(DigestError::Malformed)
        }
    }

    /// The digest of a value's JSON.
    pub(crate) fn of_json(value: &impl Serialize) -> Self {
        // The vocabulary has only values with a form in JSON: maps with text keys.
        let text = serde_json::to_vec(value).unwrap_or_default();
        let hex: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("sha256:{hex}"))
    }

    /// The whole text, `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first twelve hex digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

/// True for a name of a digest algorithm (OCI image specification, "Digests").
fn is_algorithm(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+._-".contains(&byte);
    (1..=32).contains(&text.len()) && text.bytes().all(plain)
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some((algorithm, _)) if algorithm != "sha256" && is_algorithm(algorithm) => {
                Err(DigestError::Algorithm(algorithm.to_owned()))
            }
            _ => Self::from_hex(text.strip_prefix("sha256:").unwrap_or_default()),
        }
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_text_but_an_exact_digest() {
        let hex = "0123456789abcdef".repeat(4);
        let digest: Digest = format!("sha256:{hex}").parse().expect("a digest");
        assert_eq!((digest.hex(), digest.short()), (hex.as_str(), "0123456789ab"));
        for bad in ["", "sha256:", "sha256:../../etc/passwd", &hex, &format!("sha256:{}", hex.to_uppercase())] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
