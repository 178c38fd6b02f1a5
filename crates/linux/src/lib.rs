//! The kernel, as far as Gantry needs it. The only crate that may say `unsafe`, and only in [`process`], [`stream`] and
//! [`mounts`].
//!
//! | module | gives |
//! |---|---|
//! | [`process`] | fork and unshare for a single-threaded process; pidfds; who a process is |
//! | [`rooted`] | paths inside a root that someone else controls: opened with `RESOLVE_IN_ROOT`, never followed out |
//! | [`steps`] | places at which a test kills the process |
//! | [`stream`] | pipes and terminals, read without a thread |
//! | [`tree`] | removal of folders that someone else filled |
//! | [`clock`] | the clocks that run whatever somebody does to the wall clock |
//! | [`mounts`] | detached mounts, put in place by file descriptor |
//! | [`cgroup`] | limits and accounts, on cgroup v1 and v2 |
//! | [`network`] | bridge and veth over netlink |
//! | [`durable`] | files and folders that are whole after a power loss |
//! | [`connection`] | what is set on a client's TCP connection |
//!
//! It knows nothing of containers, apps or images.

pub mod cgroup;
pub mod clock;
pub mod connection;
pub mod disk;
pub mod durable;
pub mod mounts;
pub mod network;
pub mod process;
pub mod rooted;
pub mod steps;
pub mod stream;
pub mod tree;

/// A failed system call, with what was tried and on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}")]
pub struct LinuxError {
    /// What was tried, with its object: `mount proc on /proc`.
    pub action: String,
    /// What the kernel said.
    pub source: std::io::Error,
}

/// Names what failed.
pub trait Tried<T> {
    /// Adds what was tried to an error.
    ///
    /// # Errors
    /// The same failure, as [`LinuxError`].
    fn tried(self, action: impl FnOnce() -> String) -> Result<T, LinuxError>;
}

impl<T, E: Into<std::io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, action: impl FnOnce() -> String) -> Result<T, LinuxError> {
        self.map_err(|error| LinuxError { action: action(), source: error.into() })
    }
}

impl From<LinuxError> for std::io::Error {
    fn from(error: LinuxError) -> Self {
        Self::new(error.source.kind(), error.to_string())
    }
}
