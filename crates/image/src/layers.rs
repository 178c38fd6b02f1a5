//! A machine's unpacked layers: one folder each, named by the digest of its tar stream, unpacked once.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::BoxStream;
use gantry_linux::process::start_time;
use gantry_model::{Bytes, Digest};
use rustix::fs::{FlockOperation, flock};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::manifest::Descriptor;
use crate::unpack::{Bounds, UnpackError, unpack};

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The layer is bad.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// It is not the one that was asked for.
    #[error("layer {wanted} came as {found}; it was damaged on its way, or its source is wrong")]
    WrongDigest {
        /// Asked for.
        wanted: Digest,
        /// Came.
        found: Digest,
    },
    /// It would fill the disk.
    #[error(
        "the disk of {folder} has {} free of {}, {} of it are kept free, and the image's layer {layer} needs more than the rest; `gantry status` tells what takes the space",
        Bytes(*free), Bytes(*size), Bytes(*reserve)
    )]
    NoRoom {
        /// Where it was to be.
        folder: PathBuf,
        /// Free bytes of that disk, for anyone.
        free: u64,
        /// All of its bytes.
        size: u64,
        /// What is to stay free.
        reserve: u64,
        /// Which layer.
        layer: String,
    },
    /// A folder of Gantry's own could not be used.
    #[error("cannot {action} {path}")]
    Folder {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The folder of all unpacked layers. Several processes may use it.
#[derive(Debug, Clone)]
pub struct Layers {
    folder: PathBuf,
    reserve: u64,
}

impl Layers {
    /// Uses `folder`, made if it is missing; what is unpacked leaves `reserve` bytes of its disk free.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn in_folder(folder: &Path, reserve: u64) -> Result<Self, LayersError> {
        let layers = Self { folder: folder.to_owned(), reserve };
        std::fs::create_dir_all(folder).map_err(|source| LayersError::Folder {
            action: "make",
            path: folder.to_owned(),
            source,
        })?;
        Ok(layers)
    }

    /// Where a layer is, unpacked.
    #[must_use]
    pub fn path(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join(diff_id.hex())
    }

    /// The layer is there.
    #[must_use]
    pub fn has(&self, diff_id: &Digest) -> bool {
        self.path(diff_id).is_dir()
    }

    /// Every layer that is there.
    #[must_use]
    pub fn list(&self) -> Vec<Digest> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Digest::from_hex(entry.file_name().to_str()?).ok()).collect()
    }

    /// Unpacks a layer from its bytes, checking both digests. It appears whole or not at all.
    ///
    /// # Errors
    /// [`LayersError`]; nothing is left of the layer then.
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
            reserve: self.reserve,
            layer: diff_id.short().to_owned(),
        };
        let bounds = Bounds::default();
        let room = free.saturating_sub(self.reserve).min(bounds.bytes);
        let bounds = Bounds { bytes: room, ..bounds };
        let full = room < Bounds::default().bytes;
        if descriptor.size > room {
            return Err(no_room);
        }
        let fresh = self.folder.join(half_made());
        let reader = SyncIoBridge::new(StreamReader::new(stream));
        let (wanted, diff_id) = (descriptor.digest.clone(), diff_id.clone());
        let unpacked = move |into: &Path| -> Result<(), LayersError> {
            std::fs::create_dir(into).map_err(|source| failed("make", into, source))?;
            let unpacked = unpack(reader, into, bounds).map_err(|error| match error {
                UnpackError::TooLarge(what) if full && what == bounds.told() => no_room,
                error => error.into(),
            })?;
            for (wanted, found) in [(wanted, unpacked.digest), (diff_id, unpacked.diff_id)] {
                if wanted != found {
                    return Err(LayersError::WrongDigest { wanted, found });
                }
            }
            sync(into).map_err(|source| failed("sync", into, source))
        };
        // To its end on a thread of its own: whoever waits for it may give up, and nothing half made stays, nor is it lost.
        let work = move || {
            let result = unpacked(&fresh);
            gantry_linux::step!("layer.unpacked");
            let renamed = result.and_then(|()| match std::fs::rename(&fresh, &path) {
                // Another process was faster with the same layer.
                Err(_) if path.is_dir() => Ok(()),
                result => result.map_err(|source| failed("name", &path, source)),
            });
            if fresh.exists() {
                let _ = gantry_linux::tree::remove(&fresh);
            }
            gantry_linux::step!("layer.named");
            renamed.map(|()| path)
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|join| Err(LayersError::Unpack(UnpackError::Stream(io::Error::other(join.to_string())))))
    }

    /// Takes away what processes that are gone left half unpacked.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if is_orphaned(&entry.file_name().to_string_lossy()) {
                let _ = gantry_linux::tree::remove(&entry.path());
            }
        }
    }

    /// While this lives no layer is collected: for whoever is about to mount some.
    ///
    /// # Errors
    /// [`LayersError::Folder`].
    pub fn hold(&self) -> Result<std::fs::File, LayersError> {
        self.lock(FlockOperation::LockShared)
    }

    fn lock(&self, operation: FlockOperation) -> Result<std::fs::File, LayersError> {
        let path = self.folder.join("lock");
        let failed = |source: io::Error| LayersError::Folder { action: "lock", path: path.clone(), source };
        let opened = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
        let file = match opened {
            // To hold what is there takes no write.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => std::fs::File::open(&path),
            opened => opened,
        };
        let file = file.map_err(failed)?;
        flock(&file, operation).map_err(|error| failed(error.into()))?;
        Ok(file)
    }

    /// Removes every layer that is not in what `keep` says and is older than `grace`; how many. None at all while somebody holds
    /// them, or when `keep` does not know. It is asked when nobody can begin to hold them any more.
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
        // Under their new names nobody finds them any more.
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

/// Since it was named: its time of change, for the other times are the image's. One in the future, of a clock that went back since, becomes
/// now, by a change that changes nothing.
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

/// A name for what is not a layer yet, or no longer: it says whose it is.
fn half_made() -> String {
    let pid = std::process::id();
    let started = start_time(pid.cast_signed()).unwrap_or_default();
    format!("new-{pid}-{started}-{:016x}", rand::random::<u64>())
}

/// Such a name of a process that is gone.
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

/// One sync of the whole file system is cheaper than one per file, and a layer has thousands.
fn sync(folder: &Path) -> io::Result<()> {
    let folder = std::fs::File::open(folder)?;
    Ok(rustix::fs::syncfs(&folder)?)
}
