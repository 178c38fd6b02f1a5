//! Walks a folder whose content belongs to a container. The container may change the folder during the walk, so every
//! step opens one name beneath an open folder: no link is followed, and no mount is entered.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Uid, chownat, fgetxattr, flistxattr,
    fstat, openat, openat2, readlinkat, seek,
};
use rustix::io::Errno;

use crate::confinement::UserIds;

/// Limit on nested folders; the walk keeps one descriptor open for each.
const DEPTH_MAX: usize = 256;

/// Limit on the pieces of a file between holes. A file with more pieces counts as one piece.
const PIECES_MAX: usize = 10_000;

/// Limit of the kernel on the names of a file's extended attributes together, and on each value.
const XATTRS_MAX: usize = 64 << 10;

/// A file, folder or link during a walk.
pub struct Node<'a> {
    /// Path below the top folder; empty for the top folder itself.
    pub path: &'a Path,
    /// Metadata of the node.
    pub stat: Stat,
    node: &'a OwnedFd,
}

impl Node<'_> {
    /// Kind of the node.
    #[must_use]
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens a regular file or a folder for reading. The descriptor leads to this node, whatever has its name now.
    ///
    /// # Errors
    /// Any error of the system call, or if the node is neither a regular file nor a folder: opening a device or a pipe
    /// has effects.
    pub fn open(&self) -> io::Result<OwnedFd> {
        if !self.kind().is_file() && !self.kind().is_dir() {
            return Err(io::Error::other("it is neither a file nor a folder"));
        }
        let path = format!("/proc/self/fd/{}", self.node.as_raw_fd());
        Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// Any error of the system call.
    pub fn target(&self) -> io::Result<PathBuf> {
        Ok(PathBuf::from(OsString::from_vec(readlinkat(self.node, "", Vec::new())?.into_bytes())))
    }
}

/// Gives everything below the folder `top` to a user: not the folder itself, nothing on other file systems, and no file
/// with a second name, which may be a file of another folder.
///
/// # Errors
/// The first error of a system call, with the path.
pub fn change_owner(top: &OwnedFd, user: UserIds) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    walk(top, &mut |node| {
        let is_top = node.path.as_os_str().is_empty();
        let is_given = (node.stat.st_uid, node.stat.st_gid) == (user.uid, user.gid);
        let has_second_name = !node.kind().is_dir() && node.stat.st_nlink > 1;
        if is_top || is_given || has_second_name {
            return Ok(());
        }
        Ok(chownat(node.node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    })
}

/// Opens a folder as the top of a walk. A link in its place is refused.
///
/// # Errors
/// Any error of the system call.
pub fn top(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Calls `visit` with the folder `top`, and then with everything below, each folder before its content. Leaves out
/// nodes that disappear meanwhile, and everything on other file systems.
///
/// # Errors
/// The first error of `visit` or of a system call, with the path.
pub fn walk(top: &OwnedFd, visit: &mut dyn FnMut(&Node<'_>) -> io::Result<()>) -> io::Result<()> {
    visit(&Node { path: Path::new(""), stat: fstat(top)?, node: top })?;
    below(top, Path::new(""), 1, visit)
}

fn below(
    folder: &OwnedFd,
    path: &Path,
    depth: usize,
    visit: &mut dyn FnMut(&Node<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let named = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    for name in names(folder).map_err(|error| named(path, error))? {
        let path = path.join(&name);
        let visited = match enter(folder, &name) {
            // The name is gone, or another file system is mounted there, which the container does not see.
            Err(Errno::NOENT | Errno::XDEV) => continue,
            Err(error) => Err(error.into()),
            Ok(node) => fstat(&node).map_err(io::Error::from).and_then(|stat| {
                visit(&Node { path: &path, stat, node: &node })?;
                Ok((FileType::from_raw_mode(stat.st_mode).is_dir()).then_some(node))
            }),
        };
        match visited.map_err(|error| named(&path, error))? {
            Some(_) if depth == DEPTH_MAX => {
                let deep = io::Error::other(format!("folders are nested more than {DEPTH_MAX} deep"));
                return Err(named(&path, deep));
            }
            Some(inner) => below(&inner, &path, depth + 1, visit)?,
            None => {}
        }
    }
    Ok(())
}

fn enter(folder: &OwnedFd, name: &OsString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    crate::rooted::retry(|| openat2(folder, name, flags, Mode::empty(), beneath))
}

/// Names in a folder, sorted.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::read_from(openat(folder, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(OsString::from_vec(name.to_bytes().to_vec()));
        }
    }
    names.sort();
    Ok(names)
}

/// Extended attributes of an open file or folder whose names pass `is_selected`, sorted by name. A file system without
/// extended attributes has none.
///
/// # Errors
/// Any error of a system call.
pub fn xattrs(file: impl AsFd, is_selected: impl Fn(&str) -> bool) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; XATTRS_MAX];
    let length = match flistxattr(&file, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Some(name) = CStr::from_bytes_with_nul(name).ok().and_then(|name| name.to_str().ok()) else {
            continue;
        };
        if is_selected(name) {
            let mut value = vec![0; XATTRS_MAX];
            let length = match fgetxattr(&file, name, &mut value[..]) {
                Err(Errno::NODATA) => continue,
                length => length?,
            };
            value.truncate(length);
            found.push((name.to_owned(), value));
        }
    }
    found.sort();
    Ok(found)
}

