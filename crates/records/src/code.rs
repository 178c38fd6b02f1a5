//! Records of uploaded code.

use gantry_model::{AppName, BaseName, Digest, Moment, RoleName};
use serde::{Deserialize, Serialize};

/// Number of a code's revision. Consecutive uploads have rising numbers.
pub type RevisionNumber = u64;

/// An uploaded code. All revisions are in one record, so that an upload is one write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRecord {
    /// The app.
    pub app: AppName,
    /// Name of the code. Jobs name a code as they name a role.
    pub name: RoleName,
    /// The newest revisions, oldest first; at least one. The last one is current.
    pub revisions: Vec<CodeRevision>,
}

/// A revision of a code. It never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRevision {
    /// Number of the revision.
    pub number: RevisionNumber,
    /// The image: one layer over that of the stack.
    pub image: Digest,
    /// Stack of the code.
    pub stack: BaseName,
    /// Command of the code.
    pub command: Vec<String>,
    /// Number of files.
    pub files: u64,
    /// Size of all files in bytes.
    pub size: u64,
    /// Name of the token that uploaded the code.
    pub by: String,
    /// Time of the upload.
    pub created: Moment,
}

impl CodeRecord {
    /// The revision that jobs queued from now on run.
    #[must_use]
    pub fn current(&self) -> Option<&CodeRevision> {
        self.revisions.last()
    }
}

/// Returns the key of a code.
#[must_use]
pub fn code_key(app: &AppName, code: &RoleName) -> String {
    format!("codes/{app}/{code}")
}
