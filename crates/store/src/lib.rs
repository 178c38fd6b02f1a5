//! The source of truth: a small trait, and two real implementations that pass the same conformance suite
//! (`tests/conformance.rs`).
//!
//! - [`Store`]: get, list, compare-then-write, watch from a revision, lease.
//! - `sqlite`: one file, one writer thread with group commit, `synchronous=FULL`.
//! - `etcd`: etcd v3, for several machines.
//!
//! Code outside this crate must not know which implementation is in use: [`open`] takes an address and returns a
//! [`Store`]. The store is a source of truth and not a message bus: agents and routers never see the store.

mod address;
mod etcd;
mod sqlite;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use address::{AddressError, ClientFiles, EtcdTls, StoreAddress};
pub use sqlite::{check as check_file, check_format, is_writable, merge_log, read_value, remove_high_water_mark};

/// Number of a committed write. Each write raises the revision by at least one, and all keys share the sequence.
pub type Revision = i64;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    /// Name of the key: parts separated by `/`.
    pub key: String,
    /// Value of up to 1 MiB, etcd's default request limit.
    pub value: Vec<u8>,
    /// Revision that created the key: the fencing token of the thing that the key stands for.
    pub created: Revision,
    /// Revision that last wrote the key.
    pub modified: Revision,
}

/// The entries with a common prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries, sorted by key.
    pub entries: Vec<StoreEntry>,
    /// Revision of the listing. A watch from this revision misses no change made after the listing.
    pub revision: Revision,
}

/// Condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnCondition {
    /// The key does not exist.
    Absent(String),
    /// No key starts with this prefix.
    NoKeys(String),
    /// This revision last wrote the key.
    Modified(String, Revision),
    /// This revision created the key.
    Created(String, Revision),
}

/// One write of a transaction. A transaction writes a key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnWrite {
    /// Sets a key. A key with a lease is removed when the lease ends.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Removes a key; a missing key is not an error.
    Delete(String),
}

impl TxnWrite {
    fn key(&self) -> &str {
        match self {
            Self::Put(key, ..) | Self::Delete(key) => key,
        }
    }
}

/// Transaction: the store applies all of its writes, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions, all of which must hold.
    pub compares: Vec<TxnCondition>,
    /// Writes, at most [`TXN_MAX`].
    pub writes: Vec<TxnWrite>,
}

/// Limit of writes in one transaction: etcd's default of 128 operations.
pub const TXN_MAX: usize = 128;

impl Txn {
    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: TxnCondition) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a write that sets a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push(TxnWrite::Put(key.into(), value.into(), None));
        self
    }

    /// Adds a write that sets a key until the lease ends.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.writes.push(TxnWrite::Put(key.into(), value.into(), Some(lease)));
        self
    }

    /// Adds a write that removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(TxnWrite::Delete(key.into()));
        self
    }

    /// Checks the limits that etcd imposes, for both implementations: the number of writes, and no key written twice.
    fn check(&self) -> Result<(), StoreError> {
        if self.writes.len() > TXN_MAX {
            return Err(StoreError::TooLarge { writes: self.writes.len() });
        }
        let mut keys = BTreeSet::new();
        let twice = self.writes.iter().map(TxnWrite::key).find(|key| !keys.insert(*key));
        twice.map_or(Ok(()), |key| Err(StoreError::Twice { key: key.to_owned() }))
    }
}

/// Outcome of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// The transaction is written and durable.
    Committed(Revision),
    /// A condition of the transaction does not hold; the store wrote nothing.
    Conflict,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange {
    /// The key was written.
    Put(StoreEntry),
    /// The key was removed, or its lease ran out.
    Delete(String),
}

/// All changes of one revision to the keys that a watch covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeBatch {
    /// Revision of the changes. A new watch from this revision misses nothing.
    pub revision: Revision,
    /// The changes, in the order of the transaction.
    pub changes: Vec<KeyChange>,
}

/// Identifier of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseId(pub i64);

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
    #[error("the store {path} is damaged: {detail}; restore a backup with `gantry restore`; the file is unchanged")]
    Damaged {
        /// Path of the file.
        path: String,
        /// Description of the damage, by SQLite or by Gantry's own checks.
        detail: String,
    },
    /// The file was written by a newer Gantry.
    #[error(
        "the store {path} has format {found}, and this gantry supports formats up to {known}; use the newer gantry, or restore a backup with `gantry restore`"
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

/// The store. The implementation bounds every call in time.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns the current entry of a key, never older than a write that was acknowledged before the call.
    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError>;

    /// Returns every key that starts with `prefix`.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Writes the whole transaction, or nothing.
    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// Watches every change after `revision` to keys that start with `prefix`, without gap or repeat.
    async fn watch(&self, prefix: &str, revision: Revision) -> Result<Box<dyn StoreWatch>, StoreError>;

    /// Grants a lease that lasts for `ttl` (whole seconds, at least one) after each [`Store::keep_alive`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now and removes every key attached to the lease.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Removes the history before `revision`. Current values stay.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Returns what is wrong with the members of the store; a store in a file has none.
    async fn faults(&self) -> Vec<StoreFault> {
        Vec::new()
    }
}

/// A fault of a member of the store, or a fault to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFault {
    /// The member does not respond.
    Away {
        /// Address of the member.
        member: String,
    },
    /// The member knows no leader of the store's own: it is cut off, or most members are away.
    NoLeader {
        /// Address of the member.
        member: String,
    },
    /// The member has used up its quota, and the store takes no writes.
    Full {
        /// Address of the member.
        member: String,
        /// Size of its data, in bytes.
        size: u64,
    },
    /// The member has used up most of the default quota.
    AlmostFull {
        /// Address of the member.
        member: String,
        /// Size of its data, in bytes.
        size: u64,
    },
}

/// A running watch.
#[async_trait]
pub trait StoreWatch: Send {
    /// Waits for the next changes and returns them. After an error the watch is over.
    async fn next(&mut self) -> Result<ChangeBatch, StoreError>;
}

/// Opens the store at `address`.
///
/// # Errors
/// When the store cannot be reached, or its file is locked, damaged or of a newer version. The function never silently
/// replaces an unreadable store by a new, empty store.
pub async fn open(address: &StoreAddress) -> Result<Arc<dyn Store>, StoreError> {
    match address {
        StoreAddress::File(path) => Ok(Arc::new(sqlite::SqliteStore::open(path)?)),
        StoreAddress::Etcd { endpoints, prefix, tls } => {
            Ok(Arc::new(etcd::EtcdStore::connect(endpoints, prefix, tls.as_ref()).await?))
        }
    }
}
