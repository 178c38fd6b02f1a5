//! The unpacked layers of a machine: one folder per layer, named by the digest of the layer's tar stream. Each layer is
//! unpacked once.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::BoxStream;
use gantry_linux::process::start_time;
use gantry_model::{Bytes, Digest};
use rustix::fs::{FlockOperation, flock};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::manifest::Descriptor;
use crate::unpack::{Bounds, UnpackError, unpack};

/// Reasons why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The layer's content is refused or cannot be read.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The layer's digest differs from the requested digest.
    #[error(
        "layer {expected} arrived with the digest {found}: the transfer damaged it, or the source has a wrong layer; try again"
    )]
    WrongDigest {
        /// Digest of the requested layer.
        expected: Digest,
        /// Digest of the received layer.
        found: Digest,
    },
    /// Unpacking the layer would fill the disk.
    #[error(
        "the disk of {folder} has {} free of {}, {} of it are kept free, and the image's layer {layer} needs more than the rest; `gantry status` lists what uses the space",
        Bytes(*free), Bytes(*size), Bytes(*reserve)
    )]
    NoRoom {
        /// Folder of the unpacked layers.
        folder: PathBuf,
        /// Free bytes of the disk for unprivileged users.
        free: u64,
        /// Size of the disk in bytes.
        size: u64,
        /// Disk reserve: bytes that must stay free.
        reserve: u64,
        /// Short digest of the layer.
        layer: String,
    },
    /// Gantry could not use one of its own files or folders.
    #[error("cannot {action} {path}")]
    Folder {
        /// The attempted action.
        action: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
}

/// Prefix of the name of a damaged layer that was put aside.
const ASIDE: &str = "damaged-";

/// The folder of all unpacked layers. Several processes may use the folder at once.
#[derive(Debug, Clone)]
pub struct Layers {
    folder: PathBuf,
    /// Bytes of the disk that unpacking leaves free.
    reserve: Arc<AtomicU64>,
}

