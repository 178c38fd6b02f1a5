//! A copy of records into an empty store, in several transactions: by `gantry store migrate`, and by `gantry restore`.
//!
//! ```text
//! empty store ─► mark ─► records, some at a time ─► no mark
//! mark of a copy that has not ended ─► mark ─► no records ─► records, some at a time ─► no mark
//! ```
//! No server writes into a store with a mark. The transaction that sets the mark requires that the store is empty. Each
//! later transaction requires that the mark is still the one of this copy. A second copy into the store sets a mark of its
//! own, and thereby ends the first: the records of two copies are never mixed. A copy that was killed is completed by its
//! repetition.

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_failpoint::failpoint;
use gantry_model::MachineName;
use gantry_records::schema::{SchemaError, UNFINISHED};
use gantry_store::{Listing, Revision, Store, StoreAddress, StoreEntry, TXN_MAX, Txn, TxnCondition, TxnOutcome};

use crate::coded::{coded, fail};

/// Largest part of a transaction in bytes; etcd takes 1.5 MiB.
const PART_MAX: usize = 1 << 20;

/// A record to copy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CopiedRecord {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
}

/// Shows the size of the value. Values contain keys and configuration.
impl std::fmt::Debug for CopiedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopiedRecord").field("key", &self.key).field("value_bytes", &self.value.len()).finish()
    }
}

/// The mark of a copy in a store.
#[derive(Debug)]
pub(crate) struct CopyMark {
    /// Revision that set the mark.
    revision: Revision,
}

impl CopyMark {
    /// A transaction of the copy with this mark.
    fn transaction(&self) -> Txn {
        Txn::default().when(TxnCondition::Modified(UNFINISHED.to_owned(), self.revision))
    }
}

/// The name of a copy's source, for the mark: a store or a backup, with the machine that has its path.
pub(crate) fn source(path: impl std::fmt::Display, machine: &MachineName) -> String {
    format!("{path} on machine {machine}")
}

/// The mark of an unfinished copy in a store.
pub(crate) fn unfinished(listing: &Listing) -> Option<&StoreEntry> {
    listing.entries.iter().find(|entry| entry.key == UNFINISHED)
}

/// Fails if a store has only a part of its records.
pub(crate) fn refuse_unfinished(listing: &Listing) -> anyhow::Result<()> {
    let Some(mark) = unfinished(listing) else { return Ok(()) };
    Err(coded(ErrorCode::StoreUnfinished, SchemaError::unfinished(&mark.value).to_string()))
}

/// Marks an empty store.
pub(crate) async fn begin(target: &dyn Store, address: &StoreAddress, source: &str) -> anyhow::Result<CopyMark> {
    let marked = Txn::default().when(TxnCondition::NoKeys(String::new())).put(UNFINISHED, source);
    match target.commit(marked).await.context(WRITE_FAILED)? {
        TxnOutcome::Committed(revision) => Ok(CopyMark { revision }),
        TxnOutcome::Conflict => fail!(StoreExists, "there are records at {address} already; name an empty prefix"),
    }
}

/// Makes the unfinished copy in a store one of this source, and removes the records that the copy has written.
pub(crate) async fn start_over(target: &dyn Store, mark: &StoreEntry, source: &str) -> anyhow::Result<CopyMark> {
    let before = CopyMark { revision: mark.modified };
    let mark = CopyMark { revision: write(target, before.transaction().put(UNFINISHED, source)).await? };
    let listing = target.list("").await.context("cannot read the store")?;
    let written: Vec<&StoreEntry> = listing.entries.iter().filter(|entry| entry.key != UNFINISHED).collect();
    for part in written.chunks(TXN_MAX) {
        write(target, part.iter().fold(mark.transaction(), |txn, entry| txn.delete(&entry.key))).await?;
    }
    Ok(mark)
}

/// Copies the records into a store with this mark, and removes the mark.
pub(crate) async fn copy(target: &dyn Store, mark: &CopyMark, records: &[CopiedRecord]) -> anyhow::Result<()> {
    failpoint!("copy.marked");
    for part in parts(records) {
        let txn = part.iter().fold(mark.transaction(), |txn, record| txn.put(&record.key, record.value.clone()));
        write(target, txn).await?;
        failpoint!("copy.part");
    }
    write(target, mark.transaction().delete(UNFINISHED)).await?;
    Ok(())
}

/// Splits the records into transactions.
fn parts(records: &[CopiedRecord]) -> Vec<&[CopiedRecord]> {
    let mut parts = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (place, record) in records.iter().enumerate() {
        let size = record.key.len() + record.value.len();
        if place > begin && (bytes + size > PART_MAX || place - begin == TXN_MAX - 1) {
            parts.push(&records[begin..place]);
            (begin, bytes) = (place, 0);
        }
        bytes += size;
    }
    if begin < records.len() {
        parts.push(&records[begin..]);
    }
    parts
}

