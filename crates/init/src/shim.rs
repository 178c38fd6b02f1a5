//! Pid 2: starts the application and passes on the application's end, exit status or signal, as its own.
//!
//! The shim is a fork of pid 1 without an exec, which would cost half a millisecond. The fork closes all of pid 1's
//! descriptors. As pid 1, the fork shows neither its memory nor its descriptors to other processes.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use gantry_linux::process::close_inherited;
use gantry_linux::signals;
use rustix::fs::{Gid, Uid};
use rustix::process::{Signal, getpid, kill_process};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::arguments::Application;

/// Exit statuses of a shell for a missing command and for a command that cannot be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Exit status of a shim that failed before it could write to the log.
const FAILED: i32 = 125;

/// Turns this fork of pid 1 into the shim.
#[expect(clippy::disallowed_methods, reason = "a forked child returns to nobody")]
pub(crate) fn become_shim(application: &Application, out: &PipeWriter, err: &PipeWriter) -> ! {
    let code = match take_streams(out, err) {
        Ok(()) => run(application).unwrap_or_else(|error| {
            eprintln!("gantry-init: {error}");
            FAILED
        }),
        Err(_) => FAILED,
    };
    std::process::exit(code)
}

/// Replaces pid 1's standard streams, and closes all other descriptors that the fork has.
fn take_streams(out: &PipeWriter, err: &PipeWriter) -> io::Result<()> {
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(out)?;
    rustix::stdio::dup2_stderr(err)?;
    close_inherited()?;
    signals::unblock_all();
    Ok(())
}

/// Switches to the application's user, starts the application and waits for its end.
fn run(application: &Application) -> io::Result<i32> {
    let [program, arguments @ ..] = application.command.as_slice() else {
        return Err(io::Error::other("no command"));
    };
    let _ = rustix::thread::set_name(c"ppidshim");
    if let Err(error) = take_user(application) {
        eprintln!("gantry: cannot become user {}: {error}", application.uid);
        return Ok(NOT_EXECUTABLE);
    }
    if let Err(error) = std::env::set_current_dir(&application.cwd) {
        eprintln!("gantry: cannot enter {}: {error}", application.cwd.display());
        return Ok(NOT_EXECUTABLE);
    }
    let status = match Command::new(program).args(arguments).status() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("gantry: cannot run {}: {error}", program.display());
            let missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(if missing { NOT_FOUND } else { NOT_EXECUTABLE });
        }
    };
    // Ends this process by the same signal, so that pid 1 sees the application's end unchanged. Rust's runtime handles
    // or ignores some signals (SEGV, BUS, PIPE), so their default handlers are restored first.
    if let Some(signal) = status.signal()
        && signal_hook::low_level::emulate_default_handler(signal).is_err()
        && let Some(signal) = Signal::from_named_raw(signal)
    {
        kill_process(getpid(), signal)?;
    }
    Ok(status.code().unwrap_or(1))
}

/// Takes on the application's groups and user. Leaving root clears this process's capabilities.
fn take_user(application: &Application) -> io::Result<()> {
    let groups: Vec<Gid> = application.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(application.uid), Gid::from_raw(application.gid));
    // These calls change the calling thread only, and this process has one thread.
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    Ok(set_thread_res_uid(uid, uid, uid)?)
}
