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
mod entry;
mod etcd;
mod sqlite;
mod store;
mod store_error;
mod txn;

use std::sync::Arc;

pub use address::{AddressError, ClientFiles, EtcdTls, StoreAddress};
pub use entry::{ChangeBatch, KeyChange, LeaseId, Listing, Revision, StoreEntry};
pub use sqlite::{check as check_file, check_format, is_writable, merge_log, read_value, remove_high_water_mark};
pub use store::{Store, StoreFault, StoreWatch};
pub use store_error::StoreError;
pub use txn::{TXN_MAX, Txn, TxnCondition, TxnOutcome, TxnWrite};

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
