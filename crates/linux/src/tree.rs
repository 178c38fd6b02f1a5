//! Size and removal of folders with untrusted content of any depth.

use std::ffi::{CString, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::{LinuxError, WithAction};

/// Limit of folders that are open at a time. Deeper folders are first moved up.
const DEPTH: usize = 32;

/// Limit of a path's length, in bytes (the kernel's `PATH_MAX`, less the terminating NUL).
const PATH_MAX: usize = 4095;

/// Least size that an entry counts, because folders and inodes also take space.
const ENTRY: u64 = 4096;

/// Number of names that are read at a time.
const BATCH: usize = 1024;

/// Removes a folder and its whole content; a missing folder is not an error. Links are removed and never followed.
/// Entries that another process removes meanwhile are skipped. The memory and descriptors needed are the same for any
/// tree.
///
/// # Errors
/// Any error of a system call, with the path. A second call resumes the removal.
pub fn remove(path: &Path) -> Result<(), LinuxError> {
    let removed = match open(CWD, path.as_os_str()) {
        Ok(top) => empty(&top).and_then(|()| unlinkat(CWD, path, AtFlags::REMOVEDIR)),
        Err(Errno::NOTDIR | Errno::LOOP) => unlinkat(CWD, path, AtFlags::empty()),
        Err(error) => Err(error),
    };
    match removed {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error).with_action(|| format!("remove {}", path.display())),
    }
}

/// Measures the disk space of a folder, in bytes, until the sum exceeds `most`. Links are counted and never followed.
/// Entries that disappear meanwhile do not count. If a folder is too deep for any path, the result is `u64::MAX`.
///
/// # Errors
/// When the folder itself cannot be opened.
pub fn usage(path: &Path, most: u64) -> Result<u64, LinuxError> {
    let top = open(CWD, path.as_os_str()).with_action(|| format!("open {}", path.display()))?;
    let mut total = 0u64;
    let mut folders = vec![CString::from(c".")];
    while let Some(folder) = folders.pop() {
        // Open beneath the folder and follow no link, even if another process replaces the folder meanwhile.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let Ok(opened) = openat2(&top, &folder, flags, Mode::empty(), beneath) else { continue };
        for entry in Dir::read_from(&opened).into_iter().flatten().flatten() {
            let name = entry.file_name().to_bytes();
            if [&b"."[..], b".."].contains(&name) {
                continue;
            }
            let Ok(stat) = statat(&opened, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            total = total.saturating_add((u64::try_from(stat.st_blocks).unwrap_or_default() * 512).max(ENTRY));
            if total > most {
                return Ok(total);
            }
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                let below = [folder.to_bytes(), b"/", name].concat();
                if below.len() > PATH_MAX {
                    return Ok(u64::MAX);
                }
                // Neither part contains a NUL.
                folders.extend(CString::new(below));
            }
        }
    }
    Ok(total)
}

fn open(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a folder directly below `parent`. A mount point counts as busy, because its file system belongs to another
/// owner.
fn below(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(parent, name, flags, Mode::empty(), beneath)
        .map_err(|error| if error == Errno::XDEV { Errno::BUSY } else { error })
}

/// Empties a folder. Reads it repeatedly, to find the folders that were moved up during an earlier pass.
fn empty(top: &OwnedFd) -> rustix::io::Result<()> {
    let mut moved = 0;
    while clear(top, top, DEPTH, &mut moved)? {}
    Ok(())
}

/// Removes the content of `folder`, and reports whether it had any content.
fn clear(folder: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> rustix::io::Result<bool> {
    let mut any = false;
    loop {
        let names = batch(folder)?;
        if names.is_empty() {
            return Ok(any);
        }
        any = true;
        for name in names {
            let name = OsStr::from_bytes(name.as_bytes());
            let removed = match unlinkat(folder, name, AtFlags::empty()) {
                Err(Errno::ISDIR) if depth == 0 => move_up(folder, name, top, moved),
                Err(Errno::ISDIR) => below(folder, name).and_then(|inner| {
                    clear(&inner, top, depth - 1, moved)?;
                    unlinkat(folder, name, AtFlags::REMOVEDIR)
                }),
                result => result,
            };
            match removed {
                Err(Errno::NOENT) | Ok(()) => {}
                result => result?,
            }
        }
    }
}

fn batch(folder: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

fn move_up(folder: &OwnedFd, name: &OsStr, top: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        match renameat(folder, name, top, format!(".deep-{moved}")) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn removes_a_tree_of_any_depth_without_following_links() {
        let outer = tempfile::tempdir().expect("a folder");
        let top = outer.path().join("top");
        std::fs::create_dir(&top).expect("made");
        std::fs::write(outer.path().join("kept"), "").expect("written");
        std::os::unix::fs::symlink(outer.path(), top.join("out")).expect("linked");
        for n in 0..3000 {
            std::fs::write(top.join(format!("file-{n}")), "").expect("written");
        }
        let mut folder = open(CWD, top.as_os_str()).expect("opened");
        for depth in 0..20_000 {
            // A name that the removal itself would use must do no harm.
            let name = if depth == 40 { ".deep-1" } else { "d" };
            rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o000)).expect("made");
            folder = open(folder.as_fd(), OsStr::new(name)).expect("opened");
        }
        drop(folder);
        remove(&top).expect("removed");
        assert!(!top.exists() && outer.path().join("kept").exists());
        remove(&top).expect("removed twice");
    }

    #[test]
    fn measures_a_folder_without_leaving_it() {
        let outer = tempfile::tempdir().expect("a folder");
        let top = outer.path().join("top");
        std::fs::create_dir_all(top.join("a/b")).expect("made");
        std::fs::write(top.join("a/b/file"), vec![1; 1 << 20]).expect("written");
        std::fs::write(outer.path().join("beyond"), vec![1; 1 << 20]).expect("written");
        std::os::unix::fs::symlink(outer.path(), top.join("link")).expect("linked");
        let all = usage(&top, u64::MAX).expect("counted");
        assert!(((1 << 20) + 3 * ENTRY..(1 << 20) + 5 * ENTRY).contains(&all), "{all}");
        assert!(usage(&top, 5000).expect("counted") < all, "it stops once it is enough");
        let mut deep = open(CWD, top.as_os_str()).expect("opened");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&deep, "x", Mode::from_raw_mode(0o755)).expect("made");
            deep = open(deep.as_fd(), OsStr::new("x")).expect("opened");
        }
        assert_eq!(usage(&top, u64::MAX).expect("counted"), u64::MAX);
        remove(&top).expect("removed");
        assert!(usage(&top, u64::MAX).is_err());
    }

    #[test]
    fn removes_a_link_but_not_its_target() {
        let outer = tempfile::tempdir().expect("a folder");
        let link = outer.path().join("link");
        std::os::unix::fs::symlink(outer.path(), &link).expect("linked");
        remove(&link).expect("removed");
        assert!(outer.path().exists() && link.symlink_metadata().is_err());
    }
}
