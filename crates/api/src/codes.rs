//! Requests and responses about uploaded code.

use gantry_model::{AppName, BaseName, Digest, Moment, RoleName};
use serde::{Deserialize, Serialize};

/// A code with its revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeInfo {
    /// The app.
    pub project: AppName,
    /// Name of the code.
    pub name: RoleName,
    /// The revision that jobs queued from now on run.
    pub current: CodeRevision,
    /// All revisions that are kept, newest first.
    pub revisions: Vec<CodeRevision>,
}

/// A revision of a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRevision {
    /// Number of the revision.
    pub number: u64,
    /// The image.
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
