//! Error responses.

use gantry_coordination::Refusal;
use serde_json::{Value, json};

/// An error response: a code of gRPC and its message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GatewayError {
    /// Code of gRPC.
    pub code: u8,
    /// Message.
    pub message: String,
}

/// The part of etcd that reports an error. Locks, elections and watches report every error as unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Keys and leases.
    Keys,
    /// Locks and elections.
    Concurrency,
}

impl GatewayError {
    /// A request that cannot be read.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }

    /// An error of a lock or an election.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// The server cannot answer now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: 14, message: message.into() }
    }

    /// The app uses more than it may.
    #[must_use]
    pub fn exhausted(message: impl Into<String>) -> Self {
        Self { code: 8, message: message.into() }
    }

    /// The refusal of a command, with the words of etcd where etcd has the same refusal.
    #[must_use]
    pub fn of(refusal: Refusal, service: Service) -> Self {
        let (code, message) = match refusal {
            Refusal::KeyMissing => (3, "etcdserver: key is not provided".to_owned()),
            Refusal::FutureRevision { .. } => {
                (11, "etcdserver: mvcc: required revision is a future revision".to_owned())
            }
            Refusal::Compacted { .. } => (11, "etcdserver: mvcc: required revision has been compacted".to_owned()),
            Refusal::LeaseNotFound => (5, "etcdserver: requested lease not found".to_owned()),
            Refusal::LeaseExists => (9, "etcdserver: lease already exists".to_owned()),
            Refusal::TtlTooLong => (11, "etcdserver: too large lease TTL".to_owned()),
            Refusal::DuplicateKey => (3, "etcdserver: duplicate key given in txn request".to_owned()),
            Refusal::TooManyOperations { .. } => (3, "etcdserver: too many operations in txn request".to_owned()),
            Refusal::KeyTooLong { .. } | Refusal::ValueTooLong { .. } => {
                (3, "etcdserver: request is too large".to_owned())
            }
            Refusal::NothingToKeep => (3, "etcdserver: key not found".to_owned()),
            Refusal::TooManyKeys { .. } | Refusal::NoSpace { .. } => {
                (8, "etcdserver: mvcc: database space exceeded".to_owned())
            }
            Refusal::TooManyLeases { .. } => (8, format!("etcdserver: {refusal}")),
            Refusal::LockLost => (2, "election: not leader".to_owned()),
        };
        match service {
            Service::Keys => Self { code, message },
            Service::Concurrency => Self { code: 2, message },
        }
    }

    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.code {
            3 | 11 => 400,
            5 => 404,
            7 => 403,
            8 => 429,
            9 => 412,
            14 => 503,
            _ => 500,
        }
    }

    /// The response's body.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({ "error": self.message, "message": self.message, "code": self.code })
    }
}
