//! Keys of an app. The containers of the app read and write them at `GANTRY_API`.
//!
//! Keys and values are bytes. Bytes that are no UTF-8 text are in a field with `_base64` in its name, in the place of the
//! field with the text.

use serde::{Deserialize, Serialize};

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Revision that created the key.
    pub created: i64,
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A key that is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// Revision that last wrote the key.
    pub revision: i64,
    /// The value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A value that is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// Number of writes since the key was created.
    pub version: i64,
}

/// A key that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenKey {
    /// Revision that created the key.
    pub created: i64,
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A key that is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// Revision of the write.
    pub revision: i64,
    /// Number of writes since the key was created.
    pub version: i64,
}

/// Outcome of a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedKey {
    /// True if the key was there.
    pub deleted: bool,
}

/// The keys with a prefix, or their changes since a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ListedKeys {
    /// The keys.
    Keys {
        /// All keys with the prefix.
        entries: Vec<KeyInfo>,
        /// Revision of the app's keys.
        revision: i64,
    },
    /// The changes.
    Changes {
        /// The changes in order.
        events: Vec<KeyChange>,
        /// Revision up to which the changes are complete, for the next watch.
        revision: i64,
    },
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A key that is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// Revision of the change.
    pub revision: i64,
    /// Kind of the change.
    #[serde(rename = "type")]
    pub kind: KeyChangeKind,
    /// The new value; none after a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A new value that is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

/// Kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyChangeKind {
    /// The key was written.
    Put,
    /// The key was removed, or its time to live is over.
    Delete,
}
