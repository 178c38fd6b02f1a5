//! `gantry check` and `gantry store check`. They run on the server's machine and do not need the server.

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use gantry_api::ErrorCode;
use gantry_blobs::DigestHasher;
use gantry_store::StoreAddress;

use crate::args::{Machine, Remote};
use crate::backup::{JOBS, LEADER};
use crate::check_data::{check_layers, check_volumes};
use crate::check_servers::{FetchedManifests, OtherServers};
use crate::coded::{WithCode, require};
use crate::damage::{BlobReferences, Damage, Fault, digest_of_name, remedies};
use crate::exit::{DONE, Exit, FAILED};
use crate::machine::require_root;
use crate::membership;
use crate::printer::{out, status};
use crate::server_files::ServerFiles;
use crate::store_copy;

/// Runs `gantry store check`: checks the store alone.
pub(crate) async fn check(machine: &Machine) -> anyhow::Result<Exit> {
    check_records(&membership::own_settings(machine)?)
}

fn check_records(machine: &Machine) -> anyhow::Result<Exit> {
    ServerFiles::of(machine)?.act_async(async || check_store(&machine.store()).await)
}

async fn check_store(address: &StoreAddress) -> anyhow::Result<Exit> {
    if let StoreAddress::File(path) = address {
        require!(
            path.exists(),
            StoreMissing,
            "there is no store at {}; `gantry up` makes the store, and --data names another data folder",
            path.display()
        );
        let sound = gantry_store::check_file(path).with_context(|| REMEDY.to_owned());
        if sound?.is_none() {
            out!("{}: sound, of the first format; `gantry up` takes it over", path.display());
            return Ok(DONE);
        }
    }
    let listing = gantry_store::open(address).await?.list("").await?;
    store_copy::refuse_unfinished(&listing)?;
    for entry in &listing.entries {
        if entry.key != LEADER {
            serde_json::from_slice::<serde_json::Value>(&entry.value)
                .with_context(|| format!("the record {} is not JSON. {REMEDY}", entry.key))
                .with_code(ErrorCode::StoreDamaged)?;
        }
    }
    out!("sound: {} records, revision {}", listing.entries.len(), listing.revision);
    Ok(DONE)
}

/// The remedy for a damaged store.
pub(crate) const REMEDY: &str = "Move it away and bring a backup back: gantry restore FILE";

/// Prints the damage and the remedy; returns the exit status.
pub(crate) fn report_damage(damaged: &[Damage], then: &str) -> Exit {
    if damaged.is_empty() {
        return DONE;
    }
    for damage in damaged {
        status!("gantry: {damage} [{}]", ErrorCode::DataDamaged);
    }
    for remedy in remedies(damaged) {
        status!("{remedy}");
    }
    status!("{then}");
    FAILED
}

/// The records of a store, as JSON.
fn records(listing: &gantry_store::Listing) -> Vec<(&str, serde_json::Value)> {
    let entries = listing.entries.iter();
    entries.filter_map(|entry| Some((entry.key.as_str(), serde_json::from_slice(&entry.value).ok()?))).collect()
}

/// References of the records to blobs. `fetched` has manifests that are not in the folder `blobs`.
pub(crate) fn needed(listing: &gantry_store::Listing, blobs: &Path, fetched: &FetchedManifests) -> BlobReferences {
    BlobReferences::of(records(listing).iter().map(|(key, value)| (*key, value)), blobs, fetched)
}

/// Blobs that are referenced but missing. Reads the records a second time: blobs that lost their last reference
/// meanwhile may have been garbage-collected.
pub(crate) async fn missing(
    address: &StoreAddress,
    needed: &BlobReferences,
    blobs: &Path,
    fetched: &FetchedManifests,
) -> anyhow::Result<Vec<Damage>> {
    let before = needed.missing(blobs);
    if before.is_empty() {
        return Ok(before);
    }
    let now = self::needed(&gantry_store::open(address).await?.list("").await?, blobs, fetched).missing(blobs);
    Ok(now.into_iter().filter(|damage| before.iter().any(|other| other.file == damage.file)).collect())
}

