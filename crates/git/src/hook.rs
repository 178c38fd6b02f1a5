//! Both ends of the hook's conversation on the unix socket, with one JSON value per line:
//!
//! | from | message |
//! |---|---|
//! | hook | [`Pushed`] |
//! | server | [`Word::Say`]: a line to show, any number of times, at any point |
//! | server | [`Word::Archive`]: send the tree; then the hook sends the archive and closes its side |
//! | server | [`Word::Verdict`]: the last message |
//!
//! The second hook, `proc-receive`, moves the ref after a good verdict. Git itself would compare the ref with the value
//! that it advertised at first. It would refuse a push that waited for another push and is built on the other's commit.
//! This module also refuses a push that is not built on the branch's commit: an accepted commit stays on its branch
//! until a user who knows of the commit removes it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

/// A push, as the hook reports it to the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pushed {
    /// Id of the push, given by the server.
    pub push: String,
    /// The branch that deploys, as configured when the push began.
    #[serde(default)]
    pub branch: String,
    /// The pushed refs: the branch first, if the push contains it, and at most [`OTHERS_MAX`] others.
    pub updates: Vec<Update>,
    /// Number of all other refs in the push.
    #[serde(default)]
    pub others: usize,
    /// Number of branches among the other refs.
    #[serde(default)]
    pub branches: usize,
    /// Options given with `git push -o`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Newest commits of the branch's history, at most [`HISTORY`].
    #[serde(default)]
    pub history: Vec<String>,
}

/// Limit of refs beside the branch that the hook reports to the server.
pub const OTHERS_MAX: usize = 20;

/// Limit of the list of refs, in bytes: a mirror of 100,000 tags.
const LIST_MAX: u64 = 16 << 20;

/// Number of commits in a push's history in which the server looks for a commit that is still being deployed.
const HISTORY: usize = 20_000;

/// Update of one ref.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Update {
    /// The commit that the ref had; zeros for none.
    pub old: String,
    /// The commit that the ref should have; zeros to remove the ref.
    pub new: String,
    /// Full name of the ref: `refs/heads/main`.
    pub name: String,
}

/// A message of the server to the hook.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The hook shows this line to the user.
    Say(String),
    /// The hook sends the tree of this commit.
    Archive(String),
    /// The push is accepted (true) or refused (false).
    Verdict(bool),
}

/// Runs `gantry git-hook pre-receive` or `… proc-receive` inside git.
#[must_use]
pub fn main() -> ExitCode {
    match std::env::args().nth(2).as_deref() {
        Some("proc-receive") => match move_refs() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("The deploy is done, and its branch was not moved: {error}");
                ExitCode::FAILURE
            }
        },
        _ => judge(),
    }
}

/// Asks the server for the verdict. Git runs this hook while the pushed objects are still in quarantine.
fn judge() -> ExitCode {
    match talk() {
        Ok(true) => {
            gantry_failpoint::failpoint!("hook.judged");
            ExitCode::SUCCESS
        }
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("The server went away: {error}. The push was not taken; if its deploy had begun, it goes on.");
            ExitCode::FAILURE
        }
    }
}