impl Layers {
    /// Uses `folder`, and creates it if it is missing. Unpacking leaves `reserve` bytes of the disk free.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn in_folder(folder: &Path, reserve: u64) -> Result<Self, LayersError> {
        let layers = Self { folder: folder.to_owned(), reserve: Arc::new(reserve.into()) };
        std::fs::create_dir_all(folder).map_err(|source| LayersError::Folder {
            action: "make",
            path: folder.to_owned(),
            source,
        })?;
        Ok(layers)
    }

    /// Changes the number of bytes that unpacking leaves free.
    pub fn keep_free(&self, reserve: u64) {
        self.reserve.store(reserve, Ordering::Relaxed);
    }

    fn reserve(&self) -> u64 {
        self.reserve.load(Ordering::Relaxed)
    }

    /// Returns the folder of a layer, whether or not the layer is unpacked.
    #[must_use]
    pub fn path(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join(diff_id.hex())
    }

    /// Returns whether the layer is unpacked.
    #[must_use]
    pub fn has(&self, diff_id: &Digest) -> bool {
        self.path(diff_id).is_dir()
    }

    /// Lists every unpacked layer.
    #[must_use]
    pub fn list(&self) -> Vec<Digest> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Digest::from_hex(entry.file_name().to_str()?).ok()).collect()
    }

    /// Unpacks a layer from its bytes and verifies both digests. The layer appears complete or not at all.
    ///
    /// # Errors
    /// [`LayersError`]; no part of the layer stays in that case.
    pub async fn unpack(
        &self,
        descriptor: &Descriptor,
        diff_id: &Digest,
        stream: BoxStream<'static, io::Result<bytes::Bytes>>,
    ) -> Result<PathBuf, LayersError> {
        let path = self.path(diff_id);
        if path.is_dir() {
            return Ok(path);
        }
        let failed = |action, path: &Path, source| LayersError::Folder { action, path: path.to_owned(), source };
        let (free, size) = gantry_linux::disk::space(&self.folder)
            .map_err(|error| failed("ask for the space of", &self.folder, error))?;
        let no_room = LayersError::NoRoom {
            folder: self.folder.clone(),
            free,
            size,
            reserve: self.reserve(),
            layer: diff_id.short().to_owned(),
        };
        let bounds = Bounds::default();
        let room = free.saturating_sub(self.reserve()).min(bounds.bytes);
        let bounds = Bounds { bytes: room, ..bounds };
        let full = room < Bounds::default().bytes;
        if descriptor.size > room {
            return Err(no_room);
        }
        let fresh = self.folder.join(half_made());
        let reader = SyncIoBridge::new(StreamReader::new(stream));
        let (expected, diff_id) = (descriptor.digest.clone(), diff_id.clone());
        let unpacked = move |into: &Path| -> Result<(), LayersError> {
            std::fs::create_dir(into).map_err(|source| failed("make", into, source))?;
            let unpacked = unpack(reader, into, bounds).map_err(|error| match error {
                UnpackError::TooLarge(what) if full && what == bounds.describe() => no_room,
                error => error.into(),
            })?;
            for (expected, found) in [(expected, unpacked.digest), (diff_id, unpacked.diff_id)] {
                if expected != found {
                    return Err(LayersError::WrongDigest { expected, found });
                }
            }
            sync(into, unpacked.entries).map_err(|source| failed("sync", into, source))
        };
        // The work runs to its end on its own thread, even if the caller stops waiting. No half-unpacked layer stays,
        // and a complete layer is not lost.
        let work = move || {
            let result = unpacked(&fresh);
            gantry_failpoint::failpoint!("layer.unpacked");
            let renamed = result.and_then(|()| match std::fs::rename(&fresh, &path) {
                // Another process finished the same layer first.
                Err(_) if path.is_dir() => Ok(()),
                result => result.map_err(|source| failed("name", &path, source)),
            });
            if fresh.exists() {
                let _ = gantry_linux::tree::remove(&fresh);
            }
            gantry_failpoint::failpoint!("layer.named");
            renamed.map(|()| path)
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|join| Err(LayersError::Unpack(UnpackError::Stream(io::Error::other(join.to_string())))))
    }

    /// Compares an unpacked layer with its blob, which is unpacked a second time beside it. Returns the first difference;
    /// `None` if there is none, or if the layer is not unpacked.
    ///
    /// # Errors
    /// [`LayersError`]: the blob is damaged, or there is no room for the second copy.
    pub fn first_difference(&self, diff_id: &Digest, blob: impl io::Read) -> Result<Option<String>, LayersError> {
        let failed = |action, path: &Path, source| LayersError::Folder { action, path: path.to_owned(), source };
        let _pin = self.pin()?;
        let path = self.path(diff_id);
        if !path.is_dir() {
            return Ok(None);
        }
        let fresh = self.folder.join(half_made());
        std::fs::create_dir(&fresh).map_err(|source| failed("make", &fresh, source))?;
        let bounds = Bounds::default();
        let room = gantry_linux::disk::free(&self.folder).saturating_sub(self.reserve()).min(bounds.bytes);
        let compared = unpack(blob, &fresh, Bounds { bytes: room, ..bounds }).map_err(LayersError::from);
        let compared = compared.and_then(|unpacked| {
            if unpacked.diff_id != *diff_id {
                return Err(LayersError::WrongDigest { expected: diff_id.clone(), found: unpacked.diff_id });
            }
            crate::compare::first_difference(&path, &fresh).map_err(|source| failed("compare", &path, source))
        });
        let _ = gantry_linux::tree::remove(&fresh);
        compared
    }

    /// Puts a damaged layer aside, so that the next use unpacks the layer again. Running containers keep the files that
    /// they have; garbage collection removes the folder once no instance has the layer.
    ///
    /// # Errors
    /// [`LayersError::Folder`], also if an earlier damaged copy of the layer is still there.
    pub fn set_aside(&self, diff_id: &Digest) -> Result<(), LayersError> {
        let path = self.path(diff_id);
        std::fs::rename(&path, self.folder.join(format!("{ASIDE}{}", diff_id.hex())))
            .map_err(|source| LayersError::Folder { action: "put aside", path, source })
    }

    /// Removes half-unpacked layers of processes that have ended.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if is_orphaned(&entry.file_name().to_string_lossy()) {
                let _ = gantry_linux::tree::remove(&entry.path());
            }
        }
    }

    /// Takes a GC pin on all layers. While the returned file lives, no layer is garbage-collected. Callers take the pin
    /// before they mount layers.
    ///
    /// # Errors
    /// [`LayersError::Folder`].
    pub fn pin(&self) -> Result<std::fs::File, LayersError> {
        self.lock(FlockOperation::LockShared)
    }

    fn lock(&self, operation: FlockOperation) -> Result<std::fs::File, LayersError> {
        let path = self.folder.join("lock");
        let failed = |source: io::Error| LayersError::Folder { action: "lock", path: path.clone(), source };
        let opened = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
        let file = match opened {
            // A lock on an existing file needs no write access.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => std::fs::File::open(&path),
            opened => opened,
        };
        let file = file.map_err(failed)?;
        flock(&file, operation).map_err(|error| failed(error.into()))?;
        Ok(file)
    }

    /// Garbage-collects the layers: removes every layer that is older than `grace` and not in the set from `keep`.
    /// Returns the number of removed layers.
    ///
    /// Removes no layer while a process holds a GC pin, or if `keep` returns none. `keep` is called under the exclusive
    /// lock, when no process can take a new pin.
    ///
    /// # Errors
    /// [`LayersError::Folder`].
    pub fn collect(
        &self,
        grace: Duration,
        keep: impl FnOnce() -> Option<BTreeSet<Digest>>,
    ) -> Result<usize, LayersError> {
        let Ok(lock) = self.lock(FlockOperation::NonBlockingLockExclusive) else {
            return Ok(0);
        };
        let Some(keep) = keep() else {
            return Ok(0);
        };
        let old = |digest: &Digest| age(&self.path(digest)).is_some_and(|age| age >= grace);
        let mut gone = Vec::new();
        for digest in self.list().into_iter().filter(|digest| !keep.contains(digest)).filter(old) {
            let (path, name) = (self.path(&digest), self.folder.join(half_made()));
            std::fs::rename(&path, &name).map_err(|source| LayersError::Folder { action: "remove", path, source })?;
            gone.push(name);
        }
        let aside = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let aside = aside.filter_map(|entry| {
            let hex = entry.file_name().to_str()?.strip_prefix(ASIDE)?.to_owned();
            Digest::from_hex(&hex).is_ok_and(|digest| !keep.contains(&digest)).then(|| entry.path())
        });
        gone.extend(aside);
        // Under the new names, no process can find these layers any more.
        drop(lock);
        for path in &gone {
            let removed = gantry_linux::tree::remove(path);
            removed.map_err(|error| LayersError::Folder {
                action: "remove",
                path: path.clone(),
                source: error.into(),
            })?;
        }
        Ok(gone.len())
    }
}