/// Message about a transaction whose outcome is unknown or that the store refused.
const WRITE_FAILED: &str = "cannot write to the new store";

/// Writes a transaction of a copy. Fails if the mark is no longer that of the copy.
async fn write(target: &dyn Store, txn: Txn) -> anyhow::Result<Revision> {
    match target.commit(txn).await.context(WRITE_FAILED)? {
        TxnOutcome::Committed(revision) => Ok(revision),
        TxnOutcome::Conflict => fail!(
            StoreExists,
            "cannot go on with the copy: another `gantry restore` or `gantry store migrate` writes to the new store; let it \
             end, or repeat this command"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coded::code_of;

    fn record(number: usize, size: usize) -> CopiedRecord {
        CopiedRecord { key: format!("{number:04}"), value: vec![b'x'; size] }
    }

    #[test]
    fn debug_leaves_out_values() {
        let shown = format!("{:?}", CopiedRecord { key: "config/shop".to_owned(), value: b"AAAA".to_vec() });
        assert!(shown.contains("config/shop") && !shown.contains("65"), "{shown}");
    }

    #[test]
    fn parts_are_all_records_in_order_and_bounded() {
        let small: Vec<CopiedRecord> = (0..TXN_MAX * 3).map(|number| record(number, 10)).collect();
        let large: Vec<CopiedRecord> = (0..20).map(|number| record(number, PART_MAX / 3)).collect();
        for records in [&small, &large] {
            let parts = parts(records);
            assert_eq!(parts.concat(), *records);
            let size = |part: &[CopiedRecord]| part.iter().map(|record| record.value.len()).sum::<usize>();
            assert!(parts.iter().all(|part| part.len() < TXN_MAX && size(part) <= PART_MAX));
        }
        assert!(parts(&[]).is_empty());
        assert_eq!(parts(&[record(1, PART_MAX * 2)]).len(), 1, "a record is never split");
    }

    async fn store(folder: &tempfile::TempDir) -> (StoreAddress, std::sync::Arc<dyn Store>) {
        let address = StoreAddress::File(folder.path().join("store.db"));
        let store = gantry_store::open(&address).await.expect("a store");
        (address, store)
    }

    /// The keys in a store.
    async fn keys(store: &dyn Store) -> Vec<String> {
        store.list("").await.expect("listed").entries.into_iter().map(|entry| entry.key).collect()
    }

    #[tokio::test]
    async fn an_unfinished_copy_is_cleared_and_repeated() {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, store) = store(&folder).await;
        let first = begin(&*store, &address, "backup.tar").await.expect("marked");
        for number in 0..300 {
            let record = record(number, 1);
            write(&*store, first.transaction().put(record.key, record.value)).await.expect("written");
        }
        let listing = store.list("").await.expect("listed");
        let mark = unfinished(&listing).expect("a mark");
        assert_eq!(mark.value, b"backup.tar");
        let second = start_over(&*store, mark, "newer.tar").await.expect("cleared");
        let listing = store.list("").await.expect("listed");
        let left: Vec<_> = listing.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice())).collect();
        assert_eq!(left, [(UNFINISHED, &b"newer.tar"[..])]);
        copy(&*store, &second, &[record(500, 1)]).await.expect("copied");
        assert_eq!(keys(&*store).await, ["0500"]);
    }

    #[tokio::test]
    async fn a_store_with_any_record_gets_no_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, store) = store(&folder).await;
        // A server has begun there since the restore looked.
        store.commit(Txn::default().put("leader", "m1")).await.expect("written");
        let refused = begin(&*store, &address, "backup.tar").await.expect_err("not empty");
        assert_eq!(code_of(&refused), Some(ErrorCode::StoreExists), "{refused:#}");
        assert_eq!(keys(&*store).await, ["leader"]);
    }

    #[tokio::test]
    async fn a_second_copy_ends_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, store) = store(&folder).await;
        let first = begin(&*store, &address, "one.tar").await.expect("marked");
        let refused = begin(&*store, &address, "two.tar").await.expect_err("marked already");
        assert_eq!(code_of(&refused), Some(ErrorCode::StoreExists), "{refused:#}");
        let listing = store.list("").await.expect("listed");
        let mark = unfinished(&listing).expect("a mark");
        let second = start_over(&*store, mark, "two.tar").await.expect("cleared");
        for records in [&[record(1, 1)][..], &[]] {
            let refused = copy(&*store, &first, records).await.expect_err("the mark is of another copy");
            assert_eq!(code_of(&refused), Some(ErrorCode::StoreExists), "{refused:#}");
        }
        start_over(&*store, mark, "one.tar").await.expect_err("the mark was read before");
        assert_eq!(keys(&*store).await, [UNFINISHED], "the first copy wrote nothing more");
        copy(&*store, &second, &[record(2, 1)]).await.expect("copied");
        assert_eq!(keys(&*store).await, ["0002"]);
    }
}
