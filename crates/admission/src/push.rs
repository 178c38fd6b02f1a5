//! History of a push: an accepted commit must not vanish from its branch.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::deploy::DeployOrder;
use gantry_model::{AppName, Deploy, DeployCause, DeployState};
use gantry_records::RecordIndex;

use crate::Refusal;

/// History on which a push is built, as far as the server knows.
#[derive(Debug, Clone)]
pub struct PushBase {
    /// The pushed commit.
    pub new: String,
    /// Commit that the client knew as the head of the branch.
    pub old: String,
    /// Commits about which the hook was asked, each with whether the pushed commit contains it.
    pub answers: BTreeMap<String, bool>,
}

/// A commit about which the hook must be asked before the push may be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AncestorQuestion {
    /// The commit.
    pub commit: String,
    /// True if the push of the commit was accepted: git has moved the branch to the commit, or is about to.
    pub accepted: bool,
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
///
/// # Errors
/// [`Refusal::DeployInProgress`].
pub fn check_history(records: &RecordIndex, name: &AppName, base: &PushBase) -> Result<Vec<AncestorQuestion>, Refusal> {
    use DeployState::{Done, Draining, Held, Reverting};
    let contains = |commit: &String| if *commit == base.new { Some(true) } else { base.answers.get(commit).copied() };
    // The commit of a held deploy is on the branch already; the commit of a reverting deploy does not get there. The
    // commit of a serving deploy is on the branch if the client knows that commit.
    let known = |deploy: &Deploy| deploy.state == Draining && pushed(deploy) == Some(&base.old);
    let will_land = |deploy: &&Arc<Deploy>| {
        !matches!(deploy.state, Held | Reverting) && deploy.order != Some(DeployOrder::Abort) && !known(deploy)
    };
    let mut questions = Vec::new();
    for deploy in records.open_deploys(name).filter(will_land) {
        let Some(commit) = pushed(deploy) else { continue };
        match contains(commit) {
            Some(true) => {}
            Some(false) => {
                let (app, deploy, by) = (name.clone(), deploy.number, deploy.by.clone());
                return Err(Refusal::DeployInProgress { app, deploy, by, commit: commit.chars().take(12).collect() });
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
