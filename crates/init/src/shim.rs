//! Pid 2: starts the application and passes on the application's end, exit status or signal, as its own.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use rustix::fs::{Gid, Uid};
use rustix::process::{Signal, getpid, kill_process};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::arguments::Application;

/// Exit statuses of a shell for a missing command and for a command that cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Switches to the application's user, starts the application and waits for its end.
pub(crate) fn run(application: &Application) -> io::Result<ExitCode> {
    let [program, arguments @ ..] = application.command.as_slice() else {
        return Err(io::Error::other("no command"));
    };
    let _ = rustix::thread::set_name(c"ppidshim");
    if let Err(error) = take_user(application) {
        eprintln!("gantry: cannot become user {}: {error}", application.uid);
        return Ok(ExitCode::from(NOT_EXECUTABLE));
    }
    if let Err(error) = std::env::set_current_dir(&application.cwd) {
        eprintln!("gantry: cannot enter {}: {error}", application.cwd.display());
        return Ok(ExitCode::from(NOT_EXECUTABLE));
    }
    let status = match Command::new(program).args(arguments).status() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("gantry: cannot run {}: {error}", program.display());
            let missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE }));
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
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
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
