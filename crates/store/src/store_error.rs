//! Failures of store operations.

use crate::entry::Revision;
use crate::txn::TXN_MAX;

/// Failure of a store operation.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or did not answer in time. The requested operation may or may not have been done.
    #[error("the store at {address} does not respond; check that it runs and can be reached")]
    Unavailable {
        /// Address of the store.
        address: String,
        /// Error of the client.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has locked the file.
    #[error("the store {path} is locked by another process; stop the other `gantry up` or `gantry server` first")]
    Locked {
        /// Path of the file.
        path: String,
    },
    /// The content of the file is damaged.
    #[error(
        "the store {path} is damaged: {detail}; restore a backup with `gantry restore FILE`; the file is unchanged"
    )]
    Damaged {
        /// Path of the file.
        path: String,
        /// Description of the damage, by SQLite or by Gantry's own checks.
        detail: String,
    },
    /// The file was written by a newer Gantry.
    #[error(
        "the store {path} has format {found}, and this gantry supports formats up to {known}; use the newer gantry, or restore a backup with `gantry restore FILE`"
    )]
    Newer {
        /// Path of the file.
        path: String,
        /// Format of the file.
        found: i64,
        /// Newest format that this Gantry knows.
        known: i64,
    },
    /// The disk is full. The store did no part of the refused write.
    #[error("the disk of the store {path} is full; free some space: `gantry status` shows how much Gantry uses")]
    Full {
        /// Path of the file.
        path: String,
    },
    /// etcd has used up its quota and takes no writes. It did no part of the refused write.
    #[error(
        "etcd at {address} has used up its space quota and takes no writes; reads work: compact and defragment etcd \
         (`etcdctl defrag --cluster`), raise --quota-backend-bytes if need be, then `etcdctl alarm disarm`"
    )]
    Quota {
        /// Address of the store.
        address: String,
    },
    /// A file for TLS cannot be read.
    #[error("cannot read {path}, which the address of the store names")]
    TlsFile {
        /// Path of the file.
        path: String,
        /// Error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The disk takes no writes: its file system is read-only, or writing to it fails. The store did no part of the
    /// refused write.
    #[error(
        "the disk of the store {path} cannot be written to: it is read-only or failing (`dmesg` shows the kernel's errors); \
         nothing was changed; reads work, and changes work again once the disk accepts writes"
    )]
    ReadOnly {
        /// Path of the file.
        path: String,
    },
    /// Opening, reading or writing the file failed.
    #[error("cannot {action} the store {path}")]
    File {
        /// Operation that failed.
        action: &'static str,
        /// Path of the file.
        path: String,
        /// Error of SQLite or of the system.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store no longer keeps the revisions that a watch asked for. The caller must list again, then watch from
    /// there.
    #[error("cannot watch from revision {asked}: the store no longer keeps it; list again")]
    Compacted {
        /// Revision that the watch asked for.
        asked: Revision,
    },
    /// The lease ran out or was revoked.
    #[error("lease {0} has ended")]
    LeaseGone(i64),
    /// The transaction has more writes than any store accepts.
    #[error("transaction is too large: {writes} writes, at most {TXN_MAX} are allowed")]
    TooLarge {
        /// Number of writes in the transaction.
        writes: usize,
    },
    /// The transaction writes a key twice, which no store accepts.
    #[error("transaction writes {key} twice")]
    Twice {
        /// The key that is written twice.
        key: String,
    },
}

impl StoreError {
    /// Reports whether the store works but takes no writes now. The store did no part of the refused write.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::ReadOnly { .. } | Self::Quota { .. })
    }
}
