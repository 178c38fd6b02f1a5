//! Volumes: folders that outlive containers, releases and apps.
//!
//! ```text
//! volumes/<app>/<name>/                      a volume
//! volumes/<app>/.used-<name>                 its modification time is that of the last use
//! volumes/<app>/.snapshots/<name>/<snapshot>/
//! volumes/<app>/.half-…                      unfinished or discarded; removed at the agent's start
//! volumes/<app>/.lost-<name>                 a restore found no data; the first release to get the volume, by its name
//! ```
//! - [`Volumes`]: makes volumes for containers, and says who has them. Begin there.
//! - `session`: carries out what people ask for.
//! - `transfer`: a volume as a tar stream, and back.
//! - `snapshots`: copies of a volume beside the volume.
//! - `lost`: volumes that begin empty after a restore.
//! - `offline`: volumes for commands that run beside the agent.
//!
//! Files of a volume have the container's user ids on the disk, because the kernel maps the owners of its mount. A
//! container may change a volume at any time: every access below the volume's own folder goes through
//! [`gantry_linux::walk`]. A volume is replaced or removed by a rename, so that it is whole or gone after a crash.

mod lost;
pub(crate) mod offline;
mod session;
mod snapshots;
mod transfer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_api::volumes::{VolumeOwner, VolumeReport, instances};
use gantry_api::{ErrorCode, Problem};
use gantry_model::{AllocationId, AppName, Bytes, Moment, VolumeName};
use gantry_sandbox::ProcessUser;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::instance::InstanceError;
use crate::records::{self, ContainerPaths};
use crate::workload::{TransientMetadata, all_metadata, write_metadata};
use crate::{AgentContext, AgentSettings};

pub(crate) use lost::warning as lost_warning;
pub(crate) use session::serve;

/// Prefix of folders that are unfinished or discarded. No name of a volume begins with a dot.
const UNFINISHED_PREFIX: &str = ".half-";

/// A volume, by the folder of its app's volumes and its name. The folder has the name that the app had first.
type Key = (AppName, VolumeName);

/// The volumes of this machine.
#[derive(Default)]
pub(crate) struct Volumes {
    /// Number of readers of each volume. The lock is held while a volume is created, replaced or removed, and while its
    /// users are looked for.
    readers: Mutex<BTreeMap<Key, u32>>,
}

/// Keeps a volume from being replaced and removed while it is read.
struct VolumeReadGuard<'a> {
    volumes: &'a Volumes,
    key: Key,
}

impl Drop for VolumeReadGuard<'_> {
    fn drop(&mut self) {
        let mut readers = self.volumes.lock();
        if let Some(count) = readers.get_mut(&self.key) {
            *count -= 1;
        }
        readers.retain(|_, count| *count > 0);
    }
}

