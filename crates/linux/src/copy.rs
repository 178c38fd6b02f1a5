//! Copies a folder whose content belongs to a container. Each file is cloned where the file system can (btrfs, XFS), and
//! otherwise copied without its holes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fsetxattr,
    ioctl_ficlone, linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::rooted;
use crate::walk::{self, Node};

/// Number of bytes that are copied at a time.
const CHUNK: usize = 1 << 20;

/// A finished copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes that were copied; clones take no space.
    pub bytes: u64,
    /// Number of cloned files.
    pub clones: u64,
}

/// Copies the content and the attributes of the folder `from` to the empty folder `into`, which no other process
/// changes: owners, modes, times, links, and the extended attributes that pass `is_selected`. Leaves out sockets and
/// devices. `room` is asked before each chunk whether it still fits on the disk.
///
/// # Errors
/// The first error, with the path.
pub fn copy(
    from: &OwnedFd,
    into: &OwnedFd,
    is_selected: &dyn Fn(&str) -> bool,
    room: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Copied> {
    let mut copying =
        Copying { into, is_selected, room, links: HashMap::new(), folders: Vec::new(), copied: Copied::default() };
    walk::walk(from, &mut |node| copying.node(node))?;
    let Copying { folders, copied, .. } = copying;
    // A new entry in a folder changes the folder's time.
    for (path, times) in folders.into_iter().rev() {
        let folder = rooted::open(into, &path, OFlags::PATH | OFlags::DIRECTORY)?;
        utimensat(&folder, "", &times, AtFlags::EMPTY_PATH)?;
    }
    Ok(copied)
}

struct Copying<'a> {
    into: &'a OwnedFd,
    is_selected: &'a dyn Fn(&str) -> bool,
    room: &'a mut dyn FnMut(u64) -> io::Result<()>,
    /// First path of each file that has several hard links.
    links: HashMap<(u64, u64), PathBuf>,
    folders: Vec<(PathBuf, Timestamps)>,
    copied: Copied,
}

