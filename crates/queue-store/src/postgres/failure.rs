//! Failures of PostgreSQL, and what they mean.

use std::io;
use std::path::PathBuf;

use gantry_model::ClusterId;
use tokio_postgres::error::SqlState;

use crate::QueueStoreError;
use crate::sql::Fault;

/// A failure of PostgreSQL, or of the way to it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The client's error.
    #[error(transparent)]
    Client(#[from] tokio_postgres::Error),
    /// No answer.
    #[error("the database did not answer within {seconds} s")]
    Timeout {
        /// The timeout.
        seconds: u64,
    },
    /// A file of the address cannot be used.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The system refuses what a connection needs.
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
    /// An earlier attempt to connect failed.
    #[error("{0}")]
    Earlier(String),
    /// Another server has the queue.
    #[error("another server has the queue")]
    Superseded,
    /// Another cluster has the queue.
    #[error("the cloud {0} has the queue")]
    OtherCluster(ClusterId),
    /// The database is being filled from a file.
    #[error("`gantry store migrate-jobs` is moving a queue into the database")]
    Moving,
    /// The database is of a newer version.
    #[error("the database has the newer format {0}")]
    Newer(i64),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Postgres(failure)
    }
}

impl Failure {
    /// State of the statement that PostgreSQL refused; none if the connection itself failed.
    fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Client(error) => error.code(),
            _ => None,
        }
    }

    /// Reports whether another session had the lock of a row for too long.
    pub(super) fn is_lock(&self) -> bool {
        self.state() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Reports whether the same commands may succeed on a new connection.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Client(_) => self.state().is_none_or(|state| {
                let class = &state.code()[..2];
                // Connection, rollback, resources but a full disk, a lock or statement that took too long, shutdown.
                matches!(class, "08" | "40" | "53" | "55" | "57") && *state != SqlState::DISK_FULL
            }),
            Self::Timeout { .. } => true,
            _ => false,
        }
    }
}

/// The error of a fault in the database at `place`.
pub(super) fn error(fault: Fault, action: &'static str, place: &str) -> QueueStoreError {
    let path = place.to_owned();
    let failure = match fault {
        Fault::Row(detail) => return QueueStoreError::Damaged { path, detail },
        Fault::Sqlite(error) => return QueueStoreError::Away { action, place: path, source: error.into() },
        Fault::Postgres(failure) => failure,
    };
    match failure {
        Failure::Superseded => QueueStoreError::Superseded { place: path },
        Failure::OtherCluster(owner) => QueueStoreError::OtherCluster { place: path, owner },
        Failure::Moving => QueueStoreError::Unfinished { place: path },
        Failure::Newer(found) => QueueStoreError::Newer { path, found, known: super::schema::FORMAT },
        failure if failure.state() == Some(&SqlState::DISK_FULL) => QueueStoreError::Full { path },
        failure => QueueStoreError::Away { action, place: path, source: failure.into() },
    }
}

/// An error with its causes.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}
