//! Outcomes of a build: the release of its deploy, or the failure.

use std::collections::BTreeMap;

use gantry_model::{BaseName, Deploy, DeployState, Digest, Moment, Reason, Release, ReleaseNumber, Role, RoleName};
use gantry_records::{BuildRecord, RecordChange, RecordIndex, StoreRecord};

use crate::{RequestedConfig, find_app};

/// Contents of a new release.
#[derive(Clone)]
pub struct BuiltRelease {
    /// The image.
    pub image: Digest,
    /// The built commit.
    pub commit: Option<String>,
    /// The roles.
    pub roles: BTreeMap<RoleName, Role>,
    /// Configuration of the release that a rollback repeats. It becomes the app's configuration once the rollback is
    /// done.
    pub config: Option<BTreeMap<String, String>>,
    /// Configuration that the app requests and does not have yet.
    pub defaults: RequestedConfig,
    /// Base of the build, if none was named. The app stays on this base when further bases are added.
    pub base: Option<BaseName>,
    /// The build's record.
    pub build: Option<BuildRecord>,
}

/// Names the configuration without its values, which may be secret.
impl std::fmt::Debug for BuiltRelease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { image, commit, roles, config, defaults, base, build } = self;
        f.debug_struct("BuiltRelease")
            .field("image", image)
            .field("commit", commit)
            .field("roles", roles)
            .field("config", &config.as_ref().map(BTreeMap::keys))
            .field("defaults", defaults)
            .field("base", base)
            .field("build", build)
            .finish()
    }
}

/// Returns the current record of a deploy, if the deploy still waits for its release. A deploy with another creation
/// time belongs to an app that was destroyed and created again.
fn building<'a>(records: &'a RecordIndex, begun: &Deploy) -> Option<&'a Deploy> {
    let deploy = records.deploys.get(&begun.app)?.get(&begun.number)?;
    let waits = deploy.state == DeployState::Building && deploy.release.is_none();
    (waits && deploy.created == begun.created).then_some(deploy)
}

/// Appends a release and moves its deploy on to `Placing`. Changes nothing if the deploy was cancelled meanwhile.
#[must_use]
pub fn release_built(records: &RecordIndex, now: Moment, begun: &Deploy, built: BuiltRelease) -> Vec<RecordChange> {
    let (Some(deploy), Ok(app)) = (building(records, begun), find_app(records, &begun.app)) else {
        return Vec::new();
    };
    let (mut deploy, mut app) = (deploy.clone(), app.clone());
    deploy.log.clone_from(&begun.log);
    for (key, value) in built.defaults.values {
        if app.config.contains_key(&key) {
            continue;
        }
        if built.defaults.brought.contains(&key) {
            deploy.brought.insert(key.clone());
        }
        app.config.insert(key, value);
    }
    app.base = app.base.or(built.base.filter(|base| records.bases.contains_key(base)));
    app.last_release += 1;
    let release = Release {
        app: app.name.clone(),
        number: ReleaseNumber(app.last_release),
        image: built.image,
        commit: built.commit,
        config: built.config.unwrap_or_else(|| app.config.clone()).into(),
        roles: built.roles,
        deploy: deploy.number,
        created: now,
        by: deploy.by.clone(),
        cause: deploy.cause.clone(),
    };
    deploy.release = Some(release.number);
    deploy.enter(DeployState::Placing, now);
    let mut changes = Vec::new();
    if !records.configs.contains_key(release.config.digest()) {
        changes.push(StoreRecord::Config(release.config.clone()).into());
    }
    if let Some(commit) = &release.commit {
        let (repository, tag) = (app.name.to_string(), commit.clone());
        changes.push(StoreRecord::Tag { repository, tag, digest: release.image.clone() }.into());
    }
    changes.extend(built.build.map(|build| StoreRecord::Build(build).into()));
    changes.extend([StoreRecord::Release(release).into(), StoreRecord::App(app).into()]);
    changes.push(StoreRecord::Deploy(deploy).into());
    changes
}

/// Reverts the deploy of a failed build.
#[must_use]
pub fn build_failed(records: &RecordIndex, now: Moment, begun: &Deploy, reason: Reason) -> Vec<RecordChange> {
    let Some(mut deploy) = building(records, begun).cloned() else {
        return Vec::new();
    };
    deploy.log.clone_from(&begun.log);
    deploy.enter(DeployState::Reverting, now);
    deploy.reason = Some(reason);
    vec![StoreRecord::Deploy(deploy).into()]
}
