//! `gantry store migrate`: copies the records of a stopped cloud into an empty etcd.
//!
//! ```text
//! target is empty, or has the mark of this source ─► mark ─► records, some at a time ─► no mark ─► identity
//! ```
//! The mark names the source and this machine. A copy that was killed starts over. A target without a mark
//! is complete if its records are those of the source, and is refused if it has others. The source stays as it was.
//! [`crate::store_copy`] copies the records.

use std::collections::BTreeMap;

use gantry_failpoint::failpoint;
use gantry_store::{Listing, Store, StoreAddress};

use crate::args::Machine;
use crate::backup::is_of_servers;
use crate::coded::fail;
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::printer::{out, status};
use crate::server_files::ServerFiles;
use crate::store_copy::{self, CopiedRecord, CopyMark};
use crate::{membership, up};

/// Runs `gantry store migrate`.
pub(crate) async fn run(machine: &Machine, to: &StoreAddress) -> anyhow::Result<Exit> {
    require_root()?;
    if matches!(to, StoreAddress::File(_)) {
        fail!(InvalidArguments, "--to names an etcd: etcd://host:2379[,host:2379][/prefix]");
    }
    let _lock = up::lock(machine)?;
    let identity = membership::identity(machine)?;
    let source = membership::settings(machine, identity.as_ref())?.store();
    if source == *to {
        fail!(InvalidArguments, "the records are in {to} already");
    }
    let listing = ServerFiles::of(machine)?.act_async(async || {
        let store = gantry_store::open(&source).await?;
        Ok(store.list("").await?)
    })?;
    let records = records_of(listing)?;
    let target = gantry_store::open(to).await?;
    if !is_copied(&*target, &records).await? {
        let mark = prepare(&*target, to, &store_copy::source(&source, &machine.name()?)).await?;
        store_copy::copy(&*target, &mark, &records).await?;
    }
    failpoint!("migrate.copied");
    if let Some(mut identity) = identity {
        identity.store = Some(to.to_string());
        identity.store(&membership::folder(machine))?;
        status!("`gantry up` uses {to} from now on.");
    } else {
        status!("Start the cloud with `gantry up --store {to}`, or set `store` in the settings file.");
    }
    out!("{} records are in {to}; the store {source} is unchanged", records.len());
    Ok(DONE)
}

/// The records to copy. Refuses a source that has only a part of its records.
fn records_of(listing: Listing) -> anyhow::Result<Vec<CopiedRecord>> {
    store_copy::refuse_unfinished(&listing)?;
    let kept = listing.entries.into_iter().filter(|entry| !is_of_servers(&entry.key));
    Ok(kept.map(|entry| CopiedRecord { key: entry.key, value: entry.value }).collect())
}

/// True if the target has these records and no others, but for those of servers: an earlier copy was killed after its last
/// write.
async fn is_copied(target: &dyn Store, records: &[CopiedRecord]) -> anyhow::Result<bool> {
    let there = target.list("").await?.entries.into_iter().filter(|entry| !is_of_servers(&entry.key));
    let there: BTreeMap<String, Vec<u8>> = there.map(|entry| (entry.key, entry.value)).collect();
    let records_to_copy = records.iter().map(|record| (record.key.clone(), record.value.clone())).collect();
    Ok(!records.is_empty() && there == records_to_copy)
}

/// Marks an empty target. Starts over with a copy of the same source.
async fn prepare(target: &dyn Store, address: &StoreAddress, source: &str) -> anyhow::Result<CopyMark> {
    let listing = target.list("").await?;
    match store_copy::unfinished(&listing) {
        Some(mark) if mark.value == source.as_bytes() => store_copy::start_over(target, mark, source).await,
        Some(mark) => {
            let other = String::from_utf8_lossy(&mark.value);
            fail!(StoreExists, "{address} has an unfinished copy of {other}; name an empty prefix")
        }
        None => store_copy::begin(target, address, source).await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_error_codes::ErrorCode;
    use gantry_records::schema::UNFINISHED;
    use gantry_store::{Txn, TxnOutcome};

    use super::*;
    use crate::coded::code_of;

    async fn store(folder: &tempfile::TempDir, name: &str) -> Arc<dyn Store> {
        gantry_store::open(&StoreAddress::File(folder.path().join(name))).await.expect("a store")
    }

    async fn put(store: &dyn Store, keys: &[&str]) {
        let txn = keys.iter().fold(Txn::default(), |txn, key| txn.put(*key, "1"));
        assert!(matches!(store.commit(txn).await.expect("an answer"), TxnOutcome::Committed(_)));
    }

    #[tokio::test]
    async fn a_source_with_a_part_of_its_records_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = store(&folder, "source.db").await;
        put(&*source, &[UNFINISHED, "one"]).await;
        let refused = records_of(source.list("").await.expect("listed")).expect_err("a part");
        assert_eq!(code_of(&refused), Some(ErrorCode::StoreUnfinished), "{refused:#}");
    }

    #[tokio::test]
    async fn a_whole_copy_is_known_after_a_server_has_led_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, target) = (store(&folder, "source.db").await, store(&folder, "target.db").await);
        put(&*source, &["leader", "one", "servers/known/old", "two"]).await;
        let records = records_of(source.list("").await.expect("listed")).expect("whole");
        assert_eq!(records.iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        let address = StoreAddress::File(folder.path().join("target.db"));
        let mark = prepare(&*target, &address, "source on machine m1").await.expect("marked");
        put(&*target, &["one", "removed since"]).await;
        assert!(!is_copied(&*target, &records).await.expect("read"), "a part");
        let refused = prepare(&*target, &address, "source on machine m2").await.expect_err("of another machine");
        assert_eq!(code_of(&refused), Some(ErrorCode::StoreExists), "{refused:#}");
        let again = prepare(&*target, &address, "source on machine m1").await.expect("started over");
        store_copy::copy(&*target, &mark, &records).await.expect_err("the copy that was started over");
        store_copy::copy(&*target, &again, &records).await.expect("copied");
        put(&*target, &["leader", "servers/known/new", "servers/live/new"]).await;
        assert!(is_copied(&*target, &records).await.expect("read"));
        put(&*target, &["three"]).await;
        assert!(!is_copied(&*target, &records).await.expect("read"), "other records");
    }
}
