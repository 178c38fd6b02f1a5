//! Volumes for commands that run beside the agent, or without one: `gantry backup`, `restore` and `check`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use gantry_linux::cgroup::Cgroup;
use gantry_model::{AppName, VolumeName};
use rustix::fs::{FlockOperation, flock};

use super::{in_use, lost, subfolders};
use crate::AgentSettings;

/// A volume on the disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredVolume {
    /// Folder of the app's volumes: the name that the app had first.
    pub app: AppName,
    /// Name of the volume.
    pub name: VolumeName,
}

impl StoredVolume {
    /// Path of the volume below the data folder.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("volumes").join(self.app.as_str()).join(self.name.as_str())
    }

    /// Marks the volume as one without data: its role begins with an empty volume, and says so.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn mark_lost(&self, data: &Path) -> io::Result<()> {
        lost::mark(data, &self.app, &self.name)
    }

    /// Reports whether a container got the volume, or gave it back, since the mark of its last use was removed.
    #[must_use]
    pub fn was_used(&self, data: &Path) -> bool {
        self.use_mark(data).exists()
    }

    /// Removes the mark of the last use.
    ///
    /// # Errors
    /// When the mark cannot be removed.
    pub fn forget_use(&self, data: &Path) -> io::Result<()> {
        match std::fs::remove_file(self.use_mark(data)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn use_mark(&self, data: &Path) -> PathBuf {
        data.join("volumes").join(self.app.as_str()).join(format!(".used-{}", self.name))
    }

    /// Names of the containers that run and have the volume.
    #[must_use]
    pub fn users(&self, settings: &AgentSettings) -> Vec<String> {
        let runs = |name: &String| !Cgroup::named(&format!("{}/{name}", settings.cgroup)).processes().is_empty();
        in_use(settings, &self.app, self.name.as_str()).into_iter().filter(runs).collect()
    }
}

/// All volumes below a data folder, sorted.
#[must_use]
pub fn stored_volumes(data: &Path) -> Vec<StoredVolume> {
    let mut volumes = Vec::new();
    for folder in subfolders(&data.join("volumes")) {
        let Some(app) = name_of(&folder).and_then(|name| AppName::parse(name).ok()) else { continue };
        let names = subfolders(&folder);
        let names = names.iter().filter_map(|path| VolumeName::parse(name_of(path)?).ok());
        volumes.extend(names.map(|name| StoredVolume { app: app.clone(), name }));
    }
    volumes.sort();
    volumes
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Keeps the agent from replacing and removing volumes of an app while the returned file lives. The agent locks the
/// folder for the moment of a rename, so that a second try follows soon.
///
/// # Errors
/// When the folder cannot be opened, or stays locked.
pub fn keep_volumes(data: &Path, app: &AppName) -> io::Result<File> {
    let folder = File::open(data.join("volumes").join(app.as_str()))?;
    let mut tries = 0;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockShared) {
            Err(_) if tries < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
            locked => return locked.map(|()| folder).map_err(io::Error::from),
        }
        tries += 1;
    }
}

/// Number of further tries to lock the folder of an app's volumes, and the pause before each.
const LOCK_TRIES: u32 = 250;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_volumes_only() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in ["db/data", "db/.half-1", "db/.snapshots/data/one", "shop/files", "shop/.new-x", "Nobody/data"] {
            std::fs::create_dir_all(folder.path().join("volumes").join(path)).expect("made");
        }
        std::fs::write(folder.path().join("volumes/db/file"), "").expect("written");
        std::os::unix::fs::symlink("/etc", folder.path().join("volumes/db/link")).expect("linked");
        let found: Vec<String> =
            stored_volumes(folder.path()).iter().map(|volume| volume.path().display().to_string()).collect();
        assert_eq!(found, ["volumes/db/data", "volumes/shop/files"]);
    }

    #[test]
    fn a_backup_keeps_the_agent_from_replacing_a_volume() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("volumes/db/data")).expect("made");
        let settings = AgentSettings { data: folder.path().to_owned(), ..AgentSettings::for_tests() };
        let key = (AppName::parse("db").expect("a name"), VolumeName::parse("data").expect("a name"));
        let kept = keep_volumes(folder.path(), &key.0).expect("kept");
        let again = keep_volumes(folder.path(), &key.0).expect("two backups");
        let refused = super::super::lock_folder(&settings, &key, "replaced").expect_err("locked");
        assert!(refused.message.contains("is being backed up"), "{refused:?}");
        drop((kept, again));
        drop(super::super::lock_folder(&settings, &key, "replaced").expect("free"));
    }
}
