//! Failpoints, at which a test kills the process as a power failure would. A release build contains none of them.
//!
//! A test sets `GANTRY_FAILPOINTS` to the path of a folder. The folder's file `kill` contains one failpoint's name per line.
//! The first process that passes the failpoint of the first line removes this line and ends with SIGKILL. `*` stands
//! for the next failpoint of any name, `!table.` for the next whose name does not start with `table.`. The files
//! `passed` and `killed` record the events. `passed` includes the time in Unix microseconds, so that it is also a
//! profile.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Environment variable with the path of the folder.
pub const VARIABLE: &str = "GANTRY_FAILPOINTS";

/// Marks a failpoint: all work before the failpoint is done, and no work after the failpoint has begun.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::pass($name)
        }
    };
}

/// Passes a failpoint; see [`failpoint!`].
pub fn pass(name: &str) {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    if let Some(folder) = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        note(folder, "passed", &format!("{now} {name}"));
        if take_kill(folder, name).is_some_and(|is_taken| is_taken) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

fn note(folder: &Path, file: &str, line: &str) {
    let opened = File::options().create(true).append(true).open(folder.join(file));
    let _ = opened.and_then(|mut file| {
        // Processes of several users write the file; its owner opens it for all.
        let _ = file.set_permissions(fs::Permissions::from_mode(0o666));
        file.write_all(format!("{line}\n").as_bytes())
    });
}

/// Takes the first line off the list of kills, and reports whether the line names this failpoint. Returns none if there
/// is no list, or another process took the list.
fn take_kill(folder: &Path, name: &str) -> Option<bool> {
    let list = folder.join("kill");
    let matches = |first: &str| match first.strip_prefix('!') {
        Some(others) => !name.starts_with(others),
        None => first == name || first == "*",
    };
    let is_meant = |text: &str| text.lines().next().is_some_and(matches);
    if !is_meant(&fs::read_to_string(&list).ok()?) {
        return Some(false);
    }
    // Of several processes that pass at once, the one whose rename succeeds owns the list.
    let own = folder.join(format!("kill-{}", std::process::id()));
    fs::rename(&list, &own).ok()?;
    let text = fs::read_to_string(&own).ok()?;
    if !is_meant(&text) {
        // Another process was faster, and left the next line.
        fs::rename(&own, &list).ok()?;
        return Some(false);
    }
    // Record the kill before giving the rest back: the next line may make another thread kill this process at once.
    note(folder, "killed", name);
    let rest: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
    if !rest.is_empty() {
        // The list may belong to another user.
        fs::remove_file(&own).ok()?;
        fs::write(&own, rest).ok()?;
        fs::rename(&own, &list).ok()?;
    } else {
        fs::remove_file(&own).ok()?;
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_kill_only_for_the_named_failpoint() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = folder.path().join("kill");
        assert_eq!(take_kill(folder.path(), "plan.kept"), None, "there is no list");
        fs::write(&list, "plan.kept\n!table.\n*\n").expect("written");
        assert_eq!(take_kill(folder.path(), "plan.received"), Some(false));
        assert_eq!(take_kill(folder.path(), "plan.kept"), Some(true));
        assert_eq!(take_kill(folder.path(), "table.kept"), Some(false), "`!table.` means any other");
        assert_eq!(take_kill(folder.path(), "plan.kept"), Some(true));
        assert_eq!(fs::read_to_string(&list).expect("the rest"), "*\n");
        assert_eq!(take_kill(folder.path(), "table.kept"), Some(true));
        assert!(!list.exists(), "an empty list is removed");
        let killed = fs::read_to_string(folder.path().join("killed")).expect("the record");
        assert_eq!(killed, "plan.kept\nplan.kept\ntable.kept\n");
    }
}
