//! `gantry restore`: creates the store, the folders and the volumes of a new machine from a backup.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use gantry_agent::StoredVolume;
use gantry_api::ErrorCode;
use gantry_blobs::DigestHasher;
use gantry_image::{Bounds, UnpackError};
use gantry_linux::rooted;
use gantry_model::{AuditAction, Moment};
use gantry_records::{EventRecord, RecordChange, StoreRecord};
use gantry_store::{Store, StoreAddress, Txn};
use rustix::fs::{FlockOperation, OFlags, flock};

use crate::archive::{escaped, read_sums, unescaped};
use crate::args::Machine;
use crate::backup::{FILES, FOLDERS, FORMAT, FORMAT_WITH_VOLUMES, Heading, JOBS, Line, RECORDS};
use crate::check_servers::FetchedManifests;
use crate::coded::{WithCode, coded, fail, require};
use crate::damage::{Damage, Fault, Needed, digest_of_name, remedies};
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::printer::{out, told};
use crate::restore_volumes::{self, Placing, VolumeChoice, VolumePlan};
use crate::role_volumes::{RoleVolume, role_volumes};
use crate::server_folder;

/// Key of the lowest revision of the apps' keys.
const FLOOR: &str = "coordination/floor";

/// Number of records in one transaction.
const BATCH: usize = 100;

