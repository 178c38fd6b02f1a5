//! Quota of an app, and the refusals of commands that exceed it.

use crate::Revision;

/// Limits of one keyspace. Each growth of a keyspace has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Maximum number of keys.
    pub keys: usize,
    /// Longest key in bytes.
    pub key_bytes: usize,
    /// Longest value in bytes.
    pub value_bytes: usize,
    /// Bytes of all keys and values.
    pub total_bytes: usize,
    /// Maximum number of leases.
    pub leases: usize,
    /// Maximum number of operations of one transaction, those of nested transactions included.
    pub operations: usize,
    /// Maximum number of events of the history.
    pub history_events: usize,
    /// Bytes of the history.
    pub history_bytes: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            keys: 10_000,
            key_bytes: 512,
            value_bytes: 256 << 10,
            total_bytes: 8 << 20,
            leases: 2_000,
            operations: 100,
            history_events: 4_096,
            history_bytes: 2 << 20,
        }
    }
}

/// Reason why a command changes and answers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The command names no key.
    #[error("key is not provided")]
    KeyMissing,
    /// The revision lies in the future.
    #[error("revision {asked} is a future revision; the newest is {newest}")]
    FutureRevision {
        /// The requested revision.
        asked: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The history no longer has the revision.
    #[error("the history no longer has revision {asked}; it begins after {compacted}")]
    Compacted {
        /// The requested revision.
        asked: Revision,
        /// The newest revision that the history no longer has.
        compacted: Revision,
    },
    /// There is no such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// There is a lease of this id.
    #[error("lease already exists")]
    LeaseExists,
    /// The time to live is too long.
    #[error("too large lease TTL")]
    TtlTooLong,
    /// A transaction writes a key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A transaction has more operations than a keyspace allows.
    #[error("too many operations in one transaction; at most {max} are allowed")]
    TooManyOperations {
        /// The limit.
        max: usize,
    },
    /// A key is too long.
    #[error("the key is longer than {max} bytes")]
    KeyTooLong {
        /// The limit.
        max: usize,
    },
    /// A value is too long.
    #[error("the value is longer than {max} bytes")]
    ValueTooLong {
        /// The limit.
        max: usize,
    },
    /// The app has as many keys as it may have.
    #[error("the app has {max} keys, and may not have more; remove some")]
    TooManyKeys {
        /// The limit.
        max: usize,
    },
    /// The app's keys and values need all the space that they may need.
    #[error("the app's keys and values need more than {max} bytes; remove some")]
    NoSpace {
        /// The limit.
        max: usize,
    },
    /// The app has as many leases as it may have.
    #[error("the app has {max} leases, and may not have more; revoke some, or renew instead of granting")]
    TooManyLeases {
        /// The limit.
        max: usize,
    },
    /// The put keeps the value or the lease of a key that does not exist.
    #[error("the key does not exist, so that its value or lease cannot be kept")]
    NothingToKeep,
    /// The lock is no longer held, or the campaign was given up.
    #[error("the token no longer holds the lock; acquire the lock again")]
    LockLost,
}
