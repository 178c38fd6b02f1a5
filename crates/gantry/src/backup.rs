//! `gantry backup`, `gantry check` and `gantry store check`. They run on the server's machine and do not need the
//! server.
//!
//! A backup is a tar file with these parts, in this order:
//! - `records.jsonl`: the store's records, one line of JSON each. The format is the same for every kind of store.
//! - the server's tokens and folders, as they are on disk.
//! - `sums`: a line with digest and path for each file before it.
//!
//! Volumes belong to their applications and are not part of a backup.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use gantry_blobs::DigestHasher;
use gantry_model::Digest;
use gantry_store::StoreAddress;
use serde::{Deserialize, Serialize};

use crate::args::Machine;
use crate::damage::{Damage, Fault, Needed, REMEDY as REMEDY_OF_DAMAGE, digest_of_name};
use crate::exit::{DONE, Exit, FAILED};
use crate::machine::require_root;
use crate::printer::{out, told};

/// Version of the backup format.
pub(crate) const FORMAT: u32 = 2;

/// Name of the file with the store's records.
pub(crate) const RECORDS: &str = "records.jsonl";

/// Name of the file with the digest of every other file; detects truncated and changed backups.
pub(crate) const SUMS: &str = "sums";

/// Folders of the data folder that a backup contains.
pub(crate) const FOLDERS: [&str; 3] = ["blobs", "git", "builds"];

/// Files of the data folder that a backup contains.
pub(crate) const FILES: [&str; 2] = ["admin-token", "machine-token"];

/// The leadership record. A backup leaves this record out, because leadership holds only while the leader runs.
const LEADER: &str = "leader";

/// The first line of the records.
#[derive(Serialize, Deserialize)]
pub(crate) struct Heading {
    pub(crate) gantry_backup: u32,
    version: String,
    revision: i64,
    pub(crate) records: usize,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) key: String,
    /// JSON in a format of the server's own.
    pub(crate) value: serde_json::Value,
}

