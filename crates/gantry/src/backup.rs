//! `gantry backup`, `gantry restore` and `gantry store check`: on the server's own machine, without the server.
//!
//! A backup is a tar file: `records.jsonl`, the store's records as one line of JSON each, whichever store they are in, and
//! below it the server's folders as they are on disk. Volumes belong to their applications and are not in it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use gantry_image::Bounds;
use gantry_model::Digest;
use gantry_store::{Address, Store, Txn};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::args::Machine;
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::printer::{out, told};

/// The format of what is written here.
const FORMAT: u32 = 1;

/// The store's records in a backup.
const RECORDS: &str = "records.jsonl";

/// What of the data folder is in a backup.
const FOLDERS: [&str; 3] = ["blobs", "git", "builds"];

/// And these files.
const FILES: [&str; 2] = ["admin-token", "machine-token"];

/// Who leads is true for as long as it does.
const LEADER: &str = "leader";

/// Records written at a time.
const BATCH: usize = 100;

/// The first line of the records.
#[derive(Serialize, Deserialize)]
struct Heading {
    gantry_backup: u32,
    version: String,
    revision: i64,
    records: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    /// JSON of the server's own.
    value: serde_json::Value,
}

/// `gantry store check`.
pub(crate) async fn check(machine: &Machine) -> anyhow::Result<Exit> {
    let address = machine.store();
    if let Address::File(path) = &address {
        ensure!(path.exists(), "there is no store at {}; `gantry up` makes one", path.display());
        let sound = gantry_store::check_file(path).with_context(|| REMEDY.to_owned());
        if sound?.is_none() {
            out!("{}: sound, of the first format; `gantry up` takes it over", path.display());
            return Ok(DONE);
        }
    }
    let listing = gantry_store::open(&address).await?.list("").await?;
    for entry in &listing.entries {
        if entry.key != LEADER {
            serde_json::from_slice::<serde_json::Value>(&entry.value)
                .with_context(|| format!("the record {} is no JSON. {REMEDY}", entry.key))?;
        }
    }
    out!("sound: {} records, revision {}", listing.entries.len(), listing.revision);
    Ok(DONE)
}

/// What to do about a damaged store.
const REMEDY: &str = "Move it away and bring a backup back: gantry restore FILE";

/// `gantry backup`: everything that the server knows, at one moment, while it runs.
pub(crate) async fn backup(machine: &Machine, to: &Path) -> anyhow::Result<Exit> {
    require_root()?;
    let address = machine.store();
    if let Address::File(path) = &address {
        ensure!(path.exists(), "there is no store at {}", path.display());
    }
    let listing = gantry_store::open(&address).await?.list("").await?;
    let mut text = Vec::new();
    let kept: Vec<_> = listing.entries.iter().filter(|entry| entry.key != LEADER).collect();
    let heading = Heading {
        gantry_backup: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: listing.revision,
        records: kept.len(),
    };
    serde_json::to_writer(&mut text, &heading)?;
    text.push(b'\n');
    for entry in &kept {
        let value = serde_json::from_slice(&entry.value).with_context(|| format!("the record {}", entry.key))?;
        serde_json::to_writer(&mut text, &Line { key: entry.key.clone(), value })?;
        text.push(b'\n');
    }
    let fresh = PathBuf::from(format!("{}.new", to.display()));
    let written = write_archive(&fresh, &machine.data, &text);
    if let Err(error) = written.and_then(|()| Ok(std::fs::rename(&fresh, to)?)) {
        let _ = std::fs::remove_file(&fresh);
        return Err(error.context(format!("cannot write the backup {}", to.display())));
    }
    out!("{}: {} records, revision {}", to.display(), kept.len(), listing.revision);
    told!("Volumes are not in it: they belong to their applications.");
    Ok(DONE)
}

/// The records first: what they name was there before them.
fn write_archive(path: &Path, data: &Path, records: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
    archive.follow_symlinks(false);
    let mut header = tar::Header::new_gnu();
    header.set_size(records.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, RECORDS, records)?;
    for name in FILES {
        if data.join(name).exists() {
            archive.append_path_with_name(data.join(name), name)?;
        }
    }
    for name in FOLDERS {
        append_folder(&mut archive, &data.join(name), Path::new(name))?;
    }
    let mut file = archive.into_inner()?;
    file.flush()?;
    file.get_ref().sync_all()?;
    Ok(())
}

