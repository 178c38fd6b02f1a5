//! Writes a container's changes to its root as a layer. The changes are in the overlay's upper folder, which is read
//! after all processes in the container have ended.
//!
//! The container wrote the content, so the walk uses descriptors and follows no link.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use gantry_linux::process::USERS;
use gantry_linux::walk::xattrs;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, openat, readlinkat, statat};

use crate::layer::{Layer, LayerWriter, Meta};
use crate::tree::{OPAQUE, OPAQUE_XATTR, WHITEOUT, may_carry};
use crate::unpack::Bounds;

/// Writes the layer of the folder `upper`. Returns none if nothing outside the `excluded` paths changed.
///
/// - `excluded`: relative paths that a running container has mounts on, such as `etc/hosts`.
/// - `users`: the first host user id of the container's own users, if the container had some. The layer has the image's
///   user ids instead.
/// - `newest`: the limit on modification times in the layer; later times are set to this time.
///
/// # Errors
/// When a file cannot be read, or the layer cannot be written.
pub fn diff(
    upper: &Path,
    excluded: &[&str],
    users: Option<u32>,
    newest: u64,
    scratch: &Path,
) -> io::Result<Option<Layer>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())?;
    let writer = LayerWriter::new(scratch)?;
    let mut walk = Walk { writer, excluded, users, newest, links: HashMap::new(), entries: 0, bytes: 0 };
    walk.folder(&root, Path::new(""))?;
    if walk.entries == 0 {
        return Ok(None);
    }
    walk.writer.finish().map(Some)
}

/// Limit on nested folders; the walk keeps one descriptor open for each.
const DEPTH_MAX: usize = 256;

struct Walk<'a> {
    writer: LayerWriter,
    excluded: &'a [&'a str],
    users: Option<u32>,
    newest: u64,
    /// First path of each file that has several hard links.
    links: HashMap<(u64, u64), PathBuf>,
    entries: u64,
    bytes: u64,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &OwnedFd, path: &Path) -> io::Result<()> {
        for name in names(folder)? {
            let path = path.join(&name);
            if self.excluded.iter().any(|excluded| path == Path::new(excluded)) {
                continue;
            }
            let stat = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.entry(folder, &name, &path, &stat)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, name: &OsString, path: &Path, stat: &Stat) -> io::Result<()> {
        let meta = self.meta(stat);
        let open = |flags| openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if path.components().count() > DEPTH_MAX => {
                Err(io::Error::other(format!("folders are nested more than {DEPTH_MAX} deep")))
            }
            FileType::Directory => {
                let folder = open(OFlags::RDONLY | OFlags::DIRECTORY)?;
                let before = self.entries;
                if self.holds_a_mount(path) && !is_opaque(&folder) {
                    // The sandbox created this folder for a mount point below. The layer has the folder only if the
                    // folder has other entries too.
                    self.folder(&folder, path)?;
                    if self.entries > before {
                        self.writer.folder(path, meta)?;
                    }
                    return Ok(());
                }
                self.entries += 1;
                self.writer.xattrs(&xattrs(&folder, may_carry)?)?;
                self.writer.folder(path, meta)?;
                if is_opaque(&folder) {
                    self.writer.file(&path.join(OPAQUE), meta, 0, io::empty())?;
                }
                self.folder(&folder, path)
            }
            FileType::RegularFile => {
                self.entries += 1;
                if stat.st_nlink > 1
                    && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino))
                {
                    let first = first.clone();
                    return self.writer.hard_link(path, meta, &first);
                }
                if stat.st_nlink > 1 {
                    self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
                }
                // Holes count as content here, because unpacking the layer would take that much space.
                self.bytes += stat.st_size.cast_unsigned();
                if self.bytes > Bounds::default().bytes {
                    return Err(io::Error::other(format!("more than {} bytes were written", Bounds::default().bytes)));
                }
                let file = open(OFlags::RDONLY)?;
                self.writer.xattrs(&xattrs(&file, may_carry)?)?;
                self.writer.file(path, meta, stat.st_size.cast_unsigned(), File::from(file))
            }
            FileType::Symlink => {
                self.entries += 1;
                let target = readlinkat(parent, name, Vec::new())?;
                self.writer.symlink(path, meta, Path::new(&OsString::from_vec(target.into_bytes())))
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                self.entries += 1;
                let mut hidden = OsString::from(WHITEOUT);
                hidden.push(name);
                self.writer.file(&path.with_file_name(hidden), meta, 0, io::empty())
            }
            FileType::Fifo => {
                self.entries += 1;
                self.writer.fifo(path, meta)
            }
            // Sockets are useless after their process ends, and a container cannot create device nodes.
            _ => Ok(()),
        }
    }

    fn meta(&self, stat: &Stat) -> Meta {
        // Files that the machine itself created for the container belong to root in the layer.
        let inside =
            |id: u32| self.users.map_or(id, |first| id.checked_sub(first).filter(|id| *id < USERS).unwrap_or(0));
        Meta {
            mode: stat.st_mode & 0o7777,
            uid: inside(stat.st_uid),
            gid: inside(stat.st_gid),
            mtime: u64::try_from(stat.st_mtime).unwrap_or(0).min(self.newest),
        }
    }

    fn holds_a_mount(&self, path: &Path) -> bool {
        self.excluded.iter().any(|excluded| Path::new(excluded).starts_with(path))
    }
}

/// Lists a folder's names in sorted order, so that the same tree gives the same layer.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(OsString::from_vec(name.to_bytes().to_vec()));
        }
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

pub(crate) fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0; 4];
    matches!(fgetxattr(folder, OPAQUE_XATTR, &mut value[..]), Ok(1) if value[0] == b'y')
}
