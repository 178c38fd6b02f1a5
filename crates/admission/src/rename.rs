//! Renames. A rename is a deploy of the app's release under the new name:
//!
//! ```text
//! begin ─► deploy of the successor ─┬─► done ─► files ─► finish: records, hosts and tokens move; the old app ends
//!                                   └─► failed ─────────► undo: the successor ends; the old app never noticed
//! ```
//! Both apps refuse other changes meanwhile. The planner gives the old app's hosts to the successor once the successor
//! serves, and back if the successor fails.

use gantry_model::app::Rename;
use gantry_model::{
    App, AppName, AuditAction, Deploy, DeployCause, DeployNumber, DeployState, HostName, Moment, Reason, Scope,
};
use gantry_records::{BuildRecord, CodeRecord, RecordChange, RecordIndex, StoreRecord};

use crate::{Actor, Admitted, Refusal, find_changeable_app};

/// A rename whose outcome is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedRename {
    /// The former name.
    pub from: AppName,
    /// The new name.
    pub to: AppName,
    /// True if the successor serves, or has nothing to serve.
    pub good: bool,
}

impl Actor<'_> {
    /// Begins a rename: creates the successor, and the deploy that starts its instances. The result is the number of
    /// the deploy, or `None` if the app has no release. `newest_job` is the highest number of a job so far, if the queue is
    /// not away.
    ///
    /// # Errors
    /// When the app cannot be changed now, or the new name is taken.
    pub fn begin_rename(
        &self,
        from: &AppName,
        to: &AppName,
        newest_job: Option<u64>,
    ) -> Admitted<Option<DeployNumber>> {
        let records = self.records;
        let mut old = find_changeable_app(records, from)?.clone();
        if let Some(deploy) = records.open_deploys(from).next() {
            return Err(Refusal::RenameDuringDeploy { app: from.clone(), deploy: deploy.number });
        }
        if old.traffic.paused || old.traffic.maintenance.is_some() {
            return Err(Refusal::RenameWhilePaused { app: from.clone() });
        }
        if records.apps.contains_key(to) {
            return Err(Refusal::AppExists { app: to.clone() });
        }
        free_name(records, to, from)?;
        let most = records.policy.max_hosts() as usize;
        if old.hosts.len() >= most {
            return Err(Refusal::TooManyHosts { most });
        }
        let part = Rename::From { name: from.clone() };
        let mut new = App { name: to.clone(), current: None, rename: Some(part), ..old.clone() };
        new.volumes_of = Some(old.volume_folder().clone());
        new.earlier_releases = records.earlier_releases(to);
        new.last_release = old.last_release.max(new.earlier_releases);
        new.earlier_jobs = newest_job;
        // The planner adds the hosts of the old app once the successor serves.
        new.hosts = Vec::new();
        old.rename = Some(Rename::To { name: to.clone() });
        let action = AuditAction::RenameRequested { from: from.clone(), to: to.clone() };
        let mut changes = vec![self.event(Some(from), action)];
        let mut number = None;
        if old.current.is_some() {
            new.last_deploy += 1;
            let deploy = DeployNumber(new.last_deploy);
            let cause = DeployCause::Rename { from: from.clone() };
            let deploy_record = Deploy::new(to.clone(), deploy, cause, self.name.to_owned(), false, self.now);
            changes.push(StoreRecord::Deploy(deploy_record).into());
            number = Some(deploy);
        }
        changes.extend([StoreRecord::App(new).into(), StoreRecord::App(old).into()]);
        changes.extend(self.taken_name(to));
        Ok((changes, number))
    }
}

/// Refuses the name of an app whose address leads to another app, which had the name before.
pub(crate) fn free_name(records: &RecordIndex, name: &AppName, except: &AppName) -> Result<(), Refusal> {
    let address = format!("{name}.{}", records.policy.domain());
    let has_it = |app: &&App| app.name != *except && app.hosts.iter().any(|host| host.as_str() == address);
    let Some(other) = records.apps.values().map(AsRef::as_ref).find(has_it) else { return Ok(()) };
    Err(Refusal::FormerNameInUse { address, app: other.name.clone(), name: name.clone() })
}

/// Returns the renames whose deploy is over.
#[must_use]
pub fn decided_renames(records: &RecordIndex) -> Vec<DecidedRename> {
    records.apps.values().filter_map(|app| decided_rename(records, app)).collect()
}

