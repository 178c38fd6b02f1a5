//! Unpacks a layer into a folder that overlayfs can use as a layer.
//!
//! The bytes are foreign. The kernel resolves every path inside the folder ([`gantry_linux::rooted`]). Files are
//! created with `O_EXCL` and `O_NOFOLLOW`. Sizes are counted and bounded during reading, whatever the headers claim.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use gantry_blobs::DigestHasher;
use gantry_linux::process::USERS;
use gantry_linux::{LinuxError, WithAction, rooted};
use gantry_model::Digest;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fsetxattr, linkat,
    mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use crate::archive::members_or_sparse;
use crate::sparse::Sparse;
use crate::tree::{CAPABILITIES, OPAQUE, OPAQUE_XATTR, WHITEOUT, may_carry};

/// Limits on the size of an unpacked layer.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

impl Bounds {
    /// Formats the limit on bytes, as [`UnpackError::TooLarge`] shows the limit.
    pub(crate) fn told(&self) -> String {
        format!("{} bytes", self.bytes)
    }
}

impl Default for Bounds {
    /// 32 GiB and two million entries, ten times the size of an image with a complete tool chain.
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 2_000_000 }
    }
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
}

/// Reasons why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream cannot be read.
    #[error("the layer cannot be read: {0}")]
    Stream(#[source] io::Error),
    /// An entry is hostile or impossible.
    #[error("the layer is refused at {path:?}: {why}")]
    Entry {
        /// Path of the entry.
        path: String,
        /// Reason of the refusal.
        why: String,
    },
    /// The layer exceeds a limit.
    #[error("the layer is refused: it has more than {0}")]
    TooLarge(String),
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
    let mut unpacker = Unpacker { root, bounds, bytes: 0, entries: 0, folders: Vec::new(), paths: 0, last: None };
    unpacker.run(&mut plain)?;
    // Bytes after the archive's end belong to the digests too.
    pass(&mut plain)?;
    let diff_id = plain.finish();
    drop(plain);
    pass(&mut source)?;
    Ok(Unpacked { digest: source.finish(), diff_id, bytes: unpacker.bytes, entries: unpacker.entries })
}

/// Limit on the bytes after an archive's end. Padding takes kilobytes; a longer tail is an attack.
const TAIL_MAX: u64 = 64 << 20;

fn pass(rest: &mut impl Read) -> Result<(), UnpackError> {
    let passed = io::copy(&mut rest.take(TAIL_MAX + 1), &mut io::sink()).map_err(UnpackError::Stream)?;
    if passed > TAIL_MAX {
        return Err(UnpackError::TooLarge(format!("{TAIL_MAX} bytes after its end")));
    }
    Ok(())
}

/// Bytes that headers, padding and names may take in addition to the files.
const HEADERS_MAX: u64 = 4 << 30;

/// Limit in bytes on the paths of all folders. They stay in memory, since folders' times are set at the end.
const PATHS_MAX: usize = 256 << 20;

/// A reader that fails after a number of bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other("it goes on without end"))?;
        Ok(count)
    }
}

/// A reader that hashes the bytes read.
struct Hashed<R> {
    inner: R,
    hasher: DigestHasher,
}

