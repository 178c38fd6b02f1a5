//! `pre-receive`: asks the server for the verdict. Git runs this hook while the pushed objects are still in quarantine.

use std::io::{self, BufRead, BufReader, Read};
use std::process::ExitCode;

use super::git::TreeMeasurement;
use super::refs::{is_commit, is_ref_name, parse_update, split};
use super::refusal::{HookError, Refusal};
use super::{HookOpening, OTHERS_MAX, PushReport, RefUpdate, ServerMessage, connect, git, send_line, variable};

/// Limit of the list of refs, in bytes: a mirror of 100,000 tags.
const LIST_MAX: u64 = 16 << 20;

/// Limit of push options that are read.
const OPTIONS_MAX: usize = 16;

pub(super) fn main() -> ExitCode {
    match judge() {
        Ok(true) => {
            gantry_failpoint::failpoint!("hook.judged");
            return ExitCode::SUCCESS;
        }
        Ok(false) => {}
        Err(HookError::Refused(refusal)) => eprintln!(" !     {refusal} [{}]", refusal.code()),
        Err(HookError::Io(error)) => {
            eprintln!("The connection to the server ended: {error}. The branch was not moved.");
            eprintln!("A deploy that had begun goes on; `gantry status` names the apps with a deploy.");
        }
    }
    ExitCode::FAILURE
}

/// Returns the server's verdict.
fn judge() -> Result<bool, HookError> {
    let updates = read_updates()?;
    let branch = variable("GANTRY_BRANCH")?;
    let (deployed, mut others) = split(updates, &branch);
    let mut deployable = None;
    if let Some(update) = deployed.clone().filter(|update| is_commit(&update.new)) {
        // Git measures the tree while this hook checks the commit and reports the push.
        let tree = TreeMeasurement::start(&update.new)?;
        check(&update)?;
        deployable = Some(Deployable { update, tree });
    }
    let count = others.len();
    let branches = others.iter().filter(|update| update.name.starts_with("refs/heads/")).count();
    others.truncate(OTHERS_MAX);
    let updates = deployed.into_iter().chain(others).collect();
    let push = variable("GANTRY_PUSH")?;
    let report = PushReport { push, branch, updates, others: count, branches, options: options() };
    converse(report, deployable)
}

/// The update of the branch, with the measurement of its tree.
struct Deployable {
    update: RefUpdate,
    tree: TreeMeasurement,
}

/// Follows the server's messages until the verdict.
fn converse(report: PushReport, mut deployable: Option<Deployable>) -> Result<bool, HookError> {
    let mut socket = connect(&HookOpening::Push(report))?;
    let no_commit = || io::Error::other("the push has no commit");
    for line in BufReader::new(socket.try_clone()?).lines() {
        match serde_json::from_str(&line?)? {
            ServerMessage::Say(text) => eprintln!("{text}"),
            ServerMessage::Ancestors(asked) => {
                let Deployable { update, .. } = deployable.as_mut().ok_or_else(no_commit)?;
                git::check_tip(update, &git::inspect(update)?.tip)?;
                let mut contained = Vec::new();
                for ancestor in asked {
                    if git::contains(&update.new, &ancestor)? {
                        contained.push(ancestor);
                    }
                }
                send_line(&mut socket, &contained)?;
            }
            ServerMessage::Archive => {
                let Deployable { update, tree } = deployable.as_mut().ok_or_else(no_commit)?;
                tree.check()?;
                git::archive(&update.new, &mut socket)?;
            }
            ServerMessage::Pack(known) => {
                let Deployable { update, .. } = deployable.as_mut().ok_or_else(no_commit)?;
                git::pack(&update.new, &known, &mut socket)?;
            }
            ServerMessage::Verdict(accepted) => return Ok(accepted),
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

/// Reads the pushed refs from standard input (githooks(5)).
fn read_updates() -> Result<Vec<RefUpdate>, HookError> {
    let mut text = String::new();
    if io::stdin().take(LIST_MAX).read_to_string(&mut text)? as u64 == LIST_MAX {
        return Err(Refusal::TooManyRefs.into());
    }
    // A line that cannot be parsed is the rest of a name that has a line break in it.
    let updates: Vec<RefUpdate> = text.lines().map(parse_update).collect::<Option<_>>().ok_or(Refusal::LineBreak)?;
    // Git checks only the names of the refs that it moves itself.
    match updates.iter().find(|update| !is_ref_name(&update.name)) {
        Some(odd) => Err(Refusal::BadName(odd.name.chars().take(100).collect()).into()),
        None => Ok(updates),
    }
}

/// Returns the push's options (githooks(5)), at most the first [`OPTIONS_MAX`].
fn options() -> Vec<String> {
    let read = |name: String| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
    let count = read("GIT_PUSH_OPTION_COUNT".to_owned()).and_then(|count| count.parse().ok()).unwrap_or(0);
    (0..count.min(OPTIONS_MAX)).filter_map(|at| read(format!("GIT_PUSH_OPTION_{at}"))).collect()
}

/// Refuses an update of the branch to an object other than a commit, and an update that loses the branch's commit. An
/// annotated tag leads to a commit without being one: git would build the tag's commit, but not move the branch to it.
fn check(update: &RefUpdate) -> Result<(), HookError> {
    let found = git::inspect(update)?;
    if found.kind.as_deref() == Some("commit") {
        return git::check_tip(update, &found.tip);
    }
    let (name, short, commit) = (update.name.clone(), git::short(&update.new), git::commit_of(&update.new)?);
    Err(match commit.is_empty() {
        true => Refusal::NoCommit { name, short },
        false => Refusal::Tag { name, short, commit },
    }
    .into())
}
