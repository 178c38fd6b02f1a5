//! Numbers of releases.

use std::fmt;

use serde::{Deserialize, Serialize};

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
