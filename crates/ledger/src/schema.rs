//! Schema versions of files whose content is a JSON object.
//!
//! The field `version` of the object names the version. A content without the field has version 1. Programs from before
//! the field ignore it, so that they read the files of later programs as long as the shape is the same. A program that
//! finds a newer version than its own uses nothing of the file.

use std::fmt;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Replacement;

/// A kind of file with a schema version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSchema {
    /// Name of the file.
    pub name: &'static str,
    /// The version that this program writes, which is also the newest version that it reads.
    pub version: u32,
}

/// Reason why the content of a file cannot be used.
#[derive(Debug)]
pub enum ContentError {
    /// A newer program wrote the file.
    Newer {
        /// Version of the file.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The content is damaged.
    Invalid(serde_json::Error),
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer { found, known } => write!(
                f,
                "the file has schema version {found}, and this gantry knows versions up to {known}; start the newer \
                 gantry again"
            ),
            Self::Invalid(_) => f.write_str("the content is damaged"),
        }
    }
}

impl std::error::Error for ContentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Newer { .. } => None,
            Self::Invalid(error) => Some(error),
        }
    }
}

impl From<serde_json::Error> for ContentError {
    fn from(error: serde_json::Error) -> Self {
        Self::Invalid(error)
    }
}

/// The version in a content.
#[derive(Deserialize)]
struct ContentVersion {
    #[serde(default = "first")]
    version: u32,
}

fn first() -> u32 {
    1
}

/// A content with its version.
#[derive(Serialize)]
struct VersionedContent<'a, T> {
    version: u32,
    #[serde(flatten)]
    value: &'a T,
}

impl FileSchema {
    /// Returns the version of a content, which may be newer than all that this program knows.
    ///
    /// # Errors
    /// If the content is damaged.
    pub fn version_of(content: &[u8]) -> serde_json::Result<u32> {
        Ok(serde_json::from_slice::<ContentVersion>(content)?.version)
    }

    /// Returns the version of a content that this program may read.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn check(&self, content: &[u8]) -> Result<u32, ContentError> {
        let (found, known) = (Self::version_of(content)?, self.version);
        if found > known { Err(ContentError::Newer { found, known }) } else { Ok(found) }
    }

    /// Parses a content whose shape is the same in all versions.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn parse<T: DeserializeOwned>(&self, content: &[u8]) -> Result<T, ContentError> {
        self.check(content)?;
        Ok(serde_json::from_slice(content)?)
    }

    /// Replaces a file with a value, which must serialize as an object, and with the version.
    ///
    /// # Errors
    /// Those of [`Replacement::write_json`].
    pub fn write(&self, file: Replacement<'_>, value: &impl Serialize) -> io::Result<()> {
        file.write_json(&VersionedContent { version: self.version, value })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const FILE: FileSchema = FileSchema { name: "record.json", version: 3 };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Record {
        name: String,
        ports: BTreeMap<u16, String>,
    }

    fn record() -> Record {
        Record { name: "web".to_owned(), ports: BTreeMap::from([(80, "http".to_owned())]) }
    }

    #[test]
    fn a_program_from_before_the_versions_reads_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE.name);
        FILE.write(Replacement::of(&path), &record()).expect("written");
        let content = std::fs::read(&path).expect("read");
        assert_eq!(content, br#"{"version":3,"name":"web","ports":{"80":"http"}}"#);
        assert_eq!(serde_json::from_slice::<Record>(&content).expect("a record"), record());
        assert_eq!(FILE.parse::<Record>(&content).expect("a record"), record());
    }

    #[test]
    fn a_content_without_a_version_has_the_first() {
        let content = serde_json::to_vec(&record()).expect("JSON");
        assert_eq!(FILE.check(&content).expect("known"), 1);
        assert_eq!(FILE.parse::<Record>(&content).expect("a record"), record());
    }

    #[test]
    fn a_newer_version_is_refused_whatever_else_the_content_is() {
        let refused = FILE.parse::<Record>(br#"{"version":4,"ports":"none"}"#).expect_err("refused");
        assert!(matches!(refused, ContentError::Newer { found: 4, known: 3 }), "{refused}");
        assert_eq!(FileSchema::version_of(br#"{"version":4}"#).expect("a version"), 4);
        for damaged in [&b""[..], b"\0\0{ torn", br#"{"version":"new"}"#, br#"{"version":-1}"#, b"[]"] {
            let refused = FILE.parse::<Record>(damaged).expect_err("refused");
            assert!(matches!(refused, ContentError::Invalid(_)), "{}: {refused}", damaged.escape_ascii());
        }
    }
}
