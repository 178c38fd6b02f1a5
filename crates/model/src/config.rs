//! Configuration of a release: environment variables with plain values, named by their digest.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Digest;

/// Configuration of a release. Clones share the values. Releases, roles and copies with the same values have the same
/// configuration, which is stored and sent once.
#[derive(Clone)]
pub struct ReleaseConfig {
    digest: Digest,
    values: Arc<BTreeMap<String, String>>,
}

impl ReleaseConfig {
    /// The digest of the values.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl From<BTreeMap<String, String>> for ReleaseConfig {
    fn from(values: BTreeMap<String, String>) -> Self {
        Self { digest: Digest::of_json(&values), values: Arc::new(values) }
    }
}

impl Default for ReleaseConfig {
    fn default() -> Self {
        BTreeMap::new().into()
    }
}

impl Deref for ReleaseConfig {
    type Target = BTreeMap<String, String>;
    fn deref(&self) -> &Self::Target {
        &self.values
    }
}

impl PartialEq for ReleaseConfig {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ReleaseConfig {}

/// Names the variables without their values, which may be secret.
impl std::fmt::Debug for ReleaseConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Serialize for ReleaseConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ReleaseConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(values: &[(&str, &str)]) -> ReleaseConfig {
        let values: BTreeMap<String, String> = values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        values.into()
    }

    #[test]
    fn the_digest_names_the_values() {
        let one = config(&[("A", "1"), ("B", "2")]);
        assert_eq!(one, config(&[("B", "2"), ("A", "1")]));
        for other in
            [config(&[]), config(&[("A", "1")]), config(&[("A", "2"), ("B", "1")]), config(&[("A", "1\",\"B\":\"2")])]
        {
            assert_ne!(one, other);
        }
        // The digest is stored: another one for the same values would store them twice.
        assert_eq!(ReleaseConfig::default().digest().short(), "44136fa355b3");
        let text = serde_json::to_string(&one).expect("written");
        assert_eq!(text, r#"{"A":"1","B":"2"}"#);
        assert_eq!(serde_json::from_str::<ReleaseConfig>(&text).expect("read"), one);
    }

    #[test]
    fn debug_output_shows_no_value() {
        assert_eq!(format!("{:?}", config(&[("PASSWORD", "hunter2")])), r#"{"PASSWORD"}"#);
    }
}