fn talk() -> io::Result<bool> {
    let variable = |name: &str| std::env::var(name).map_err(|_| io::Error::other(format!("no {name}")));
    let mut socket = UnixStream::connect(variable("GANTRY_GIT_SOCKET")?)?;
    let mut text = String::new();
    if io::stdin().take(LIST_MAX).read_to_string(&mut text)? as u64 == LIST_MAX {
        eprintln!(" !     the push names too many refs; push the branch alone");
        return Ok(false);
    }
    // A line that cannot be parsed is the rest of a name that has a line break in it.
    let updates: Option<Vec<Update>> = text.lines().map(update).collect();
    let Some(updates) = updates else {
        eprintln!(" !     a ref's name has a line break in it");
        return Ok(false);
    };
    // Git checks only the names of the refs that it moves itself.
    if let Some(odd) = updates.iter().find(|update| !is_ref(&update.name)) {
        eprintln!(" !     {:?} is no name of a ref", odd.name.chars().take(100).collect::<String>());
        return Ok(false);
    }
    let branch = variable("GANTRY_BRANCH")?;
    let (mut deployed, mut others) = split(updates, &branch);
    let mut history = Vec::new();
    if let Some(update) = deployed.as_ref().filter(|update| is_commit(&update.new)) {
        if let Err(refusal) = commit_itself(update)?.and(next(update)?) {
            eprintln!(" !     {refusal}");
            return Ok(false);
        }
        let listed = git(&["rev-list", &format!("--max-count={HISTORY}"), &update.new])?;
        history.extend(listed.lines().map(str::to_owned));
    }
    let count = others.len();
    let branches = others.iter().filter(|update| update.name.starts_with("refs/heads/")).count();
    others.truncate(OTHERS_MAX);
    let updates = deployed.take().into_iter().chain(others).collect();
    let push = variable("GANTRY_PUSH")?;
    let pushed = Pushed { push, branch, updates, others: count, branches, options: options(), history };
    serde_json::to_writer(&mut socket, &pushed)?;
    socket.write_all(b"\n")?;
    for line in BufReader::new(socket.try_clone()?).lines() {
        match serde_json::from_str(&line?)? {
            Word::Say(text) => eprintln!("{text}"),
            Word::Archive(commit) => {
                if let Err(refusal) = measure(&commit)? {
                    eprintln!(" !     {refusal}");
                    return Ok(false);
                }
                archive(&commit, &socket)?;
            }
            Word::Verdict(accepted) => return Ok(accepted),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Returns the push's options (githooks(5)), at most the first [`OPTIONS_MAX`].
fn options() -> Vec<String> {
    let read = |name: String| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
    let count = read("GIT_PUSH_OPTION_COUNT".to_owned()).and_then(|count| count.parse().ok()).unwrap_or(0);
    (0..count.min(OPTIONS_MAX)).filter_map(|at| read(format!("GIT_PUSH_OPTION_{at}"))).collect()
}

/// Separates the branch's update from those of all other refs.
fn split(updates: Vec<Update>, branch: &str) -> (Option<Update>, Vec<Update>) {
    let name = branch_ref(branch);
    let (mut own, others): (Vec<Update>, Vec<Update>) = updates.into_iter().partition(|update| update.name == name);
    (own.pop(), others)
}

/// Recognizes a ref's name that git allows (git-check-ref-format(1)).
fn is_ref(name: &str) -> bool {
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.starts_with("refs/")
        && name.split('/').all(part)
        && !name.contains(odd)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
}

/// Returns the full name of a branch.
fn branch_ref(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

pub(crate) fn update(line: &str) -> Option<Update> {
    let mut words = line.splitn(3, ' ').map(str::to_owned);
    Some(Update { old: words.next()?, new: words.next()?, name: words.next()? })
}

/// Returns git's standard output, or an empty text if git fails.
fn git(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    Ok(if output.status.success() { text } else { String::new() })
}

/// Recognizes a full hash other than the zeros that stand for a removal. An option of git never matches.
fn is_commit(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text.bytes().any(|byte| byte != b'0')
}

/// Refuses an object that leads to a commit without being a commit, such as an annotated tag. Git would build the tag's
/// commit, but not move the branch to the tag.
fn commit_itself(update: &Update) -> io::Result<Result<(), String>> {
    let Update { new, name, .. } = update;
    let commit = git(&["rev-parse", "--quiet", "--verify", "--end-of-options", &format!("{new}^{{commit}}")])?;
    if commit == *new {
        return Ok(Ok(()));
    }
    let short = &new[..new.len().min(12)];
    Ok(Err(if commit.is_empty() {
        format!("{short} is no commit, and {name} is to be one")
    } else {
        format!("{short} is a tag, and {name} is to be a commit: git push gantry {commit}:{name}")
    }))
}

/// Checks that `update` may follow the ref's present commit, and returns this commit (zeros for none). The client must
/// know of this commit, or its new commit must be built on it.
fn next(update: &Update) -> io::Result<Result<String, String>> {
    let now = match git(&["rev-parse", "--quiet", "--verify", "--end-of-options", &update.name])? {
        none if none.is_empty() => "0".repeat(update.new.len()),
        now => now,
    };
    let is_built_on = || {
        let arguments = ["merge-base", "--is-ancestor", &now, &update.new];
        Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).status()
    };
    if now == update.old || is_built_on()?.success() {
        return Ok(Ok(now));
    }
    let short = &now[..now.len().min(12)];
    Ok(Err(format!("the branch has moved to {short} meanwhile, which this is not built on: fetch it, and push again")))
}

/// Limit of push options that are read.
const OPTIONS_MAX: usize = 16;

/// Limits of a tree: the number of its files, and their total size in bytes.
const FILES_MAX: usize = 500_000;
const BYTES_MAX: u64 = 2 << 30;

/// Refuses a tree that is too large. The hook counts before it archives the tree: a pack of kilobytes can contain a
/// tree without end, and `git archive` loads the whole tree into memory before it writes the first byte.
fn measure(commit: &str) -> io::Result<Result<(), String>> {
    // The server checked that `commit` is a hash. Check again, because any other text could be an option.
    if !is_commit(commit) {
        return Err(io::Error::other("not a commit"));
    }
    let arguments = ["ls-tree", "-r", "-z", "--format=%(objectsize)", commit];
    let mut git = Command::new("git").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let (mut files, mut bytes) = (0, 0u64);
    let mut refusal = None;
    if let Some(output) = git.stdout.take() {
        for size in BufReader::new(output).split(0) {
            files += 1;
            // A submodule has no size.
            let size = size?;
            bytes = bytes
                .saturating_add(std::str::from_utf8(&size).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0));
            if files > FILES_MAX {
                refusal = Some(format!("the tree has more than {FILES_MAX} files"));
                break;
            }
            if bytes > BYTES_MAX {
                refusal = Some(format!("the files of the tree have more than {} GiB", BYTES_MAX >> 30));
                break;
            }
        }
    }
    if let Some(refusal) = refusal {
        git.kill()?;
        git.wait()?;
        return Ok(Err(refusal));
    }
    match git.wait()? {
        status if status.success() => Ok(Ok(())),
        status => Ok(Err(format!("the tree cannot be read (git ls-tree: {status})"))),
    }
}

fn archive(commit: &str, mut socket: &UnixStream) -> io::Result<()> {
    let mut git = Command::new("git")
        .args(["archive", "--format=tar", commit])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    if let Some(mut output) = git.stdout.take() {
        io::copy(&mut output, &mut socket)?;
    }
    let status = git.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("git archive failed ({status})")));
    }
    socket.shutdown(Shutdown::Write)
}

