//! Small files that are replaced as a whole: state that a restarted process reads again.
//!
//! ```text
//! write NAME.new ─► sync the file ─► failpoint ─► rename to NAME ─► sync the folder
//! ```
//! A reader sees the old or the new content, never a part. After a successful write the new content survives a power
//! loss: a rename without a sync of its folder can be lost, and a file that was not synced can come back empty.
//!
//! The callers ensure that one process at a time writes a file, or use [`Replacement::shared`]. A [`FileSchema`] gives a
//! kind of file a schema version.

mod schema;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use schema::{ContentError, FileSchema};

/// Replaces a file durably.
///
/// # Errors
/// Any error of a system call. The old file stays, unless only the last sync failed.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    Replacement::of(path).write(content)
}

/// Replaces a file durably with a value as JSON.
///
/// # Errors
/// Same as [`replace`], and when the value cannot be serialized.
pub fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    Replacement::of(path).write_json(value)
}

/// The replacement of one file, with the options that differ from [`replace`].
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Replacement<'a> {
    path: &'a Path,
    mode: u32,
    owner: Option<(u32, u32)>,
    is_shared: bool,
    is_durable: bool,
    before_rename: fn(),
}

impl<'a> Replacement<'a> {
    /// A durable replacement of `path`, with a mode of 0644 less the umask.
    pub fn of(path: &'a Path) -> Self {
        Self { path, mode: 0o644, owner: None, is_shared: false, is_durable: true, before_rename: || {} }
    }

    /// Gives the new file exactly these permissions, from its creation on.
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// Gives the new file to a user and a group before the file gets its name and its content.
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        Self { owner: Some((uid, gid)), ..self }
    }

    /// Allows other processes to replace the file at the same time; the last one wins.
    pub fn shared(self) -> Self {
        Self { is_shared: true, ..self }
    }

    /// Skips the syncs, for a file that means nothing after a reboot. The file survives a kill, but not a power loss.
    pub fn volatile(self) -> Self {
        Self { is_durable: false, ..self }
    }

    /// Calls a function when the new file is complete and the old one still has the name: the place of a failpoint.
    pub fn before_rename(self, before_rename: fn()) -> Self {
        Self { before_rename, ..self }
    }

    /// Writes the new content.
    ///
    /// # Errors
    /// Any error of a system call. The old file stays, unless only the last sync failed.
    pub fn write(self, content: &[u8]) -> io::Result<()> {
        let unfinished = self.unfinished_path();
        let written = self.write_to(&unfinished, content).and_then(|()| {
            (self.before_rename)();
            std::fs::rename(&unfinished, self.path)
        });
        if let Err(error) = written {
            let _ = std::fs::remove_file(&unfinished);
            return Err(error);
        }
        if self.is_durable { sync(folder_of(self.path)) } else { Ok(()) }
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// Same as [`Self::write`], and when the value cannot be serialized.
    pub fn write_json(self, value: &impl Serialize) -> io::Result<()> {
        self.write(&serde_json::to_vec(value)?)
    }

    /// The name of the unfinished file. A file of a killed process is overwritten by the next replacement.
    fn unfinished_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        if self.is_shared {
            name.push(format!("-{}", std::process::id()));
        }
        name.into()
    }

    fn write_to(&self, unfinished: &Path, content: &[u8]) -> io::Result<()> {
        // The file of a killed process may have another mode.
        match std::fs::remove_file(unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(self.mode).open(unfinished)?;
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        if self.mode != 0o644 {
            file.set_permissions(std::fs::Permissions::from_mode(self.mode))?;
        }
        file.write_all(content)?;
        if self.is_durable { file.sync_all() } else { Ok(()) }
    }
}

