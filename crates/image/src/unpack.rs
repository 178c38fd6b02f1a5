//! Unpacks a layer into a folder that overlayfs can use as a layer, or the archive of a volume into a folder.
//!
//! The bytes are foreign. The kernel resolves every path inside the folder ([`gantry_linux::rooted`]). Files are
//! created with `O_EXCL` and `O_NOFOLLOW`. Sizes are counted and bounded during reading, whatever the headers claim.

mod bounds;
mod header;
mod location;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use gantry_linux::{LinuxError, WithAction, rooted};
use gantry_model::Digest;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, XattrFlags, chmodat, fsetxattr, linkat, mkdirat, mknodat, openat,
    symlinkat,
};
use rustix::io::Errno;
use tar::{Entry, EntryType};

pub use self::bounds::Bounds;
use self::bounds::{Bounded, Hashed, pass};
pub(crate) use self::header::{BASE64, LIBARCHIVE, SCHILY};
use self::header::{link_target, mode, mtime, xattr};
use self::location::{
    EntryLocation, clear, finish_link, finish_node, is_folder, not_effective, set_owner, set_time, whiteout,
};
use crate::archive::members_or_sparse;
use crate::sparse::Sparse;
use crate::tree::{CAPABILITIES, WHITEOUT, may_carry, volume_may_carry};

/// Kind of an archive, which decides what some of its entries mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArchiveKind {
    /// Names that begin with `.wh.` remove files of lower layers. Device nodes are skipped.
    Layer,
    /// Every name is plain. Device nodes are refused, and the archive must have an end mark.
    Volume,
}

/// The digests and the size of an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the bytes as received.
    pub digest: Digest,
    /// Digest of the tar stream.
    pub diff_id: Digest,
    /// Size of all files together in bytes.
    pub bytes: u64,
    /// Number of entries, without those of missing parent folders.
    pub entries: u64,
    /// True if the archive has an entry for the folder itself, with its owner and mode.
    pub has_root: bool,
}

/// Reasons why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream cannot be read.
    #[error("the archive cannot be read: {0}")]
    Stream(#[source] io::Error),
    /// An entry is hostile or impossible.
    #[error("the archive is refused at {path:?}: {why}")]
    Entry {
        /// Path of the entry.
        path: String,
        /// Reason of the refusal.
        why: String,
    },
    /// The archive exceeds a limit.
    #[error("the archive is refused: it has more than {0}")]
    TooLarge(String),
    /// The archive of a volume ends without an end mark.
    #[error("the archive was cut: it has no end mark")]
    Cut,
    /// An entry could not be created.
    #[error("cannot unpack {path:?}: {source}")]
    Make {
        /// Path of the entry.
        path: String,
        /// Cause of the failure.
        source: io::Error,
    },
}

/// Unpacks a layer into the empty folder `folder`. The layer is compressed with gzip or zstd, or uncompressed. Reads
/// the stream to its end.
///
/// # Errors
/// [`UnpackError`]. The caller removes the entries created so far.
pub fn unpack(layer: impl Read, folder: &Path, bounds: Bounds) -> Result<Unpacked, UnpackError> {
    unpack_as(ArchiveKind::Layer, layer, folder, bounds)
}

/// Unpacks the archive of a volume into the empty folder `folder`, as [`unpack`] does a layer.
///
/// # Errors
/// [`UnpackError`]. The caller removes the entries created so far.
pub fn unpack_volume(archive: impl Read, folder: &Path, bounds: Bounds) -> Result<Unpacked, UnpackError> {
    unpack_as(ArchiveKind::Volume, archive, folder, bounds)
}

fn unpack_as(kind: ArchiveKind, layer: impl Read, folder: &Path, bounds: Bounds) -> Result<Unpacked, UnpackError> {
    let mut source = Hashed::new(layer);
    let mut head = Vec::new();
    source.by_ref().take(4).read_to_end(&mut head).map_err(UnpackError::Stream)?;
    let whole = io::Cursor::new(head.clone()).chain(&mut source);
    let plain: Box<dyn Read + '_> = match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole).map_err(UnpackError::Stream)?),
        _ => Box::new(whole),
    };
    // The bound covers the whole stream: entries of any kind, and data that is skipped.
    let mut plain = Hashed::new(Bounded { inner: plain, left: bounds.bytes.saturating_add(HEADERS_MAX) });
    let root = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| UnpackError::Make { path: folder.display().to_string(), source: error.into() })?;
    let mut unpacker = Unpacker {
        kind,
        root,
        bounds,
        bytes: 0,
        entries: 0,
        folders: Vec::new(),
        paths: 0,
        last: None,
        has_root: false,
    };
    if !unpacker.run(&mut plain)? && kind == ArchiveKind::Volume {
        return Err(UnpackError::Cut);
    }
    // Bytes after the archive's end belong to the digests too.
    pass(&mut plain)?;
    let diff_id = plain.finish();
    drop(plain);
    pass(&mut source)?;
    Ok(Unpacked {
        digest: source.finish(),
        diff_id,
        bytes: unpacker.bytes,
        entries: unpacker.entries,
        has_root: unpacker.has_root,
    })
}