impl Volumes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, u32>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the folder of a volume for the container `holder`, and creates a missing volume, owned by `user`.
    ///
    /// # Errors
    /// When the folder cannot be created, or a one-off has the volume for itself.
    pub(crate) fn bind(
        &self,
        settings: &AgentSettings,
        app: &AppName,
        name: &str,
        holder: &str,
        user: ProcessUser,
    ) -> io::Result<PathBuf> {
        let _guard = self.lock();
        if let Some(other) = taken_alone(settings, app, name).filter(|other| other != holder) {
            return Err(io::Error::other(waits(name, &other)));
        }
        let folder = folder_of(settings, app);
        let path = folder.join(name);
        if !path.exists() {
            // The rename makes the volume appear complete or not at all: the app cannot write to a volume that root
            // still owns.
            let fresh = folder.join(format!(".new-{name}"));
            std::fs::create_dir_all(&fresh)?;
            std::os::unix::fs::chown(&fresh, Some(user.uid), Some(user.gid))?;
            gantry_failpoint::failpoint!("volume.made");
            std::fs::rename(&fresh, &path)?;
            gantry_failpoint::failpoint!("volume.named");
        }
        lost::bound(settings, app, name, holder);
        mark_used(settings, app, name);
        Ok(path)
    }

    /// Writes the note of a one-off, which then has its volumes.
    ///
    /// # Errors
    /// When another container has a volume that the one-off needs for itself, or the note cannot be written.
    pub(crate) fn claim(
        &self,
        settings: &AgentSettings,
        note: &TransientMetadata,
        paths: &ContainerPaths,
    ) -> Result<(), InstanceError> {
        let _guard = self.lock();
        for (app, name) in note.volume_folder.iter().flat_map(|app| note.alone.iter().map(move |name| (app, name))) {
            if let Some(other) = in_use(settings, app, name).first() {
                return Err(InstanceError::VolumeInUse {
                    volume: name.clone(),
                    app: app.clone(),
                    holder: other.clone(),
                    remedy: remedy(std::slice::from_ref(other)),
                });
            }
        }
        write_metadata(paths, note).map_err(InstanceError::Prepare)
    }

    /// Opens a volume for reading. Until the returned guard is dropped, the volume is not replaced or removed.
    fn read(
        &self,
        settings: &AgentSettings,
        key: &Key,
    ) -> Result<(VolumeReadGuard<'_>, std::os::fd::OwnedFd), Problem> {
        let mut readers = self.lock();
        let top = gantry_linux::walk::top(&path_of(settings, key)).map_err(|error| failed("open", key, &error))?;
        *readers.entry(key.clone()).or_default() += 1;
        Ok((VolumeReadGuard { volumes: self, key: key.clone() }, top))
    }

    /// Puts the folder `fresh` in the place of a volume, in one step. Returns the old content, which the caller
    /// removes.
    fn put(
        &self,
        settings: &AgentSettings,
        key: &Key,
        fresh: TemporaryFolder,
        replace: bool,
    ) -> Result<TemporaryFolder, Problem> {
        let readers = self.lock();
        let _folder = lock_folder(settings, key, "replaced")?;
        refuse_busy(settings, key, &readers, "replaced")?;
        let path = path_of(settings, key);
        let flags = if path.exists() {
            if !replace && !is_empty(&path) {
                return Err(transfer::not_empty(key));
            }
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::NOREPLACE
        };
        renameat_with(CWD, &fresh.path, CWD, &path, flags).map_err(|error| failed("replace", key, &error.into()))?;
        gantry_failpoint::failpoint!("volume.replaced");
        lost::forget(settings, &key.0, key.1.as_str());
        gantry_ledger::sync(&folder_of(settings, &key.0)).map_err(|error| failed("replace", key, &error))?;
        Ok(fresh)
    }

    /// Removes a volume with its snapshots. Returns the discarded folders, which the caller removes.
    fn discard(&self, settings: &AgentSettings, key: &Key) -> Result<Vec<TemporaryFolder>, Problem> {
        let readers = self.lock();
        let _folder = lock_folder(settings, key, "removed")?;
        refuse_busy(settings, key, &readers, "removed")?;
        // The snapshots go first: after a crash between the two, the volume is there and can be removed again.
        let mut gone = Vec::new();
        for path in [snapshots::folder(settings, key), path_of(settings, key)] {
            let half = TemporaryFolder::named(settings, &key.0);
            match std::fs::rename(&path, &half.path) {
                Ok(()) => gone.push(half),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("remove", key, &error)),
            }
            gantry_failpoint::failpoint!("volume.discarded");
        }
        let _ = std::fs::remove_file(mark_of(settings, &key.0, key.1.as_str()));
        lost::forget(settings, &key.0, key.1.as_str());
        gantry_ledger::sync(&folder_of(settings, &key.0)).map_err(|error| failed("remove", key, &error))?;
        Ok(gone)
    }
}

