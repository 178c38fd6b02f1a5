//! Ages of files, by the wall clock.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Time since the last write to a file. A modification time in the future, from before the clock went back, is set to
/// now.
pub(crate) fn file_age(path: &Path) -> Option<Duration> {
    let now = UNIX_EPOCH + Duration::from_millis(gantry_linux::clock::wall());
    let age = now.duration_since(std::fs::metadata(path).ok()?.modified().ok()?);
    if age.is_err() {
        let _ = std::fs::File::open(path).and_then(|file| file.set_modified(now));
    }
    age.ok()
}