/// Bytes that headers, padding and names may take in addition to the files.
const HEADERS_MAX: u64 = 4 << 30;

/// Limit in bytes on the paths of all folders. They stay in memory, since folders' times are set at the end.
const PATHS_MAX: usize = 256 << 20;

struct Unpacker {
    kind: ArchiveKind,
    root: OwnedFd,
    bounds: Bounds,
    bytes: u64,
    entries: u64,
    /// Folders and their times. The times are set last, since a new entry in a folder changes the folder's time.
    folders: Vec<(PathBuf, Timespec)>,
    /// Bytes of the folders' paths.
    paths: usize,
    /// The folder of the last file, kept open because files of a folder follow each other. Any other kind of entry
    /// clears it, since such an entry may change where a path leads.
    last: Option<(PathBuf, OwnedFd)>,
    has_root: bool,
}

impl Unpacker {
    /// Unpacks all entries. Returns whether the archive has an end mark.
    fn run(&mut self, plain: impl Read) -> Result<bool, UnpackError> {
        let ended = members_or_sparse(plain, UnpackError::Stream, |entry, sparse| {
            self.entries += 1;
            if self.entries > self.bounds.entries {
                return Err(UnpackError::TooLarge(format!("{} entries", self.bounds.entries)));
            }
            self.entry(entry, sparse)?;
            if self.entries == 1 {
                gantry_failpoint::failpoint!("layer.begun");
            }
            Ok(())
        })?;
        for (path, mtime) in std::mem::take(&mut self.folders).into_iter().rev() {
            if let Ok(folder) = rooted::open(&self.root, &path, OFlags::PATH | OFlags::DIRECTORY) {
                set_time(&folder, OsStr::new(""), mtime, AtFlags::EMPTY_PATH);
            }
        }
        Ok(ended)
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, sparse: Option<Sparse>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let name = sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let bytes = name.as_ref().map_or_else(|| entry.path_bytes(), |name| name.as_os_str().as_bytes().into());
        let shown = String::from_utf8_lossy(&bytes).chars().take(200).collect::<String>();
        drop(bytes);
        let refuse = |why: &str| UnpackError::Entry { path: shown.clone(), why: why.to_owned() };
        let path = match name {
            Some(name) => name,
            None => entry.path().map_err(|error| refuse(&error.to_string()))?.into_owned(),
        };
        // The archive stores no bytes for holes, so the size with holes is checked before reading.
        if sparse.as_ref().is_some_and(|sparse| sparse.size > self.bounds.bytes.saturating_sub(self.bytes)) {
            return Err(UnpackError::TooLarge(self.bounds.describe()));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(refuse("it leads out of its folder"));
        }
        let made = |error: io::Error| UnpackError::Make { path: shown.clone(), source: error };
        let keep = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        let Some(place) = self.place(&path, keep).map_err(|error| made(error.source))? else {
            if kind != EntryType::Directory {
                return Err(refuse("only a folder can be the root"));
            }
            self.has_root = true;
            return self.root_folder(entry).map_err(made);
        };
        let hides = self.kind == ArchiveKind::Layer;
        if let Some(name) = place.name.to_str().filter(|name| hides && name.starts_with(WHITEOUT)) {
            if sparse.is_some() {
                return Err(refuse("a whiteout has no content"));
            }
            return whiteout(&place, name).map_err(made);
        }
        match kind {
            EntryType::Directory => {
                let names: PathBuf = rooted::names(&path).collect();
                self.paths += names.as_os_str().len();
                if self.paths > PATHS_MAX {
                    return Err(UnpackError::TooLarge(format!("{PATHS_MAX} bytes of folders' names")));
                }
                self.folder(entry, &place, names).map_err(made)
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(entry, sparse, &place, made),
            EntryType::Symlink => {
                let target = link_target(entry).ok_or_else(|| refuse("a link without a target"))?;
                clear(&place).and_then(|()| Ok(symlinkat(target, &place.parent, &*place.name)?)).map_err(made)?;
                finish_link(entry, &place).map_err(made)
            }
            EntryType::Link => {
                let target = link_target(entry).ok_or_else(|| refuse("a link without a target"))?;
                self.hard_link(&target, &place).map_err(|error| refuse(&format!("its target {target:?}: {error}")))
            }
            EntryType::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                clear(&place)
                    .and_then(|()| Ok(mknodat(&place.parent, &*place.name, FileType::Fifo, mode, 0)?))
                    .and_then(|()| finish_node(entry, &place))
                    .map_err(made)?;
                set_time(&place.parent, &place.name, mtime(entry), AtFlags::SYMLINK_NOFOLLOW);
                Ok(())
            }
            // Device nodes are skipped. A container has its own `/dev` and may open no other device.
            EntryType::Char | EntryType::Block if hides => Ok(()),
            EntryType::Char | EntryType::Block => Err(refuse("it is a device")),
            _ => Err(refuse("Gantry does not know the type of the entry")),
        }
    }