/// Runs `gantry restore`, on a machine without a store. The store is put in place last, so that an interrupted restore
/// can start over.
///
/// A backup with damaged files is refused; with `skip_damaged`, the restore leaves these files out. `choice` says which
/// volumes of the backup come back.
pub(crate) async fn restore(
    machine: &Machine,
    from: &Path,
    skip_damaged: bool,
    choice: Option<VolumeChoice>,
) -> anyhow::Result<Exit> {
    require_root()?;
    crate::services::make_folders(machine)?;
    let lock = File::options().create(true).truncate(false).write(true).open(machine.data.join("up.lock"))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        fail!(AlreadyRunning, "`gantry up` runs with the data folder {}; end it first", machine.data.display());
    }
    // Empty the lock file: a process that finds the lock held must not take an old process id for that of `gantry up`.
    lock.set_len(0)?;
    let address = machine.store();
    refuse_to_replace(&address).await?;
    let file = File::open(from).with_context(|| format!("cannot read the backup {}", from.display()));
    let file = file.with_code(ErrorCode::FileUnreadable)?;
    let scratch = machine.data.join("restoring");
    gantry_linux::tree::remove(&scratch)?;
    std::fs::create_dir(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))
        .with_code(ErrorCode::FileUnwritable)?;
    let bounds = Bounds { bytes: u64::MAX, entries: u64::MAX };
    match gantry_image::unpack_volume(BufReader::new(file), &scratch, bounds) {
        Err(UnpackError::Cut) if scratch.join(RECORDS).exists() => {
            fail!(InvalidBackup, "{}: it was cut: it has no end mark", from.display())
        }
        unpacked => unpacked
            .with_context(|| format!("{} is no backup of Gantry's", from.display()))
            .with_code(ErrorCode::InvalidBackup)?,
    };
    let named = || format!("{}", from.display());
    let lines = read_records(&scratch.join(RECORDS)).with_context(named);
    let mut lines = lines.with_code(ErrorCode::InvalidBackup)?;
    let damaged = find_damage(&scratch, &lines).with_context(named)?;
    if !skip_damaged {
        refuse_damage(&damaged).with_context(named)?;
    }
    leave_out(&scratch, &damaged)?;
    let settings = machine.agent()?;
    let mut placing = Placing::begin(&settings);
    let volumes = gantry_agent::stored_volumes(&scratch);
    let planned = restore_volumes::plan(volumes, choice, |volume| placing.state(volume));
    let VolumePlan { place, keep } = match planned {
        Ok(plan) => plan,
        Err(refused) => return Err(coded(refused.code(), format!("{}: {refused}", from.display()))),
    };
    // The server's user gets the folder back at the next start of `gantry up`.
    server_folder::take_away(&machine.data)
        .context("cannot close the server's folder")
        .with_code(ErrorCode::FileUnwritable)?;
    let server = machine.server_data();
    let folders = FOLDERS.iter().map(|name| (name, server.join(name)));
    let files = FILES.iter().map(|name| (name, machine.data.join(name)));
    for (name, target) in folders.chain(files) {
        let source = scratch.join(name);
        if source.exists() {
            gantry_linux::tree::remove(&target)?;
            std::fs::rename(&source, &target)
                .with_context(|| format!("cannot put {} in place", target.display()))
                .with_code(ErrorCode::FileUnwritable)?;
        }
    }
    restore_jobs(&scratch, &server)?;
    placing.place(&scratch, &place)?;
    let count = lines.len();
    // The machine registers anew, and so may another machine of the same name.
    lines.retain(|line| !line.key.starts_with("machines/"));
    let lost = lost(&lines, &machine.data);
    tell_lost(&mut lines, &lost, &machine.data)?;
    raise_revisions(&mut lines);
    // The store references these files, so they must be on disk first.
    gantry_ledger::sync_file_system(&machine.data)?;
    match &address {
        StoreAddress::File(path) => {
            // The store gets its final name only once it is complete.
            let fresh = scratch.join("store.db");
            write_records(&*gantry_store::open(&StoreAddress::File(fresh.clone())).await?, lines).await?;
            seal_off(&fresh).await?;
            // A store in a folder of its own belongs to the user who owns the folder, as the server does.
            let about = std::fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
            std::os::unix::fs::chown(&fresh, Some(about.uid()), Some(about.gid()))?;
            gantry_store::remove_high_water_mark(path)?;
            std::fs::rename(&fresh, path)
                .with_context(|| format!("cannot put {} in place", path.display()))
                .with_code(ErrorCode::FileUnwritable)?;
        }
        StoreAddress::Etcd { .. } => write_records(&*gantry_store::open(&address).await?, lines).await?,
    }
    placing.finish()?;
    gantry_linux::tree::remove(&scratch)?;
    gantry_ledger::sync_file_system(&machine.data)?;
    for damage in &damaged {
        told!("left out: {damage}");
    }
    for remedy in remedies(&damaged) {
        told!("{remedy}");
    }
    for volume in &keep {
        told!("volume {} of {} was not restored: this machine keeps its own", volume.name, volume.app);
    }
    for RoleVolume { app, role, volume, .. } in &lost {
        told!("{app} has no data of volume {}: {role} begins with an empty one", volume.name);
    }
    if !lost.is_empty() {
        told!(
            "To bring data back: `gantry scale APP ROLE=0 --wait`, then `gantry volume import APP NAME --replace FILE`."
        );
    }
    match place.len() {
        0 => out!("{count} records are back; `gantry up` starts what they want"),
        1 => out!("{count} records and 1 volume are back; `gantry up` starts what they want"),
        more => out!("{count} records and {more} volumes are back; `gantry up` starts what they want"),
    }
    Ok(DONE)
}

/// Puts the queue's file in place. The log of another file must not be applied to it.
fn restore_jobs(scratch: &Path, server: &Path) -> anyhow::Result<()> {
    let source = scratch.join(JOBS);
    if !source.exists() {
        return Ok(());
    }
    for end in ["", "-wal", "-shm"] {
        gantry_linux::tree::remove(&server.join(format!("{JOBS}{end}")))?;
    }
    let target = server.join(JOBS);
    std::fs::rename(&source, &target)
        .with_context(|| format!("cannot put {} in place", target.display()))
        .with_code(ErrorCode::FileUnwritable)
}

/// Volumes of roles that this machine has no data of.
fn lost(lines: &[Line], data: &Path) -> Vec<RoleVolume> {
    let named = role_volumes(lines.iter().map(|line| (line.key.as_str(), &line.value)));
    named.into_iter().filter(|role| !data.join(role.volume.path()).exists()).collect()
}