/// Runs `proc-receive`, after the verdict and with the objects in place. It speaks git's pkt-lines (githooks(5)) on its
/// standard streams: version and flush both ways, then the commands, and an answer for each command.
fn move_refs() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    read_lines(&mut input)?;
    write_line(&mut output, "version=1")?;
    output.write_all(b"0000")?;
    output.flush()?;
    let branch = std::env::var("GANTRY_BRANCH").map_err(|_| io::Error::other("no GANTRY_BRANCH"))?;
    let branch = branch_ref(&branch);
    for line in read_lines(&mut input)? {
        let Some(update) = update(&line) else {
            continue;
        };
        let name = &update.name;
        // The server has announced that it ignores the other refs. A refusal of these would fail the push of the
        // branch.
        let answer = if *name == branch { move_branch(&update)? } else { format!("ok {name}") };
        write_line(&mut output, &answer)?;
    }
    output.write_all(b"0000")?;
    output.flush()
}

/// Moves the branch durably, and returns the answer for git.
fn move_branch(update: &Update) -> io::Result<String> {
    let Update { new, name, .. } = update;
    gantry_failpoint::failpoint!("hook.moving");
    // Sync the objects before the branch points to them.
    let objects = ["objects/pack", "objects"].iter().try_for_each(|folder| gantry_ledger::sync(&git_path(folder)));
    let answer = match (objects, next(update)?) {
        (Err(error), _) => format!("ng {name} its objects cannot be synced: {error}"),
        (Ok(()), Err(refusal)) => format!("ng {name} {refusal}"),
        (Ok(()), Ok(now)) => {
            let mut git = Command::new("git");
            let status = git.args(["update-ref", "--", name, new, &now]).stdout(Stdio::null()).status()?;
            match (status.success(), sync_ref(name)) {
                (false, _) => format!("ng {name} it cannot be moved"),
                (true, Err(error)) => format!("ng {name} it cannot be synced: {error}"),
                (true, Ok(())) => format!("ok {name}"),
            }
        }
    };
    gantry_failpoint::failpoint!("hook.moved");
    Ok(answer)
}

