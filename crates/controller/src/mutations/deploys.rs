//! Mutations of deploys: pushes, rollbacks, and orders to deploys under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::Problem;
use gantry_model::deploy::DeployOrder;
use gantry_model::{AppName, Deploy, DeployCause, DeployNumber, DeployState, Moment, Release, ReleaseNumber};

use super::{Changes, app, changeable, event};
use crate::records::{RecordIndex, StoreRecord};

/// History on which a push is built, as far as the server knows.
#[derive(Debug, Clone)]
pub(crate) struct PushBase {
    /// The pushed commit.
    pub(crate) new: String,
    /// Commit that the client knew as the head of the branch.
    pub(crate) old: String,
    /// Commits about which the hook was asked, each with whether the pushed commit contains it.
    pub(crate) asked: BTreeMap<String, bool>,
}

/// A commit about which the hook must be asked before the push may be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AncestorQuestion {
    /// The commit.
    pub(crate) commit: String,
    /// Whether the push of the commit was accepted: git has moved the branch to the commit, or is about to.
    pub(crate) accepted: bool,
}

/// Returns the commit of a deploy that a push caused.
fn pushed(deploy: &Deploy) -> Option<&String> {
    match &deploy.cause {
        DeployCause::Push { commit, .. } => Some(commit),
        _ => None,
    }
}

/// Refuses a push that does not contain the commit of another push on its way to the branch. Otherwise the branch would
/// lose an accepted commit. Returns the commits about which the hook must be asked first.
pub(crate) fn check_history(
    records: &RecordIndex,
    name: &AppName,
    base: &PushBase,
) -> Result<Vec<AncestorQuestion>, Problem> {
    use DeployState::{Done, Draining, Held, Reverting};
    let contains = |commit: &String| if *commit == base.new { Some(true) } else { base.asked.get(commit).copied() };
    // The commit of a held deploy is on the branch already; the commit of a reverting deploy does not get there. The
    // commit of a serving deploy is on the branch if the client knows that commit.
    let known = |deploy: &Deploy| deploy.state == Draining && pushed(deploy) == Some(&base.old);
    let comes = |deploy: &&Arc<Deploy>| {
        !matches!(deploy.state, Held | Reverting) && deploy.order != Some(DeployOrder::Abort) && !known(deploy)
    };
    let mut questions = Vec::new();
    for deploy in records.open_deploys(name).filter(comes) {
        let Some(commit) = pushed(deploy) else { continue };
        match contains(commit) {
            Some(true) => {}
            Some(false) => {
                let (number, by, short) = (deploy.number, &deploy.by, &commit[..commit.len().min(12)]);
                let why = format!("deploy {number} of {by} is under way with {short}, which this is not built on");
                let hint = format!("fetch and push again once it is done, or `gantry abort {name}` first");
                return Err(Problem::conflict(why).hint(hint));
            }
            None => questions.push(AncestorQuestion { commit: commit.clone(), accepted: false }),
        }
    }
    // The commit of the last accepted push may have reached the branch after the hook compared the branch. With the
    // answer, the hook has compared it again. A serving deploy was judged above.
    let accepted = |deploy: &&Arc<Deploy>| matches!(deploy.state, Held | Done | Draining) && pushed(deploy).is_some();
    let last = records.deploys.get(name).and_then(|deploys| deploys.values().rev().find(accepted));
    let commit = last.filter(|deploy| deploy.state != Draining).and_then(|deploy| pushed(deploy));
    if let Some(commit) = commit.filter(|commit| **commit != base.old && contains(commit).is_none()) {
        questions.push(AncestorQuestion { commit: commit.clone(), accepted: true });
    }
    Ok(questions)
}

/// Adds a deploy to an app.
pub(crate) fn start_deploy(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    name: &AppName,
    cause: DeployCause,
    hold: bool,
) -> Changes<DeployNumber> {
    let mut app = changeable(records, name)?.clone();
    app.last_deploy += 1;
    let number = DeployNumber(app.last_deploy);
    let what = format!("deploy {number} asked for: {cause}");
    let deploy = Deploy::new(name.clone(), number, cause, by.to_owned(), hold, now);
    let event = event(records, now, by, Some(name), what);
    Ok((vec![event, StoreRecord::App(app).into(), StoreRecord::Deploy(deploy).into()], number))
}

/// Returns the release for a rollback: `to`, or else the last good release before the current one.
pub(crate) fn rollback_target(
    records: &RecordIndex,
    name: &AppName,
    to: Option<ReleaseNumber>,
) -> Result<ReleaseNumber, Problem> {
    let app = app(records, name)?;
    let releases = records.releases.get(name);
    if let Some(number) = to {
        return match releases.and_then(|releases| releases.get(&number)) {
            Some(_) => Ok(number),
            None => {
                Err(Problem::missing(format!("{name} has no release {number}")).hint("`gantry releases` lists them"))
            }
        };
    }
    let current = app.current.ok_or_else(|| Problem::conflict(format!("{name} has no release yet")))?;
    let serves = records.release(name, current).map_or(current, |release| origin(records, release));
    releases
        .into_iter()
        .flat_map(|releases| releases.range(..serves).rev())
        .find(|(_, release)| records.is_good(release) && origin(records, release) != serves)
        .map(|(number, _)| *number)
        .ok_or_else(|| Problem::conflict(format!("{name} has no good release before {current}")))
}

/// Returns the release to which a chain of rollbacks leads, so that two rollbacks go back two releases and not to and
/// fro.
fn origin(records: &RecordIndex, release: &Release) -> ReleaseNumber {
    match &release.cause {
        DeployCause::Rollback { to } => {
            records.release(&release.app, *to).map_or(*to, |release| origin(records, release))
        }
        _ => release.number,
    }
}

/// Gives an order, promote or abort, to the deploy under way.
pub(crate) fn order(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    name: &AppName,
    order: DeployOrder,
) -> Changes<DeployNumber> {
    app(records, name)?;
    let wanted = |deploy: &&Arc<Deploy>| match order {
        DeployOrder::Promote => deploy.hold && deploy.state != DeployState::Queued,
        DeployOrder::Abort => !matches!(deploy.state, DeployState::Reverting),
    };
    let Some(deploy) = records.open_deploys(name).find(wanted) else {
        return Err(Problem::conflict(match order {
            DeployOrder::Promote => format!("{name} has no held deploy to promote"),
            DeployOrder::Abort => format!("{name} has no deploy under way to abort"),
        }));
    };
    let mut deploy = (**deploy).clone();
    deploy.order = Some(order);
    let word = if order == DeployOrder::Promote { "promote" } else { "abort" };
    let number = deploy.number;
    let what = format!("asked to {word} deploy {number}");
    Ok((vec![event(records, now, by, Some(name), what), StoreRecord::Deploy(deploy).into()], number))
}
