//! The system user that runs the server of `gantry up`.

use std::fmt;
use std::process::{Command, Output, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_linux::confinement::UserIds;

use crate::coded::{WithCode, coded, fail};

/// Maximum length of a user's name, as in useradd(8).
const NAME_MAX: usize = 32;

/// Search path of the programs that manage users.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Attempts to make the user: another program may change the users at the same moment.
const ATTEMPTS: u32 = 20;

/// Name of a system user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserName(String);

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reason why a text is no user's name.
#[derive(Debug, thiserror::Error)]
#[error("a user's name has up to {NAME_MAX} lower-case letters, digits, `-` and `_`, and begins with a letter or `_`")]
pub(crate) struct InvalidUserName;

impl FromStr for UserName {
    type Err = InvalidUserName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = |c: char| c.is_ascii_lowercase() || c == '_';
        let rest = |c: char| first(c) || c.is_ascii_digit() || c == '-';
        let is_valid = text.starts_with(first) && text.chars().all(rest) && text.len() <= NAME_MAX;
        if is_valid { Ok(Self(text.to_owned())) } else { Err(InvalidUserName) }
    }
}

/// Exit codes of useradd(8) with which another attempt may succeed: another program may have the lock of the files of
/// users (1) or of groups (10), or may have made the user just now (9).
const BUSY: [i32; 3] = [1, 9, 10];

/// Pause before another attempt, while another program changes the users.
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// Result of an attempt to make the user.
enum MakeResult {
    /// The user is made.
    Made,
    /// Another attempt may succeed. useradd gives this reason.
    Busy(String),
}

/// Returns the ids of the user, and makes a system user of this name if there is none.
pub(crate) fn find_or_make(name: &UserName) -> anyhow::Result<UserIds> {
    let mut last = MakeResult::Made;
    for _ in 0..ATTEMPTS {
        match find(name)? {
            Some(UserIds { uid: 0, .. }) => {
                fail!(ServerUserUnusable, "the user {name} is root; name another one with --server-user");
            }
            Some(ids) => return Ok(ids),
            None => last = make(name)?,
        }
        if let MakeResult::Busy(_) = last {
            std::thread::sleep(BUSY_PAUSE);
        }
    }
    if let MakeResult::Busy(why) = last {
        return Err(cannot_make(name, &why));
    }
    fail!(
        ServerUserUnusable,
        "useradd made the user {name}, and `id` does not find this user; look at /etc/nsswitch.conf"
    )
}

fn find(name: &UserName) -> anyhow::Result<Option<UserIds>> {
    let number = |option: &str| -> anyhow::Result<Option<u32>> {
        let output = run("id", &[option, &name.0])?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().parse().ok()).flatten())
    };
    Ok(number("-u")?.zip(number("-g")?).map(|(uid, gid)| UserIds { uid, gid }))
}

fn make(name: &UserName) -> anyhow::Result<MakeResult> {
    let options =
        "--system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --comment Gantry";
    let words: Vec<&str> = options.split(' ').chain([name.0.as_str()]).collect();
    let output = run("useradd", &words)?;
    if output.status.success() {
        return Ok(MakeResult::Made);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let why = stderr.lines().next().unwrap_or("useradd failed").trim().to_owned();
    let is_busy = output.status.code().is_some_and(|code| BUSY.contains(&code));
    if is_busy { Ok(MakeResult::Busy(why)) } else { Err(cannot_make(name, &why)) }
}

fn cannot_make(name: &UserName, why: &str) -> anyhow::Error {
    let message = format!("cannot make the system user {name} for the server: {why}; name a user with --server-user");
    coded(ErrorCode::ServerUserUnusable, message)
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program);
    let output = command.args(words).env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let remedy = "name a user of this machine with --server-user, or install the packages coreutils and passwd";
    output.with_context(|| format!("cannot run {program}; {remedy}")).with_code(ErrorCode::ServerUserUnusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_option_and_no_path() {
        for good in ["gantry", "_apt", "gantry-2", &"a".repeat(32)] {
            assert_eq!(good.parse::<UserName>().expect(good).to_string(), *good);
        }
        for bad in ["", "-u", "Gantry", "1", "a b", "a/b", "a:b", "ä", &"a".repeat(33)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn root_is_refused_and_a_known_user_is_found() {
        let refused = find_or_make(&UserName("root".to_owned())).expect_err("root").to_string();
        assert!(refused.contains("is root") && refused.contains("--server-user"), "{refused}");
        assert_eq!(find(&UserName("daemon".to_owned())).expect("asked"), Some(UserIds { uid: 1, gid: 1 }));
        assert_eq!(find(&UserName("no-such-user".to_owned())).expect("asked"), None);
    }

    #[test]
    fn a_user_that_is_there_already_is_worth_another_look() {
        let refused = run("useradd", &["root"]).expect("asked").status.code();
        assert!(refused.is_some_and(|code| BUSY.contains(&code)), "{refused:?}");
        assert!(!BUSY.contains(&run("useradd", &["--no-such-option"]).expect("asked").status.code().expect("a code")));
    }
}