/// Runs `gantry check`: reads the store, and every blob, repository, unpacked layer and volume of this machine. Blobs may be
/// on other servers, and volumes on other machines. With `repair`, removes damaged blobs and layers: nothing has a use for them, and a start unpacks a missing layer again.
pub(crate) async fn check_everything(machine: &Machine, remote: &Remote, repair: bool) -> anyhow::Result<Exit> {
    require_root()?;
    let machine = &membership::own_settings(machine)?;
    if check_records(machine)? != DONE {
        return Ok(FAILED);
    }
    let others = OtherServers::of(machine, remote)?;
    let files = ServerFiles::of(machine)?;
    let address = machine.store();
    let blobs = files.path("blobs");
    let listing = files.act_async(async || Ok(gantry_store::open(&address).await?.list("").await?))?;
    let mut fetched = FetchedManifests::new();
    let mut needed = files.act(|| Ok(self::needed(&listing, &blobs, &fetched)))?;
    if let Some(others) = &others {
        fetched = files.act_async(async || Ok(others.manifests(&needed, &blobs).await))?;
        needed = files.act(|| Ok(self::needed(&listing, &blobs, &fetched)))?;
    }
    let (count, mut damaged) = files.act(|| read_blobs(&blobs))?;
    for damage in &mut damaged {
        damage.needed_by = digest_of_name(Path::new(&damage.file)).map(|hex| needed.by(hex)).unwrap_or_default();
    }
    if repair {
        for damage in damaged.iter().filter(|damage| damage.fault == Fault::Changed) {
            let path = files.path(&damage.file);
            files
                .act(|| Ok(std::fs::remove_file(&path)?))
                .with_context(|| format!("cannot remove {}", path.display()))
                .with_code(ErrorCode::FileUnwritable)?;
            status!("removed {}", damage.file);
        }
    }
    let gone = files.act_async(async || {
        let gone = missing(&address, &needed, &blobs, &fetched).await?;
        Ok(match &others {
            Some(others) => others.explain(gone).await,
            None => gone,
        })
    })?;
    let known = |damage: &Damage| damaged.iter().any(|other: &Damage| other.file == damage.file);
    let gone: Vec<Damage> = gone.into_iter().filter(|damage| !known(damage)).collect();
    damaged.extend(gone);
    let git = files.path("git");
    let (repositories, broken) = files.act_async(async || Ok(check_repositories(&git).await))?;
    damaged.extend(broken);
    let (jobs, broken) = check_jobs(&files)?;
    damaged.extend(broken);
    let (layers, broken) = check_layers(machine, &files, &needed, repair)?;
    damaged.extend(broken);
    let (volumes, broken) = check_volumes(machine, &records(&listing))?;
    damaged.extend(broken);
    if damaged.is_empty() {
        out!("sound: {count} blobs, {repositories} repositories, {layers} layers, {volumes} volumes, {jobs} jobs");
    }
    Ok(report_damage(&damaged, "A backup from before the damage has the missing parts."))
}

/// Checks the queue of jobs. Returns the number of jobs, and the damage.
fn check_jobs(files: &ServerFiles) -> anyhow::Result<(u64, Option<Damage>)> {
    let path = files.path(JOBS);
    let checked = files.act(|| Ok(path.exists().then(|| gantry_queue_store::check_queue(&path))))?;
    Ok(match checked {
        None => (0, None),
        Some(Ok(jobs)) => (jobs, None),
        Some(Err(error)) => {
            let fault = Fault::Unreadable(error.to_string());
            (0, Some(Damage { file: JOBS.to_owned(), fault, needed_by: vec!["container jobs".to_owned()] }))
        }
    })
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
            .env("HOME", "/nonexistent")
            .stdin(std::process::Stdio::null());
        let fault = match tokio::time::timeout(FSCK, git.output()).await {
            Ok(Ok(output)) if output.status.success() => continue,
            Ok(Ok(output)) => {
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                stderr.lines().next().unwrap_or("git fsck failed").to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("git fsck did not end in {} s", FSCK.as_secs()),
        };
        let needed_by = vec![format!("pushes to {app}")];
        broken.push(Damage { file: format!("git/{name}"), fault: Fault::Unreadable(fault), needed_by });
    }
    (count, broken)
}