/// An unfinished or discarded folder, which is removed when this value is dropped.
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    /// A new name for a folder of the app; the folder is not created.
    fn named(settings: &AgentSettings, app: &AppName) -> Self {
        Self { path: folder_of(settings, app).join(format!("{UNFINISHED_PREFIX}{:016x}", rand::random::<u64>())) }
    }

    /// An empty folder of the app, for root alone.
    fn make(settings: &AgentSettings, app: &AppName) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::create_dir_all(folder_of(settings, app))?;
        let half = Self::named(settings, app);
        std::fs::DirBuilder::new().mode(0o700).create(&half.path)?;
        Ok(half)
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = gantry_linux::tree::remove(&self.path) {
            tracing::warn!(%error, "a discarded folder stays until the next start");
        }
    }
}

/// Removes what an agent that was killed left unfinished. Takes the list now, and the folders in the background.
pub(crate) fn sweep(settings: &AgentSettings) {
    let apps = subfolders(&settings.data.join("volumes"));
    // Each fails unless the folder is empty.
    apps.iter().for_each(|app| drop(std::fs::remove_dir(app.join(snapshots::FOLDER))));
    let halves: Vec<TemporaryFolder> = apps
        .iter()
        .flat_map(|app| subfolders(app))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED_PREFIX)))
        .map(|path| TemporaryFolder { path })
        .collect();
    if !halves.is_empty() {
        drop(tokio::task::spawn_blocking(move || drop(halves)));
    }
}

fn subfolders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn folder_of(settings: &AgentSettings, app: &AppName) -> PathBuf {
    settings.data.join("volumes").join(app.as_str())
}

fn path_of(settings: &AgentSettings, (app, name): &Key) -> PathBuf {
    folder_of(settings, app).join(name.as_str())
}

fn mark_of(settings: &AgentSettings, app: &AppName, name: &str) -> PathBuf {
    folder_of(settings, app).join(format!(".used-{name}"))
}

/// Records that a container got a volume or gave it back. A disk that takes no writes keeps the older time.
pub(crate) fn mark_used(settings: &AgentSettings, app: &AppName, name: &str) {
    let now = UNIX_EPOCH + Duration::from_millis(gantry_linux::clock::wall());
    let marked = File::create(mark_of(settings, app, name)).and_then(|file| file.set_modified(now));
    if let Err(error) = marked {
        tracing::debug!(%app, name, %error, "the use of a volume is not recorded");
    }
}

/// The containers that have a volume, or are about to get it: each instance with a record, and each one-off.
fn in_use(settings: &AgentSettings, app: &AppName, name: &str) -> Vec<String> {
    // A record that cannot be read may name any volume of any app: a renamed app keeps its volumes where they are.
    let has = |id: &AllocationId| {
        ContainerPaths::of(settings, id).read_record().is_none_or(|record| {
            record.spec.volume_folder(&id.slot.app) == app && record.spec.role.volumes.contains_key(name)
        })
    };
    let there = records::instance_ids(settings).into_iter().filter(has).map(|id| id.to_string());
    let once = all_metadata(settings).into_iter().filter(|(_, note)| note.volume_folder.as_ref() == Some(app));
    there.chain(once.filter(|(_, note)| note.volumes.contains(name)).map(|(name, _)| name)).collect()
}

/// The one-off that has a volume for itself.
pub(crate) fn taken_alone(settings: &AgentSettings, app: &AppName, name: &str) -> Option<String> {
    let mut notes = all_metadata(settings).into_iter();
    notes.find(|(_, note)| note.volume_folder.as_ref() == Some(app) && note.alone.contains(name)).map(|(name, _)| name)
}

/// Reason why an instance does not start while a one-off has its volume.
pub(crate) fn waits(name: &str, other: &str) -> String {
    format!("its volume {name} is in use by {other} of `gantry run`; the instance starts when that run ends")
}

