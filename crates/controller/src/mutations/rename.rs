//! Mutations of a rename. A rename is a deploy of the app's release under the new name:
//!
//! ```text
//! begin ─► deploy of the successor ─┬─► done ─► files ─► finish: records, hosts and tokens move; the old app ends
//!                                   └─► failed ─────────► undo: the successor ends; the old app never noticed
//! ```
//! Both apps refuse other changes meanwhile. The planner gives the old app's hosts to the successor once the successor
//! serves, and back if the successor fails.

use gantry_api::Problem;
use gantry_api::types::Scope;
use gantry_model::app::Rename;
use gantry_model::{App, AppName, Deploy, DeployCause, DeployNumber, DeployState, HostName, Moment};

use super::apps::HOSTS_MAX;
use super::{Changes, changeable, event};
use crate::records::{BuildRecord, RecordIndex, StoreRecord};

/// Begins a rename: creates the successor, and the deploy that starts its instances. The result is the number of the
/// deploy, or `None` if the app has no release.
pub(crate) fn begin_rename(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    from: &AppName,
    to: &AppName,
    domain: &HostName,
) -> Changes<Option<DeployNumber>> {
    let mut old = changeable(records, from)?.clone();
    if let Some(deploy) = records.open_deploys(from).next() {
        let why = format!("deploy {} of {from} is under way", deploy.number);
        return Err(Problem::conflict(why).hint(format!("rename {from} once the deploy is over")));
    }
    if old.traffic.paused || old.traffic.maintenance.is_some() {
        let why = format!("{from} is paused or in maintenance, and a rename serves requests");
        return Err(Problem::conflict(why).hint("`gantry resume` or `gantry maintenance off` first"));
    }
    if records.apps.contains_key(to) {
        return Err(Problem::conflict(format!("there is an app {to} already")));
    }
    free_name(records, to, from, domain)?;
    if old.hosts.len() >= HOSTS_MAX {
        let why = format!("{from} has {HOSTS_MAX} hosts, and its former name needs one more");
        return Err(Problem::conflict(why).hint(format!("`gantry app host {from} --rm HOST` removes one")));
    }
    let mut new =
        App { name: to.clone(), current: None, rename: Some(Rename::From { name: from.clone() }), ..old.clone() };
    new.volumes_of = Some(old.volume_folder().clone());
    // The planner adds the hosts of the old app once the successor serves.
    new.hosts = Vec::new();
    old.rename = Some(Rename::To { name: to.clone() });
    let mut changes = vec![event(records, now, by, Some(from), format!("asked to rename {from} to {to}"))];
    let mut number = None;
    if old.current.is_some() {
        new.last_deploy += 1;
        let deploy = DeployNumber(new.last_deploy);
        let cause = DeployCause::Rename { from: from.clone() };
        changes.push(StoreRecord::Deploy(Deploy::new(to.clone(), deploy, cause, by.to_owned(), false, now)).into());
        number = Some(deploy);
    }
    changes.extend([StoreRecord::App(new).into(), StoreRecord::App(old).into()]);
    Ok((changes, number))
}

/// Refuses the name of an app whose address leads to another app, which had the name before.
pub(crate) fn free_name(
    records: &RecordIndex,
    name: &AppName,
    except: &AppName,
    domain: &HostName,
) -> Result<(), Problem> {
    let address = format!("{name}.{domain}");
    let has_it = |app: &&App| app.name != *except && app.hosts.iter().any(|host| host.as_str() == address);
    let Some(other) = records.apps.values().map(AsRef::as_ref).find(has_it) else { return Ok(()) };
    let why = format!("{address} leads to app {}, which had the name {name} before", other.name);
    Err(Problem::conflict(why).hint(format!("`gantry app host {} --rm {address}` frees it", other.name)))
}

/// A rename whose outcome is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecidedRename {
    pub(crate) from: AppName,
    pub(crate) to: AppName,
    /// Whether the successor serves, or has nothing to serve.
    pub(crate) good: bool,
}

/// The renames whose deploy is over.
pub(crate) fn decided_renames(records: &RecordIndex) -> Vec<DecidedRename> {
    let decided = records.apps.values().filter_map(|app| {
        let Some(Rename::From { name: from }) = &app.rename else { return None };
        let deploy = records.deploys.get(&app.name).and_then(|deploys| deploys.values().next_back());
        let good = match deploy.map(|deploy| deploy.state) {
            None | Some(DeployState::Done) => true,
            Some(state) if state.is_final() => false,
            Some(_) => return None,
        };
        Some(DecidedRename { from: from.clone(), to: app.name.clone(), good })
    });
    decided.collect()
}

/// Ends a good rename: moves all records to the new name, and ends the old app. The apps' own records come last, so
/// that an interrupted move begins again.
pub(crate) fn finish_rename(
    records: &RecordIndex,
    now: Moment,
    rename: &DecidedRename,
    domain: &HostName,
) -> Changes<()> {
    let DecidedRename { from, to, .. } = rename;
    let (Some(old), Some(new)) = (records.apps.get(from), records.apps.get(to)) else { return Ok((Vec::new(), ())) };
    if new.rename != Some(Rename::From { name: from.clone() }) {
        return Ok((Vec::new(), ()));
    }
    let (mut old, mut new) = ((**old).clone(), (**new).clone());
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
    let repository = || to.to_string();
    for (tag, digest) in records.tags.get(from.as_str()).into_iter().flatten() {
        moved.push(StoreRecord::Tag { repository: repository(), tag: tag.clone(), digest: digest.clone() });
    }
    for (digest, pushed) in records.manifests.get(from.as_str()).into_iter().flatten() {
        moved.push(StoreRecord::Manifest { repository: repository(), digest: digest.clone(), pushed: pushed.clone() });
    }
    for (hash, token) in &records.tokens {
        if matches!(&token.scope, Scope::Deploy { app } if app == from) {
            let mut info = token.clone();
            info.scope = Scope::Deploy { app: to.clone() };
            moved.push(StoreRecord::Token { hash: hash.clone(), info });
        }
    }
    new.rename = None;
    new.hosts = std::mem::take(&mut old.hosts);
    new.hosts.extend(HostName::parse(&format!("{from}.{domain}")));
    new.hosts.retain(|host| host.as_str() != format!("{to}.{domain}"));
    (old.rename, old.destroying) = (None, true);
    moved.extend([StoreRecord::App(new), StoreRecord::App(old)]);
    let done = event(records, now, "gantry", Some(to), format!("renamed {from} to {to}"));
    Ok((moved.into_iter().map(Into::into).chain([done]).collect(), ()))
}

/// Ends a failed rename: the successor is destroyed, and the old app goes on.
pub(crate) fn undo_rename(records: &RecordIndex, now: Moment, rename: &DecidedRename) -> Changes<()> {
    let DecidedRename { from, to, .. } = rename;
    let (Some(old), Some(new)) = (records.apps.get(from), records.apps.get(to)) else { return Ok((Vec::new(), ())) };
    if new.rename != Some(Rename::From { name: from.clone() }) {
        return Ok((Vec::new(), ()));
    }
    let (mut old, mut new) = ((**old).clone(), (**new).clone());
    (old.rename, new.rename, new.destroying) = (None, None, true);
    let reason = records.deploys.get(to).and_then(|deploys| deploys.values().next_back()?.reason.clone());
    let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let what = format!("{from} keeps its name, its release did not start as {to}{why}");
    Ok((
        vec![
            event(records, now, "gantry", Some(from), what),
            StoreRecord::App(new).into(),
            StoreRecord::App(old).into(),
        ],
        (),
    ))
}
