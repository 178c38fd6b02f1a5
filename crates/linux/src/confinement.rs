//! Confinement of a command or a thread of root's: the rights of another user, and a view of the folders.
//!
//! A folder that the user may not enter looks empty, except for the paths that the confinement shows. The user needs no
//! right to any folder above these paths, and sees nothing beside them. The view is a mount namespace of its own; the
//! kernel removes the namespace with its last process.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, Uid, accessat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};

use crate::{LinuxError, WithAction, mounts};

/// A user of the machine and the user's own group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserIds {
    /// Number of the user.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
}

impl UserIds {
    /// The user root.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    /// Gives up the rights of root in the calling thread, and in no other.
    fn assume(self) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        if uid.is_root() {
            return Ok(());
        }
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        set_no_new_privs(true)
    }
}

/// A user, and the mounts of the user's view. Serves one command or one thread.
#[derive(Debug)]
pub struct Confinement {
    user: UserIds,
    /// Detached mounts with their places, in order.
    mounts: Vec<(OwnedFd, CString)>,
}

impl Confinement {
    /// Prepares a confinement that shows files and folders at their own paths, which must be absolute and without links.
    /// Needs root.
    ///
    /// # Errors
    /// When a path does not exist, or the kernel refuses.
    pub fn new(user: UserIds, shown: &[&Path]) -> Result<Self, LinuxError> {
        let mut covers: BTreeMap<PathBuf, Vec<&Path>> = BTreeMap::new();
        for path in shown {
            if let Some(closed) = closed_folder(user, path)? {
                covers.entry(closed).or_default().push(path);
            }
        }
        let mut mounts = Vec::new();
        for (folder, shown) in covers {
            mounts.push((cover(&folder, &shown)?, text(&folder)?));
            for path in shown {
                mounts.push((mounts::tree_of(path)?, text(path)?));
            }
        }
        Ok(Self { user, mounts })
    }

    /// Lets a command run confined: without supplementary groups, without any capability, and without a way to gain
    /// privileges.
    pub fn apply(self, command: &mut std::process::Command) {
        let enter = move || self.enter().map_err(std::io::Error::from);
        // SAFETY: the closure runs between fork and exec, in a process with one thread. It makes system calls with
        // values that exist already, and neither allocates nor locks.
        unsafe { command.pre_exec(enter) };
    }

    /// Runs a function in a confined thread. Threads and processes that the function starts are confined too.
    ///
    /// # Errors
    /// When the kernel refuses, or the function panics.
    pub fn run<T: Send>(self, function: impl FnOnce() -> T + Send) -> Result<T, LinuxError> {
        let uid = self.user.uid;
        in_thread(uid, move || self.enter().map(|()| function()))
    }

