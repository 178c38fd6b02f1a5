//! Errors of the server.

use gantry_admission::Refusal;
use gantry_api::{ErrorCode, Problem};
use gantry_records::schema::SchemaError;
use std::net::SocketAddr;

/// Cause of a failed start, or of the server's end.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An operation of the store failed.
    #[error(transparent)]
    Store(#[from] gantry_store::StoreError),
    /// An operation on blobs failed.
    #[error(transparent)]
    Blobs(#[from] gantry_blobs::BlobError),
    /// An operation on a git repository failed.
    #[error(transparent)]
    Git(#[from] gantry_git::GitError),
    /// The queue of container jobs cannot be opened.
    #[error(transparent)]
    Jobs(#[from] gantry_queue_store::QueueStoreError),
    /// A record in the store cannot be read.
    #[error(transparent)]
    Record(#[from] gantry_records::RecordError),
    /// The records cannot be migrated to the schema of this version.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The listen address is taken, or belongs to another machine.
    #[error("cannot listen on {address} (choose another address with --listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Cause from the operating system.
        source: std::io::Error,
    },
    /// The address for machines is taken, or belongs to another machine.
    #[error("cannot listen on {address} for other machines (choose another address with --cluster-listen)")]
    ListenCluster {
        /// The address.
        address: SocketAddr,
        /// Cause from the operating system.
        source: std::io::Error,
    },
    /// The server's certificate cannot be made or used.
    #[error(transparent)]
    Trust(#[from] gantry_trust::TrustError),
    /// The file with the cluster's first records is damaged.
    #[error("cannot read {path}; run `gantry server init` again")]
    Founding {
        /// Path of the file.
        path: std::path::PathBuf,
        /// Cause.
        source: serde_json::Error,
    },
    /// A folder or file of the server cannot be used.
    #[error("cannot {action} {path}")]
    File {
        /// Operation that failed.
        action: &'static str,
        /// Path of the folder or file.
        path: std::path::PathBuf,
        /// Cause from the operating system.
        source: std::io::Error,
    },
    /// An internal fault of Gantry.
    #[error("a task of the server failed: {0}; this is a fault of Gantry")]
    Broken(String),
    /// A required change was refused.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// The data folder belongs to another machine.
    #[error("the data folder belongs to machine {0}; start with --machine {0}")]
    OtherMachine(String),
    /// The leadership lease ran out while the server was suspended. No other server took over, and this server leads
    /// again.
    #[error("the server was suspended and lost its leadership lease, and nothing was changed; try again")]
    Interrupted,
    /// The server could only serve reads, and can write from now on: it must start again.
    #[error("the disk of the store takes writes again; restarting the server")]
    Writable,
    /// The leader did not record the first tokens of this server.
    #[error("the leading server did not take the tokens of this server")]
    NotIntroduced(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another server leads, or took over leadership.
    #[error("another server leads: {0}")]
    NotLeading(String),
}

impl ServerError {
    /// Returns the stable code of an error that a command prints.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Schema(SchemaError::Newer { .. }) => Some(ErrorCode::StoreNewer),
            Self::Schema(SchemaError::Unfinished { .. }) => Some(ErrorCode::StoreUnfinished),
            _ => None,
        }
    }
}

/// Reason why the records were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Admission refused the change.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store took no change.
    #[error("{0}")]
    Store(String),
    /// The server is shutting down.
    #[error("the server is shutting down; try again")]
    Stopping,
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let (code, hint) = match &error {
            ChangeError::Refused(refusal) => (refusal.code(), refusal.hint()),
            ChangeError::Store(_) => (ErrorCode::StoreUnavailable, None),
            ChangeError::Stopping => (ErrorCode::ServerStopping, None),
        };
        Self { hint, ..Self::new(code, error.to_string()) }
    }
}

/// Renders an error with all its causes, because the last cause often names the actual reason.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    gantry_error::ErrorChain(error).to_string()
}