/// Returns the time since the layer was named. This is the folder's ctime, since the other times come from the image. A
/// ctime in the future means that the clock went back since. Setting the same permissions again then resets the ctime
/// to now.
fn age(path: &Path) -> Option<Duration> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    let changed = UNIX_EPOCH + Duration::from_secs(metadata.ctime().unsigned_abs());
    let age = SystemTime::now().duration_since(changed);
    if age.is_err() {
        let _ = std::fs::set_permissions(path, metadata.permissions());
    }
    age.ok()
}

/// Returns a name for a half-unpacked or discarded layer. The name identifies the process that owns the folder.
fn half_made() -> String {
    let pid = std::process::id();
    let started = start_time(pid.cast_signed()).unwrap_or_default();
    format!("new-{pid}-{started}-{:016x}", rand::random::<u64>())
}

/// Returns whether the name is that of a half-unpacked or discarded layer whose process has ended.
fn is_orphaned(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("new-") else {
        return false;
    };
    let mut parts = rest.split('-').map(str::parse::<u64>);
    match (parts.next(), parts.next()) {
        (Some(Ok(pid)), Some(Ok(started))) => i32::try_from(pid).is_ok_and(|pid| start_time(pid) != Some(started)),
        _ => true,
    }
}

/// Maximum number of entries of a layer that are synced one by one.
const SYNCED_ONE_BY_ONE: u64 = 200;

/// Syncs an unpacked layer of this many entries. For thousands of files, one sync of the whole file system is cheaper
/// than a sync of each; for few files, that sync would wait for everything that other programs have written.
fn sync(folder: &Path, entries: u64) -> io::Result<()> {
    match entries {
        ..=SYNCED_ONE_BY_ONE => gantry_ledger::sync_tree(folder),
        _ => gantry_ledger::sync_file_system(folder),
    }
}