/// Returns the rename to an app, if its deploy is over.
#[must_use]
pub fn decided_rename(records: &RecordIndex, app: &App) -> Option<DecidedRename> {
    let Some(Rename::From { name: from }) = &app.rename else { return None };
    let deploy = records.deploys.get(&app.name).and_then(|deploys| deploys.values().next_back());
    let good = match deploy.map(|deploy| deploy.state) {
        None | Some(DeployState::Done) => true,
        Some(state) if state.is_final() => false,
        Some(_) => return None,
    };
    Some(DecidedRename { from: from.clone(), to: app.name.clone(), good })
}

/// Returns both apps of a rename that is not concluded.
fn both_apps(records: &RecordIndex, rename: &DecidedRename) -> Option<(App, App)> {
    let (old, new) = (records.apps.get(&rename.from)?, records.apps.get(&rename.to)?);
    let is_open = new.rename == Some(Rename::From { name: rename.from.clone() });
    is_open.then(|| ((**old).clone(), (**new).clone()))
}

/// Ends a good rename: moves all records to the new name, and ends the old app. The apps' own records come last, so
/// that an interrupted move begins again.
#[must_use]
pub fn finish_rename(records: &RecordIndex, now: Moment, rename: &DecidedRename) -> Vec<RecordChange> {
    let DecidedRename { from, to, .. } = rename;
    let Some((mut old, mut new)) = both_apps(records, rename) else { return Vec::new() };
    let domain = records.policy.domain();
    let mut moved = moved_records(records, from, to);
    new.rename = None;
    new.hosts = std::mem::take(&mut old.hosts);
    new.hosts.extend(HostName::parse(&format!("{from}.{domain}")));
    new.hosts.retain(|host| host.as_str() != format!("{to}.{domain}"));
    (old.rename, old.destroying) = (None, true);
    moved.extend([StoreRecord::App(new), StoreRecord::App(old)]);
    let action = AuditAction::Renamed { from: from.clone(), to: to.clone() };
    let event = Actor::new(records, now, "gantry").event(Some(to), action);
    moved.into_iter().map(Into::into).chain([event]).collect()
}

/// Returns an app's records under another name.
fn moved_records(records: &RecordIndex, from: &AppName, to: &AppName) -> Vec<StoreRecord> {
    let mut moved = Vec::new();
    for release in records.releases.get(from).into_iter().flat_map(|releases| releases.values()) {
        let mut release = (**release).clone();
        release.app = to.clone();
        moved.push(StoreRecord::Release(release));
    }
    for deploy in records.deploys.get(from).into_iter().flat_map(|deploys| deploys.values()) {
        let mut deploy = (**deploy).clone();
        deploy.app = to.clone();
        moved.push(StoreRecord::Deploy(deploy));
    }
    let builds = records.builds.values().filter(|build| build.app == *from);
    moved.extend(builds.map(|build| StoreRecord::Build(BuildRecord { app: to.clone(), ..(**build).clone() })));
    moved.extend(records.packs.get(from).map(|packs| StoreRecord::Packs(to.clone(), packs.clone())));
    for code in records.codes.get(from).into_iter().flat_map(|codes| codes.values()) {
        moved.push(StoreRecord::Code(CodeRecord { app: to.clone(), ..(**code).clone() }));
    }
    let repository = || to.to_string();
    for (tag, digest) in records.tags.get(from.as_str()).into_iter().flatten() {
        moved.push(StoreRecord::Tag { repository: repository(), tag: tag.clone(), digest: digest.clone() });
    }
    for (digest, pushed) in records.manifests.get(from.as_str()).into_iter().flatten() {
        moved.push(StoreRecord::Manifest { repository: repository(), digest: digest.clone(), pushed: pushed.clone() });
    }
    for (hash, token) in &records.tokens {
        if matches!(&token.scope, Scope::Deploy { app } if app == from) {
            let mut token = token.clone();
            token.scope = Scope::Deploy { app: to.clone() };
            moved.push(StoreRecord::Token { hash: hash.clone(), token });
        }
    }
    moved
}

/// Ends a failed rename: the successor is destroyed, and the old app goes on.
#[must_use]
pub fn undo_rename(records: &RecordIndex, now: Moment, rename: &DecidedRename) -> Vec<RecordChange> {
    let DecidedRename { from, to, .. } = rename;
    let Some((mut old, mut new)) = both_apps(records, rename) else { return Vec::new() };
    (old.rename, new.rename, new.destroying) = (None, None, true);
    let reason = records.deploys.get(to).and_then(|deploys| deploys.values().next_back()?.reason.clone());
    let (failure, reason) = (reason.as_ref().map(Reason::failure), reason.map(|reason| reason.to_string()));
    let action = AuditAction::RenameUndone { from: from.clone(), to: to.clone(), reason, failure };
    let event = Actor::new(records, now, "gantry").event(Some(from), action);
    vec![event, StoreRecord::App(new).into(), StoreRecord::App(old).into()]
}
