//! Paths inside an untrusted root. The kernel resolves every part of a path with `RESOLVE_IN_ROOT`: an absolute symlink
//! or `..` stays inside, a magic link is refused, and no time passes between a check and its use.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, statat, unlinkat};
use rustix::io::Errno;

use crate::{LinuxError, WithAction};

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens `path` inside `root`.
///
/// # Errors
/// Any error of the system call: `ENOENT`, `ELOOP`, …
pub fn open(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, LinuxError> {
    open_with_mode(root, path, flags, Mode::empty())
}

/// Does the same as [`open`], with the mode of a file that is created.
///
/// # Errors
/// Any error of the system call.
pub fn open_with_mode(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, LinuxError> {
    // A path that is empty without its leading slashes is the root itself.
    let inside = path.strip_prefix("/").unwrap_or(path);
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    retry(|| openat2(root.as_fd(), inside, flags | OFlags::CLOEXEC, mode, INSIDE))
        .with_action(|| format!("open {} inside its root", path.display()))
}

/// Retries a call of `openat2`, up to a limit. The call returns `EAGAIN` when a rename raced with it; the kernel
/// expects the caller to try again.
pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..1000 {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the folder `path` inside `root`, and creates missing folders with mode 0755. A symlink on the way is followed
/// inside the root; the last part must be a folder itself and not a link to a folder.
///
/// # Errors
/// Any error of a system call; `ENOTDIR` or `ELOOP` if another kind of file is in the way.
pub fn make_folder(root: impl AsFd, path: &Path) -> Result<OwnedFd, LinuxError> {
    walk(&root, path, OFlags::NOFOLLOW)
}

/// Does the same as [`make_folder`], but the last part may also be a link to a folder inside the root.
///
/// # Errors
/// Any error of a system call.
pub fn make_folder_through_links(root: impl AsFd, path: &Path) -> Result<OwnedFd, LinuxError> {
    walk(&root, path, OFlags::empty())
}

fn walk(root: impl AsFd, path: &Path, last_flag: OFlags) -> Result<OwnedFd, LinuxError> {
    let mut folder = open(&root, Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?;
    let mut walked = PathBuf::from("/");
    let parts: Vec<_> = names(path).collect();
    for (step, name) in parts.iter().enumerate() {
        walked.push(name);
        match mkdirat(&folder, *name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).with_action(|| format!("create the folder {}", walked.display())),
        }
        let last = step + 1 == parts.len();
        let follow = if last { last_flag } else { OFlags::empty() };
        folder = open(&root, &walked, OFlags::PATH | OFlags::DIRECTORY | follow)?;
    }
    Ok(folder)
}

/// Opens `path` inside `root` as the target of a file's mount. Creates an empty file if the path does not exist, or is
/// neither a file nor a folder.
///
/// # Errors
/// Any error of a system call; `EISDIR` if a folder is in the way.
pub fn make_file(root: impl AsFd, path: &Path) -> Result<OwnedFd, LinuxError> {
    let parent = make_folder(&root, path.parent().unwrap_or(Path::new("/")))?;
    let action = || format!("create the file {}", path.display());
    let Some(name) = path.file_name() else {
        return Err(Errno::ISDIR).with_action(action);
    };
    if let Ok(found) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        match rustix::fs::FileType::from_raw_mode(found.st_mode) {
            rustix::fs::FileType::RegularFile => {}
            rustix::fs::FileType::Directory => return Err(Errno::ISDIR).with_action(action),
            // Replace other kinds of files: a link leads elsewhere, and opening a pipe would wait for its other end.
            _ => unlinkat(&parent, name, AtFlags::empty()).with_action(action)?,
        }
    }
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(&parent, name, flags, Mode::from_raw_mode(0o644)).with_action(action)?;
    openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).with_action(action)
}

/// Returns the names on a path, without `.`, `..` and prefixes, so that no name leads elsewhere.
pub fn names(path: &Path) -> impl Iterator<Item = &std::ffi::OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        std::fs::create_dir(&root).expect("made");
        std::fs::write(folder.path().join("secret"), "outside").expect("written");
        let fd = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        (folder, fd.expect("opened"))
    }

    #[test]
    fn resolves_links_and_dots_inside_the_root() {
        let (folder, fd) = root();
        let inside = folder.path().join("root");
        symlink(folder.path().join("secret"), inside.join("absolute")).expect("a link");
        symlink("../secret", inside.join("relative")).expect("a link");
        symlink("/proc/self/root", inside.join("magic")).expect("a link");
        for path in ["absolute", "relative", "../secret", "/../secret", "magic/etc/passwd"] {
            assert!(open(&fd, Path::new(path), OFlags::RDONLY).is_err(), "{path} led outside");
        }
    }

    #[test]
    fn follows_a_link_to_a_folder_only_inside_the_root() {
        let (folder, fd) = root();
        let inside = folder.path().join("root");
        symlink(folder.path(), inside.join("out")).expect("a link");
        let made = make_folder(&fd, Path::new("/out/x"));
        assert!(made.is_err() || !folder.path().join("x").exists());
        symlink("/", inside.join("top")).expect("a link");
        make_folder(&fd, Path::new("/top/made")).expect("made inside");
        assert!(inside.join("made").is_dir());
        assert!(make_folder(&fd, Path::new("/top")).is_err(), "the last part must be a folder itself");
    }

    #[test]
    fn replaces_a_dangling_link_by_a_file() {
        let (folder, fd) = root();
        let inside = folder.path().join("root");
        std::fs::create_dir(inside.join("etc")).expect("made");
        symlink("../../secret", inside.join("etc/resolv.conf")).expect("a link");
        make_file(&fd, Path::new("/etc/resolv.conf")).expect("made");
        assert!(inside.join("etc/resolv.conf").symlink_metadata().expect("there").is_file());
        let mut secret = String::new();
        std::fs::File::open(folder.path().join("secret"))
            .and_then(|mut file| file.read_to_string(&mut secret))
            .expect("read");
        assert_eq!(secret, "outside");
    }

    /// A thread turns a folder into a link and back, as a hostile container would, while root opens a file below it.
    #[test]
    fn stays_inside_while_a_folder_races_with_a_link() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (folder, fd) = root();
        let inside = folder.path().join("root");
        std::fs::create_dir(folder.path().join("out")).expect("made");
        std::fs::write(folder.path().join("out/file"), "outside").expect("written");
        std::fs::create_dir(inside.join("turning")).expect("made");
        std::fs::write(inside.join("turning/file"), "inside").expect("written");
        symlink(folder.path().join("out"), inside.join("link")).expect("a link");
        let stop = AtomicBool::new(false);
        let read = |file: std::fs::File| {
            let mut text = String::new();
            std::io::BufReader::new(file).read_to_string(&mut text).map(|_| text)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, other) = (inside.join("turning"), inside.join("link"));
                while !stop.load(Ordering::Relaxed) {
                    let swap = rustix::fs::RenameFlags::EXCHANGE;
                    let _ = rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &other, swap);
                }
            });
            let (mut found, mut escaped, mut led_out) = (0, 0, 0);
            for _ in 0..10_000 {
                if let Ok(file) = open(&fd, Path::new("turning/file"), OFlags::RDONLY) {
                    found += 1;
                    escaped += u32::from(!read(file.into()).is_ok_and(|text| text == "inside"));
                }
                if let Ok(made) = make_folder(&fd, Path::new("turning/made")) {
                    drop(made);
                }
                // Mutation test: a path that is opened without protection must sometimes lead outside.
                let plain = std::fs::File::open(inside.join("turning/file"));
                led_out += u32::from(plain.and_then(read).is_ok_and(|text| text == "outside"));
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(escaped, 0, "of {found} that were opened so many were outside");
            assert!(found > 0 && led_out > 0, "{found} opened, {led_out} led out: there was no race");
        });
        assert!(!folder.path().join("out/made").exists(), "something was made outside");
    }
}
