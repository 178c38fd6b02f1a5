//! Runs programs to completion.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Timeout of a command, several times the duration of the slowest command. A command that hangs fails its own test
/// and blocks no other test.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);

/// Result of a command.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status; -1 after a signal.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Returns standard output followed by standard error.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Asserts that the command succeeded.
    ///
    /// # Panics
    /// If the command failed; the message is the command's output.
    #[must_use]
    pub fn good(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.all());
        self
    }
}
/// Builds a command with arguments and an empty standard input.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to completion. Terminates a command that hangs after five minutes.
///
/// # Panics
/// If the command cannot be started.
#[must_use]
pub fn run(mut command: Command) -> Output {
    let named = format!("{command:?}");
    // The command gets its own process group, so that a kill also ends its children: git has helpers that hold the
    // pipes.
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
    let child = child.unwrap_or_else(|error| panic!("{named}: {error}"));
    let (group, told) = (format!("-{}", child.id()), named.clone());
    let (over, ended) = channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(COMMAND_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{told} hangs, and is ended");
            let _ = Command::new("kill").args(["--", &group]).status();
        }
    });
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{named}: {error}"));
    drop(over);
    Output {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Returns the path of a program of this workspace, built with the test.
///
/// # Panics
/// If the program is not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test.ancestors().find(|path| path.join(name).is_file());
    folder.unwrap_or_else(|| panic!("{name} is not built; `./test` does it")).join(name)
}
