//! Identity of a cluster.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identity of a cluster, 32 hex digits. The first server to lead makes the id. A backup has the id, so a restored cluster
/// keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(u128);

/// The text is no cluster id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid cluster id: expected 32 lower-case hex digits")]
pub struct ClusterIdError;

impl ClusterId {
    /// Creates an id from random bytes.
    #[must_use]
    pub fn from_random(bytes: u128) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for ClusterId {
    type Err = ClusterIdError;
    fn from_str(text: &str) -> Result<Self, ClusterIdError> {
        let id = u128::from_str_radix(text, 16).map_err(|_| ClusterIdError)?;
        // A sign, upper case and missing digits would be a second text of the same id.
        if Self(id).to_string() == text { Ok(Self(id)) } else { Err(ClusterIdError) }
    }
}

impl TryFrom<String> for ClusterId {
    type Error = ClusterIdError;
    fn try_from(text: String) -> Result<Self, ClusterIdError> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_text() {
        for bytes in [0, 1, 0xabc << 100, u128::MAX] {
            let id = ClusterId::from_random(bytes);
            let text = id.to_string();
            assert_eq!((text.len(), text.parse()), (32, Ok(id)));
            let json = serde_json::to_string(&id).expect("JSON");
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<ClusterId>(&json).expect("an id"), id);
        }
        let digits = "0123456789abcdef0123456789abcdef";
        assert!(digits.parse::<ClusterId>().is_ok());
        for wrong in
            ["", "1", &digits[1..], &format!("{digits}0"), &digits.to_uppercase(), &format!("+{}", &digits[1..])]
        {
            assert_eq!(wrong.parse::<ClusterId>(), Err(ClusterIdError), "{wrong}");
        }
    }
}
