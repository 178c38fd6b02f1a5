//! The high-water mark: the last acknowledged revision, in a file of its own (`store.db-head`).
//!
//! SQLite treats a log with damage in the middle as a log that ends there, and continues without the later commits. The
//! high-water mark shows that these commits existed. The writing thread writes the mark after each commit but never
//! syncs it. After a power loss the mark may therefore be older than the store and detect less; the mark is never
//! newer.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::checksum;
use crate::{Revision, StoreError};

/// Length of the file: the revision and its checksum, little-endian.
const LENGTH: usize = 16;

/// Number of attempts to read a mark with a wrong checksum.
const READ_ATTEMPTS: usize = 5;

pub(super) struct HighWaterMark(File);

/// Returns the path of a store's high-water mark.
pub(super) fn path(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push("-head");
    name.into()
}

fn bytes(revision: Revision) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&revision.to_le_bytes());
    bytes[8..].copy_from_slice(&checksum::of_mark(revision).to_le_bytes());
    bytes
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::File { action, path, source: source.into() }
}

/// Returns the revision that the store must have at least; zero if the store has no high-water mark.
///
/// # Errors
/// When the mark cannot be read, or has a wrong checksum.
pub(super) fn read(store: &Path) -> Result<Revision, StoreError> {
    let path = path(store);
    // Read again after a wrong checksum: another process may be writing the mark.
    for _ in 0..READ_ATTEMPTS {
        let found = match std::fs::read(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed("read the high-water mark of", store)(error)),
        };
        let revision = found.first_chunk().map_or(0, |first| Revision::from_le_bytes(*first));
        if found == bytes(revision) {
            return Ok(revision);
        }
    }
    let detail =
        format!("the high-water mark {} has a wrong checksum (remove it to open the store anyway)", path.display());
    Err(StoreError::Damaged { path: store.display().to_string(), detail })
}

/// Creates the mark under another name and links it into place. A mark with the final name is whole, and of two
/// processes only the first creates it.
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

impl HighWaterMark {
    /// Opens the high-water mark of a checked store that is at `revision`.
    pub(super) fn open(store: &Path, revision: Revision) -> Result<Self, StoreError> {
        let path = path(store);
        if !path.exists() {
            make(&path, revision).map_err(failed("create the high-water mark of", store))?;
        }
        let mark = Self(File::options().write(true).open(&path).map_err(failed("open the high-water mark of", store))?);
        // Another process may have the store open and be at a later revision.
        if read(store)? < revision {
            mark.set(revision)
                .and_then(|()| mark.0.sync_all())
                .map_err(failed("write the high-water mark of", store))?;
        }
        Ok(mark)
    }

    /// Writes a revision that is already on the disk.
    pub(super) fn set(&self, revision: Revision) -> std::io::Result<()> {
        self.0.write_all_at(&bytes(revision), 0)
    }
}
