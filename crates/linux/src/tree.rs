//! Removal of folders that someone else filled, however deep they made them.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::{LinuxError, Tried};

/// Folders that are open at a time. What lies deeper is moved up first.
const DEPTH: usize = 32;

/// Names that are read at a time.
const BATCH: usize = 1024;

/// Removes a folder and everything in it; nothing when it is not there. Links are removed, never followed. It takes the
/// same memory and descriptors for any tree.
///
/// # Errors
/// What the kernel said, with the path. Done again it goes on.
pub fn remove(path: &Path) -> Result<(), LinuxError> {
    let removed = match open(CWD, path.as_os_str()) {
        Ok(top) => empty(&top).and_then(|()| unlinkat(CWD, path, AtFlags::REMOVEDIR)),
        Err(Errno::NOTDIR | Errno::LOOP) => unlinkat(CWD, path, AtFlags::empty()),
        Err(error) => Err(error),
    };
    match removed {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error).tried(|| format!("remove {}", path.display())),
    }
}

fn open(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Empties a folder. What was moved up into it while it was read is found by reading it again.
fn empty(top: &OwnedFd) -> rustix::io::Result<()> {
    let mut moved = 0;
    while clear(top, top, DEPTH, &mut moved)? {}
    Ok(())
}

/// Takes away what is in `folder`; whether there was anything.
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
            match unlinkat(folder, name, AtFlags::empty()) {
                Err(Errno::ISDIR) if depth == 0 => move_up(folder, name, top, moved)?,
                Err(Errno::ISDIR) => {
                    clear(&open(folder.as_fd(), name)?, top, depth - 1, moved)?;
                    unlinkat(folder, name, AtFlags::REMOVEDIR)?;
                }
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
    use super::*;

    #[test]
    fn a_tree_of_any_depth_and_width_is_removed_and_links_are_not_followed() {
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
            // A name that the removal would take itself is no trouble.
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
    fn a_file_or_link_in_its_place_goes_alone() {
        let outer = tempfile::tempdir().expect("a folder");
        let link = outer.path().join("link");
        std::os::unix::fs::symlink(outer.path(), &link).expect("linked");
        remove(&link).expect("removed");
        assert!(outer.path().exists() && link.symlink_metadata().is_err());
    }
}