/// Remedy: the commands that free a volume which these containers have.
fn remedy(in_use: &[String]) -> String {
    match instances(in_use).first() {
        Some(id) => format!("stop it first: gantry scale {} {}=0 --wait", id.slot.app, id.slot.role),
        None => "wait until that `gantry run` ends".to_owned(),
    }
}

fn refuse_busy(settings: &AgentSettings, key: &Key, readers: &BTreeMap<Key, u32>, what: &str) -> Result<(), Problem> {
    let (app, name) = key;
    if readers.contains_key(key) {
        let message = format!("volume {name} of {app} is being copied, and cannot be {what} now");
        return Err(
            Problem::new(ErrorCode::VolumeInUse, message).hint("try again when the export or the snapshot has ended")
        );
    }
    let users = in_use(settings, app, name.as_str());
    if users.is_empty() {
        return Ok(());
    }
    let message = format!("volume {name} of {app} is in use by {}, and cannot be {what}", users.join(", "));
    Err(Problem::new(ErrorCode::VolumeInUse, message).hint(remedy(&users)))
}

/// Locks the folder of an app's volumes. A backup has the folder locked while it reads, and runs in another process.
fn lock_folder(settings: &AgentSettings, key: &Key, what: &str) -> Result<File, Problem> {
    let folder = File::open(folder_of(settings, &key.0)).map_err(|error| failed("open", key, &error))?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let (app, name) = key;
        let message = format!("volume {name} of {app} is being backed up, and cannot be {what} now");
        Problem::new(ErrorCode::VolumeInUse, message).hint("try again when `gantry backup` has ended")
    })?;
    Ok(folder)
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn failed(action: &str, (app, name): &Key, error: &io::Error) -> Problem {
    let message = format!("cannot {action} volume {name} of {app}: {error}");
    match error.kind() {
        io::ErrorKind::NotFound => {
            Problem::new(ErrorCode::VolumeNotFound, format!("{app} has no volume {name} on this machine"))
                .hint("`gantry volume ls` lists the volumes")
        }
        io::ErrorKind::ResourceBusy => {
            let message = format!("cannot {action} volume {name} of {app}: a file system is mounted there");
            Problem::new(ErrorCode::VolumeInUse, message).hint("unmount the file system first")
        }
        io::ErrorKind::StorageFull => {
            Problem::new(ErrorCode::DiskFull, message).hint("`gantry status` lists what uses the space")
        }
        _ => Problem::internal(message),
    }
}

/// Every volume on this machine: of one app, or of all.
fn list(agent: &AgentContext, app: Option<&AppName>) -> Vec<VolumeReport> {
    let settings = &agent.settings;
    let named = |path: &PathBuf| path.file_name()?.to_str().map(str::to_owned);
    let apps = subfolders(&settings.data.join("volumes"));
    let apps = apps.iter().filter_map(|path| AppName::parse(&named(path)?).ok());
    let mut keys: Vec<Key> = apps
        .filter(|one| app.is_none_or(|app| app == one))
        .flat_map(|app| {
            let names = subfolders(&folder_of(settings, &app));
            let names: Vec<VolumeName> =
                names.iter().filter_map(|path| VolumeName::parse(&named(path)?).ok()).collect();
            names.into_iter().map(move |name| (app.clone(), name))
        })
        .collect();
    keys.sort();
    keys.iter().filter_map(|key| describe(agent, key).ok()).collect()
}

/// A volume as it is now, without the number of its files.
fn describe(agent: &AgentContext, key: &Key) -> Result<VolumeReport, Problem> {
    let settings = &agent.settings;
    let path = path_of(settings, key);
    let about = std::fs::symlink_metadata(&path).map_err(|error| failed("open", key, &error))?;
    let size = gantry_linux::tree::usage(&path, u64::MAX).map_err(|error| failed("measure", key, &error.source))?;
    let in_use = in_use(settings, &key.0, key.1.as_str());
    let marked = std::fs::metadata(mark_of(settings, &key.0, key.1.as_str())).and_then(|about| about.modified());
    let used = if in_use.is_empty() { marked.ok().map(moment) } else { Some(crate::status::wall()) };
    Ok(VolumeReport {
        app: key.0.clone(),
        name: key.1.clone(),
        machine: settings.machine.clone(),
        size: Bytes(size),
        owner: VolumeOwner { user: about.uid(), group: about.gid() },
        used,
        in_use,
        files: None,
        snapshots: snapshots::list(settings, key),
    })
}

