//! `gantry store migrate`: copies the records of a stopped cloud into an empty etcd.
//!
//! ```text
//! target is empty, or has the mark of this source ─► mark ─► records, some at a time ─► no mark ─► identity
//! ```
//! The mark names the source. A copy that was killed continues: it writes the same records again. A target without a mark
//! is complete if its records are those of the source, and is refused if it has others. The source stays as it was.

use std::collections::BTreeMap;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_failpoint::failpoint;
use gantry_store::{Store, StoreAddress, StoreEntry, TXN_MAX, Txn, TxnCondition, TxnOutcome};

use crate::args::Machine;
use crate::coded::{WithCode, fail};
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::printer::{out, told};
use crate::server_files::ServerFiles;
use crate::{membership, up};

/// Key of the mark of an unfinished copy.
const MARK: &str = "migrating-from";

/// Largest part of a transaction in bytes; etcd takes 1.5 MiB.
const PART_MAX: usize = 1 << 20;

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
    let entries = ServerFiles::of(machine)?.act_async(async || {
        let store = gantry_store::open(&source).await?;
        Ok(store.list("").await?.entries)
    })?;
    let records: Vec<StoreEntry> = entries.into_iter().filter(|entry| entry.key != "leader").collect();
    let target = gantry_store::open(to).await?;
    let name = source.to_string();
    if !is_copied(&*target, &records).await? {
        prepare(&*target, to, &name).await?;
        copy(&*target, &records).await?;
    }
    failpoint!("migrate.copied");
    if let Some(mut identity) = identity {
        identity.store = Some(to.to_string());
        identity.store(&membership::folder(machine))?;
        told!("`gantry up` uses {to} from now on.");
    } else {
        told!("Start the cloud with `gantry up --store {to}`, or set `store` in the settings file.");
    }
    out!("{} records are in {to}; the store {source} is unchanged", records.len());
    Ok(DONE)
}

/// Copies the records into a marked target, and removes the mark.
async fn copy(target: &dyn Store, records: &[StoreEntry]) -> anyhow::Result<()> {
    failpoint!("migrate.marked");
    for part in parts(records) {
        let txn = part.iter().fold(Txn::default(), |txn, entry| txn.put(&entry.key, entry.value.clone()));
        write(target, txn).await?;
        failpoint!("migrate.part");
    }
    write(target, Txn::default().delete(MARK)).await
}

/// True if the target has these records and no others: an earlier copy was killed after its last write.
async fn is_copied(target: &dyn Store, records: &[StoreEntry]) -> anyhow::Result<bool> {
    let contents = |entries: &[StoreEntry]| {
        let pairs = entries.iter().map(|entry| (entry.key.clone(), entry.value.clone()));
        pairs.collect::<BTreeMap<_, _>>()
    };
    Ok(!records.is_empty() && contents(&target.list("").await?.entries) == contents(records))
}

/// Marks an empty target. Continues a copy of the same source.
async fn prepare(target: &dyn Store, address: &StoreAddress, source: &str) -> anyhow::Result<()> {
    let listing = target.list("").await?;
    let mark = listing.entries.iter().find(|entry| entry.key == MARK);
    match mark {
        Some(mark) if mark.value == source.as_bytes() => return Ok(()),
        Some(mark) => {
            let other = String::from_utf8_lossy(&mark.value);
            fail!(StoreExists, "{address} has an unfinished copy of another store, {other}; name an empty prefix")
        }
        None if !listing.entries.is_empty() => {
            fail!(StoreExists, "there are records at {address} already; name an empty prefix: etcd://…/PREFIX")
        }
        None => {}
    }
    write(target, Txn::default().when(TxnCondition::Absent(MARK.to_owned())).put(MARK, source)).await
}

/// Splits the records into transactions.
fn parts(records: &[StoreEntry]) -> Vec<&[StoreEntry]> {
    let mut parts = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (place, entry) in records.iter().enumerate() {
        let size = entry.key.len() + entry.value.len();
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

async fn write(target: &dyn Store, txn: Txn) -> anyhow::Result<()> {
    match target.commit(txn).await.context("cannot write to the new store")? {
        TxnOutcome::Committed(_) => Ok(()),
        TxnOutcome::Conflict => {
            Err(anyhow::anyhow!("another process writes to the new store")).with_code(ErrorCode::StoreExists)
        }
    }
}