/// Runs `gantry store check`: checks the store alone.
pub(crate) async fn check(machine: &Machine) -> anyhow::Result<Exit> {
    let address = machine.store();
    if let StoreAddress::File(path) = &address {
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

/// The remedy for a damaged store.
const REMEDY: &str = "Move it away and bring a backup back: gantry restore FILE";

/// Runs `gantry backup`: writes all data of the server, as of one moment, while the server runs.
pub(crate) async fn backup(machine: &Machine, to: &Path) -> anyhow::Result<Exit> {
    require_root()?;
    let address = machine.store();
    if let StoreAddress::File(path) = &address {
        ensure!(path.exists(), "there is no store at {}", path.display());
    }
    let listing = gantry_store::open(&address).await?.list("").await?;
    let blobs = machine.data.join("blobs");
    let needed = needed(&listing, &blobs);
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
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let renamed = written.and_then(|damaged| {
        std::fs::rename(&fresh, to)?;
        gantry_ledger::sync(folder)?;
        Ok(damaged)
    });
    let mut damaged = match renamed {
        Ok(damaged) => damaged,
        Err(error) => {
            let _ = std::fs::remove_file(&fresh);
            return Err(error.context(format!("cannot write the backup {}", to.display())));
        }
    };
    for damage in &mut damaged {
        damage.needed_by = digest_of_name(Path::new(&damage.file)).map(|hex| needed.by(hex)).unwrap_or_default();
    }
    damaged.extend(missing(&address, needed, &blobs).await?);
    out!("{}: {} records, revision {}", to.display(), kept.len(), listing.revision);
    told!("Volumes are not in it: they belong to their applications.");
    Ok(tell(&damaged, "Everything else is in the backup; `gantry restore --skip-damaged` brings it back."))
}

/// Prints the damage and the remedy; returns the exit status.
fn tell(damaged: &[Damage], then: &str) -> Exit {
    if damaged.is_empty() {
        return DONE;
    }
    for damage in damaged {
        told!("gantry: {damage}");
    }
    told!("{REMEDY_OF_DAMAGE}");
    told!("{then}");
    FAILED
}

fn needed(listing: &gantry_store::Listing, blobs: &Path) -> Needed {
    let values: Vec<(&str, serde_json::Value)> = listing
        .entries
        .iter()
        .filter_map(|entry| Some((entry.key.as_str(), serde_json::from_slice(&entry.value).ok()?)))
        .collect();
    Needed::of(values.iter().map(|(key, value)| (*key, value)), blobs)
}

/// Blobs that are referenced but missing. Reads the records a second time: blobs that lost their last reference
/// meanwhile may have been garbage-collected.
async fn missing(address: &StoreAddress, needed: Needed, blobs: &Path) -> anyhow::Result<Vec<Damage>> {
    let before = needed.missing(blobs);
    if before.is_empty() {
        return Ok(before);
    }
    let now = self::needed(&gantry_store::open(address).await?.list("").await?, blobs).missing(blobs);
    Ok(now.into_iter().filter(|damage| before.iter().any(|other| other.file == damage.file)).collect())
}

/// Runs `gantry check`: reads the store, every blob and every repository. With `repair`, removes damaged blobs. A
/// damaged blob has no use, and a client that uploads an image skips the blobs that the registry already has.
pub(crate) async fn check_everything(machine: &Machine, repair: bool) -> anyhow::Result<Exit> {
    require_root()?;
    if check(machine).await? != DONE {
        return Ok(FAILED);
    }
    let address = machine.store();
    let blobs = machine.data.join("blobs");
    let needed = needed(&gantry_store::open(&address).await?.list("").await?, &blobs);
    let (count, mut damaged) = read_blobs(&blobs)?;
    for damage in &mut damaged {
        damage.needed_by = digest_of_name(Path::new(&damage.file)).map(|hex| needed.by(hex)).unwrap_or_default();
    }
    if repair {
        for damage in damaged.iter().filter(|damage| damage.fault == Fault::Changed) {
            let path = machine.data.join(&damage.file);
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            told!("removed {}", damage.file);
        }
    }
    let gone = missing(&address, needed, &blobs).await?;
    let known = |damage: &Damage| damaged.iter().any(|other: &Damage| other.file == damage.file);
    let gone: Vec<Damage> = gone.into_iter().filter(|damage| !known(damage)).collect();
    damaged.extend(gone);
    let (repositories, broken) = check_repositories(&machine.data.join("git")).await;
    damaged.extend(broken);
    if damaged.is_empty() {
        out!("sound: {count} blobs, {repositories} repositories");
    }
    Ok(tell(&damaged, "A backup from before the damage has what is missing here."))
}

/// Compares every blob with the digest in its name. Returns the number of blobs and the damaged ones.
fn read_blobs(blobs: &Path) -> anyhow::Result<(usize, Vec<Damage>)> {
    let (mut count, mut damaged) = (0, Vec::new());
    for folder in std::fs::read_dir(blobs.join("sha256")).into_iter().flatten().flatten() {
        for entry in std::fs::read_dir(folder.path())?.flatten() {
            let name = Path::new("blobs/sha256").join(folder.file_name()).join(entry.file_name());
            let mut hasher = DigestHasher::default();
            let read = File::open(entry.path()).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
            let fault = match read {
                // Garbage collection may remove a blob at any time.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => Some(Fault::Unreadable(error.to_string())),
                Ok(_) => (digest_of_name(&name) != Some(hasher.finish().hex())).then_some(Fault::Changed),
            };
            count += 1;
            let damage = |fault| Damage { file: name.display().to_string(), fault, needed_by: Vec::new() };
            damaged.extend(fault.map(damage));
        }
    }
    Ok((count, damaged))
}

/// Timeout of git for one repository.
const FSCK: std::time::Duration = std::time::Duration::from_secs(600);

/// Runs `git fsck` on every repository. Returns the number of repositories and the damaged ones.
async fn check_repositories(folder: &Path) -> (usize, Vec<Damage>) {
    let (mut count, mut broken) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(app) = name.strip_suffix(".git") else { continue };
        count += 1;
        let mut git = tokio::process::Command::new("git");
        git.args(["fsck", "--full", "--no-dangling", "--no-progress"]).env("GIT_DIR", entry.path()).kill_on_drop(true);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .stdin(std::process::Stdio::null());
        let fault = match tokio::time::timeout(FSCK, git.output()).await {
            Ok(Ok(output)) if output.status.success() => continue,
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                said.lines().next().unwrap_or("git fsck failed").to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("git fsck did not end in {} s", FSCK.as_secs()),
        };
        let needed_by = vec![format!("pushes to {app}")];
        broken.push(Damage { file: format!("git/{name}"), fault: Fault::Unreadable(fault), needed_by });
    }
    (count, broken)
}

/// A backup archive being written, with the digests of its files.
struct Archive {
    tar: tar::Builder<BufWriter<File>>,
    sums: String,
    damaged: Vec<Damage>,
}

impl Archive {
    /// Adds a file with the size from `header`.
    fn add(&mut self, mut header: tar::Header, name: &Path, bytes: impl Read) -> anyhow::Result<Digest> {
        let mut hashed = Hashed { bytes, hasher: DigestHasher::default() };
        self.tar.append_data(&mut header, name, &mut hashed)?;
        let digest = hashed.hasher.finish();
        self.sums += &format!("{digest} {}\n", name.display());
        Ok(digest)
    }

    /// Adds a file with its size at this moment. A log may grow or shrink during the read: further bytes are left out,
    /// missing bytes become zeros. A file that is gone was temporary or garbage-collected, and no record references
    /// such a file.
    fn add_file(&mut self, name: &Path, path: &Path) -> anyhow::Result<()> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&file.metadata()?);
        let size = header.size()?;
        let mut file = Lenient { file, error: None };
        let digest = self.add(header, name, (&mut file).chain(std::io::repeat(0)).take(size))?;
        let changed =
            digest_of_name(name).is_some_and(|digest_of_name| digest_of_name != digest.hex()).then_some(Fault::Changed);
        let unreadable = file.error.map(|error| Fault::Unreadable(error.to_string()));
        let damage = |fault| Damage { file: name.display().to_string(), fault, needed_by: Vec::new() };
        self.damaged.extend(unreadable.or(changed).map(damage));
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path, name: &Path) -> anyhow::Result<()> {
        let mut folders = vec![(folder.to_owned(), name.to_owned())];
        while let Some((folder, name)) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            self.tar.append_dir(&name, &folder)?;
            for entry in entries.flatten() {
                let (path, name) = (entry.path(), name.join(entry.file_name()));
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() && !is_on_its_way(&entry.file_name().to_string_lossy()) {
                    folders.push((path, name));
                } else if kind.is_file() {
                    self.add_file(&name, &path)?;
                }
            }
        }
        Ok(())
    }
}

