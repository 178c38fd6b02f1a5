//! Pid 2: starts the application and passes its end on, exit status or signal, as its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, getpid, kill_process};

/// What a shell answers for a command that is not there, and for one that cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// `command` is the working directory, then the program and its arguments.
pub(crate) fn run(command: &[OsString]) -> io::Result<ExitCode> {
    let [cwd, program, arguments @ ..] = command else {
        return Err(io::Error::other("no command"));
    };
    let _ = rustix::thread::set_name(c"ppidshim");
    if let Err(error) = std::env::set_current_dir(cwd) {
        eprintln!("gantry: cannot enter {}: {error}", cwd.display());
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
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // Ends this process by the same signal, so that pid 1 sees the application's end as it was.
        kill_process(getpid(), signal)?;
    }
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
