//! The server's files, for commands of root's such as `gantry backup`. The server may put anything into its folder, such as
//! a link to a file that only root reads, so these commands read the folder with the rights of the folder's owner alone.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use gantry_linux::confinement::{Confinement, UserIds};
use gantry_linux::rooted;
use gantry_store::StoreAddress;
use rustix::fs::OFlags;

use crate::args::Machine;

/// The server's data folder, and the ids of its owner.
#[derive(Debug)]
pub(crate) struct ServerFiles {
    folder: PathBuf,
    owner: UserIds,
    /// Folders of the owner's that a reader needs.
    shown: Vec<PathBuf>,
}

impl ServerFiles {
    /// The files of the server of this machine.
    pub(crate) fn of(machine: &Machine) -> anyhow::Result<Self> {
        let folder = machine.server_data();
        let mut files = Self::in_folder(&folder)?;
        if let Some(StoreAddress::File(path)) = &machine.store
            && let Some(folder) = path.parent().and_then(|folder| folder.canonicalize().ok())
        {
            files.shown.push(folder);
        }
        Ok(files)
    }

    /// The files in a folder, which may not exist.
    pub(crate) fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let owner = match std::fs::symlink_metadata(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => UserIds::ROOT,
            about => {
                let about = about.with_context(|| format!("cannot read the folder {}", folder.display()))?;
                UserIds { uid: about.uid(), gid: about.gid() }
            }
        };
        Ok(Self { shown: vec![folder.clone()], folder, owner })
    }

    /// Path of a file or folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs a function with the owner's rights.
    pub(crate) fn act<T: Send>(&self, function: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        if !rustix::process::geteuid().is_root() || self.owner.uid == UserIds::ROOT.uid {
            return function();
        }
        let shown: Vec<&Path> = self.shown.iter().map(PathBuf::as_path).collect();
        Confinement::new(self.owner, &shown)?.run(function)?
    }

    /// Does the same as [`Self::act`] for a task, which gets a runtime of its own.
    pub(crate) fn act_async<T: Send>(&self, task: impl AsyncFnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        self.act_alone(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task()))
    }

    /// Does the same as [`Self::act`] for a function that runs a runtime of its own. A runtime cannot run within another
    /// one, so the thread is always another one.
    pub(crate) fn act_alone<T: Send>(&self, function: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        self.act(|| {
            std::thread::scope(|scope| scope.spawn(function).join())
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Opens a regular file of the server's.
    pub(crate) fn open(&self, path: &Path) -> anyhow::Result<File> {
        let below = path.strip_prefix(&self.folder).unwrap_or(path);
        let root = File::open(&self.folder)?;
        let file: File = rooted::open(&root, below, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW)?.into();
        ensure!(file.metadata()?.is_file(), "{} is no file", path.display());
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_link_of_the_server_leads_to_nothing_of_root() {
        let outer = tempfile::tempdir().expect("a folder");
        let folder = outer.path().join("server");
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(outer.path().join("secret"), "root's").expect("written");
        std::fs::write(folder.join("own"), "the server's").expect("written");
        symlink(outer.path().join("secret"), folder.join("link")).expect("linked");
        for path in [folder.clone(), folder.join("own")] {
            chown(path, Some(54_322), Some(54_323)).expect("given");
        }
        std::fs::set_permissions(outer.path(), PermissionsExt::from_mode(0o700)).expect("closed");
        let files = ServerFiles::in_folder(&folder).expect("found");
        let read = |name: &str| {
            let path = files.path(name);
            files.act(move || Ok(std::fs::read_to_string(path)?))
        };
        assert_eq!(read("own").expect("read"), "the server's");
        assert!(read("link").is_err());
        assert!(files.open(&files.path("link")).is_err());
        assert!(files.open(&files.path("own")).is_ok() && files.open(Path::new("../secret")).is_err());
        let path = files.path("link");
        let read = files.act_async(async move || Ok(tokio::fs::read_to_string(path).await?));
        assert!(read.is_err(), "a task has more rights");
    }
}
