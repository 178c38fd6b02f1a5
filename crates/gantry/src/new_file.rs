//! Files that a command writes where a person wants them, such as backups and archives. Each has its name only once it is
//! complete.
//!
//! Other users may write in that folder, too. So an unfinished file is always a new one that only its owner may read: a file
//! or link of the same name is removed first, and never written to.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gantry_error_codes::ErrorCode;

use crate::coded::WithCode;

/// An unfinished file, which is removed unless it gets its name.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    unfinished: PathBuf,
}

impl NewFile {
    /// Creates the file beside the place that it gets.
    pub(crate) fn create(path: &Path) -> anyhow::Result<(Self, File)> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let file = create_private(&unfinished).with_context(|| format!("cannot write {}", unfinished.display()));
        let file = file.with_code(ErrorCode::FileUnwritable)?;
        Ok((Self { path: path.to_owned(), unfinished }, file))
    }

    /// Gives the complete file its name, durably.
    pub(crate) fn finish(self, file: &File) -> anyhow::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let named = file.sync_all().and_then(|()| std::fs::rename(&self.unfinished, &self.path));
        let named = named.and_then(|()| gantry_ledger::sync(folder));
        named.with_context(|| format!("cannot write {}", self.path.display())).with_code(ErrorCode::FileUnwritable)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

/// Creates a file that only its owner may read, in place of any other of this name.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().create_new(true).read(true).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_has_its_name_once_it_is_complete() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, unfinished) = (folder.path().join("backup"), folder.path().join("backup.new"));
        drop(NewFile::create(&path).expect("created"));
        assert!(!unfinished.exists() && !path.exists());
        let (new, mut file) = NewFile::create(&path).expect("created");
        file.write_all(b"content").expect("written");
        assert!(unfinished.exists() && !path.exists());
        new.finish(&file).expect("named");
        assert_eq!(std::fs::read(&path).expect("read"), b"content");
        assert!(!unfinished.exists());
        assert!(NewFile::create(&folder.path().join("none/backup")).is_err());
    }

    #[test]
    fn files_and_links_of_others_are_not_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, unfinished) = (folder.path().join("backup"), folder.path().join("backup.new"));
        let outside = folder.path().join("outside");
        std::fs::write(&outside, "theirs").expect("written");
        std::os::unix::fs::symlink(&outside, &unfinished).expect("linked");
        let (new, mut file) = NewFile::create(&path).expect("created");
        file.write_all(b"secret").expect("written");
        new.finish(&file).expect("named");
        assert_eq!(std::fs::read(&outside).expect("read"), b"theirs");
        // A file that others have open for reading.
        std::fs::write(&unfinished, "").expect("written");
        std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o666)).expect("open to all");
        let mut theirs = File::open(&unfinished).expect("opened");
        let (new, mut file) = NewFile::create(&path).expect("created");
        file.write_all(b"secret").expect("written");
        new.finish(&file).expect("named");
        let mut found = String::new();
        theirs.read_to_string(&mut found).expect("read");
        assert_eq!(found, "");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }
}
