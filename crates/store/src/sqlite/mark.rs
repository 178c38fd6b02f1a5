//! The mark: the revision that was acknowledged last, in a file of its own (`store.db-head`).
//!
//! SQLite takes a log that is damaged in its middle for one that ends there, and goes on without the commits behind. The
//! mark says that they were there. It is written after each commit and never waited for: after a loss of power it may be
//! older than the store, and then notices less; it is never newer.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::seal;
use crate::{Revision, StoreError};

/// The revision and its seal, little-endian.
const LENGTH: usize = 16;

/// How often a mark that makes no sense is read.
const LOOKS: usize = 5;

pub(super) struct Mark(File);

/// Where the mark of a store's file is.
pub(super) fn path(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push("-head");
    name.into()
}

fn bytes(revision: Revision) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&revision.to_le_bytes());
    bytes[8..].copy_from_slice(&seal::of_mark(revision).to_le_bytes());
    bytes
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::File { action, path, source: source.into() }
}

/// The revision that the store must have at least; zero where there is no mark.
///
/// # Errors
/// When it cannot be read, or is not what was written.
pub(super) fn read(store: &Path) -> Result<Revision, StoreError> {
    let path = path(store);
    // More than once: another process may be writing it.
    for _ in 0..LOOKS {
        let found = match std::fs::read(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed("read the mark of", store)(error)),
        };
        let revision = found.first_chunk().map_or(0, |first| Revision::from_le_bytes(*first));
        if found == bytes(revision) {
            return Ok(revision);
        }
    }
    let detail =
        format!("its mark {} is not what was written (without it the store is opened as it is)", path.display());
    Err(StoreError::Damaged { path: store.display().to_string(), detail })
}

/// Made under another name and linked into place: what has the name is whole, and of two processes one makes it.
fn make(path: &Path, revision: Revision) -> std::io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".new-{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let written = File::create(&fresh)
        .and_then(|file| file.write_all_at(&bytes(revision), 0).and_then(|()| file.sync_all()))
        .and_then(|()| match std::fs::hard_link(&fresh, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        });
    let _ = std::fs::remove_file(&fresh);
    written
}

impl Mark {
    /// The mark of a store that was checked and has `revision`.
    pub(super) fn open(store: &Path, revision: Revision) -> Result<Self, StoreError> {
        let path = path(store);
        if !path.exists() {
            make(&path, revision).map_err(failed("make the mark of", store))?;
        }
        let mark = Self(File::options().write(true).open(&path).map_err(failed("open the mark of", store))?);
        // Another process may have the store open, and be further.
        if read(store)? < revision {
            mark.set(revision).and_then(|()| mark.0.sync_all()).map_err(failed("write the mark of", store))?;
        }
        Ok(mark)
    }

    /// Takes a revision that is on the disk.
    pub(super) fn set(&self, revision: Revision) -> std::io::Result<()> {
        self.0.write_all_at(&bytes(revision), 0)
    }
}
