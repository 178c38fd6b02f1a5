//! The hooks of a push: `gantry git-hook pre-receive` and `gantry git-hook proc-receive`, run by git.
//!
//! `pre-receive` reports the push to the server, and waits for the verdict. `proc-receive` moves the branch after a
//! good verdict, and acknowledges the move to the server. Git itself would compare the branch with the value that git
//! advertised at first, and would refuse a push that waited for another push and is built on the other's commit.
//!
//! Both hooks refuse a push that is not built on the branch's commit: an accepted commit stays on its branch until a
//! user who knows of the commit removes it.

mod git;
pub(crate) mod pkt_line;
mod pre_receive;
mod proc_receive;
mod protocol;
pub(crate) mod refs;
mod refusal;

use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

pub use self::protocol::{HookOpening, OTHERS_MAX, PushReport, RefUpdate, ServerMessage};

/// Runs one of the hooks, named by the program's second argument.
#[must_use]
pub fn main() -> ExitCode {
    match std::env::args().nth(2).as_deref() {
        Some("proc-receive") => proc_receive::main(),
        _ => pre_receive::main(),
    }
}

/// Returns an environment variable that the server sets for the hooks.
fn variable(name: &str) -> io::Result<String> {
    std::env::var(name).map_err(|_| io::Error::other(format!("{name} is not set")))
}

/// Connects to the server and sends the first message.
fn connect(opening: &HookOpening) -> io::Result<UnixStream> {
    let mut socket = UnixStream::connect(variable("GANTRY_GIT_SOCKET")?)?;
    send_line(&mut socket, opening)?;
    Ok(socket)
}

/// Sends one message.
fn send_line(socket: &mut UnixStream, message: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    io::Write::write_all(socket, &line)
}
