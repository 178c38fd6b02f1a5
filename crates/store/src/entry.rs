//! Entries of a store, and their changes.

/// Number of a committed write. Each write raises the revision by at least one, and all keys share the sequence.
pub type Revision = i64;

/// A key with its value.
#[derive(Clone, PartialEq, Eq)]
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

/// Shows the size of the value. Values contain keys and configuration.
impl std::fmt::Debug for StoreEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreEntry")
            .field("key", &self.key)
            .field("value_bytes", &self.value.len())
            .field("created", &self.created)
            .field("modified", &self.modified)
            .finish()
    }
}

/// The entries with a common prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries, sorted by key.
    pub entries: Vec<StoreEntry>,
    /// Revision of the listing. A watch from this revision misses no change made after the listing.
    pub revision: Revision,
}

/// Identifier of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseId(pub i64);

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
