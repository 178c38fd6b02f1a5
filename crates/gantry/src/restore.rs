//! `gantry restore`: creates the store, the folders and the volumes of a new machine from a backup.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use gantry_agent::StoredVolume;
use gantry_api::ErrorCode;
use gantry_blobs::DigestHasher;
use gantry_image::{Bounds, UnpackError};
use gantry_linux::rooted;
use gantry_model::{AuditAction, Moment};
use gantry_records::{EventRecord, RecordChange, StoreRecord, machine_of_part_key};
use gantry_store::{Store, StoreAddress};
use rustix::fs::{FlockOperation, OFlags, flock};

use crate::archive::{escaped, read_sums, unescaped};
use crate::args::Machine;
use crate::backup::{BackupRecord, FILES, FOLDERS, FORMAT, FORMAT_WITH_VOLUMES, Heading, JOBS, RECORDS};
use crate::check_servers::FetchedManifests;
use crate::coded::{WithCode, coded, fail, require};
use crate::damage::{BlobReferences, Damage, Fault, digest_of_name, remedies};
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::membership;
use crate::printer::{out, status};
use crate::restore_volumes::{self, VolumeChoice, VolumePlacement, VolumePlan};
use crate::role_volumes::{RoleVolume, role_volumes};
use crate::server_folder;
use crate::store_copy::{self, CopiedRecord, CopyMark};

/// Key of the part that the routes of all apps share.
const ROUTING: &str = "plan/routing";
/// Key of the lowest revision of the apps' keys.
const FLOOR: &str = "coordination/floor";

/// Runs `gantry restore`, on a machine without a store. The store is put in place last, so that an interrupted restore
/// can start over. A store in etcd has a mark before anything is put in place, and until all of the records are there.
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
    let machine = &membership::own_settings(machine)?;
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
            .with_context(|| format!("{} is not a backup of Gantry's", from.display()))
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
    let mut placing = VolumePlacement::begin(&settings);
    let volumes = gantry_agent::stored_volumes(&scratch);
    let planned = restore_volumes::plan(volumes, choice, |volume| placing.state(volume));
    let VolumePlan { place, keep } = match planned {
        Ok(plan) => plan,
        Err(refused) => return Err(coded(refused.code(), format!("{}: {refused}", from.display()))),
    };
    let source = store_copy::source(from.display(), &machine.name()?);
    let target = RestoreTarget::mark(&address, &source).await?;
    // The server's user gets the folder back at the next start of `gantry up`.
    server_folder::reclaim(&machine.data)
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
    // The machine registers again, and so may another machine of the same name.
    lines.retain(|line| !line.key.starts_with("machines/"));
    let lost = lost(&lines, &machine.data);
    tell_lost(&mut lines, &lost, &machine.data)?;
    raise_revisions(&mut lines);
    raise_generations(&mut lines);
    // The store references these files, so they must be on disk first.
    gantry_ledger::sync_file_system(&machine.data)?;
    target.fill(&scratch, &source, &copied(lines)?).await?;
    placing.finish()?;
    gantry_linux::tree::remove(&scratch)?;
    gantry_ledger::sync_file_system(&machine.data)?;
    for damage in &damaged {
        status!("left out: {damage}");
    }
    for remedy in remedies(&damaged) {
        status!("{remedy}");
    }
    for volume in &keep {
        status!("volume {} of {} was not restored: this machine keeps its own", volume.name, volume.app);
    }
    for RoleVolume { app, role, volume, .. } in &lost {
        status!("{app} has no data of volume {}: {role} begins with an empty one", volume.name);
    }
    if !lost.is_empty() {
        status!(
            "To bring data back: `gantry scale APP ROLE=0 --wait`, then `gantry volume import APP NAME --replace FILE`."
        );
    }
    match place.len() {
        0 => out!("{count} records are back; `gantry up` starts the apps"),
        1 => out!("{count} records and 1 volume are back; `gantry up` starts the apps"),
        more => out!("{count} records and {more} volumes are back; `gantry up` starts the apps"),
    }
    Ok(DONE)
}

/// The store that gets the records.
enum RestoreTarget<'a> {
    /// The file at this path. No process uses the file before the file has its final name.
    File(&'a Path),
    /// An etcd that no server and no other copy uses.
    Etcd(Arc<dyn Store>, CopyMark),
}

