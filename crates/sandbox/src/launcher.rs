//! The resident launcher: a small process with one thread, which forks a worker for each request.
//!
//! ```text
//! caller ── a socket ─► launcher ── fork ─► worker ── its own pidfd ─► caller ── task ─► worker ── answer ─► caller
//! ```
//! - A fork of this small process takes a fraction of the time that a start of the program takes.
//! - The launcher reads no task. It knows no container, no environment and no path besides init's.
//! - The launcher ends when its caller ends. Workers and containers have no part in that. A seed
//!   (see `seed`) is a worker that ends with its caller.
//! - A worker is stuck at most until its own deadline, and delays neither the launcher nor another worker.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use gantry_error::ErrorChain;
use gantry_linux::cgroup::Cgroup;
use gantry_linux::process::{ForkSide, SingleThreaded, boot_id, close_inherited};
use gantry_linux::{LinuxError, WithAction};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use crate::init_program::InitProgram;
use crate::{passing, posture, worker};

/// First argument that makes the program the resident launcher. The second argument is the path of init, if the caller
/// knows the path already.
pub const LAUNCHER_COMMAND: &str = "sandbox-launcher";

/// Name of the launcher in lists of processes.
const NAME: &std::ffi::CStr = c"gantry-launcher";

/// Runs the launcher, if the program was started as a launcher. `main` must call this function first, before `main`
/// starts a thread.
#[must_use]
pub fn launcher_main() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != LAUNCHER_COMMAND {
        return None;
    }
    if let Err(error) = close_inherited() {
        eprintln!("{}", ErrorChain(&error));
        return Some(ExitCode::FAILURE);
    }
    match run() {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("gantry: the container launcher ends: {}", ErrorChain(&error));
            Some(ExitCode::FAILURE)
        }
    }
}

/// A worker that has not been reaped.
struct WorkerProcess {
    pid: Pid,
    ended: OwnedFd,
}

impl WorkerProcess {
    /// Returns false once the worker has ended, and reaps it.
    fn is_running(&self) -> bool {
        matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None) | Err(Errno::INTR))
    }
}

fn run() -> Result<(), LinuxError> {
    let alone = SingleThreaded::prove()?;
    let _ = rustix::thread::set_name(NAME);
    let socket = take_socket().with_action(|| "take over the caller's socket".to_owned())?;
    // Workers find these ready.
    posture::compile_filter();
    let (_, _) = (boot_id(), Cgroup::named("").is_unified());
    let mut init = std::env::args_os().nth(2).and_then(|path| InitProgram::open(path.into()).ok());
    let mut workers = Vec::new();
    loop {
        wait(&socket, &workers).with_action(|| "wait for a request".to_owned())?;
        workers.retain(WorkerProcess::is_running);
        let caller = match passing::receive(&socket, RecvFlags::DONTWAIT) {
            Ok(Some(mut sockets)) => sockets.pop(),
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => return Err(error).with_action(|| "read a request".to_owned()),
        };
        let Some(caller) = caller else { continue };
        match alone.fork() {
            Ok(ForkSide::Child) => {
                drop((socket, workers));
                worker::main(&alone, UnixStream::from(caller), init.take())
            }
            Ok(ForkSide::Parent(pid)) => workers.extend(started(pid)),
            // The caller notices that its socket is closed.
            Err(error) => eprintln!("gantry: the container launcher: {}", ErrorChain(&error)),
        }
    }
}

/// Takes the caller's socket, which is standard input, so that no worker inherits the socket under that number.
fn take_socket() -> std::io::Result<OwnedFd> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(socket)
}

fn started(pid: i32) -> Option<WorkerProcess> {
    let pid = Pid::from_raw(pid)?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(ended) => Some(WorkerProcess { pid, ended }),
        Err(error) => {
            eprintln!("gantry: the container launcher cannot watch worker {pid}: {error}");
            None
        }
    }
}

/// Waits for a request, the end of the caller, or the end of a worker.
fn wait(socket: &OwnedFd, workers: &[WorkerProcess]) -> rustix::io::Result<()> {
    let ends = workers.iter().map(|worker| worker.ended.as_fd());
    let mut polled: Vec<_> =
        std::iter::once(socket.as_fd()).chain(ends).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut polled, None) {
        Err(Errno::INTR) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}
