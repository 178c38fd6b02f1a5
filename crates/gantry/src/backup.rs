//! `gantry backup`. Runs on the server's machine and does not need the server.
//!
//! A backup is a tar file with these parts, in this order:
//! - `records.jsonl`: the store's records, one line of JSON each. The format is the same for every kind of store.
//! - the server's tokens and folders, as they are on disk.
//! - `jobs.db`: the queue of container jobs with its schedules, as of one moment before the records. A queue in PostgreSQL is
//!   not in the archive.
//! - with `--volumes`: `volumes/<app>/<name>/…`, each volume with owners, modes, times and extended attributes.
//! - `sums`: a line with digest and path for each file before it.
//!
//! With several servers, some blobs are on other servers alone. The backup first brings them to this server, through the
//! running server. The packs of pushes are among them: a restore makes the repositories from the packs.
//!
//! A container may write to its volume meanwhile. A backup of such a volume has files of different moments, and the
//! command says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gantry_agent::StoredVolume;
use gantry_api::{Client, ErrorCode};
use gantry_blobs::BlobStore;
use gantry_model::Digest;
use gantry_store::{Listing, StoreAddress};
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::args::Machine;
use crate::check::{REMEDY, missing, needed, report_damage};
use crate::check_servers::FetchedManifests;
use crate::coded::{WithCode, require};
use crate::damage::{Damage, digest_of_name};
use crate::exit::Exit;
use crate::machine::require_root;
use crate::membership::{self, Membership};
use crate::printer::{out, status};
use crate::server_files::ServerFiles;
use crate::store_copy;

/// Versions of the backup format: without volumes, and with volumes. An earlier Gantry would leave the volumes out
/// without a word.
pub(crate) const FORMAT: u32 = 2;
pub(crate) const FORMAT_WITH_VOLUMES: u32 = 3;

/// Name of the file with the store's records.
pub(crate) const RECORDS: &str = "records.jsonl";

/// Folders of the data folder that a backup contains.
pub(crate) const FOLDERS: [&str; 3] = ["blobs", "git", "builds"];

/// Files of the data folder that a backup contains.
pub(crate) const FILES: [&str; 2] = ["admin-token", "machine-token"];

/// The queue's file in the server's folder, and the name of its copy while a backup is written.
pub(crate) const JOBS: &str = "jobs.db";
const JOBS_COPY: &str = "jobs.db-backup";

/// The leadership record. A backup leaves this record out, because leadership holds only while the leader runs.
pub(crate) const LEADER: &str = "leader";

/// Prefix of the records of servers. A backup leaves them out: they describe processes, and one is a secret.
const SERVERS: &str = "servers/";

/// True for a record of the running servers, which no copy of the records has.
pub(crate) fn is_of_servers(key: &str) -> bool {
    key == LEADER || key.starts_with(SERVERS)
}

/// The first line of the records.
#[derive(Serialize, Deserialize)]
pub(crate) struct Heading {
    pub(crate) gantry_backup: u32,
    version: String,
    revision: i64,
    pub(crate) records: usize,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BackupRecord {
    pub(crate) key: String,
    /// JSON in a format of the server's own.
    pub(crate) value: serde_json::Value,
}

/// Runs `gantry backup`: writes all data of the server, as of one moment, while the server runs. With `with_volumes`,
/// also writes the volumes of this machine.
pub(crate) async fn backup(machine: &Machine, with_volumes: bool, to: &Path) -> anyhow::Result<Exit> {
    require_root()?;
    let machine = &membership::own_settings(machine)?;
    let files = ServerFiles::of(machine)?;
    let address = machine.store();
    // Before the records: what a job of the copy runs is in the records.
    let jobs = match &machine.job_store {
        None => JobsCopy::write(&files)?,
        Some(store) => {
            status!(
                "note: the container jobs are in {store} and not in this backup; copy them with pg_dump before you back up"
            );
            None
        }
    };
    let listing = files.act_async(async || {
        if let StoreAddress::File(path) = &address {
            require!(
                path.exists(),
                StoreMissing,
                "there is no store at {}; `gantry up` makes the store, and --data names another data folder",
                path.display()
            );
        }
        Ok(gantry_store::open(&address).await?.list("").await?)
    })?;
    store_copy::refuse_unfinished(&listing)?;
    let blobs = files.path("blobs");
    if let StoreAddress::Etcd { .. } = &address {
        // The certificate of a member, or else the administrator's token.
        let client = match Membership::open(machine)? {
            Some(membership) => membership.client(),
            None => {
                let token = std::fs::read_to_string(machine.data.join(FILES[0])).unwrap_or_default();
                Client::new(&machine.server_url(), token.trim())
            }
        };
        files.act_async(async || gather(&client, &listing, &blobs).await)?;
    }
    let fetched = FetchedManifests::new();
    let needed = files.act(|| Ok(needed(&listing, &blobs, &fetched)))?;
    let mut text = Vec::new();
    let kept: Vec<_> = listing.entries.iter().filter(|entry| !is_of_servers(&entry.key)).collect();
    let heading = Heading {
        gantry_backup: if with_volumes { FORMAT_WITH_VOLUMES } else { FORMAT },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: listing.revision,
        records: kept.len(),
    };
    serde_json::to_writer(&mut text, &heading)?;
    text.push(b'\n');
    for entry in &kept {
        let value = serde_json::from_slice(&entry.value)
            .with_context(|| format!("the record {} is not JSON. {REMEDY}", entry.key))
            .with_code(ErrorCode::StoreDamaged)?;
        serde_json::to_writer(&mut text, &BackupRecord { key: entry.key.clone(), value })?;
        text.push(b'\n');
    }
    let volumes = if with_volumes { gantry_agent::stored_volumes(&machine.data) } else { Vec::new() };
    let fresh = PathBuf::from(format!("{}.new", to.display()));
    let written = write_archive(&fresh, machine, &files, &text, jobs.as_ref(), &volumes);
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
            return Err(error.context(format!("cannot write the backup {}", to.display())))
                .with_code(ErrorCode::FileUnwritable);
        }
    };
    for damage in &mut damaged {
        damage.needed_by = digest_of_name(Path::new(&damage.file)).map(|hex| needed.by(hex)).unwrap_or_default();
    }
    damaged.extend(files.act_async(async || missing(&address, &needed, &blobs, &fetched).await)?);
    let records = format!("{}: {} records, revision {}", to.display(), kept.len(), listing.revision);
    match (with_volumes, volumes.len()) {
        (true, 1) => out!("{records}, 1 volume"),
        (true, count) => out!("{records}, {count} volumes"),
        (false, _) => {
            out!("{records}");
            if !gantry_agent::stored_volumes(&machine.data).is_empty() {
                status!("The volumes of the apps are not in it; `gantry backup --volumes FILE` includes them.");
            }
        }
    }
    Ok(report_damage(
        &damaged,
        "Everything else is in the backup; `gantry restore --skip-damaged FILE` brings it back.",
    ))
}

