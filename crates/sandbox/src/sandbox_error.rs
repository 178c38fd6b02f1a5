//! Errors of the caller's side.

use std::io;
use std::path::PathBuf;

/// Reasons why a container could not be created, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The launcher could not be started, or the connection to it failed.
    #[error("cannot {action} the container launcher")]
    Launcher {
        /// The attempted action.
        action: &'static str,
        /// Cause of the failure.
        source: io::Error,
    },
    /// The launcher did not respond in time.
    #[error("the container launcher did not respond within {0} s")]
    NoResponse(u64),
    /// The launcher ended without a result.
    #[error("the container launcher ended without a result")]
    NoResult,
    /// The container could not be created: the launcher's report, with the failed operation and its causes.
    #[error("{0}")]
    Launch(String),
    /// The container is not running.
    #[error("the container is not running")]
    NotRunning,
    /// The machine does not support idmapped mounts: the probe's report.
    #[error("{0}")]
    Unmapped(String),
    /// Gantry could not use one of its own files or folders.
    #[error("cannot {action} {path}")]
    File {
        /// The attempted action.
        action: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
    /// The kernel refused an operation.
    #[error(transparent)]
    Linux(#[from] gantry_linux::LinuxError),
    /// A process did not end after SIGKILL: the process waits inside the kernel.
    #[error("process {0} does not end after SIGKILL; it waits inside the kernel (see /proc/{0}/stack)")]
    Unkillable(i32),
}

impl SandboxError {
    /// A failed action with the launcher.
    pub(crate) fn launcher(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Launcher { action, source }
    }
}
