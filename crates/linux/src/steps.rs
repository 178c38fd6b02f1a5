//! Named steps, at which a test ends the process as a power failure would. In a release build nothing is left of them.
//!
//! A test names a folder in `GANTRY_STEPS`. Its file `kill` holds one step's name a line: the first process that passes the
//! step of the first line takes that line away and ends with SIGKILL. `*` means whatever step comes next, `!table.` whatever
//! comes next that does not begin so. `passed` and `killed` tell what happened; `passed` with when, in Unix microseconds, so
//! that it is a profile too.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The variable that names the folder.
pub const VARIABLE: &str = "GANTRY_STEPS";

/// Marks that everything before it was done and nothing after it.
#[macro_export]
macro_rules! step {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::steps::pass($name)
        }
    };
}

/// Passes a step; see [`step!`].
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
    // Whoever renames it has it, of however many pass at once.
    let own = folder.join(format!("kill-{}", std::process::id()));
    fs::rename(&list, &own).ok()?;
    let text = fs::read_to_string(&own).ok()?;
    if !meant(&text) {
        // Another was faster, and left the next line.
        fs::rename(&own, &list).ok()?;
        return Some(false);
    }
    // Told before the rest is given back: another thread may end this process by the next line at once.
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