/// The parts of a file that are no holes, as offset and length. A file system that knows no holes gives one part.
///
/// # Errors
/// Any error of a system call.
pub fn pieces(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let whole = || if size == 0 { Vec::new() } else { vec![(0, size)] };
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // There is no data after this offset.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(whole()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        pieces.push((start, end - start));
        if pieces.len() > PIECES_MAX {
            return Ok(whole());
        }
        at = end;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, symlink};

    use super::*;

    #[test]
    fn everything_below_is_visited_once_and_links_lead_nowhere() {
        let outer = tempfile::tempdir().expect("a folder");
        let folder = outer.path().join("top");
        std::fs::create_dir_all(folder.join("a/b")).expect("made");
        std::fs::write(folder.join("a/b/file"), "text").expect("written");
        std::fs::write(outer.path().join("secret"), "outside").expect("written");
        symlink(outer.path(), folder.join("a/out")).expect("linked");
        let mut seen = Vec::new();
        walk(&top(&folder).expect("opened"), &mut |node| {
            let what = match node.kind() {
                FileType::Symlink => {
                    assert!(node.open().is_err(), "a link was opened");
                    node.target()?.display().to_string()
                }
                FileType::RegularFile => io::read_to_string(File::from(node.open()?))?,
                _ => String::new(),
            };
            seen.push((node.path.display().to_string(), what));
            Ok(())
        })
        .expect("walked");
        let out = outer.path().display().to_string();
        let expected = [("", ""), ("a", ""), ("a/b", ""), ("a/b/file", "text"), ("a/out", &out)];
        assert_eq!(seen, expected.map(|(path, what)| (path.to_owned(), what.to_owned())));
        symlink(&folder, outer.path().join("link")).expect("linked");
        assert!(top(&outer.path().join("link")).is_err());
    }

    #[test]
    fn an_error_names_the_path_and_depth_is_bounded() {
        let outer = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(outer.path().join("x/y")).expect("made");
        let opened = top(outer.path()).expect("opened");
        let error =
            walk(&opened, &mut |node| if node.path.ends_with("y") { Err(io::Error::other("no")) } else { Ok(()) });
        assert_eq!(error.expect_err("refused").to_string(), "x/y: no");
        let deep: PathBuf = (0..DEPTH_MAX + 2).map(|_| "d").collect();
        std::fs::create_dir_all(outer.path().join(deep)).expect("made");
        let error = walk(&opened, &mut |_| Ok(())).expect_err("too deep").to_string();
        assert!(error.contains("nested more than 256 deep"), "{error}");
    }

    #[test]
    fn gives_a_tree_to_a_user_and_nothing_beyond() {
        use std::os::unix::fs::MetadataExt;
        let outer = tempfile::tempdir().expect("a folder");
        let folder = outer.path().join("top");
        std::fs::create_dir_all(folder.join("deep")).expect("made");
        for path in ["outside", "second", "top/deep/file"] {
            std::fs::write(outer.path().join(path), "").expect("written");
        }
        symlink(outer.path().join("outside"), folder.join("deep/link")).expect("linked");
        std::fs::hard_link(outer.path().join("second"), folder.join("second")).expect("linked");
        change_owner(&top(&folder).expect("opened"), UserIds { uid: 54_322, gid: 54_323 }).expect("given");
        let owner = |path: &str| {
            let about = std::fs::symlink_metadata(outer.path().join(path)).expect("there");
            (about.uid(), about.gid())
        };
        for path in ["top/deep", "top/deep/file", "top/deep/link"] {
            assert_eq!(owner(path), (54_322, 54_323), "{path}");
        }
        for path in ["top", "outside", "second"] {
            assert_eq!(owner(path), (0, 0), "{path}");
        }
    }

    #[test]
    fn finds_holes_in_sparse_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("made");
        assert_eq!(pieces(&file, 0).expect("asked"), []);
        file.set_len(4 << 20).expect("sized");
        file.write_all_at(b"x", 1 << 20).expect("written");
        let found = pieces(&file, 4 << 20).expect("asked");
        // A file system without holes gives the whole file.
        assert!(found == [(1 << 20, 4096)] || found == [(0, 4 << 20)], "{found:?}");
    }
}
