//! Pid 1 and 2 of every container; built static, and carried inside the `gantry` binary.
//!
//! ```text
//! pid 1  init      root without rights but setuid and kill; reaps, forwards signals, writes the log and the exit
//! pid 2   ppidshim the app's user; waits for the app, so that its parent is not pid 1
//! pid 3    the application
//! ```
//! Pid 1 reaches the world through its three standard descriptors alone, opened by whoever started it: 0 is the exit
//! record, 1 and 2 are the two segments of the log. It opens no path, so nothing in the container can lead it astray,
//! and it depends on no process outside.

mod arguments;
mod log;
mod reaper;
mod shim;

use std::process::ExitCode;

use arguments::Mode;

fn main() -> ExitCode {
    let outcome = match Mode::parse(std::env::args_os().skip(1)) {
        Ok(Mode::Init(settings)) => reaper::run(&settings),
        Ok(Mode::Shim(application)) => shim::run(&application),
        Err(message) => Err(std::io::Error::other(message)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gantry-init: {error}");
            ExitCode::from(125)
        }
    }
}