/// Removes the files that killed processes left behind in a [`Replacement::shared`] of `path`. Another process may be
/// replacing the file now, so the files of running processes stay.
pub fn remove_unfinished(path: &Path) {
    let prefix = format!("{}.new-", path.file_name().unwrap_or_default().to_string_lossy());
    for entry in std::fs::read_dir(folder_of(path)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(&prefix).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The folder of a file; a bare name is in the working folder.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs one file, or the names in one folder.
///
/// # Errors
/// Any error of a system call.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs a folder with its whole content. Links are not followed.
///
/// # Errors
/// The error of the first file or folder that cannot be synced.
pub fn sync_tree(folder: &Path) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                sync(&entry.path())?;
            }
        }
        sync(&folder)?;
    }
    Ok(())
}

/// Syncs the whole file system of `path`.
///
/// # Errors
/// Any error of a system call.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn replaces_a_file_completely_and_leaves_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("HEAD");
        for text in ["a long first text", "two"] {
            replace(&path, text.as_bytes()).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
        }
        replace_json(&path, &[1, 2]).expect("written");
        Replacement::of(&path).shared().volatile().write_json(&[1, 2]).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "[1,2]");
        assert_eq!(names(folder.path()), ["HEAD"]);
    }

    #[test]
    fn keeps_the_old_file_when_the_new_one_cannot_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(replace(&folder.path().join("none/HEAD"), b"x").is_err());
        // A folder cannot be replaced by a file.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).expect("made");
        assert!(replace(&taken, b"x").is_err());
        assert_eq!(names(folder.path()), ["taken"]);
    }

    #[test]
    fn shows_the_old_content_until_the_rename() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("record");
        replace(&path, b"old").expect("written");
        static SEEN: std::sync::OnceLock<(PathBuf, std::sync::Mutex<String>)> = std::sync::OnceLock::new();
        SEEN.set((path.clone(), std::sync::Mutex::default())).expect("set once");
        let look = || {
            let (path, seen) = SEEN.get().expect("set");
            *seen.lock().expect("locked") = std::fs::read_to_string(path).expect("the old file");
        };
        Replacement::of(&path).before_rename(look).write(b"new").expect("written");
        assert_eq!(*SEEN.get().expect("set").1.lock().expect("locked"), "old");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "new");
    }

    #[test]
    fn gives_the_file_its_mode_even_after_a_killed_writer() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(folder.path().join("token.new"), "unfinished, and readable by all").expect("written");
        for mode in [0o600, 0o755] {
            Replacement::of(&path).mode(mode).write(b"secret").expect("written");
            assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o7777, mode);
        }
    }

    #[test]
    fn gives_the_file_to_its_owner_and_follows_no_link() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().expect("a folder");
        let (path, outside) = (folder.path().join("token"), folder.path().join("outside"));
        std::fs::write(&outside, "kept").expect("written");
        for link in ["token", "token.new"] {
            std::os::unix::fs::symlink(&outside, folder.path().join(link)).expect("linked");
        }
        Replacement::of(&path).owner(54_322, 54_323).mode(0o600).write(b"secret").expect("written");
        let about = std::fs::symlink_metadata(&path).expect("there");
        assert!(about.is_file());
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (54_322, 54_323, 0o600));
        assert_eq!(std::fs::read_to_string(&outside).expect("there"), "kept");
        assert_eq!(std::fs::metadata(&outside).expect("there").uid(), 0);
    }

    #[test]
    fn removes_unfinished_files_only_of_processes_that_are_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = format!("table.json.new-{}", std::process::id());
        for name in [kept.as_str(), "table.json.new-4194305", "table.json", "other.json.new-4194305"] {
            std::fs::write(folder.path().join(name), "{").expect("written");
        }
        remove_unfinished(&folder.path().join("table.json"));
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, ["other.json.new-4194305", "table.json", kept.as_str()]);
    }

    #[test]
    fn syncs_a_tree_without_following_links() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("deep")).expect("made");
        std::fs::write(folder.path().join("deep/file"), "x").expect("written");
        std::os::unix::fs::symlink("/nonexistent", folder.path().join("deep/link")).expect("linked");
        sync_tree(folder.path()).expect("synced");
        sync_file_system(folder.path()).expect("synced");
    }
}
