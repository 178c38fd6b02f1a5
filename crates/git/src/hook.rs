//! The hook's conversation on the unix socket, one JSON value a line:
//!
//! | from | says |
//! |---|---|
//! | hook | [`Pushed`] |
//! | server | [`Word::Say`] a line to show, any number of times, at any point |
//! | server | [`Word::Archive`]: send the tree; then the hook sends the archive and closes its side |
//! | server | [`Word::Verdict`]; the last |

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

/// What is pushed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pushed {
    /// Which push, as the server named it.
    pub push: String,
    /// The refs.
    pub updates: Vec<Update>,
}

/// One ref.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Update {
    /// The commit that it had; zeros for none.
    pub old: String,
    /// The commit that it is to have; zeros to remove it.
    pub new: String,
    /// `refs/heads/main`.
    pub name: String,
}

/// What the server says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Show this line.
    Say(String),
    /// Send the tree of this commit.
    Archive(String),
    /// Accept the push, or not.
    Verdict(bool),
}

/// `gantry git-hook`: runs inside git, in the quarantine of what is being pushed.
#[must_use]
pub fn main() -> ExitCode {
    match talk() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("The server went away: {error}. The push was not taken; if its deploy had begun, it goes on.");
            ExitCode::FAILURE
        }
    }
}

fn talk() -> io::Result<bool> {
    let variable = |name: &str| std::env::var(name).map_err(|_| io::Error::other(format!("no {name}")));
    let mut socket = UnixStream::connect(variable("GANTRY_GIT_SOCKET")?)?;
    let mut text = String::new();
    io::stdin().take(1 << 20).read_to_string(&mut text)?;
    let updates = text.lines().filter_map(update).collect();
    let pushed = Pushed { push: variable("GANTRY_PUSH")?, updates };
    serde_json::to_writer(&mut socket, &pushed)?;
    socket.write_all(b"\n")?;
    for line in BufReader::new(socket.try_clone()?).lines() {
        match serde_json::from_str(&line?)? {
            Word::Say(text) => eprintln!("{text}"),
            Word::Archive(commit) => archive(&commit, &socket)?,
            Word::Verdict(accepted) => return Ok(accepted),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn update(line: &str) -> Option<Update> {
    let mut words = line.splitn(3, ' ').map(str::to_owned);
    Some(Update { old: words.next()?, new: words.next()?, name: words.next()? })
}

fn archive(commit: &str, mut socket: &UnixStream) -> io::Result<()> {
    // The server checked that it is a hash; a name could be an option.
    if commit.len() < 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(io::Error::other("not a commit"));
    }
    let mut git = Command::new("git")
        .args(["archive", "--format=tar", commit])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    if let Some(mut output) = git.stdout.take() {
        io::copy(&mut output, &mut socket)?;
    }
    let status = git.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("git archive failed ({status})")));
    }
    socket.shutdown(Shutdown::Write)
}