    fn enter(&self) -> rustix::io::Result<()> {
        if !self.mounts.is_empty() {
            // SAFETY: only FILES is dangerous: descriptors stay shared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            // Mounts of this namespace are not visible outside.
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        }
        for (mount, place) in &self.mounts {
            move_mount(mount, c"", CWD, place.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        self.user.assume()
    }
}

/// Runs a function in a thread of its own.
fn in_thread<T: Send>(uid: u32, function: impl FnOnce() -> rustix::io::Result<T> + Send) -> Result<T, LinuxError> {
    let action = || format!("act as the user {uid}");
    std::thread::scope(|scope| match scope.spawn(function).join() {
        Ok(result) => result.with_action(action),
        Err(_) => Err(std::io::Error::other("the thread panicked")).with_action(action),
    })
}

/// The highest folder on the way to `path` that the user may not enter.
fn closed_folder(user: UserIds, path: &Path) -> Result<Option<PathBuf>, LinuxError> {
    let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
    folders.reverse();
    let found = in_thread(user.uid, || {
        user.assume()?;
        let is_closed = |folder: &&&Path| accessat(CWD, **folder, Access::EXEC_OK, AtFlags::empty()).is_err();
        Ok(folders.iter().find(is_closed).map(|folder| folder.to_path_buf()))
    })?;
    Ok(found)
}

/// A folder that hides `folder`, with an empty place for each shown path.
fn cover(folder: &Path, shown: &[&Path]) -> Result<OwnedFd, LinuxError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let cover = mounts::detached("tmpfs", &[("mode", "755")], attributes)?;
    for path in shown {
        make_place(&cover, folder, path).with_action(|| format!("make a place for {}", path.display()))?;
    }
    Ok(cover)
}

fn make_place(cover: &OwnedFd, folder: &Path, path: &Path) -> rustix::io::Result<()> {
    let below = path.strip_prefix(folder).map_err(|_| Errno::INVAL)?;
    let mut parents: Vec<&Path> = below.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    parents.reverse();
    let make = |path: &Path| match mkdirat(cover, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    };
    parents.into_iter().try_for_each(make)?;
    if path.is_dir() {
        return make(below);
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(cover, below, flags, Mode::from_raw_mode(0o644)).map(drop)
}

fn text(path: &Path) -> Result<CString, LinuxError> {
    CString::new(path.as_os_str().as_bytes()).map_err(std::io::Error::other).with_action(|| "name a path".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const USER: UserIds = UserIds { uid: 54_322, gid: 54_323 };

    /// The fields of a process or thread that show its rights. The bounding set only bounds the gain of privileges,
    /// which is ruled out.
    fn rights(status: &str) -> Vec<String> {
        let named = ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "NoNewPrivs:"];
        let lines = status.lines().filter(|line| named.iter().any(|name| line.starts_with(name)));
        lines.map(|line| line.replace('\t', " ").trim().to_owned()).collect()
    }

    fn of_user() -> Vec<String> {
        let mut expected = vec!["Uid: 54322 54322 54322 54322".to_owned(), "Gid: 54323 54323 54323 54323".to_owned()];
        expected.push("Groups:".to_owned());
        expected.push("NoNewPrivs: 1".to_owned());
        expected.extend(["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|set| format!("{set}: {}", "0".repeat(16))));
        expected.sort();
        expected
    }

    fn sorted(mut rights: Vec<String>) -> Vec<String> {
        rights.sort();
        rights
    }

    fn run(command: &mut std::process::Command) -> String {
        let output = command.output().expect("run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A closed folder with two subfolders. The user owns `own`.
    fn closed() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let closed = folder.path().canonicalize().expect("a path").join("closed");
        for name in ["own/deep", "other"] {
            std::fs::create_dir_all(closed.join(name)).expect("made");
        }
        std::fs::write(closed.join("other/secret"), "root's").expect("written");
        std::os::unix::fs::chown(closed.join("own"), Some(USER.uid), Some(USER.gid)).expect("given");
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).expect("closed");
        (folder, closed)
    }

    #[test]
    fn a_command_has_no_right_of_root_and_sees_only_its_folder() {
        let (_folder, closed) = closed();
        let own = closed.join("own");
        let confined = |words: &[&str]| {
            let mut command = std::process::Command::new(words[0]);
            command.args(&words[1..]);
            Confinement::new(USER, &[&own]).expect("prepared").apply(&mut command);
            run(&mut command)
        };
        assert_eq!(sorted(rights(&confined(&["cat", "/proc/self/status"]))), of_user());
        assert_eq!(confined(&["ls", closed.to_str().expect("text")]), "own\n");
        assert_eq!(confined(&["ls", own.to_str().expect("text")]), "deep\n");
        let made = own.join("made");
        confined(&["touch", made.to_str().expect("text")]);
        assert!(made.exists(), "the folder is the real one");
        assert!(closed.join("other/secret").exists(), "the view is not this process's");
    }

    #[test]
    fn a_thread_and_its_commands_are_confined_and_the_process_stays_root() {
        let (_folder, closed) = closed();
        let own = closed.join("own");
        let confinement = Confinement::new(USER, &[&own]).expect("prepared");
        let (thread, child, names, secret) = confinement
            .run(|| {
                let names = std::fs::read_dir(&closed).map(|entries| entries.flatten().count());
                let thread = std::fs::read_to_string("/proc/thread-self/status").expect("read");
                let child = run(std::process::Command::new("cat").arg("/proc/self/status"));
                (thread, child, names, std::fs::read(closed.join("other/secret")))
            })
            .expect("run");
        assert_eq!(sorted(rights(&thread)), of_user());
        assert_eq!(sorted(rights(&child)), of_user());
        assert_eq!(names.expect("read"), 1);
        assert!(secret.is_err());
        assert!(std::fs::read(closed.join("other/secret")).is_ok() && rustix::process::geteuid().is_root());
        let confinement = Confinement::new(USER, &[]).expect("prepared");
        assert!(confinement.run(|| panic!("on purpose")).is_err());
    }

    #[test]
    fn a_program_in_a_closed_folder_can_be_run() {
        let (_folder, closed) = closed();
        let program = closed.join("other/program");
        assert!(std::process::Command::new("cp").arg("/bin/echo").arg(&program).status().expect("cp").success());
        let own = closed.join("own");
        let confinement = Confinement::new(USER, &[&own, &program]);
        let output = confinement.expect("prepared").run(|| run(std::process::Command::new(&program).arg("ran")));
        assert_eq!(output.expect("run"), "ran\n");
    }

    #[test]
    fn shows_an_open_folder_unchanged() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("a path");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("opened");
        std::fs::create_dir_all(path.join("own")).expect("made");
        let own = path.join("own");
        let confinement = Confinement::new(USER, &[&own]).expect("prepared");
        assert!(confinement.mounts.is_empty());
        assert!(Confinement::new(USER, &[&path.join("none/none")]).is_err());
    }
}
