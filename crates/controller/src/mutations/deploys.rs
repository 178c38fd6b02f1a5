//! Mutations of deploys: pushes, rollbacks, and orders to deploys under way.

use std::sync::Arc;

use gantry_api::Problem;
use gantry_model::deploy::DeployOrder;
use gantry_model::{AppName, Deploy, DeployCause, DeployNumber, DeployState, Moment, Release, ReleaseNumber};

use super::{Changes, app, event};
use crate::records::{RecordIndex, StoreRecord};

/// History on which a push is built.
pub(crate) struct Base {
    /// Newest commits of the pushed history.
    pub(crate) history: Vec<String>,
    /// Commit that the client knew as the head of the branch.
    pub(crate) old: String,
    /// Time at which the branch was compared with `old`, or a moment later.
    pub(crate) seen: Moment,
}

/// Returns the commit of a deploy that a push caused.
fn pushed(deploy: &Deploy) -> Option<&String> {
    match &deploy.cause {
        DeployCause::Push { commit, .. } => Some(commit),
        _ => None,
    }
}

/// Time from the verdict of a push until its hook has moved the branch, in milliseconds, on a busy machine.
const MOVING: u64 = 10_000;

/// Refuses a push that does not contain the commit of another push on its way to the branch. Otherwise the branch would
/// lose an accepted commit.
pub(crate) fn is_built_on_others(
    records: &RecordIndex,
    now: Moment,
    name: &AppName,
    base: &Base,
) -> Result<(), Problem> {
    use DeployState::{Done, Draining, Held, Reverting};
    let is_missing = |deploy: &&Arc<Deploy>| pushed(deploy).is_some_and(|commit| !base.history.contains(commit));
    let refuse = |deploy: &Deploy, what: &str, hint: &str| {
        let short: String = pushed(deploy).into_iter().flat_map(|commit| commit.chars().take(12)).collect();
        let why = format!("deploy {} of {} {what} {short}, which this is not built on", deploy.number, deploy.by);
        Err(Problem::conflict(why).hint(hint))
    };
    // The commit of a held deploy is on the branch already; the commit of a reverting deploy does not get there. The
    // commit of a serving deploy is on the branch if the client knows that commit.
    let known = |deploy: &Deploy| deploy.state == Draining && pushed(deploy) == Some(&base.old);
    let comes = |deploy: &&Arc<Deploy>| {
        !matches!(deploy.state, Held | Reverting) && deploy.order != Some(DeployOrder::Abort) && !known(deploy)
    };
    if let Some(deploy) = records.open_deploys(name).filter(comes).find(is_missing) {
        let hint = format!("fetch and push again once it is done, or `gantry abort {name}` first");
        return refuse(deploy, "is under way with", &hint);
    }
    // The last accepted push may have reached the branch after the branch was compared.
    let taken = |deploy: &&Arc<Deploy>| matches!(deploy.state, Held | Done) && pushed(deploy).is_some();
    let last = records.deploys.get(name).and_then(|deploys| deploys.values().rev().find(taken));
    // A stamp in the future comes from a clock that went back while no server ran. No hook from before that is under
    // way.
    let moves = |deploy: &Deploy| deploy.entered.0.saturating_add(MOVING) > base.seen.0 && deploy.entered <= now;
    match last.filter(is_missing) {
        Some(deploy) if pushed(deploy) != Some(&base.old) && moves(deploy) => refuse(
            deploy,
            "has just brought",
            "fetch it, and push again; if the branch does not have it, in ten seconds",
        ),
        _ => Ok(()),
    }
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
    let mut app = app(records, name)?.clone();
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