    /// Finds the location of a path. Returns none for the root itself.
    fn place(&mut self, path: &Path, keep: bool) -> Result<Option<EntryLocation>, LinuxError> {
        let names: Vec<&OsStr> = rooted::names(path).collect();
        let Some((name, above)) = names.split_last() else {
            return Ok(None);
        };
        let above: PathBuf = above.iter().collect();
        let known = self.last.take().filter(|(path, _)| *path == above);
        let (above, parent) = match known {
            Some(known) => known,
            None => {
                let parent = match rooted::open(&self.root, &above, OFlags::PATH | OFlags::DIRECTORY) {
                    Ok(parent) => parent,
                    Err(_) => {
                        // Missing parent folders count as entries, like folders with an entry of their own.
                        self.entries += above.components().count() as u64;
                        rooted::make_folder_through_links(&self.root, &above)?
                    }
                };
                (above, parent)
            }
        };
        if keep {
            let copy = parent.try_clone().with_action(|| format!("keep {} open", above.display()))?;
            self.last = Some((above, copy));
        }
        Ok(Some(EntryLocation { parent, name: (*name).to_owned() }))
    }

    fn root_folder(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let root = rooted::open(&self.root, Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|error| error.source)?;
        self.folders.push((PathBuf::from("/"), mtime(entry)));
        self.set_xattrs(entry, &root)?;
        set_owner(&root, OsStr::new("."), entry, AtFlags::empty())?;
        Ok(chmodat(&root, ".", mode(entry), AtFlags::empty())?)
    }

    fn folder(&mut self, entry: &mut Entry<'_, impl Read>, place: &EntryLocation, path: PathBuf) -> io::Result<()> {
        match mkdirat(&place.parent, &*place.name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) if is_folder(place) => {}
            Err(Errno::EXIST) => {
                clear(place)?;
                mkdirat(&place.parent, &*place.name, Mode::from_raw_mode(0o700))?;
            }
            result => result?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(&place.parent, &*place.name, flags, Mode::empty())?;
        self.set_xattrs(entry, &folder)?;
        self.folders.push((path, mtime(entry)));
        finish_node(entry, place)
    }

    fn file(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        sparse: Option<Sparse>,
        place: &EntryLocation,
        made: impl Fn(io::Error) -> UnpackError,
    ) -> Result<(), UnpackError> {
        clear(place).map_err(&made)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&place.parent, &*place.name, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| made(error.into()))?;
        let mut file = File::from(file);
        match sparse {
            None => self.content(&mut *entry, &mut file, false, &made)?,
            Some(sparse) => self.content(sparse.content(&mut *entry), &mut file, true, &made)?,
        }
        // The owner is set first: a change of owner clears setuid bits and capabilities.
        finish_node(entry, place).map_err(&made)?;
        self.set_xattrs(entry, &file).map_err(&made)?;
        set_time(&place.parent, &place.name, mtime(entry), AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    /// Writes a file's content and counts the bytes. With `holes`, blocks of zeros become holes.
    fn content(
        &mut self,
        mut content: impl Read,
        file: &mut File,
        holes: bool,
        made: impl Fn(io::Error) -> UnpackError,
    ) -> Result<(), UnpackError> {
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = content.read(&mut buffer).map_err(UnpackError::Stream)?;
            if count == 0 {
                break;
            }
            self.bytes += count as u64;
            if self.bytes > self.bounds.bytes {
                return Err(UnpackError::TooLarge(self.bounds.describe()));
            }
            if holes && buffer[..count].iter().all(|byte| *byte == 0) {
                file.seek_relative(i64::try_from(count).unwrap_or(0)).map_err(&made)?;
            } else {
                file.write_all(&buffer[..count]).map_err(&made)?;
            }
        }
        if holes {
            let end = file.stream_position().map_err(&made)?;
            file.set_len(end).map_err(&made)?;
        }
        Ok(())
    }

    fn set_xattrs(&self, entry: &mut Entry<'_, impl Read>, file: impl AsFd) -> io::Result<()> {
        let may_carry = if self.kind == ArchiveKind::Layer { may_carry } else { volume_may_carry };
        let Some(records) = entry.pax_extensions()? else {
            return Ok(());
        };
        for record in records {
            let record = record?;
            let Some((name, mut value)) = xattr(record.key_bytes(), record.value_bytes())? else { continue };
            if may_carry(&name) {
                if name == CAPABILITIES {
                    not_effective(&mut value);
                }
                fsetxattr(&file, name, &value, XattrFlags::empty())?;
            }
        }
        Ok(())
    }

    fn hard_link(&self, target: &Path, place: &EntryLocation) -> io::Result<()> {
        if target.components().any(|part| part == Component::ParentDir) {
            return Err(io::Error::other("it leads out of its folder"));
        }
        let source = rooted::open(&self.root, target, OFlags::PATH | OFlags::NOFOLLOW).map_err(|error| error.source)?;
        let stat = rustix::fs::fstat(&source)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(io::Error::other("it is a folder"));
        }
        clear(place)?;
        Ok(linkat(&source, "", &place.parent, &*place.name, AtFlags::EMPTY_PATH)?)
    }
}
