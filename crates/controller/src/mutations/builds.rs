//! Outcomes of a build: the release of its deploy, or the failure.

use std::collections::BTreeMap;

use gantry_model::{BaseName, Deploy, DeployState, Digest, Moment, Reason, Release, ReleaseNumber, Role, RoleName};

use super::{Changes, Requested, app};
use crate::records::{BuildRecord, RecordIndex, StoreRecord};

/// Returns the current record of a deploy, if the deploy still waits for its release. A deploy with another creation
/// time belongs to an app that was destroyed and created anew.
fn building<'a>(records: &'a RecordIndex, begun: &Deploy) -> Option<&'a Deploy> {
    let deploy = records.deploys.get(&begun.app)?.get(&begun.number)?;
    let waits = deploy.state == DeployState::Building && deploy.release.is_none();
    (waits && deploy.created == begun.created).then_some(deploy)
}

/// Contents of a new release.
pub(crate) struct Made {
    pub(crate) image: Digest,
    pub(crate) commit: Option<String>,
    pub(crate) roles: BTreeMap<RoleName, Role>,
    /// Configuration of the release that a rollback repeats. It becomes the app's configuration once the rollback is
    /// done.
    pub(crate) config: Option<BTreeMap<String, String>>,
    /// Configuration that the app requests and does not have yet.
    pub(crate) defaults: Requested,
    /// Base of the build, if none was named. The app stays on this base when further bases are added.
    pub(crate) base: Option<BaseName>,
    pub(crate) build: Option<BuildRecord>,
}

/// Appends a release and moves its deploy on to `Placing`. Changes nothing if the deploy was cancelled meanwhile.
pub(crate) fn release_made(records: &RecordIndex, now: Moment, begun: &Deploy, made: Made) -> Changes<()> {
    let (Some(deploy), Ok(app)) = (building(records, begun), app(records, &begun.app)) else {
        return Ok((Vec::new(), ()));
    };
    let (mut deploy, mut app) = (deploy.clone(), app.clone());
    for (key, value) in made.defaults.values {
        if app.config.contains_key(&key) {
            continue;
        }
        if made.defaults.brought.contains(&key) {
            deploy.brought.insert(key.clone());
        }
        app.config.insert(key, value);
    }
    app.base = app.base.or(made.base.filter(|base| records.bases.contains_key(base)));
    app.last_release += 1;
    let release = Release {
        app: app.name.clone(),
        number: ReleaseNumber(app.last_release),
        image: made.image,
        commit: made.commit,
        config: made.config.unwrap_or_else(|| app.config.clone()),
        roles: made.roles,
        deploy: deploy.number,
        created: now,
        by: deploy.by.clone(),
        cause: deploy.cause.clone(),
    };
    deploy.release = Some(release.number);
    deploy.enter(DeployState::Placing, now);
    let mut changes = Vec::new();
    if let Some(commit) = &release.commit {
        let (repository, tag) = (app.name.to_string(), commit.clone());
        changes.push(StoreRecord::Tag { repository, tag, digest: release.image.clone() }.into());
    }
    changes.extend(made.build.map(|build| StoreRecord::Build(build).into()));
    changes.extend([
        StoreRecord::Release(release).into(),
        StoreRecord::App(app).into(),
        StoreRecord::Deploy(deploy).into(),
    ]);
    Ok((changes, ()))
}

/// Reverts the deploy of a failed build.
pub(crate) fn build_failed(records: &RecordIndex, now: Moment, begun: &Deploy, reason: Reason) -> Changes<()> {
    let Some(mut deploy) = building(records, begun).cloned() else {
        return Ok((Vec::new(), ()));
    };
    deploy.enter(DeployState::Reverting, now);
    deploy.reason = Some(reason);
    Ok((vec![StoreRecord::Deploy(deploy).into()], ()))
}
