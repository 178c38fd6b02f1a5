//! The static init that every container starts with.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use gantry_linux::{LinuxError, mounts};

/// The static init, open as a read-only copy, so that no container can write to the file through `/proc/1/exe`.
#[derive(Debug)]
pub(crate) struct InitProgram {
    path: PathBuf,
    copy: OwnedFd,
}

impl InitProgram {
    pub(crate) fn open(path: PathBuf) -> Result<Self, LinuxError> {
        Ok(Self { copy: mounts::read_only_copy_of(&path)?, path })
    }

    /// Returns the program at `path`. Opens the file if `open` is another program.
    pub(crate) fn at(open: Option<Self>, path: &Path) -> Result<OwnedFd, LinuxError> {
        match open {
            Some(open) if open.path == path => Ok(open.copy),
            _ => Ok(Self::open(path.to_owned())?.copy),
        }
    }
}
