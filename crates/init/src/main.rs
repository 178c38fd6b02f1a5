//! Pid 1 and 2 of every container; built static, and embedded in the `gantry` binary.
//!
//! ```text
//! pid 1  init      root, but only setuid, setgid and kill; reaps, forwards signals, writes log and exit record
//! pid 2   ppidshim a fork of pid 1 and the app's user; waits for the app, so that the app's parent is not pid 1
//! pid 3    the application
//! ```
//! Pid 1 reaches the outside through its three standard descriptors alone, which the sandbox opened. Descriptor 0 is
//! the exit record; descriptors 1 and 2 are the two segments of the log. Besides its own program and `/proc`, pid 1
//! opens no path, so nothing in the container can mislead it. Pid 1 also depends on no process outside.

mod arguments;
mod log;
mod reaper;
mod shim;

use std::process::ExitCode;

use arguments::InitSettings;

fn main() -> ExitCode {
    let outcome = match InitSettings::parse(std::env::args_os().skip(1)) {
        Ok(settings) => reaper::run(&settings),
        Err(error) => Err(std::io::Error::other(error)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gantry-init: {error}");
            ExitCode::from(125)
        }
    }
}