impl<R> Hashed<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: DigestHasher::default() }
    }

    fn finish(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

struct Unpacker {
    root: OwnedFd,
    bounds: Bounds,
    bytes: u64,
    entries: u64,
    /// Folders and their times. The times are set last, since a new entry in a folder changes the folder's time.
    folders: Vec<(PathBuf, u64)>,
    /// Bytes of the folders' paths.
    paths: usize,
    /// The folder of the last file, kept open because files of a folder follow each other. Any other kind of entry
    /// clears it, since such an entry may change where a path leads.
    last: Option<(PathBuf, OwnedFd)>,
}

/// The location of an entry: its parent folder, and its name there.
struct Place {
    parent: OwnedFd,
    name: std::ffi::OsString,
}

impl Unpacker {
    fn run(&mut self, plain: impl Read) -> Result<(), UnpackError> {
        members_or_sparse(plain, UnpackError::Stream, |entry, sparse| {
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
        Ok(())
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
            return Err(UnpackError::TooLarge(self.bounds.told()));
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
            return self.root_folder(entry).map_err(made);
        };
        if let Some(name) = place.name.to_str().filter(|name| name.starts_with(WHITEOUT)) {
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
                    .map_err(made)
            }
            // Device nodes are skipped. A container has its own `/dev` and may open no other device.
            EntryType::Char | EntryType::Block => Ok(()),
            _ => Err(refuse("its kind is not known")),
        }
    }

    /// Finds the location of a path. Returns none for the root itself.
    fn place(&mut self, path: &Path, keep: bool) -> Result<Option<Place>, LinuxError> {
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
        Ok(Some(Place { parent, name: (*name).to_owned() }))
    }

    fn root_folder(&mut self, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        let root = rooted::open(&self.root, Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|error| error.source)?;
        self.folders.push((PathBuf::from("/"), entry.header().mtime().unwrap_or(0)));
        set_owner(&root, OsStr::new("."), entry, AtFlags::empty())?;
        Ok(chmodat(&root, ".", mode(entry), AtFlags::empty())?)
    }

    fn folder(&mut self, entry: &mut Entry<'_, impl Read>, place: &Place, path: PathBuf) -> io::Result<()> {
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
        set_xattrs(entry, &folder)?;
        self.folders.push((path, entry.header().mtime().unwrap_or(0)));
        finish_node(entry, place)
    }

    fn file(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        sparse: Option<Sparse>,
        place: &Place,
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
        set_xattrs(entry, &file).map_err(&made)?;
        set_time(&place.parent, &place.name, entry.header().mtime().unwrap_or(0), AtFlags::SYMLINK_NOFOLLOW);
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
                return Err(UnpackError::TooLarge(self.bounds.told()));
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

    fn hard_link(&self, target: &Path, place: &Place) -> io::Result<()> {
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

fn link_target(entry: &Entry<'_, impl Read>) -> Option<PathBuf> {
    entry.link_name().ok().flatten().map(std::borrow::Cow::into_owned).filter(|path| !path.as_os_str().is_empty())
}

fn is_folder(place: &Place) -> bool {
    statat(&place.parent, &*place.name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Removes a file or an empty folder that an earlier entry created, so that the new entry can replace it.
fn clear(place: &Place) -> io::Result<()> {
    match unlinkat(&place.parent, &*place.name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Ok(unlinkat(&place.parent, &*place.name, AtFlags::REMOVEDIR)?),
        Err(error) => Err(error.into()),
    }
}

fn whiteout(place: &Place, name: &str) -> io::Result<()> {
    if name == OPAQUE {
        let parent = openat(&place.parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        return Ok(fsetxattr(parent, OPAQUE_XATTR, b"y", XattrFlags::empty())?);
    }
    let hidden = &name[WHITEOUT.len()..];
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::Error::other("a whiteout of nothing"));
    }
    let place = Place { parent: place.parent.try_clone()?, name: hidden.into() };
    clear(&place)?;
    Ok(mknodat(&place.parent, &*place.name, FileType::CharacterDevice, Mode::empty(), 0)?)
}

fn mode(entry: &Entry<'_, impl Read>) -> Mode {
    Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o7777)
}

fn set_owner(parent: impl AsFd, name: &OsStr, entry: &Entry<'_, impl Read>, flags: AtFlags) -> io::Result<()> {
    let id =
        |id: io::Result<u64>| u32::try_from(id.unwrap_or(0)).map_err(|_| io::Error::other("an owner out of range"));
    let (uid, gid) = (id(entry.header().uid())?, id(entry.header().gid())?);
    if uid == u32::MAX || gid == u32::MAX {
        return Err(io::Error::other("an owner out of range"));
    }
    let (uid, gid) = (mapped_owner(uid), mapped_owner(gid));
    Ok(chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?)
}

/// Returns the owner as the container sees the owner. An id beyond the container's users would be unmapped inside, and
/// not even root inside could change such files. Such an id becomes the user `nobody`.
fn mapped_owner(owner: u32) -> u32 {
    if owner < USERS { owner } else { NOBODY }
}

/// Id of the user and the group for owners without an id of their own, in Debian and other distributions.
const NOBODY: u32 = 65_534;

fn finish_node(entry: &Entry<'_, impl Read>, place: &Place) -> io::Result<()> {
    set_owner(&place.parent, &place.name, entry, AtFlags::SYMLINK_NOFOLLOW)?;
    // This process created the entry a moment ago, and no other process writes here, so the entry is no link.
    Ok(chmodat(&place.parent, &*place.name, mode(entry), AtFlags::empty())?)
}

fn finish_link(entry: &Entry<'_, impl Read>, place: &Place) -> io::Result<()> {
    set_owner(&place.parent, &place.name, entry, AtFlags::SYMLINK_NOFOLLOW)?;
    set_time(&place.parent, &place.name, entry.header().mtime().unwrap_or(0), AtFlags::SYMLINK_NOFOLLOW);
    Ok(())
}

/// Clears the "effective" flag of a file's capabilities (`struct vfs_cap_data`: the lowest bit of its first word). A
/// container gains no capability by running a file. Without the flag, the kernel still runs the file. With the flag,
/// the kernel refuses the file (EPERM) if the container lacks one of its capabilities.
fn not_effective(capabilities: &mut [u8]) {
    if let Some(first) = capabilities.first_mut() {
        *first &= !1;
    }
}

fn set_xattrs(entry: &mut Entry<'_, impl Read>, file: impl AsFd) -> io::Result<()> {
    let Some(records) = entry.pax_extensions()? else {
        return Ok(());
    };
    for record in records {
        let record = record?;
        let name = record.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."));
        if let Some(name) = name.filter(|name| may_carry(name)) {
            let mut value = record.value_bytes().to_vec();
            if name == CAPABILITIES {
                not_effective(&mut value);
            }
            fsetxattr(&file, name, &value, XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// Sets an entry's modification time. A time that cannot be set (out of range) is no reason to refuse a layer.
fn set_time(parent: impl AsFd, name: &OsStr, mtime: u64, flags: AtFlags) {
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
    let _ = utimensat(parent, name, &Timestamps { last_access: time, last_modification: time }, flags);
}