impl<'a> RestoreTarget<'a> {
    /// Keeps servers and other copies from an etcd.
    async fn mark(address: &'a StoreAddress, source: &str) -> anyhow::Result<Self> {
        if let StoreAddress::File(path) = address {
            return Ok(Self::File(path));
        }
        let store = gantry_store::open(address).await?;
        let mark = match store_copy::unfinished(&store.list("").await?) {
            Some(unfinished) => store_copy::start_over(&*store, unfinished, source).await?,
            None => store_copy::begin(&*store, address, source).await?,
        };
        Ok(Self::Etcd(store, mark))
    }

    /// Writes the records.
    async fn fill(self, scratch: &Path, source: &str, records: &[CopiedRecord]) -> anyhow::Result<()> {
        let path = match self {
            Self::Etcd(store, mark) => return store_copy::copy(&*store, &mark, records).await,
            Self::File(path) => path,
        };
        let fresh = scratch.join("store.db");
        let address = StoreAddress::File(fresh.clone());
        let store = gantry_store::open(&address).await?;
        let mark = store_copy::begin(&*store, &address, source).await?;
        store_copy::copy(&*store, &mark, records).await?;
        drop(store);
        seal_off(&fresh).await?;
        // A store in a folder of its own belongs to the user who owns the folder, as the server does.
        let about = std::fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
        std::os::unix::fs::chown(&fresh, Some(about.uid()), Some(about.gid()))?;
        gantry_store::remove_high_water_mark(path)?;
        std::fs::rename(&fresh, path)
            .with_context(|| format!("cannot put {} in place", path.display()))
            .with_code(ErrorCode::FileUnwritable)
    }
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
fn lost(lines: &[BackupRecord], data: &Path) -> Vec<RoleVolume> {
    let named = role_volumes(lines.iter().map(|line| (line.key.as_str(), &line.value)));
    named.into_iter().filter(|role| !data.join(role.volume.path()).exists()).collect()
}

/// Marks the volumes without data for the agent, and adds an event for each to the records.
fn tell_lost(lines: &mut Vec<BackupRecord>, lost: &[RoleVolume], data: &Path) -> anyhow::Result<()> {
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
            lines.push(BackupRecord { key, value: serde_json::from_slice(&value)? });
        }
    }
    Ok(())
}

/// The lowest revision of the apps' keys after a restore. A fencing token must not be used twice, but the backup does not
/// know the tokens that came after it. No keyspace has a change each microsecond, so the time in microseconds lies above
/// all of them, also above those after an earlier restore.
fn raise_revisions(lines: &mut Vec<BackupRecord>) {
    let known =
        |line: &BackupRecord| line.value.as_u64().or_else(|| line.value["revision"].as_u64()).unwrap_or_default();
    let revisions = lines.iter().filter(|line| line.key == FLOOR || line.key.ends_with("/head"));
    let newest = revisions.filter(|line| line.key.starts_with("coordination/")).map(known).max().unwrap_or_default();
    let floor = gantry_linux::clock::wall().saturating_mul(1000).max(newest + 1);
    lines.retain(|line| line.key != FLOOR);
    lines.push(BackupRecord { key: FLOOR.to_owned(), value: floor.into() });
}

/// Raises the revision of the routes and the generations of the machines' parts above all of before, by the same time.
/// Routers and agents run on meanwhile. If the restored cluster used a number again, routers and agents would take their old
/// contents of that number for the restored contents.
fn raise_generations(lines: &mut Vec<BackupRecord>) {
    let now = gantry_linux::clock::wall().saturating_mul(1000);
    // A cluster without shared settings of routes has no record of them, and its routes have revisions all the same.
    let of_routes = lines.iter().filter(|line| line.key == ROUTING || line.key.starts_with("plan/routes/"));
    let newest = of_routes.filter_map(|line| line.value["revision"].as_u64()).max().unwrap_or_default();
    match lines.iter_mut().find(|line| line.key == ROUTING) {
        Some(line) => line.value["revision"] = newest.into(),
        None => {
            lines.push(BackupRecord { key: ROUTING.to_owned(), value: serde_json::json!({ "revision": newest }) });
        }
    }
    for BackupRecord { key, value } in lines {
        let fields: &[&str] = match key.as_str() {
            ROUTING => &["revision", "floor"],
            key if machine_of_part_key(key).is_some() => &["generation"],
            _ => continue,
        };
        if let Some(newest) = value[fields[0]].as_u64() {
            fields.iter().for_each(|field| value[*field] = now.max(newest + 1).into());
        }
    }
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
                listing.entries.is_empty() || store_copy::unfinished(&listing).is_some(),
                StoreExists,
                "the store {address} has {} records already; name an empty prefix with --store",
                listing.entries.len()
            );
            Ok(())
        }
    }
}