/// A file that goes while it is read was on its way, or collected: nothing of the records names it.
fn append_folder(archive: &mut tar::Builder<impl Write>, folder: &Path, name: &Path) -> anyhow::Result<()> {
    let mut folders = vec![(folder.to_owned(), name.to_owned())];
    while let Some((folder, name)) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        archive.append_dir(&name, &folder)?;
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !is_on_its_way(&entry.file_name().to_string_lossy()) {
                folders.push((path, name));
            } else if kind.is_file() {
                match File::open(&path) {
                    Ok(file) => append_file(archive, &name, &file)?,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(())
}

/// What an upload or a push has not brought to its end.
fn is_on_its_way(folder: &str) -> bool {
    folder == "uploads" || folder.starts_with("tmp_objdir-")
}

/// A file as long as it is now, whatever is written to it meanwhile: a log may grow, and be cut.
fn append_file(archive: &mut tar::Builder<impl Write>, name: &Path, file: &File) -> anyhow::Result<()> {
    use std::io::Read;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&file.metadata()?);
    let size = header.size()?;
    archive.append_data(&mut header, name, file.chain(std::io::repeat(0)).take(size))?;
    Ok(())
}

/// `gantry restore`: into a machine that has nothing yet. The store comes last: one that was cut off is begun again.
pub(crate) async fn restore(machine: &Machine, from: &Path) -> anyhow::Result<Exit> {
    require_root()?;
    crate::services::make_folders(machine)?;
    let lock = File::options().create(true).truncate(false).write(true).open(machine.data.join("up.lock"))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("`gantry up` runs with the data folder {}; end it first", machine.data.display());
    }
    let address = machine.store();
    refuse_to_replace(&address).await?;
    let file = File::open(from).with_context(|| format!("cannot read the backup {}", from.display()))?;
    let scratch = machine.data.join("restoring");
    gantry_linux::tree::remove(&scratch)?;
    std::fs::create_dir(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let bounds = Bounds { bytes: u64::MAX, entries: u64::MAX };
    gantry_image::unpack(BufReader::new(file), &scratch, bounds)
        .with_context(|| format!("{} is no backup of Gantry's", from.display()))?;
    let lines = read_records(&scratch.join(RECORDS)).with_context(|| format!("{}", from.display()))?;
    check_blobs(&scratch.join("blobs"))?;
    for name in FOLDERS.iter().chain(&FILES) {
        let (source, target) = (scratch.join(name), machine.data.join(name));
        if source.exists() {
            gantry_linux::tree::remove(&target)?;
            std::fs::rename(&source, &target).with_context(|| format!("cannot put {} in place", target.display()))?;
        }
    }
    let count = lines.len();
    match &address {
        Address::File(path) => {
            // Under another name until it is whole.
            let fresh = scratch.join("store.db");
            write_records(&*gantry_store::open(&Address::File(fresh.clone())).await?, lines).await?;
            seal_off(&fresh).await?;
            gantry_store::forget(path)?;
            std::fs::rename(&fresh, path).with_context(|| format!("cannot put {} in place", path.display()))?;
        }
        Address::Etcd { .. } => write_records(&*gantry_store::open(&address).await?, lines).await?,
    }
    gantry_linux::tree::remove(&scratch)?;
    out!("{count} records are back; `gantry up` starts what they want");
    Ok(DONE)
}

/// Its writer ends a moment after its last handle.
async fn seal_off(path: &Path) -> anyhow::Result<()> {
    for _ in 0..250 {
        match gantry_store::seal_off(path) {
            Err(gantry_store::StoreError::Locked { .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            result => return Ok(result?),
        }
    }
    bail!("the store {} is still in use", path.display())
}

async fn refuse_to_replace(address: &Address) -> anyhow::Result<()> {
    match address {
        Address::File(path) => {
            // SQLite would read a log that is left into the store that takes its place.
            let parts = ["", "-wal", "-shm", "-journal"].map(|end| PathBuf::from(format!("{}{end}", path.display())));
            match parts.iter().find(|part| part.exists()) {
                Some(part) => bail!("there is a store at {} already; move it away first", part.display()),
                None => Ok(()),
            }
        }
        Address::Etcd { .. } => {
            let listing = gantry_store::open(address).await?.list("").await?;
            ensure!(listing.entries.is_empty(), "the store has {} records already", listing.entries.len());
            Ok(())
        }
    }
}

fn read_records(path: &Path) -> anyhow::Result<Vec<Line>> {
    let file = File::open(path).context("it is no backup of Gantry's: it has no records")?;
    let mut lines = BufReader::new(file).lines();
    let first = lines.next().context("its records are empty")??;
    let heading: Heading = serde_json::from_str(&first).context("its records have no heading")?;
    ensure!(heading.gantry_backup == FORMAT, "it has format {}, this gantry knows {FORMAT}", heading.gantry_backup);
    let records: Vec<Line> =
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<anyhow::Result<_>>().context("its records")?;
    ensure!(records.len() == heading.records, "it has {} records of {}: it was cut", records.len(), heading.records);
    Ok(records)
}

/// Every blob is what its name says.
fn check_blobs(folder: &Path) -> anyhow::Result<()> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    for part in entries(&folder.join("sha256")) {
        for blob in entries(&part.path()) {
            let mut hasher = gantry_blobs::Hasher::default();
            std::io::copy(&mut File::open(blob.path())?, &mut hasher)?;
            let name = blob.file_name();
            let named = Digest::from_hex(&name.to_string_lossy()).ok();
            ensure!(named == Some(hasher.finish()), "the backup's blob {} is damaged", name.display());
        }
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
