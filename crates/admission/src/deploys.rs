//! Commands on deploys: start, roll back, promote, abort.

use std::sync::Arc;

use gantry_model::deploy::DeployOrder;
use gantry_model::{AppName, AuditAction, Deploy, DeployCause, DeployNumber, DeployState, Release, ReleaseNumber};
use gantry_records::{RecordIndex, StoreRecord};

use crate::{Actor, Admitted, Refusal, find_app, find_changeable_app};

impl Actor<'_> {
    /// Adds a deploy to an app.
    ///
    /// # Errors
    /// When the app is missing.
    pub fn start_deploy(&self, name: &AppName, cause: DeployCause, hold: bool) -> Admitted<DeployNumber> {
        let app = find_changeable_app(self.records, name)?.clone();
        Ok(self.deploy(app, cause, hold))
    }

    /// Gives an order, promote or abort, to the deploy under way.
    ///
    /// # Errors
    /// When the app is missing, or no deploy can take the order.
    pub fn order(&self, name: &AppName, order: DeployOrder) -> Admitted<DeployNumber> {
        find_app(self.records, name)?;
        let takes = |deploy: &&Arc<Deploy>| match order {
            DeployOrder::Promote => deploy.hold && deploy.state != DeployState::Queued,
            DeployOrder::Abort => deploy.state != DeployState::Reverting,
        };
        let Some(deploy) = self.records.open_deploys(name).find(takes) else {
            let app = name.clone();
            return Err(match order {
                DeployOrder::Promote => Refusal::NoHeldDeploy { app },
                DeployOrder::Abort => Refusal::NoDeployInProgress { app },
            });
        };
        let mut deploy = (**deploy).clone();
        deploy.order = Some(order);
        let number = deploy.number;
        let event = self.event(Some(name), AuditAction::DeployOrdered { deploy: number, order });
        Ok((vec![event, StoreRecord::Deploy(deploy).into()], number))
    }
}

/// Returns the release for a rollback: `to`, or else the last good release before the current one.
///
/// # Errors
/// When the app or the release is missing, or no good release precedes the current one.
pub fn rollback_target(
    records: &RecordIndex,
    name: &AppName,
    to: Option<ReleaseNumber>,
) -> Result<ReleaseNumber, Refusal> {
    let app = find_app(records, name)?;
    if let Some(release) = to {
        let known = records.release(name, release).map(|_| release);
        return known.ok_or_else(|| Refusal::ReleaseNotFound { app: name.clone(), release });
    }
    let current = app.current.ok_or_else(|| Refusal::NoRelease { app: name.clone() })?;
    let serves = records.release(name, current).map_or(current, |release| origin(records, release));
    let earlier = records.releases.get(name).into_iter().flat_map(|releases| releases.range(..serves).rev());
    earlier
        .into_iter()
        .find(|(_, release)| records.is_good(release) && origin(records, release) != serves)
        .map(|(number, _)| *number)
        .ok_or_else(|| Refusal::NoEarlierRelease { app: name.clone(), current })
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
