//! The release ledger: v1, v2, … Each release is immutable.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{AppName, DeployCause, DeployNumber, Kind, Moment, ReleaseConfig, Role, RoleName};

/// The number of a release of one app, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(pub u64);

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("v{}", self.0))
    }
}

impl std::str::FromStr for ReleaseNumber {
    type Err = ReleaseNumberError;
    fn from_str(text: &str) -> Result<Self, ReleaseNumberError> {
        let digits = text.strip_prefix('v').unwrap_or(text);
        match digits.parse() {
            Ok(n) if n > 0 => Ok(Self(n)),
            _ => Err(ReleaseNumberError(text.to_owned())),
        }
    }
}

/// The text is no release number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid release {0:?}: write v3 or 3")]
pub struct ReleaseNumberError(String);

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

/// A release: image, configuration and role settings. A release is written once and never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The app.
    pub app: AppName,
    /// The release's number.
    pub number: ReleaseNumber,
    /// The digest of the image's manifest.
    pub image: Digest,
    /// The commit that the image was built from; `None` for a pushed image.
    pub commit: Option<String>,
    /// The app's configuration when the release was made.
    pub config: ReleaseConfig,
    /// The roles, with every default filled in.
    pub roles: BTreeMap<RoleName, Role>,
    /// The deploy that made the release; the build log is stored under this number.
    pub deploy: DeployNumber,
    /// When the release was made.
    pub created: Moment,
    /// Name of the token that requested the release.
    pub by: String,
    /// Reason why the release was made.
    pub cause: DeployCause,
}

impl Release {
    /// Reports whether a role of the release receives the app's HTTP requests.
    #[must_use]
    pub fn speaks_http(&self) -> bool {
        self.web().is_some()
    }

    /// The role that receives the app's HTTP requests.
    #[must_use]
    pub fn web(&self) -> Option<(&RoleName, &Role)> {
        self.roles.iter().find(|(_, role)| role.serves_http())
    }

    /// The release step: the job that runs before the release serves.
    #[must_use]
    pub fn release_step(&self) -> Option<(&RoleName, &Role)> {
        self.roles.iter().find(|(_, role)| role.kind == Kind::Job)
    }

    /// The roles whose copies run as long as the release.
    pub fn services(&self) -> impl Iterator<Item = (&RoleName, &Role)> + Clone {
        self.roles.iter().filter(|(_, role)| role.is_service())
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
