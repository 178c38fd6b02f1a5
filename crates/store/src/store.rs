//! The trait of all stores.

use std::time::Duration;

use async_trait::async_trait;

use crate::entry::{ChangeBatch, LeaseId, Listing, Revision, StoreEntry};
use crate::store_error::StoreError;
use crate::txn::{Txn, TxnOutcome};

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

    /// Returns the faults of the store's members; a store in a file has no members.
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
