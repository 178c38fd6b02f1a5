//! Transactions: conditions and writes.

use std::collections::BTreeSet;

use crate::entry::{LeaseId, Revision};
use crate::store_error::StoreError;

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
#[derive(Clone, PartialEq, Eq)]
pub enum TxnWrite {
    /// Sets a key. A key with a lease is removed when the lease ends.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Removes a key; a missing key is not an error.
    Delete(String),
}

/// Shows the size of the value. Values contain keys and configuration.
impl std::fmt::Debug for TxnWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Put(key, value, lease) => f.debug_tuple("Put").field(key).field(&value.len()).field(lease).finish(),
            Self::Delete(key) => f.debug_tuple("Delete").field(key).finish(),
        }
    }
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
    pub(crate) fn check(&self) -> Result<(), StoreError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::StoreEntry;

    #[test]
    fn debug_leaves_out_values() {
        let txn = format!("{:?}", Txn::default().put("config/shop", *b"AAAA").delete("config/old"));
        let entry = StoreEntry { key: "config/shop".to_owned(), value: b"AAAA".to_vec(), created: 1, modified: 2 };
        for text in [txn, format!("{entry:?}")] {
            assert!(text.contains("config/shop") && !text.contains("65") && !text.contains("AAAA"), "{text}");
        }
    }
}