fn read_records(path: &Path) -> anyhow::Result<Vec<BackupRecord>> {
    let file = File::open(path).context("it is not a backup of Gantry's: it has no records")?;
    let mut lines = BufReader::new(file).lines();
    let first = lines.next().context("its records are empty")??;
    let heading: Heading = serde_json::from_str(&first).context("its records have no heading")?;
    ensure!(
        (FORMAT..=FORMAT_WITH_VOLUMES).contains(&heading.gantry_backup),
        "it has format {}, and this gantry knows {FORMAT} and {FORMAT_WITH_VOLUMES}; restore it with a newer gantry",
        heading.gantry_backup
    );
    let records: Vec<BackupRecord> =
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<anyhow::Result<_>>().context("its records")?;
    ensure!(records.len() == heading.records, "it has {} records of {}: it was cut", records.len(), heading.records);
    Ok(records)
}

/// Finds damage: files that differ from their digest or were unreadable, volumes that are incomplete, blobs that differ
/// from the digest in their name, and missing blobs that records reference. A backup with damaged records cannot be
/// restored, and is an error.
fn find_damage(folder: &Path, lines: &[BackupRecord]) -> anyhow::Result<Vec<Damage>> {
    let records = lines.iter().map(|line| (line.key.as_str(), &line.value));
    let needed = BlobReferences::of(records, &folder.join("blobs"), &FetchedManifests::new());
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
    fail!(BackupDamaged, "{}{more}; `gantry restore --skip-damaged FILE` brings back everything else", named.join("; "))
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

/// The records as the store holds them.
fn copied(lines: Vec<BackupRecord>) -> anyhow::Result<Vec<CopiedRecord>> {
    let record = |line: BackupRecord| Ok(CopiedRecord { key: line.key, value: serde_json::to_vec(&line.value)? });
    lines.into_iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_raises_the_revisions_above_all_of_before() {
        let line = |key: &str, value: serde_json::Value| BackupRecord { key: key.to_owned(), value };
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

    #[test]
    fn a_restore_raises_the_generations_of_the_plan() {
        let line = |key: &str, value: serde_json::Value| BackupRecord { key: key.to_owned(), value };
        let ahead = 1_u64 << 60;
        let mut lines = vec![
            line("plan/routing", serde_json::json!({ "revision": 7, "lost": ["m"] })),
            line("plan/machines/m", serde_json::json!({ "generation": ahead, "instances": {} })),
            line("plan/routes/shop", serde_json::json!({ "revision": 7 })),
        ];
        raise_generations(&mut lines);
        let values: Vec<_> = lines.into_iter().map(|line| line.value).collect();
        let [routing, part, routes] = values.try_into().expect("three records");
        let revision = routing["revision"].as_u64().expect("a number");
        assert!(revision > 1_700_000_000_000_000 && routing["floor"] == revision, "{routing}");
        assert_eq!((&routing["lost"], &part["generation"]), (&serde_json::json!(["m"]), &(ahead + 1).into()));
        assert_eq!(routes["revision"], 7, "routes keep the order of their changes");

        // The routes of a cluster whose shared part never changed.
        let mut lines = vec![line("plan/routes/shop", serde_json::json!({ "revision": ahead }))];
        raise_generations(&mut lines);
        let routing = lines.iter().find(|line| line.key == ROUTING).expect("a record");
        assert_eq!(routing.value["revision"], ahead + 1);
        let _: gantry_model::RoutingHead = serde_json::from_value(routing.value.clone()).expect("readable");
    }
}
