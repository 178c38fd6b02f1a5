//! Files and folders that survive a power loss whole: written under another name, synced, renamed, and the folder
//! synced.
//!
//! A rename without a sync of its folder is lost in a power loss; a file that was not synced can come back empty.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Replaces a small file. Afterwards the file has the old or the new text, and after `Ok` the new text.
///
/// # Errors
/// Any error of a system call. The old file stays, unless only the last sync failed.
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let mut file = File::create(&fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), sync)
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

    #[test]
    fn replaces_a_file_completely_and_leaves_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("HEAD");
        for text in ["one", "two"] {
            write(&path, text.as_bytes()).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 1);
        assert!(write(&folder.path().join("none/HEAD"), b"x").is_err());
        std::fs::create_dir(folder.path().join("deep")).expect("made");
        std::os::unix::fs::symlink("/nonexistent", folder.path().join("deep/link")).expect("linked");
        sync_tree(folder.path()).expect("synced");
        sync_file_system(folder.path()).expect("synced");
    }
}
