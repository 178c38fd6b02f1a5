//! Programs, run to their end.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// The longest that a command may take, several times what the slowest does: one that hangs fails its test, and keeps no other.
const LONGEST: Duration = Duration::from_secs(300);

/// What a command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Everything that it said.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// It succeeded.
    ///
    /// # Panics
    /// When it did not, with everything it said.
    #[must_use]
    pub fn good(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.all());
        self
    }
}
/// A program with its arguments, that reads nothing.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end; one that hangs is ended after five minutes.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run(mut command: Command) -> Output {
    let named = format!("{command:?}");
    // A group of its own, to end with it what it began: git has helpers that hold the pipes.
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
    let child = child.unwrap_or_else(|error| panic!("{named}: {error}"));
    let (group, told) = (format!("-{}", child.id()), named.clone());
    let (over, ended) = channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
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

/// A program of this workspace, as it was built with the test.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test.ancestors().find(|path| path.join(name).is_file());
    folder.unwrap_or_else(|| panic!("{name} is not built; `./test` does it")).join(name)
}
