//! Failpoints, at which a test kills the process as a power failure would. A release build contains none of them.
//!
//! A test sets `GANTRY_STEPS` to the path of a folder. The folder's file `kill` contains one failpoint's name per line.
//! The first process that passes the failpoint of the first line removes this line and ends with SIGKILL. `*` stands
//! for the next failpoint of any name, `!table.` for the next whose name does not start with `table.`. The files
//! `passed` and `killed` record the events. `passed` includes the time in Unix microseconds, so that it is also a
//! profile.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Environment variable with the path of the folder.
pub const VARIABLE: &str = "GANTRY_STEPS";

/// Marks a failpoint: all work before it is done, and no work after it has begun.
#[macro_export]
macro_rules! step {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::steps::pass($name)
        }
    };
}

/// Passes a failpoint; see [`step!`].
pub fn pass(name: &str) {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    if let Some(folder) = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        note(folder, "passed", &format!("{now} {name}"));
        if is_the_end(folder, name).is_some_and(|ends| ends) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

fn note(folder: &Path, file: &str, line: &str) {
    let opened = File::options().create(true).append(true).open(folder.join(file));
    let _ = opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
}

fn is_the_end(folder: &Path, name: &str) -> Option<bool> {
    let list = folder.join("kill");
    let is_meant = |first: &str| match first.strip_prefix('!') {
        Some(others) => !name.starts_with(others),
        None => first == name || first == "*",
    };
    let meant = |text: &str| text.lines().next().is_some_and(is_meant);
    if !meant(&fs::read_to_string(&list).ok()?) {
        return Some(false);
    }
    // Of several processes that pass at once, the one whose rename succeeds owns the list.
    let own = folder.join(format!("kill-{}", std::process::id()));
    fs::rename(&list, &own).ok()?;
    let text = fs::read_to_string(&own).ok()?;
    if !meant(&text) {
        // Another process was faster, and left the next line.
        fs::rename(&own, &list).ok()?;
        return Some(false);
    }
    // Record the kill before giving the rest back: the next line may make another thread kill this process at once.
    note(folder, "killed", name);
    let rest: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
    if !rest.is_empty() {
        fs::write(&own, rest).ok()?;
        fs::rename(&own, &list).ok()?;
    } else {
        fs::remove_file(&own).ok()?;
    }
    Some(true)
}
