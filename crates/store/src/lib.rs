//! The source of truth: a small trait, and two real implementations that pass one conformance suite
//! (`tests/conformance.rs`).
//!
//! - [`Store`]: get, list, compare-then-write, watch from a revision, lease.
//! - `sqlite`: one file, one writer thread with group commit, `synchronous=FULL`.
//! - `etcd`: etcd v3, for several machines.
//!
//! Nothing outside this crate may know which one it has: [`open`] takes an address and gives a [`Store`].
//! It is a source of truth and not a message bus: agents and routers never see it.

mod address;
mod etcd;
mod sqlite;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use address::{Address, AddressError};
pub use sqlite::{check as check_file, check_format, forget, is_writable, seal_off};

/// The number of a committed write, rising by at least one each. All keys share it.
pub type Revision = i64;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Parts separated by `/`.
    pub key: String,
    /// Up to 1 MiB, as etcd's default request limit has it.
    pub value: Vec<u8>,
    /// The revision at which the key came to be: the fencing token of what it stands for.
    pub created: Revision,
    /// The revision at which it was last written.
    pub modified: Revision,
}

/// What keys with a prefix there were at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// A watch from here misses nothing that the listing does not have.
    pub revision: Revision,
}

/// What must hold for a transaction to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// There is no such key.
    Absent(String),
    /// The key was last written at this revision.
    Modified(String, Revision),
    /// The key came to be at this revision.
    Created(String, Revision),
}

/// One write of a transaction. A transaction writes a key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key. It goes when the lease does, if one is given.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Removes a key; not an error if there is none.
    Delete(String),
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put(key, ..) | Self::Delete(key) => key,
        }
    }
}

/// Writes that happen together, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// At most [`TXN_MAX`].
    pub writes: Vec<Write>,
}

/// The most writes in one transaction: etcd's default of 128 operations.
pub const TXN_MAX: usize = 128;

impl Txn {
    /// Requires something.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Sets a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Put(key.into(), value.into(), None));
        self
    }

    /// Sets a key for as long as a lease lives.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.writes.push(Write::Put(key.into(), value.into(), Some(lease)));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }

    /// What no store would take: etcd refuses more writes than its bound, and a key that is written twice.
    fn check(&self) -> Result<(), StoreError> {
        if self.writes.len() > TXN_MAX {
            return Err(StoreError::TooLarge { writes: self.writes.len() });
        }
        let mut keys = BTreeSet::new();
        let twice = self.writes.iter().map(Write::key).find(|key| !keys.insert(*key));
        twice.map_or(Ok(()), |key| Err(StoreError::Twice { key: key.to_owned() }))
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written, and durable.
    Committed(Revision),
    /// Something that it required does not hold; nothing was written.
    Conflict,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Entry),
    /// It was removed, or its lease ran out.
    Delete(String),
}

/// All changes of one revision that a watch asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Watching from the next one on misses nothing.
    pub revision: Revision,
    /// In the order they were made.
    pub changes: Vec<Change>,
}

/// A lease's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseId(pub i64);

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time. What was asked may or may not have been done.
    #[error("the store at {address} does not answer")]
    Unavailable {
        /// Where it should be.
        address: String,
        /// What the client said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process holds the file.
    #[error(
        "the store {path} is locked by another process: another `gantry up` or `gantry server`, to be stopped first"
    )]
    Locked {
        /// The file.
        path: String,
    },
    /// The file is not what it was.
    #[error("the store {path} is damaged: {detail}; bring a backup back with `gantry restore`; it was left as it is")]
    Damaged {
        /// The file.
        path: String,
        /// What SQLite said.
        detail: String,
    },
    /// The file was written by a newer Gantry.
    #[error(
        "the store {path} has format {found}, this gantry knows up to {known}; use the newer gantry again, or bring a backup back with `gantry restore`"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// There is no room for another write. Nothing of this one was done.
    #[error(
        "the disk of the store {path} is full; remove something from it: `gantry status` shows what Gantry's own takes"
    )]
    Full {
        /// The file.
        path: String,
    },
    /// The disk takes no writes: its file system is read-only, or writing to it fails. Nothing of this one was done.
    #[error(
        "the disk of the store {path} cannot be written to: it is read-only or failing (`dmesg` says what the kernel found); \
         nothing was changed, reads go on, and changes go on once it can be written to"
    )]
    ReadOnly {
        /// The file.
        path: String,
    },
    /// The file could not be opened, read or written.
    #[error("cannot {action} the store {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// What SQLite or the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A watch asked for revisions that are no longer kept: list again, then watch from there.
    #[error("revision {asked} is no longer kept; list again")]
    Compacted {
        /// The revision that was asked for.
        asked: Revision,
    },
    /// The lease ran out or was revoked.
    #[error("lease {0} is gone")]
    LeaseGone(i64),
    /// A transaction that no store would take.
    #[error("a transaction of {writes} writes is too large; at most {TXN_MAX}")]
    TooLarge {
        /// How many it had.
        writes: usize,
    },
    /// A transaction that no store would take.
    #[error("a transaction writes {key} twice")]
    Twice {
        /// The key.
        key: String,
    },
}

impl StoreError {
    /// The store works and takes no writes now; nothing of the one that it refused was done.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::ReadOnly { .. })
    }
}

/// The store. Every call is bounded in time by the implementation.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The key's entry, as of now: never older than any write that was acknowledged before the call.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Every key that starts with `prefix`.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Writes all of it or nothing.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Every change after `revision` to keys that start with `prefix`, without gap or repeat.
    async fn watch(&self, prefix: &str, revision: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// A lease that lives for `ttl` (whole seconds, at least one) after each [`Store::keep_alive`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now, with every key that hangs on it.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Forgets the history before `revision`. Current values stay.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}

/// A watch under way.
#[async_trait]
pub trait Watch: Send {
    /// The next changes; waits for as long as there are none. After an error the watch is over.
    async fn next(&mut self) -> Result<Batch, StoreError>;
}

/// Opens the store at `address`.
///
/// # Errors
/// When it cannot be reached, or its file is locked, damaged or of a newer version. A store is never silently begun
/// anew in the place of one that cannot be read.
pub async fn open(address: &Address) -> Result<Arc<dyn Store>, StoreError> {
    match address {
        Address::File(path) => Ok(Arc::new(sqlite::Sqlite::open(path)?)),
        Address::Etcd { endpoints, prefix } => Ok(Arc::new(etcd::Etcd::connect(endpoints, prefix).await?)),
    }
}
