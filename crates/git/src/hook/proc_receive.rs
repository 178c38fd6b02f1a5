//! `proc-receive`: moves the branch after the verdict, with the objects in place, and acknowledges the move.

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use super::pkt_line::{read_lines, write_flush, write_line};
use super::refs::{branch_ref, parse_update};
use super::refusal::{HookError, Refusal};
use super::{HookOpening, RefUpdate, connect, git, variable};

pub(super) fn main() -> ExitCode {
    match move_refs() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The deploy is done, and its branch was not moved: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Speaks git's pkt-lines (githooks(5)) on the standard streams: version and flush both ways, then the commands, and an
/// answer for each command.
fn move_refs() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    read_lines(&mut input)?;
    write_line(&mut output, "version=1")?;
    write_flush(&mut output)?;
    let branch = branch_ref(&variable("GANTRY_BRANCH")?);
    for line in read_lines(&mut input)? {
        let Some(update) = parse_update(&line) else { continue };
        let name = &update.name;
        // The server has announced that it ignores the other refs. A refusal of these would fail the push of the
        // branch.
        let answer = match *name == branch {
            true => match move_branch(&update) {
                Ok(()) => format!("ok {name}"),
                Err(HookError::Refused(why)) => format!("ng {name} {why}"),
                Err(HookError::Io(error)) => return Err(error),
            },
            false => format!("ok {name}"),
        };
        write_line(&mut output, &answer)?;
    }
    write_flush(&mut output)
}

/// Moves the branch durably.
fn move_branch(update: &RefUpdate) -> Result<(), HookError> {
    let RefUpdate { new, name, .. } = update;
    gantry_failpoint::failpoint!("hook.moving");
    // Sync the objects before the branch points to them.
    ["objects/pack", "objects"]
        .iter()
        .try_for_each(|folder| gantry_ledger::sync(&git_path(folder)))
        .map_err(|source| Refusal::Sync { what: "objects", source })?;
    // Mostly the branch is where the client knew it.
    let move_from = |tip: &str| {
        let mut git = Command::new("git");
        git.args(["update-ref", "--", name, new, tip]).stdin(Stdio::null()).stdout(Stdio::null());
        git
    };
    if !move_from(&update.old).stderr(Stdio::null()).status()?.success() {
        let tip = git::inspect(update)?.tip;
        git::check_tip(update, &tip)?;
        let status = move_from(&tip).status()?;
        if !status.success() {
            return Err(Refusal::Stuck(status).into());
        }
    }
    sync_ref(name).map_err(|source| Refusal::Sync { what: "folder", source })?;
    gantry_failpoint::failpoint!("hook.moved");
    acknowledge();
    Ok(())
}

/// Tells the server that the branch has moved. A server that is away needs no acknowledgement: the next server knows
/// that no push is under way.
fn acknowledge() {
    let _ = variable("GANTRY_PUSH").and_then(|push| connect(&HookOpening::Moved(push)));
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