/// Returns a path inside the repository. Git starts its hooks there and sets `GIT_DIR`.
fn git_path(name: &str) -> PathBuf {
    std::env::var_os("GIT_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from).join(name)
}

/// Syncs the folders that contain a ref's file, which git does not sync.
fn sync_ref(name: &str) -> io::Result<()> {
    let path = git_path(name);
    let folders = path.ancestors().skip(1).take(name.matches('/').count());
    folders.filter(|folder| folder.is_dir()).try_for_each(gantry_ledger::sync)
}

/// Reads the pkt-lines up to the next flush.
pub(crate) fn read_lines(input: &mut impl Read) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let wrong = || io::Error::other("not a pkt-line");
        let text = std::str::from_utf8(&length).map_err(|_| wrong())?;
        match usize::from_str_radix(text, 16).map_err(|_| wrong())? {
            0 => return Ok(lines),
            length @ 4..=65_520 => {
                let mut line = vec![0; length - 4];
                input.read_exact(&mut line)?;
                let line = String::from_utf8_lossy(&line);
                lines.push(line.trim_end_matches('\n').to_owned());
            }
            _ => return Err(wrong()),
        }
    }
}

fn write_line(output: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(output, "{:04x}{text}", text.len() + 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_branch_is_told_apart_from_what_is_passed_over() {
        let named = |name: &str| Update { old: "0".repeat(40), new: "a".repeat(40), name: name.to_owned() };
        let pushed = ["refs/tags/main", "refs/heads/main", "refs/heads/main/x"].map(named).to_vec();
        let (own, others) = split(pushed, "main");
        assert_eq!(own.map(|update| update.name).as_deref(), Some("refs/heads/main"));
        let others: Vec<String> = others.into_iter().map(|update| update.name).collect();
        assert_eq!(others, ["refs/tags/main", "refs/heads/main/x"]);
        assert!(split(vec![named("refs/tags/main")], "main").0.is_none());
    }

    #[test]
    fn names_that_git_does_not_allow_are_no_refs() {
        for good in ["refs/heads/main", "refs/tags/v1.0", "refs/heads/a/b-c_d", "refs/notes/x", "refs/heads/-x"] {
            assert!(is_ref(good), "{good}");
        }
        for bad in [
            "HEAD",
            "config",
            "../config",
            "-o",
            "",
            "refs/heads/",
            "refs//heads/x",
            "/refs/heads/x",
            "refs/heads/a..b",
            "refs/heads/../x",
            "refs/heads/.x",
            "refs/heads/x.lock",
            "refs/heads/x.",
            "refs/heads/a b",
            "refs/heads/~",
            "refs/heads/@{1}",
            "refs/heads/\u{1b}[2J",
            "refs/heads/a\\b",
            "refs/heads/x\u{7f}",
        ] {
            assert!(!is_ref(bad), "{bad:?}");
        }
    }

    #[test]
    fn pkt_lines_are_read_and_hostile_ones_refused() {
        let mut text = Vec::new();
        write_line(&mut text, "ok refs/heads/main").expect("written");
        text.extend_from_slice(b"0000rest");
        assert_eq!(read_lines(&mut &text[..]).expect("lines"), ["ok refs/heads/main"]);
        for bad in [&b"0001"[..], b"fffff", b"zzzz", b"0009ab", b"\xff\xff\xff\xff", b""] {
            assert!(read_lines(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }
}
