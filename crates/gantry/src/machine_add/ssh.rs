//! Commands on another machine, by the `ssh` of the person who runs `gantry`: with their keys, known hosts and settings.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::coded::{WithCode, coded, fail};

/// Exit status of `ssh` itself, if it failed: the machine was not reached, or did not let the user in.
const SSH_FAILED: i32 = 255;

/// Options of every call: ssh asks for no password, and a machine that falls silent ends the call within 25 s.
const OPTIONS: [&str; 4] = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"];

/// Longest time of one step. The program has some tens of megabytes.
const STEP: Duration = Duration::from_secs(600);

/// Last lines of a failed step that an error shows.
const LINES: usize = 5;

/// A machine that is reached over ssh.
pub(super) struct Ssh {
    target: String,
    options: Vec<String>,
}

impl Ssh {
    /// A machine, as ssh takes it, with options of ssh such as `Port=2222`.
    pub(super) fn new(target: &str, options: &[String]) -> Self {
        // The first value of an option counts.
        let all = options.iter().map(String::as_str).chain(OPTIONS).map(str::to_owned);
        Self { target: target.to_owned(), options: all.collect() }
    }

    /// Runs commands of a POSIX shell with some input, and returns their output.
    pub(super) async fn run(&self, commands: &str, input: &[u8]) -> anyhow::Result<String> {
        let Self { target, .. } = self;
        let called = tokio::time::timeout(STEP, self.call(commands, input)).await;
        let Ok(called) = called else {
            fail!(RemoteStepFailed, "a step on {target} took longer than {} s: {commands}", STEP.as_secs());
        };
        let output =
            called.with_context(|| format!("cannot run ssh to reach {target}")).with_code(ErrorCode::SshFailed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let output_end = last_lines(&String::from_utf8_lossy(&output.stderr));
        if output.status.code() == Some(SSH_FAILED) {
            fail!(
                SshFailed,
                "cannot reach {target} over ssh: {output_end}; `ssh {target} true` must work without a password"
            );
        }
        Err(coded(ErrorCode::RemoteStepFailed, format!("a step on {target} failed ({}): {output_end}", output.status)))
    }

    async fn call(&self, commands: &str, input: &[u8]) -> std::io::Result<Output> {
        let mut ssh = Command::new("ssh");
        for option in &self.options {
            ssh.args(["-o", option]);
        }
        // The user's shell may be another one.
        let quoted = super::quoted(commands);
        ssh.args(["-T", "--", &self.target, &format!("sh -c {quoted}")]).kill_on_drop(true);
        let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let write = async {
            if let Some(mut stdin) = stdin {
                // A step that ends early reads no more; its status says why.
                let _ = stdin.write_all(input).await;
            }
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        output
    }
}

/// The last lines of a text, as one line.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("; ");
    if last.is_empty() { "without a word".to_owned() } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_shown() {
        assert_eq!(last_lines("1\n2\n\n3\n4\n5\n 6 \n"), "2; 3; 4; 5; 6");
        assert_eq!(last_lines("\n"), "without a word");
    }
}