impl Copying<'_> {
    fn node(&mut self, node: &Node<'_>) -> io::Result<()> {
        self.copied.entries += 1;
        let Some(name) = node.path.file_name() else {
            return self.attributes(node, self.into.try_clone()?);
        };
        let above = node.path.parent().unwrap_or(Path::new(""));
        let parent = rooted::open(self.into, above, OFlags::PATH | OFlags::DIRECTORY)?;
        let private = Mode::from_raw_mode(0o600);
        match node.kind() {
            FileType::Directory => {
                mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.attributes(node, openat(&parent, name, flags, Mode::empty())?)
            }
            FileType::RegularFile => self.file(node, &parent, name),
            FileType::Symlink => {
                symlinkat(node.target()?, &parent, name)?;
                own(node, &parent, name)?;
                Ok(utimensat(&parent, name, &times(node), AtFlags::SYMLINK_NOFOLLOW)?)
            }
            FileType::Fifo => {
                mknodat(&parent, name, FileType::Fifo, private, 0)?;
                own(node, &parent, name)?;
                chmodat(&parent, name, Mode::from_raw_mode(node.stat.st_mode & 0o7777), AtFlags::empty())?;
                Ok(utimensat(&parent, name, &times(node), AtFlags::SYMLINK_NOFOLLOW)?)
            }
            _ => {
                self.copied.entries -= 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, node: &Node<'_>, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let key = (node.stat.st_dev, node.stat.st_ino);
        if node.stat.st_nlink > 1
            && let Some(first) = self.links.get(&key)
        {
            let first = rooted::open(self.into, first, OFlags::PATH | OFlags::NOFOLLOW)?;
            return Ok(linkat(&first, "", parent, name, AtFlags::EMPTY_PATH)?);
        }
        let source = File::from(node.open()?);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let target = File::from(openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        match ioctl_ficlone(&target, &source) {
            Ok(()) => self.copied.clones += 1,
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV) => self.content(&source, &target)?,
            Err(error) => return Err(error.into()),
        }
        own(node, parent, name)?;
        for (name, value) in walk::xattrs(&source, self.is_selected)? {
            fsetxattr(&target, name, &value, XattrFlags::empty())?;
        }
        chmodat(parent, name, Mode::from_raw_mode(node.stat.st_mode & 0o7777), AtFlags::empty())?;
        utimensat(parent, name, &times(node), AtFlags::SYMLINK_NOFOLLOW)?;
        if node.stat.st_nlink > 1 {
            self.links.insert(key, node.path.to_owned());
        }
        Ok(())
    }

    fn content(&mut self, source: &File, target: &File) -> io::Result<()> {
        let size = source.metadata()?.len();
        let mut buffer = vec![0; CHUNK];
        for (mut at, length) in walk::pieces(source, size)? {
            let end = at + length;
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                let count = source.read_at(&mut buffer[..most], at)?;
                if count == 0 {
                    // The file shrank meanwhile.
                    break;
                }
                (self.room)(count as u64)?;
                target.write_all_at(&buffer[..count], at)?;
                at += count as u64;
                self.copied.bytes += count as u64;
            }
        }
        target.set_len(size)
    }

    /// Gives a folder the attributes of the original, but its times, which are set last.
    fn attributes(&mut self, node: &Node<'_>, folder: OwnedFd) -> io::Result<()> {
        chownat(
            &folder,
            "",
            Some(Uid::from_raw(node.stat.st_uid)),
            Some(Gid::from_raw(node.stat.st_gid)),
            AtFlags::EMPTY_PATH,
        )?;
        let open = openat(&folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for (name, value) in walk::xattrs(node.open()?, self.is_selected)? {
            fsetxattr(open.as_fd(), name, &value, XattrFlags::empty())?;
        }
        chmodat(&folder, ".", Mode::from_raw_mode(node.stat.st_mode & 0o7777), AtFlags::empty())?;
        self.folders.push((node.path.to_owned(), times(node)));
        Ok(())
    }
}

fn own(node: &Node<'_>, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(node.stat.st_uid), Gid::from_raw(node.stat.st_gid));
    Ok(chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(node: &Node<'_>) -> Timestamps {
    let nanos = |nanos| i64::try_from(nanos).unwrap_or_default();
    Timestamps {
        last_access: Timespec { tv_sec: node.stat.st_atime, tv_nsec: nanos(node.stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: node.stat.st_mtime, tv_nsec: nanos(node.stat.st_mtime_nsec) },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_copy_keeps_content_metadata_and_links() {
        let outer = tempfile::tempdir().expect("a folder");
        let (from, into) = (outer.path().join("from"), outer.path().join("into"));
        std::fs::create_dir_all(from.join("data/base")).expect("made");
        std::fs::create_dir(&into).expect("made");
        let file = File::create(from.join("data/base/1")).expect("made");
        file.set_len(4 << 20).expect("sized");
        file.write_all_at(b"page", 1 << 20).expect("written");
        std::fs::hard_link(from.join("data/base/1"), from.join("data/base/2")).expect("linked");
        symlink("/etc/passwd", from.join("data/link")).expect("linked");
        std::os::unix::fs::chown(from.join("data/base/1"), Some(70), Some(71)).expect("given");
        std::os::unix::fs::lchown(from.join("data/link"), Some(72), Some(72)).expect("given");
        std::fs::set_permissions(from.join("data"), std::fs::Permissions::from_mode(0o2750)).expect("set");
        fsetxattr(&file, "user.note", b"one\ntwo", XattrFlags::empty()).expect("set");
        let opened = |path: &Path| walk::top(path).expect("opened");
        let mut asked = 0;
        let mut room = |bytes| {
            asked += bytes;
            Ok(())
        };
        let copied =
            copy(&opened(&from), &opened(&into), &|name| name.starts_with("user."), &mut room).expect("copied");
        assert_eq!((copied.entries, copied.bytes), (6, asked));
        let about = |path: &Path| {
            let about = path.symlink_metadata().expect("there");
            (about.mode(), about.uid(), about.gid(), about.mtime(), about.mtime_nsec(), about.size(), about.nlink())
        };
        for path in ["", "data", "data/base", "data/base/1", "data/base/2", "data/link"] {
            assert_eq!(about(&into.join(path)), about(&from.join(path)), "{path}");
        }
        let one = std::fs::metadata(into.join("data/base/1")).expect("there");
        assert_eq!(one.ino(), std::fs::metadata(into.join("data/base/2")).expect("there").ino());
        assert!(one.blocks() * 512 < 1 << 20, "its holes were filled");
        assert_eq!(
            std::fs::read(into.join("data/base/1")).expect("read"),
            std::fs::read(from.join("data/base/1")).expect("read")
        );
        assert_eq!(std::fs::read_link(into.join("data/link")).expect("a link"), Path::new("/etc/passwd"));
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(into.join("data/base/1"), "user.note", &mut value[..]).expect("there");
        assert_eq!(&value[..length], b"one\ntwo");
        let full = |_| Err(io::Error::other("full"));
        std::fs::create_dir(outer.path().join("more")).expect("made");
        let error = copy(&opened(&from), &opened(&outer.path().join("more")), &|_| false, &mut { full });
        let cloned = copied.clones > 0;
        assert!(cloned || error.expect_err("refused").to_string() == "data/base/1: full");
    }
}
