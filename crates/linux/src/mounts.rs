//! Mounts that are created detached and attached by file descriptor, so that no path is resolved twice.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_change, mount_remount, move_mount, open_tree,
};

use crate::{LinuxError, WithAction};

/// Creates an instance of a file system without attaching it. Files can already be created in it.
///
/// # Errors
/// Any error of a system call.
pub fn detached(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, LinuxError> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value)?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().with_action(|| format!("create a {kind} file system"))
}

/// Creates a detached copy of the mount at `path`, for a bind mount.
///
/// # Errors
/// Any error of a system call, with the path.
pub fn copy_of(path: &Path) -> Result<OwnedFd, LinuxError> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .with_action(|| format!("bind {}", path.display()))
}

/// Does the same as [`copy_of`], with the mounts below `path`.
///
/// # Errors
/// Any error of a system call, with the path.
pub fn tree_of(path: &Path) -> Result<OwnedFd, LinuxError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).with_action(|| format!("bind {}", path.display()))
}

/// Does the same as [`copy_of`], with mapped owners: owners on the disk appear as users of the namespace `users`, and
/// vice versa.
///
/// # Errors
/// `EINVAL` if the file system does not support mapping (before Linux 5.12 none does).
pub fn mapped_copy_of(path: &Path, users: impl AsFd) -> Result<OwnedFd, LinuxError> {
    let copy = copy_of(path)?;
    map_owners(&copy, users).with_action(|| format!("map the owners of {}", path.display()))?;
    Ok(copy)
}

/// Does the same as [`copy_of`], but the copy is read-only: a process that runs a program from the copy cannot change
/// the program through `/proc/PID/exe`.
///
/// # Errors
/// The same as [`mapped_copy_of`].
pub fn read_only_copy_of(path: &Path) -> Result<OwnedFd, LinuxError> {
    let copy = copy_of(path)?;
    set_attributes(&copy, libc::MOUNT_ATTR_RDONLY, 0)
        .with_action(|| format!("make a copy of {} read-only", path.display()))?;
    Ok(copy)
}

fn map_owners(mount: &OwnedFd, users: impl AsFd) -> std::io::Result<()> {
    let users = u64::try_from(users.as_fd().as_raw_fd()).unwrap_or(u64::MAX);
    set_attributes(mount, libc::MOUNT_ATTR_IDMAP, users)
}

#[allow(unsafe_code)]
fn set_attributes(mount: &OwnedFd, set: u64, userns_fd: u64) -> std::io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd };
    let (path, flags) = (c"", libc::AT_EMPTY_PATH);
    // SAFETY: both descriptors are open for as long as they are borrowed. The path ends with NUL. The structure lives
    // through the call, which receives its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Covers `path` with a copy of itself that has mapped owners, in this mount namespace only.
///
/// # Errors
/// The same as [`mapped_copy_of`].
pub fn map_in_place(path: &Path, users: impl AsFd) -> Result<(), LinuxError> {
    let copy = mapped_copy_of(path, users)?;
    move_mount(&copy, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .with_action(|| format!("cover {}", path.display()))
}

/// Attaches a detached mount to the file or folder `target`.
///
/// # Errors
/// Any error of a system call.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), LinuxError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).with_action(|| "attach a mount".to_owned())
}

/// Changes the flags of an attached mount, given a descriptor of its root.
///
/// # Errors
/// Any error of a system call.
pub fn restrict(mount: impl AsFd, flags: MountFlags) -> Result<(), LinuxError> {
    let path = format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd());
    mount_remount(path, flags | MountFlags::BIND, "").with_action(|| format!("restrict a mount to {flags:?}"))
}

/// Makes all mounts private: later mounts are not visible outside this mount namespace.
///
/// # Errors
/// Any error of a system call.
pub fn make_private() -> Result<(), LinuxError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .with_action(|| "make mounts private".to_owned())
}

/// Mounts an overlay at `target`: `layers` from the top down, writable in `upper`.
///
/// `fsconfig` with one `lowerdir+` per layer (Linux 6.8) takes any number of layers. Older kernels get a single option
/// string, which `mount(2)` cuts at a page; the function therefore refuses a stack that does not fit.
///
/// # Errors
/// Any error of a system call, or more layers than the kernel takes.
pub fn overlay(layers: &[&Path], upper: &Path, work: &Path, target: &Path) -> Result<(), LinuxError> {
    match overlay_by_parts(layers, upper, work) {
        Ok(mount) => move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .with_action(|| format!("attach an overlay to {}", target.display())),
        Err(rustix::io::Errno::INVAL) => overlay_by_string(layers, upper, work, target),
        Err(error) => Err(error).with_action(|| format!("mount an overlay of {} layers", layers.len())),
    }
}

fn overlay_by_parts(layers: &[&Path], upper: &Path, work: &Path) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(&context, "lowerdir+", *layer)?;
    }
    fsconfig_set_string(&context, "upperdir", upper)?;
    fsconfig_set_string(&context, "workdir", work)?;
    // Every tool must be able to read a layer: no metadata-only copies, no redirected folders.
    for option in ["metacopy", "redirect_dir"] {
        fsconfig_set_string(&context, option, "off")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

fn overlay_by_string(layers: &[&Path], upper: &Path, work: &Path, target: &Path) -> Result<(), LinuxError> {
    let lower: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},metacopy=off,redirect_dir=off",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    if options.len() >= 4096 {
        let source = std::io::Error::other("this kernel takes at most 4,095 bytes of layer paths; use fewer layers");
        return Err(LinuxError { action: format!("mount an overlay of {} layers", layers.len()), source });
    }
    let options =
        std::ffi::CString::new(options).map_err(std::io::Error::other).with_action(|| "mount an overlay".into())?;
    mount("overlay", target, "overlay", MountFlags::NODEV, Some(options.as_c_str()))
        .with_action(|| format!("mount an overlay at {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_a_program_from_a_copy_that_cannot_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        // Copy in a separate process. Otherwise a program that another test starts at that moment would inherit the
        // file open for writing. The kernel refuses to run a program that is open for writing ("text file busy").
        let copied = std::process::Command::new("cp").arg("/bin/true").arg(&program).status();
        assert!(copied.expect("cp").success());
        let copy = read_only_copy_of(&program).expect("a copy");
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert!(std::process::Command::new(&path).status().expect("it runs").success());
        // The program no longer runs; while it ran, the kernel would refuse writes for that reason alone.
        let write = |path: &Path| std::fs::File::options().write(true).open(path).map(drop);
        assert_eq!(write(Path::new(&path)).expect_err("refused").raw_os_error(), Some(libc::EROFS));
        write(&program).expect("without the copy it is written");
    }
}
