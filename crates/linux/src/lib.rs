//! The kernel interface that Gantry needs. Only this crate may contain `unsafe`, and only in [`process`],
//! [`confinement`], [`signals`], [`stream`], [`mounts`], [`opens`] and [`names`].
//!
//! | module | provides |
//! |---|---|
//! | [`process`] | fork and unshare for a single-threaded process; pidfds; identity of a process |
//! | [`signals`] | signals of pid 1, read from a descriptor |
//! | [`confinement`] | another user's rights and view of the folders, for a command or a thread |
//! | [`rooted`] | paths inside an untrusted root: opened with `RESOLVE_IN_ROOT`, never followed out of the root |
//! | [`stream`] | pipes and terminals, read without a thread |
//! | [`tree`] | size and removal of folders with untrusted content |
//! | [`walk`] | a walk through a folder that a container may change meanwhile |
//! | [`copy`] | copies such a folder, with clones of its files where the file system can |
//! | [`clock`] | clocks that are independent of the wall clock |
//! | [`disk`] | free space on a disk, and when to measure its usage |
//! | [`mounts`] | detached mounts, attached by file descriptor |
//! | [`opens`] | the files that processes open on an overlay |
//! | [`cgroup`] | limits and resource usage, on cgroup v1 and v2 |
//! | [`network`] | bridge over netlink |
//! | [`link`] | a container's veth pair, in one packet of netlink |
//! | [`connection`] | options of a client's TCP connection |
//! | [`names`] | name resolution of a statically linked program |
//!
//! The crate knows nothing of containers, apps or images.

pub mod cgroup;
pub mod clock;
pub mod confinement;
pub mod connection;
pub mod copy;
pub mod disk;
pub mod link;
pub mod mounts;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub mod names;
mod netlink;
#[cfg(feature = "async")]
pub mod network;
#[cfg(feature = "async")]
pub mod opens;
pub mod process;
pub mod rooted;
pub mod signals;
#[cfg(feature = "async")]
pub mod stream;
pub mod tree;
pub mod walk;

use gantry_error::ErrorChain;

/// A failed system call, with the action and its object.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct LinuxError {
    /// The failed action with its object: `mount proc on /proc`.
    pub action: String,
    /// Error of the kernel.
    pub source: std::io::Error,
}

/// Adds the failed action to an error.
pub trait WithAction<T> {
    /// Adds the action to an error.
    ///
    /// # Errors
    /// The same failure, as [`LinuxError`].
    fn with_action(self, action: impl FnOnce() -> String) -> Result<T, LinuxError>;
}

impl<T, E: Into<std::io::Error>> WithAction<T> for Result<T, E> {
    fn with_action(self, action: impl FnOnce() -> String) -> Result<T, LinuxError> {
        self.map_err(|error| LinuxError { action: action(), source: error.into() })
    }
}

/// Puts the action and its cause into the text, because most callers print an I/O error without its causes.
impl From<LinuxError> for std::io::Error {
    fn from(error: LinuxError) -> Self {
        Self::new(error.source.kind(), ErrorChain(&error).to_string())
    }
}
