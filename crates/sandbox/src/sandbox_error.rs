//! Errors of the caller's side.

use std::io;
use std::path::PathBuf;

/// Threads in the text of an error, at most.
const MAX_THREADS: usize = 8;

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
    #[error("process {pid} does not end after SIGKILL; it waits inside the kernel ({threads}; see /proc/{pid}/stack)")]
    Unkillable {
        /// The process.
        pid: i32,
        /// State of each living thread, with the kernel's function that it waits in.
        threads: String,
    },
}

impl SandboxError {
    /// Describes where the process waits.
    pub(crate) fn unkillable(pid: i32) -> Self {
        Self::Unkillable { pid, threads: describe_threads(pid) }
    }

    /// A failed action with the launcher.
    pub(crate) fn launcher(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Launcher { action, source }
    }
}

/// Returns the name and state of each thread of a process, and the kernel's function that the thread waits in.
fn describe_threads(pid: i32) -> String {
    let describe = |task: std::fs::DirEntry| {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let (name, rest) = stat.split_once(" (")?.1.rsplit_once(") ")?;
        Some(format!("{name}: state {}, in {}", rest.get(..1)?, read("wchan")))
    };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads: Vec<_> = tasks.into_iter().flatten().flatten().filter_map(describe).take(MAX_THREADS).collect();
    if threads.is_empty() { "it has no thread any more".to_owned() } else { threads.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_state_of_a_process_that_does_not_end() {
        let mut process = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = process.id().cast_signed();
        let error = SandboxError::unkillable(pid).to_string();
        process.kill().expect("killed");
        process.wait().expect("ended");
        assert!(error.contains("state S, in ") || error.contains("state R, in "), "{error}");
        assert!(SandboxError::unkillable(pid).to_string().contains("no thread"));
    }
}
