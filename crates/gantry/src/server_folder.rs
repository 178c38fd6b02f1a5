//! The server's own folders, `server` in the data folder and in the run-time folder. The server's user owns them.
//!
//! Earlier versions ran the server as root, with its files in the data folder itself. [`take_over`] moves these files:
//! ```text
//! close the folder (root's, 0700) ─► rename each old file into it ─► give everything below to the user ─► give the folder
//! ```
//! A process that is killed between two of these steps leaves a folder of root's, and the next start does them again. Each
//! file is renamed before the server runs, so that the server never sees a part of its data.
//!
//! The content of the folder is the server's: root follows no path below it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_failpoint::failpoint;
use gantry_ledger::Replacement;
use gantry_linux::confinement::UserIds;
use gantry_linux::walk;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, fstat, mkdirat, openat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::coded::{WithCode, coded, fail};

/// Name of the folder.
pub(crate) const NAME: &str = "server";

/// The store's file.
const STORE: &str = "store.db";

/// Files and folders of the server in the data folder of earlier versions. The store comes after its logs and before its
/// high-water mark: an earlier version that runs in between refuses the store.
const LEGACY_FILES: [&str; 9] =
    ["blobs", "git", "builds", "scratch", "store.db-wal", "store.db-shm", "store.db-journal", STORE, "store.db-head"];

/// Content of the file that stands in place of the old store. Earlier versions take the file for a damaged store, and
/// begin no empty one.
const GUARD: &str =
    "The store of this Gantry is server/store.db. This file keeps earlier versions from beginning another.\n";

/// Ensures that the folder `server` in `data` exists with everything of the server's, and belongs to the user. With
/// `is_default_store`, the store is one of the server's files. Returns at once if nothing is to do.
pub(crate) fn take_over(data: &Path, user: UserIds, is_default_store: bool) -> anyhow::Result<()> {
    let failed = || format!("cannot prepare the server's folder in {}", data.display());
    let parent: OwnedFd = File::open(data).with_context(failed)?.into();
    let folder = open_or_make(&parent).with_context(failed)?;
    let old = old_files(&parent, is_default_store).with_context(failed)?;
    if old.is_empty() && belongs_to(&folder, user).with_context(failed)? {
        return Ok(());
    }
    close(&folder).with_context(failed)?;
    for name in old {
        move_in(data, &parent, &folder, name)?;
        failpoint!("server.moved");
    }
    let has_store = || !matches!(statat(&parent, STORE, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT));
    if is_default_store && !has_store() {
        Replacement::of(&data.join(STORE)).mode(0o600).write(GUARD.as_bytes()).with_context(failed)?;
    }
    walk::change_owner(&folder, user).with_context(failed)?;
    failpoint!("server.given");
    fchown(&folder, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid))).with_context(failed)?;
    gantry_ledger::sync_file_system(data).with_context(failed)
}

/// Takes the folder `server` in `data` from its user, if there is one: only root enters the folder until
/// [`take_over`] gives the folder and everything below to its user.
pub(crate) fn reclaim(data: &Path) -> std::io::Result<()> {
    match rustix::fs::open(data.join(NAME), FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => Ok(()),
        opened => Ok(close(&opened?)?),
    }
}

/// Flags that open a folder, and no link in its place.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the folder, which a link in its place is not.
fn open_or_make(parent: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    match mkdirat(parent, NAME, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    openat(parent, NAME, FOLDER, Mode::empty())
}

fn belongs_to(folder: &OwnedFd, user: UserIds) -> rustix::io::Result<bool> {
    let about = fstat(folder)?;
    Ok((about.st_uid, about.st_gid, about.st_mode & 0o7777) == (user.uid, user.gid, 0o700))
}

fn close(folder: &OwnedFd) -> rustix::io::Result<()> {
    fchown(folder, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fchmod(folder, Mode::RWXU)
}

/// Names of the old files that exist.
fn old_files(parent: &OwnedFd, is_default_store: bool) -> std::io::Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for name in LEGACY_FILES.into_iter().filter(|name| is_default_store || !name.starts_with(STORE)) {
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
            Ok(_) if name == STORE && is_guard(parent)? => {}
            Ok(_) => found.push(name),
        }
    }
    Ok(found)
}

fn is_guard(parent: &OwnedFd) -> std::io::Result<bool> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(parent, STORE, flags, Mode::empty()) else { return Ok(false) };
    let mut head = Vec::new();
    File::from(file).take(GUARD.len() as u64 + 1).read_to_end(&mut head)?;
    Ok(head == GUARD.as_bytes())
}