/// Marks the volumes without data for the agent, and adds an event for each to the records.
fn tell_lost(lines: &mut Vec<Line>, lost: &[RoleVolume], data: &Path) -> anyhow::Result<()> {
    let numbers = lines.iter().filter(|line| line.key.starts_with("events/"));
    let newest = numbers.filter_map(|line| line.value["number"].as_u64()).max();
    let free = newest.map_or(0, |newest| newest + 1)..;
    for (number, RoleVolume { app, role, volume, .. }) in free.zip(lost) {
        volume.mark_lost(data).with_context(|| format!("cannot mark volume {} of {app}", volume.name))?;
        let action = AuditAction::VolumeLost { volume: volume.name.clone(), role: role.clone() };
        let event = EventRecord::new(number, Moment(gantry_linux::clock::wall()), "gantry", Some(app.clone()), action);
        let change = RecordChange::from(StoreRecord::Event(event));
        if let (key, Some(value)) = change.entry()? {
            lines.retain(|line| line.key != key);
            lines.push(Line { key, value: serde_json::from_slice(&value)? });
        }
    }
    Ok(())
}

/// The lowest revision of the apps' keys after a restore. A fencing token must not be used twice, but the backup does not
/// know the tokens that came after it. No keyspace has a change each microsecond, so the time in microseconds lies above
/// all of them, also above those after an earlier restore.
fn raise_revisions(lines: &mut Vec<Line>) {
    let known = |line: &Line| line.value.as_u64().or_else(|| line.value["revision"].as_u64()).unwrap_or_default();
    let revisions = lines.iter().filter(|line| line.key == FLOOR || line.key.ends_with("/head"));
    let newest = revisions.filter(|line| line.key.starts_with("coordination/")).map(known).max().unwrap_or_default();
    let floor = gantry_linux::clock::wall().saturating_mul(1000).max(newest + 1);
    lines.retain(|line| line.key != FLOOR);
    lines.push(Line { key: FLOOR.to_owned(), value: floor.into() });
}