/// Same as [`describe`], with the number of files.
fn show(agent: &AgentContext, key: &Key) -> Result<VolumeReport, Problem> {
    let mut info = describe(agent, key)?;
    let top = gantry_linux::walk::top(&path_of(&agent.settings, key)).map_err(|error| failed("open", key, &error))?;
    let mut files = 0;
    let counted = gantry_linux::walk::walk(&top, &mut |node| {
        files += u64::from(!node.path.as_os_str().is_empty());
        Ok(())
    });
    counted.map_err(|error| failed("read", key, &error))?;
    info.files = Some(files);
    Ok(info)
}

/// Removes a volume with its snapshots. The discarded files are removed in the background.
fn remove(agent: &Arc<AgentContext>, key: &Key) -> Result<VolumeReport, Problem> {
    let info = describe(agent, key)?;
    let gone = agent.volumes.discard(&agent.settings, key)?;
    let folder = folder_of(&agent.settings, &key.0);
    drop(tokio::task::spawn_blocking(move || {
        drop(gone);
        // Fails unless this was the app's last volume.
        let _ = std::fs::remove_dir(folder.join(snapshots::FOLDER));
        let _ = std::fs::remove_dir(&folder);
    }));
    Ok(info)
}

fn moment(time: SystemTime) -> Moment {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Moment(u64::try_from(millis).unwrap_or_default())
}

/// Number of bytes after which the free disk space is read again.
const DISK_CHECK_BYTES: u64 = 64 << 20;

/// Returns a check that fails once the disk reserve would be used up. The check takes the number of coming bytes.
fn room(agent: &AgentContext) -> impl FnMut(u64) -> io::Result<()> + '_ {
    let mut since = DISK_CHECK_BYTES;
    move |bytes| {
        since += bytes;
        if since < DISK_CHECK_BYTES {
            return Ok(());
        }
        since = 0;
        let (free, reserve) = (gantry_linux::disk::free(&agent.settings.data), agent.policy.reserve());
        if free.saturating_sub(reserve) >= DISK_CHECK_BYTES {
            return Ok(());
        }
        let (free, reserve) = (Bytes(free), Bytes(reserve));
        let message = format!("the disk has {free} free, and {reserve} of it are kept free");
        Err(io::Error::new(io::ErrorKind::StorageFull, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_neither_replaced_nor_removed_while_it_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = AgentSettings { data: folder.path().to_owned(), ..AgentSettings::for_tests() };
        let key = (AppName::parse("db").expect("a name"), VolumeName::parse("data").expect("a name"));
        let path = path_of(&settings, &key);
        std::fs::create_dir_all(&path).expect("made");
        std::fs::write(path.join("file"), "content").expect("written");
        let volumes = Volumes::default();
        let [first, second] = [(); 2].map(|()| volumes.read(&settings, &key).expect("opened"));
        let attempts = || {
            let fresh = TemporaryFolder::make(&settings, &key.0).expect("made");
            [volumes.put(&settings, &key, fresh, true).err(), volumes.discard(&settings, &key).err()]
        };
        for reader in [Some(first), None] {
            for refused in attempts() {
                let refused = refused.expect("a reader is left");
                assert!(refused.message.contains("is being copied"), "{refused:?}");
            }
            drop(reader);
        }
        drop(second);
        assert_eq!(std::fs::read_to_string(path.join("file")).expect("there"), "content");
        assert_eq!(attempts(), [None, None]);
        assert!(!path.exists());
    }
}