/// Renames an old file or folder into the server's folder.
fn move_in(data: &Path, parent: &OwnedFd, folder: &OwnedFd, name: &str) -> anyhow::Result<()> {
    let (old, new) = (data.join(name), data.join(NAME).join(name));
    let failed = || format!("cannot move {} to {}", old.display(), new.display());
    let kind = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind.with_context(failed)? == FileType::Symlink {
        fail!(
            DataFolderMixed,
            "{} is a link; stop everything, move its target to {}, and remove the link",
            old.display(),
            new.display()
        );
    }
    match renameat_with(parent, name, folder, name, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // An empty folder holds no data.
        Err(Errno::EXIST) => unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|_| {
            let message =
                format!("both {} and {} exist; move away the one that is not in use", old.display(), new.display());
            coded(ErrorCode::DataFolderMixed, message)
        })?,
        Err(Errno::BUSY | Errno::XDEV) => {
            fail!(
                DataFolderMixed,
                "{} is a mount; stop everything, and mount its file system at {}",
                old.display(),
                new.display()
            );
        }
        Err(error) => return Err(error).with_context(failed).with_code(ErrorCode::FileUnwritable),
    }
    for side in [parent, folder] {
        rustix::fs::fsync(side).with_context(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    const USER: UserIds = UserIds { uid: 54_322, gid: 54_323 };

    /// A data folder of an earlier version.
    fn old_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for path in ["blobs/sha256/ab", "git/shop.git", "builds", "containers/c"] {
            std::fs::create_dir_all(folder.path().join(path)).expect("made");
        }
        for path in
            ["blobs/sha256/ab/abcd", "git/shop.git/HEAD", "store.db", "store.db-wal", "store.db-head", "plan.json"]
        {
            std::fs::write(folder.path().join(path), path).expect("written");
        }
        folder
    }

    /// All files below a folder, with their owners.
    fn files(folder: &Path) -> BTreeMap<String, (u32, String)> {
        let mut files = BTreeMap::new();
        walk::walk(&walk::top(folder).expect("opened"), &mut |node| {
            if node.kind().is_file() {
                let text = std::io::read_to_string(File::from(node.open()?))?;
                files.insert(node.path.display().to_string(), (node.stat.st_uid, text));
            }
            Ok(())
        })
        .expect("walked");
        files
    }

    fn expected() -> BTreeMap<String, (u32, String)> {
        let own = ["blobs/sha256/ab/abcd", "git/shop.git/HEAD", "store.db", "store.db-wal", "store.db-head"];
        let own = own.map(|path| (format!("server/{path}"), (USER.uid, path.to_owned())));
        let others = [("plan.json", "plan.json"), (STORE, GUARD)];
        let others = others.map(|(path, text)| (path.to_owned(), (0, text.to_owned())));
        own.into_iter().chain(others).collect()
    }

    #[test]
    fn the_files_of_an_earlier_version_are_moved_and_given_to_the_user() {
        let folder = old_folder();
        for _ in 0..2 {
            take_over(folder.path(), USER, true).expect("taken over");
            assert_eq!(files(folder.path()), expected());
            let about = std::fs::metadata(folder.path().join(NAME)).expect("there");
            assert_eq!((about.uid(), about.gid(), about.mode() & 0o777), (USER.uid, USER.gid, 0o700));
        }
    }

    #[test]
    fn resumes_a_killed_takeover() {
        for done in 0..=LEGACY_FILES.len() {
            let folder = old_folder();
            let parent: OwnedFd = File::open(folder.path()).expect("opened").into();
            let server = open_or_make(&parent).expect("made");
            for name in old_files(&parent, true).expect("listed").into_iter().take(done) {
                move_in(folder.path(), &parent, &server, name).expect("moved");
            }
            take_over(folder.path(), USER, true).expect("taken over");
            assert_eq!(files(folder.path()), expected(), "after {done}");
        }
    }

    #[test]
    fn another_user_gets_everything() {
        let folder = old_folder();
        let other = UserIds { uid: 54_324, gid: 54_325 };
        take_over(folder.path(), other, true).expect("taken over");
        take_over(folder.path(), USER, true).expect("taken over");
        assert_eq!(files(folder.path()), expected());
        // A restore puts files in place that belong to others.
        reclaim(folder.path()).expect("taken away");
        let about = std::fs::metadata(folder.path().join(NAME)).expect("there");
        assert_eq!((about.uid(), about.mode() & 0o777), (0, 0o700));
        std::fs::remove_file(folder.path().join("server/blobs/sha256/ab/abcd")).expect("removed");
        std::fs::write(folder.path().join("server/blobs/sha256/ab/abcd"), "blobs/sha256/ab/abcd").expect("written");
        take_over(folder.path(), USER, true).expect("taken over");
        assert_eq!(files(folder.path()), expected());
    }

    #[test]
    fn data_in_both_places_and_links_are_refused() {
        let refused = |prepare: &dyn Fn(&Path)| {
            let folder = old_folder();
            prepare(folder.path());
            take_over(folder.path(), USER, true).expect_err("refused").to_string()
        };
        let both = refused(&|data| {
            std::fs::create_dir_all(data.join("server/blobs/sha256")).expect("made");
        });
        assert!(both.contains("both ") && both.contains("/server/blobs exist; move away"), "{both}");
        let link = refused(&|data| {
            std::fs::rename(data.join("blobs"), data.join("elsewhere")).expect("moved");
            std::os::unix::fs::symlink("elsewhere", data.join("blobs")).expect("linked");
        });
        assert!(link.contains("/blobs is a link; stop everything"), "{link}");
        let outside = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(outside.path(), PermissionsExt::from_mode(0o755)).expect("set");
        refused(&|data| std::os::unix::fs::symlink(outside.path(), data.join(NAME)).expect("linked"));
        let about = std::fs::metadata(outside.path()).expect("there");
        assert_eq!((about.uid(), about.mode() & 0o777), (0, 0o755), "root followed a link");
    }

    #[test]
    fn a_store_elsewhere_stays_there() {
        let folder = old_folder();
        take_over(folder.path(), USER, false).expect("taken over");
        assert_eq!(std::fs::read_to_string(folder.path().join(STORE)).expect("there"), STORE);
        assert!(!folder.path().join("server/store.db").exists());
    }
}