/// Brings the blobs that the records name, and that only other servers have, to this server. A blob that no server gives
/// counts as missing afterwards.
async fn gather(client: &Client, listing: &Listing, folder: &Path) -> anyhow::Result<()> {
    let blobs = BlobStore::in_folder(folder)?;
    let (mut asked, mut refused) = (BTreeSet::new(), None);
    loop {
        // A manifest that has come names further blobs.
        let missing = needed(listing, folder, &FetchedManifests::new()).missing(folder);
        let missing =
            missing.iter().filter_map(|damage| Digest::from_hex(digest_of_name(Path::new(&damage.file))?).ok());
        let missing: Vec<Digest> = missing.filter(|digest| asked.insert(digest.clone())).collect();
        if missing.is_empty() {
            break;
        }
        for digest in missing {
            let brought = async {
                let pieces = client.stream(&format!("/v2/backup/blobs/{digest}")).await?;
                blobs.put_stream(pieces, Some(&digest)).await?;
                anyhow::Ok(())
            };
            refused = brought.await.err().or(refused);
        }
    }
    if let Some(error) = refused {
        status!("warning: the server does not give blobs that this machine lacks: {error:#}");
    }
    Ok(())
}

/// A copy of the queue's file as of one moment. The copy is removed with this value.
struct JobsCopy<'a> {
    files: &'a ServerFiles,
    path: PathBuf,
}

impl<'a> JobsCopy<'a> {
    /// Copies the queue's file. None for a server that never had a queue.
    fn write(files: &'a ServerFiles) -> anyhow::Result<Option<Self>> {
        let copy = Self { files, path: files.path(JOBS_COPY) };
        // Left over from a backup that was killed.
        copy.remove();
        let jobs = files.path(JOBS);
        let copied = files.act(|| {
            if jobs.exists() {
                gantry_queue_store::copy_queue(&jobs, &copy.path)?;
            }
            Ok(jobs.exists())
        });
        let copied = copied.context("cannot copy the queue of jobs").with_code(ErrorCode::FileUnwritable)?;
        Ok(Some(copy).filter(|_| copied))
    }

    fn remove(&self) {
        let _ = self.files.act(|| Ok(std::fs::remove_file(&self.path)?));
    }
}

impl Drop for JobsCopy<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Writes the archive. The records come first, because every blob they reference already exists.
fn write_archive(
    path: &Path,
    machine: &Machine,
    files: &ServerFiles,
    records: &[u8],
    jobs: Option<&JobsCopy<'_>>,
    volumes: &[StoredVolume],
) -> anyhow::Result<Vec<Damage>> {
    let mut archive = Archive::create(path)?;
    archive.add_bytes(Path::new(RECORDS), records)?;
    let tokens = ServerFiles::in_folder(&machine.data)?;
    tokens.act(|| FILES.iter().try_for_each(|name| archive.add_file(Path::new(name), &tokens.path(name))))?;
    files.act(|| FOLDERS.iter().try_for_each(|name| archive.add_folder(&files.path(name), Path::new(name))))?;
    if let Some(jobs) = jobs {
        files.act(|| archive.add_file(Path::new(JOBS), &jobs.path))?;
    }
    for volume in volumes {
        add_volume(&mut archive, machine, volume)?;
    }
    archive.finish()
}

/// Adds a volume to the archive, and warns about files that a container may change meanwhile.
fn add_volume(archive: &mut Archive, machine: &Machine, volume: &StoredVolume) -> anyhow::Result<()> {
    let StoredVolume { app, name } = volume;
    let users = volume.users(&machine.agent()?);
    let Some(archived) = archive.add_volume(&machine.data, volume)? else {
        status!("volume {name} of {app} was removed during the backup");
        return Ok(());
    };
    if !users.is_empty() {
        status!(
            "warning: {} may have written to volume {name} of {app} meanwhile: its files may be of different moments, \
             and {} changed while they were read",
            users.join(", "),
            archived.changed
        );
        status!(
            "for files of one moment, stop it first with `gantry scale APP ROLE=0 --wait`, or use the program's own dump"
        );
    }
    Ok(())
}