/// Merges the store's log into the store file. Retries while the file is locked, because the store's writer ends a
/// moment after its last handle.
async fn seal_off(path: &Path) -> anyhow::Result<()> {
    for _ in 0..250 {
        match gantry_store::merge_log(path) {
            Err(gantry_store::StoreError::Locked { .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            result => return Ok(result?),
        }
    }
    bail!("the store {} is still in use", path.display())
}

async fn refuse_to_replace(address: &StoreAddress) -> anyhow::Result<()> {
    match address {
        StoreAddress::File(path) => {
            // SQLite would apply a leftover log to the new store.
            let parts = ["", "-wal", "-shm", "-journal"].map(|end| PathBuf::from(format!("{}{end}", path.display())));
            match parts.iter().find(|part| part.exists()) {
                Some(part) => {
                    fail!(StoreExists, "there is a store at {} already; move it away first", part.display())
                }
                None => Ok(()),
            }
        }
        StoreAddress::Etcd { .. } => {
            let listing = gantry_store::open(address).await?.list("").await?;
            require!(
                listing.entries.is_empty(),
                StoreExists,
                "the store has {} records already",
                listing.entries.len()
            );
            Ok(())
        }
    }
}

fn read_records(path: &Path) -> anyhow::Result<Vec<Line>> {
    let file = File::open(path).context("it is no backup of Gantry's: it has no records")?;
    let mut lines = BufReader::new(file).lines();
    let first = lines.next().context("its records are empty")??;
    let heading: Heading = serde_json::from_str(&first).context("its records have no heading")?;
    ensure!(
        (FORMAT..=FORMAT_WITH_VOLUMES).contains(&heading.gantry_backup),
        "it has format {}, this gantry knows {FORMAT} and {FORMAT_WITH_VOLUMES}",
        heading.gantry_backup
    );
    let records: Vec<Line> =
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<anyhow::Result<_>>().context("its records")?;
    ensure!(records.len() == heading.records, "it has {} records of {}: it was cut", records.len(), heading.records);
    Ok(records)
}

/// Finds damage: files that differ from their digest or were unreadable, volumes that are incomplete, blobs that differ
/// from the digest in their name, and missing blobs that records reference. A backup with damaged records cannot be
/// restored, and is an error.
fn find_damage(folder: &Path, lines: &[Line]) -> anyhow::Result<Vec<Damage>> {
    let records = lines.iter().map(|line| (line.key.as_str(), &line.value));
    let needed = Needed::of(records, &folder.join("blobs"), &FetchedManifests::new());
    let root = File::open(folder)?;
    let mut damaged = Vec::new();
    for sum in read_sums(folder).with_code(ErrorCode::InvalidBackup)? {
        let sum = sum.with_code(ErrorCode::InvalidBackup)?;
        let blob = digest_of_name(&sum.path);
        let mut damage = |fault| {
            let needed_by = blob.map(|hex| needed.by(hex)).unwrap_or_default();
            damaged.push(Damage { file: escaped(&sum.path), fault, needed_by });
        };
        let Some(digest) = sum.digest else {
            damage(Fault::Unreadable("the backup has no more of it".to_owned()));
            continue;
        };
        let Ok(file) = rooted::open(&root, &sum.path, OFlags::RDONLY | OFlags::NONBLOCK) else {
            damage(Fault::Missing);
            continue;
        };
        let mut hasher = DigestHasher::default();
        std::io::copy(&mut File::from(file), &mut hasher)?;
        let found = hasher.finish();
        if found != digest || blob.is_some_and(|hex| hex != found.hex()) {
            damage(Fault::Changed);
        }
    }
    let is_whole = !damaged.iter().any(|damage| damage.file == RECORDS);
    require!(is_whole, BackupDamaged, "its {RECORDS} is damaged");
    let missing = needed.missing(&folder.join("blobs"));
    let missing: Vec<Damage> =
        missing.into_iter().filter(|missing| !damaged.iter().any(|known| known.file == missing.file)).collect();
    damaged.extend(missing);
    Ok(damaged)
}

/// Number of files that an error names.
const NAMED: usize = 10;

fn refuse_damage(damaged: &[Damage]) -> anyhow::Result<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = damaged.iter().take(NAMED).map(|damage| format!("its {damage}")).collect();
    let more = damaged.len() - named.len();
    let more = if more > 0 { format!("; and {more} more files") } else { String::new() };
    fail!(BackupDamaged, "{}{more}; `gantry restore --skip-damaged` brings back everything else", named.join("; "))
}

/// Deletes damaged files and incomplete volumes, so that no reader trusts them.
fn leave_out(folder: &Path, damaged: &[Damage]) -> anyhow::Result<()> {
    let root = File::open(folder)?;
    let incomplete: Vec<StoredVolume> = gantry_agent::stored_volumes(folder)
        .into_iter()
        .filter(|volume| damaged.iter().any(|damage| Path::new(&damage.file) == volume.path()))
        .collect();
    for volume in &incomplete {
        gantry_linux::tree::remove(&folder.join(volume.path()))?;
    }
    for damage in damaged.iter().filter(|damage| damage.fault != Fault::Missing) {
        let name = unescaped(&damage.file);
        if incomplete.iter().any(|volume| name.starts_with(volume.path())) {
            continue;
        }
        let (Some(parent), Some(file)) = (name.parent(), name.file_name()) else { continue };
        let parent = rooted::open(&root, parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::unlinkat(parent, file, rustix::fs::AtFlags::empty())
            .with_context(|| format!("cannot leave out {}", damage.file))?;
    }
    Ok(())
}

async fn write_records(store: &dyn Store, lines: Vec<Line>) -> anyhow::Result<()> {
    for batch in lines.chunks(BATCH) {
        let mut txn = Txn::default();
        for line in batch {
            txn = txn.put(line.key.clone(), serde_json::to_vec(&line.value)?);
        }
        store.commit(txn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_raises_the_revisions_above_all_of_before() {
        let line = |key: &str, value: serde_json::Value| Line { key: key.to_owned(), value };
        let ahead = 1 << 60;
        for (head, least) in [(7, 1_700_000_000_000_000_u64), (ahead, ahead + 1)] {
            let head = serde_json::json!({ "revision": head });
            let mut lines = vec![line("coordination/shop/head", head), line("coordination/floor", 5.into())];
            raise_revisions(&mut lines);
            let floors: Vec<u64> =
                lines.iter().filter(|line| line.key == FLOOR).filter_map(|line| line.value.as_u64()).collect();
            assert!(floors.len() == 1 && floors[0] >= least, "{floors:?}");
        }
    }
}