/// A file reader that treats a read error as the end of the file: a backup without one file is worth more than no
/// backup.
struct Lenient {
    file: File,
    error: Option<std::io::Error>,
}

impl Read for Lenient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.file.read(buffer) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                self.error = Some(error);
                Ok(0)
            }
            result => result,
        }
    }
}

/// A reader that hashes the bytes passing through.
struct Hashed<R> {
    bytes: R,
    hasher: DigestHasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.bytes.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

fn header_of(bytes: &[u8]) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header
}

/// Writes the archive. The records come first, because every blob they reference already exists. The digests come last,
/// so that a truncated archive has none.
fn write_archive(path: &Path, data: &Path, records: &[u8]) -> anyhow::Result<Vec<Damage>> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    let mut archive =
        Archive { tar: tar::Builder::new(BufWriter::new(file)), sums: String::new(), damaged: Vec::new() };
    archive.add(header_of(records), Path::new(RECORDS), records)?;
    for name in FILES {
        archive.add_file(Path::new(name), &data.join(name))?;
    }
    for name in FOLDERS {
        archive.add_folder(&data.join(name), Path::new(name))?;
    }
    let Archive { mut tar, sums, damaged } = archive;
    tar.append_data(&mut header_of(sums.as_bytes()), SUMS, sums.as_bytes())?;
    let mut file = tar.into_inner()?;
    file.flush()?;
    file.get_ref().sync_all()?;
    Ok(damaged)
}

/// Returns whether a folder belongs to an unfinished upload or push.
fn is_on_its_way(folder: &str) -> bool {
    folder == "uploads" || folder.starts_with("tmp_objdir-")
}
