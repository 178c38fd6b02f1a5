//! Questions to git about the pushed commit. Git starts the hooks in the repository, with the pushed objects in sight.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::RefUpdate;
use super::protocol::{end_archive, write_archive};
use super::refs::is_commit;
use super::refusal::{HookError, Refusal};

/// Limits of a tree: the number of its files, and their total size in bytes.
const FILES_MAX: usize = 500_000;
const BYTES_MAX: u64 = 2 << 30;

fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// Objects that a push names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PushedObjects {
    /// Type of the pushed object: `commit`, `tag` and so on; `None` for a missing object.
    pub(super) kind: Option<String>,
    /// The branch's present commit; zeros for none.
    pub(super) tip: String,
}

/// Looks at the pushed object and the branch, with one git process.
pub(super) fn inspect(update: &RefUpdate) -> io::Result<PushedObjects> {
    let mut child = git(&["cat-file", "--batch-check=%(objecttype) %(objectname)"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "{}\n{}", update.new, update.name)?;
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let (pushed, tip) = (lines.next().and_then(found), lines.next().and_then(found));
    Ok(PushedObjects {
        kind: pushed.map(|(kind, _)| kind.to_owned()),
        tip: tip.map_or_else(|| "0".repeat(update.new.len()), |(_, name)| name.to_owned()),
    })
}

/// Parses a line of `git cat-file`. The line of a missing object is its name and a word.
fn found(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ').filter(|(_, name)| is_commit(name))
}

/// Returns the commit that an object leads to; an empty text for none.
pub(super) fn commit_of(object: &str) -> io::Result<String> {
    let name = format!("{object}^{{commit}}");
    let output = git(&["rev-parse", "--quiet", "--verify", "--end-of-options", &name]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    Ok(if output.status.success() { text } else { String::new() })
}

/// Reports whether `commit` contains `ancestor`. A commit that the repository does not have is no ancestor.
pub(super) fn contains(commit: &str, ancestor: &str) -> io::Result<bool> {
    let named = is_commit(commit) && is_commit(ancestor);
    Ok(named && git(&["merge-base", "--is-ancestor", ancestor, commit]).stdout(Stdio::null()).status()?.success())
}

/// Refuses an update if the branch has moved to a commit that neither the client knew nor the new commit contains.
pub(super) fn check_tip(update: &RefUpdate, tip: &str) -> Result<(), HookError> {
    if tip == update.old || contains(&update.new, tip)? {
        return Ok(());
    }
    Err(Refusal::Moved(short(tip)).into())
}

/// Shortens a hash for people.
pub(super) fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// A measurement of a tree, under way in a git process.
///
/// The hook counts before it archives the tree: a pack of kilobytes can contain a tree without end, and `git archive`
/// loads the whole tree into memory before it writes the first byte.
pub(super) struct TreeMeasurement(Child);

impl TreeMeasurement {
    /// Starts to measure the tree of a commit.
    pub(super) fn start(commit: &str) -> io::Result<Self> {
        let arguments = ["ls-tree", "-r", "-z", "--format=%(objectsize)", commit];
        git(&arguments).stdout(Stdio::piped()).spawn().map(Self)
    }

    /// Waits for the result, and refuses a tree that is too large.
    pub(super) fn check(&mut self) -> Result<(), HookError> {
        let Self(git) = self;
        if let Some(refusal) = excess(git)? {
            git.kill()?;
            git.wait()?;
            return Err(refusal.into());
        }
        match git.wait()? {
            status if status.success() => Ok(()),
            status => Err(Refusal::Tree(status).into()),
        }
    }
}

/// Counts the sizes that `git ls-tree` lists, up to a limit.
fn excess(git: &mut Child) -> io::Result<Option<Refusal>> {
    let (mut files, mut bytes) = (0, 0u64);
    let Some(output) = git.stdout.take() else { return Ok(None) };
    for size in BufReader::new(output).split(0) {
        files += 1;
        // A submodule has no size.
        let size = size?;
        bytes = bytes
            .saturating_add(std::str::from_utf8(&size).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0));
        if files > FILES_MAX {
            return Ok(Some(Refusal::TooManyFiles(FILES_MAX)));
        }
        if bytes > BYTES_MAX {
            return Ok(Some(Refusal::TooManyBytes(BYTES_MAX)));
        }
    }
    Ok(None)
}

/// Sends the tree of a commit as a tar archive.
pub(super) fn archive(commit: &str, socket: &mut impl Write) -> io::Result<()> {
    let mut git = git(&["archive", "--format=tar", commit]).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    if let Some(output) = git.stdout.take() {
        write_archive(output, socket)?;
    }
    let status = git.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("git archive failed ({status})")));
    }
    end_archive(socket)
}

/// Sends the objects that a commit leads to as a pack, without those of the `known` commits that the repository has.
pub(super) fn pack(commit: &str, known: &[String], socket: &mut impl Write) -> io::Result<()> {
    let known = known.iter().filter(|known| is_commit(known));
    let mut git = git(&["pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    if let Some(mut input) = git.stdin.take() {
        writeln!(input, "{commit}")?;
        for known in known {
            if commit_of(known)? == *known {
                writeln!(input, "^{known}")?;
            }
        }
    }
    if let Some(output) = git.stdout.take() {
        write_archive(output, socket)?;
    }
    let status = git.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("git pack-objects failed ({status})")));
    }
    end_archive(socket)
}
