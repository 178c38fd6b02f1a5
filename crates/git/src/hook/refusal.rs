//! Refusals that a hook decides by itself, and failures of a hook.

use std::io;
use std::process::ExitStatus;

use gantry_error_codes::ErrorCode;

/// Failure of a hook.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    /// The push is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server, git or the file system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<serde_json::Error> for HookError {
    fn from(error: serde_json::Error) -> Self {
        Self::Io(error.into())
    }
}

/// Reason why a push is refused. The texts are shown to the user.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the push names too many refs; push the branch alone")]
    TooManyRefs,
    #[error("the name of a ref contains a line break; rename the ref")]
    LineBreak,
    #[error("{0:?} is not a valid name of a ref; rename the ref")]
    BadName(String),
    #[error("{name} must be a commit, and {short} is not a commit; push a commit")]
    NoCommit { name: String, short: String },
    #[error("{name} must be a commit, and {short} is a tag; push its commit: git push gantry {commit}:{name}")]
    Tag { name: String, short: String, commit: String },
    #[error(
        "the branch has moved to {0} meanwhile, and the pushed commit is not based on it: fetch, merge, and push again"
    )]
    Moved(String),
    #[error("the tree has more than {0} files")]
    TooManyFiles(usize),
    #[error("the files of the tree have more than {} GiB", .0 >> 30)]
    TooManyBytes(u64),
    #[error("the tree cannot be read (git ls-tree: {0})")]
    Tree(ExitStatus),
    #[error("git cannot move the branch (git update-ref: {0})")]
    Stuck(ExitStatus),
    #[error("its {what} cannot be synced: {source}")]
    Sync { what: &'static str, source: io::Error },
}

impl Refusal {
    /// Returns the stable code.
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::Moved(_) => ErrorCode::BranchMoved,
            Self::Stuck(_) | Self::Sync { .. } => ErrorCode::Internal,
            _ => ErrorCode::PushRejected,
        }
    }
}
