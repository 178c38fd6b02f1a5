//! The trash: folders of removed containers, until their files are deleted.
//!
//! ```text
//! containers/<name> ─ rename ─► trash/<random> ─ one after the other ─► deleted
//! ```
//! A container may leave any number of files, and the end of its removal waits for none of them. A folder in the trash
//! belongs to no container: the next agent deletes the folders that an agent has left. The trash has two bounds: while
//! [`WAITING_MAX`] folders wait, or the disk has less free space than its reserve, a removal deletes its own folder.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gantry_linux::{disk, tree};
use gantry_supervision::{Backoff, Nudge, ReconcileLoop};

use crate::AgentContext;

/// Retry interval for a removal that fails.
pub(crate) const REMOVAL_RETRY: Duration = Duration::from_secs(5);

/// Name of the trash in the data folder.
const FOLDER: &str = "trash";

/// Maximum number of folders that wait for their deletion.
const WAITING_MAX: usize = 64;

/// Interval of the passes that no removal asks for.
const PASS_INTERVAL: Duration = Duration::from_secs(60);

/// The trash of an agent.
pub(crate) struct Trash {
    folder: PathBuf,
    /// Folders thrown away since the last pass began.
    waiting: AtomicUsize,
    thrown: Nudge,
}

impl Trash {
    /// Opens the trash in the data folder. Only root may enter it.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let folder = data.join(FOLDER);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder, waiting: AtomicUsize::new(0), thrown: Nudge::default() })
    }

    /// Removes a folder, which need not exist. Its files are deleted later; at once if too many folders wait, if the disk
    /// has less than `reserve` bytes of free space, or if the trash is on another file system.
    pub(crate) fn discard(&self, folder: &Path, reserve: u64) -> io::Result<()> {
        let place = self.folder.join(format!("{:016x}", rand::random::<u64>()));
        let is_full = self.waiting.load(Ordering::Relaxed) >= WAITING_MAX || disk::free(&self.folder) < reserve;
        if is_full || std::fs::rename(folder, place).is_err() {
            return Ok(tree::remove(folder)?);
        }
        gantry_failpoint::failpoint!("container.thrown");
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.thrown.nudge();
        Ok(())
    }

    /// Deletes the folders in the trash. A folder that cannot be deleted keeps none of the others.
    fn empty(&self) -> io::Result<()> {
        let thrown = self.waiting.load(Ordering::Relaxed);
        let mut result = Ok(());
        for entry in std::fs::read_dir(&self.folder)? {
            let deleted = entry.and_then(|entry| Ok(tree::remove(&entry.path())?));
            result = result.and(deleted);
        }
        self.waiting.fetch_sub(thrown, Ordering::Relaxed);
        result
    }
}

/// Empties the trash whenever a folder is thrown away, for ever.
pub(crate) async fn run(agent: &Arc<AgentContext>) {
    let pass = async || {
        let own = Arc::clone(agent);
        tokio::task::spawn_blocking(move || own.trash.empty()).await.map_err(io::Error::other)?
    };
    ReconcileLoop::new("trash", PASS_INTERVAL, Backoff::constant(REMOVAL_RETRY))
        .run_nudged(&agent.trash.thrown, pass)
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trash in a new data folder, and a function that makes a full folder beside it.
    fn trash(data: &Path) -> (Trash, impl Fn(&str) -> PathBuf) {
        let trash = Trash::open(data).expect("opened");
        let data = data.to_owned();
        let make = move |name: &str| {
            let folder = data.join("containers").join(name);
            std::fs::create_dir_all(folder.join("upper/below")).expect("made");
            std::fs::write(folder.join("upper/below/file"), "x").expect("written");
            folder
        };
        (trash, make)
    }

    fn count(trash: &Trash) -> usize {
        std::fs::read_dir(&trash.folder).expect("a folder").count()
    }

    #[test]
    fn a_thrown_folder_is_gone_at_once_and_deleted_later() {
        let data = tempfile::tempdir().expect("a folder");
        let (trash, make) = trash(data.path());
        let folder = make("one");
        trash.discard(&folder, 0).expect("thrown");
        assert!(!folder.exists());
        assert_eq!(count(&trash), 1);
        trash.discard(&folder, 0).expect("nothing is left");
        // The next agent deletes what this one has left.
        let next = Trash::open(data.path()).expect("opened");
        next.empty().expect("emptied");
        assert_eq!(count(&next), 0);
    }

    #[test]
    fn a_full_trash_takes_no_folder() {
        let data = tempfile::tempdir().expect("a folder");
        let (trash, make) = trash(data.path());
        for number in 0..WAITING_MAX + 3 {
            let folder = make(&number.to_string());
            trash.discard(&folder, 0).expect("removed");
            assert!(!folder.exists());
        }
        assert_eq!(count(&trash), WAITING_MAX);
        trash.empty().expect("emptied");
        trash.discard(&make("again"), 0).expect("thrown");
        assert_eq!(count(&trash), 1);
    }

    #[test]
    fn a_full_disk_lets_no_folder_wait() {
        let data = tempfile::tempdir().expect("a folder");
        let (trash, make) = trash(data.path());
        let folder = make("one");
        trash.discard(&folder, u64::MAX).expect("removed");
        assert!(!folder.exists());
        assert_eq!(count(&trash), 0);
    }

    #[test]
    fn a_folder_is_removed_without_a_trash() {
        let data = tempfile::tempdir().expect("a folder");
        let (trash, make) = trash(data.path());
        std::fs::remove_dir(&trash.folder).expect("removed");
        let folder = make("one");
        trash.discard(&folder, 0).expect("removed");
        assert!(!folder.exists());
    }
}
