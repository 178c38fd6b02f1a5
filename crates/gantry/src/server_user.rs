//! The system user that runs the server of `gantry up`.

use std::fmt;
use std::process::{Command, Output, Stdio};
use std::str::FromStr;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_linux::confinement::UserIds;

use crate::coded::{WithCode, fail};

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

/// Returns the ids of the user, and makes a system user of this name if there is none.
pub(crate) fn find_or_make(name: &UserName) -> anyhow::Result<UserIds> {
    for _ in 0..ATTEMPTS {
        match find(name)? {
            Some(UserIds { uid: 0, .. }) => {
                fail!(ServerUserUnusable, "the user {name} is root; name another one with --server-user");
            }
            Some(ids) => return Ok(ids),
            None => make(name)?,
        }
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

fn make(name: &UserName) -> anyhow::Result<()> {
    let options =
        "--system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --comment Gantry";
    let words: Vec<&str> = options.split(' ').chain([name.0.as_str()]).collect();
    let output = run("useradd", &words)?;
    if output.status.success() || find(name)?.is_some() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // Another process has the lock of the users' files, or made the user just now.
    if said.contains("lock") {
        std::thread::sleep(std::time::Duration::from_millis(250));
        return Ok(());
    }
    let why = said.lines().next().unwrap_or("useradd failed").trim().to_owned();
    fail!(
        ServerUserUnusable,
        "cannot make the system user {name} for the server: {why}; name a user with --server-user"
    )
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
}
