//! Files and folders that are whole after a power loss: written under another name, synced, renamed, and the folder synced.
//!
//! A rename without the sync of its folder is lost with the power; a file without its own sync can come back empty.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Replaces a small file: afterwards it has the old text or the new one, and after `Ok` the new one.
///
/// # Errors
/// What the kernel said; the old file is as it was.
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
/// What the kernel said.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs a folder with everything in it. Links are not followed.
///
/// # Errors
/// What the kernel said of the first that cannot be synced.
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

/// Syncs the whole file system that `path` is on.
///
/// # Errors
/// What the kernel said.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
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
