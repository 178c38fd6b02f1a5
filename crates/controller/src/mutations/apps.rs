//! Mutations of apps and bases.

use gantry_api::Problem;
use gantry_api::types::{ChangeHosts, CreateApp};
use gantry_model::{App, AppName, BaseName, DeployState, HostName, Moment};

use super::rename::free_name;
use super::{Changes, changeable, event};
use crate::records::{RecordChange, RecordIndex, StoreRecord, base_key};

/// Creates an app.
pub(crate) fn create_app(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    request: CreateApp,
    domain: &HostName,
) -> Changes<()> {
    if records.apps.contains_key(&request.name) {
        return Err(Problem::conflict(format!("there is an app {} already", request.name)));
    }
    free_name(records, &request.name, &request.name, domain)?;
    for host in &request.hosts {
        free_host(records, host, domain)?;
    }
    if let Some(base) = &request.base {
        known_base(records, base)?;
    }
    let mut app = App::new(request.name.clone(), now);
    app.volumes_of = free_volume_folder(records, &request.name)?;
    app.base = request.base;
    app.hosts = request.hosts;
    if let Some(branch) = request.branch {
        app.branch = checked_branch(branch)?;
    }
    let what = format!("created app {}", request.name);
    Ok((vec![event(records, now, by, Some(&request.name), what), StoreRecord::App(app).into()], ()))
}

/// Returns a folder for the volumes of a new app, or `None` if the folder of its own name is free: a renamed app keeps
/// the folder of its former name.
fn free_volume_folder(records: &RecordIndex, name: &AppName) -> Result<Option<AppName>, Problem> {
    let is_taken = |folder: &AppName| records.apps.values().any(|app| app.volume_folder() == folder);
    if !is_taken(name) {
        return Ok(None);
    }
    let others = (2..=records.apps.len() + 2).filter_map(|number| AppName::parse(&format!("{name}-{number}")).ok());
    let free = others.into_iter().find(|folder| !is_taken(folder) && !records.apps.contains_key(folder));
    let none = || Problem::conflict(format!("no folder is free for the volumes of {name}; choose another name"));
    free.map(Some).ok_or_else(none)
}

/// Refuses a base that does not exist.
fn known_base(records: &RecordIndex, base: &BaseName) -> Result<(), Problem> {
    let missing = || Problem::missing(format!("there is no base {base}")).hint("`gantry base ls` lists them");
    records.bases.contains_key(base).then_some(()).ok_or_else(missing)
}

/// Changes the base of an app, from the next push on.
pub(crate) fn change_base(records: &RecordIndex, now: Moment, by: &str, name: &AppName, base: BaseName) -> Changes<()> {
    known_base(records, &base)?;
    let mut app = changeable(records, name)?.clone();
    let what = format!("put {name} on base {base}");
    app.base = Some(base);
    Ok((vec![event(records, now, by, Some(name), what), StoreRecord::App(app).into()], ()))
}

/// Removes a base that no app uses. Images built on the base keep the layers they need.
pub(crate) fn remove_base(records: &RecordIndex, now: Moment, by: &str, base: &BaseName) -> Changes<()> {
    known_base(records, base)?;
    let on_it = records.apps.values().filter(|app| app.base.as_ref() == Some(base) && !app.destroying);
    let on_it: Vec<&str> = on_it.map(|app| app.name.as_str()).collect();
    if let [first, ..] = on_it.as_slice() {
        let why = format!("base {base} is what {} is built on", on_it.join(", "));
        return Err(Problem::conflict(why).hint(format!("`gantry app base {first} OTHER` puts it on another")));
    }
    // The build may use this base, and no record references the image's parts before the build is done.
    let building = |app: &AppName| records.open_deploys(app).any(|deploy| deploy.state == DeployState::Building);
    if let Some(app) = records.apps.keys().find(|app| building(app)) {
        return Err(Problem::conflict(format!("{app} is being built")).hint("remove the base once the build is over"));
    }
    let what = format!("removed base {base}");
    Ok((vec![event(records, now, by, None, what), RecordChange::Remove(base_key(base))], ()))
}

/// Most host names of an app besides its own.
pub(super) const HOSTS_MAX: usize = 100;

/// Adds and removes host names of an app.
pub(crate) fn change_hosts(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    name: &AppName,
    change: ChangeHosts,
    domain: &HostName,
) -> Changes<()> {
    let mut app = changeable(records, name)?.clone();
    if let Some(host) = change.remove.iter().find(|host| !app.hosts.contains(host)) {
        return Err(Problem::missing(format!("app {name} has no host {host}")).hint("`gantry app show` lists them"));
    }
    app.hosts.retain(|host| !change.remove.contains(host));
    for host in &change.add {
        let own = records.apps.get(name).is_some_and(|app| app.hosts.contains(host));
        if !own {
            free_host(records, host, domain)?;
        }
        if !app.hosts.contains(host) {
            app.hosts.push(host.clone());
        }
    }
    if app.hosts.len() > HOSTS_MAX {
        return Err(Problem::invalid(format!("an app has at most {HOSTS_MAX} hosts")));
    }
    let hosts: Vec<&str> = app.hosts.iter().map(HostName::as_str).collect();
    let what =
        format!("set the hosts of {name}: {}", if hosts.is_empty() { "none".to_owned() } else { hosts.join(", ") });
    Ok((vec![event(records, now, by, Some(name), what), StoreRecord::App(app).into()], ()))
}

/// Changes the branch from which an app is deployed, from the next push on.
pub(crate) fn change_branch(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    name: &AppName,
    branch: String,
) -> Changes<()> {
    let mut app = changeable(records, name)?.clone();
    app.branch = checked_branch(branch)?;
    let what = format!("put {name} on branch {}", app.branch);
    Ok((vec![event(records, now, by, Some(name), what), StoreRecord::App(app).into()], ()))
}

/// Refuses a branch name that git does not allow, or that would read as an option.
fn checked_branch(branch: String) -> Result<String, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let good = !branch.is_empty()
        && branch.len() <= 100
        && branch.chars().all(allowed)
        && !branch.starts_with(['-', '.', '/'])
        && !branch.ends_with(['.', '/'])
        && !branch.contains("..")
        && !branch.contains("//");
    if good { Ok(branch) } else { Err(Problem::invalid(format!("{branch:?} is not a branch"))) }
}

/// Refuses a host name that another app has, or that lies below the domain of the apps' own names.
fn free_host(records: &RecordIndex, host: &HostName, domain: &HostName) -> Result<(), Problem> {
    if let Some(other) = records.apps.values().find(|app| app.hosts.contains(host)) {
        return Err(Problem::conflict(format!("{host} belongs to app {} already", other.name)));
    }
    if host.as_str().ends_with(&format!(".{domain}")) {
        let why = format!("names below {domain} are given to apps by their own names, {host} cannot be taken");
        return Err(Problem::conflict(why));
    }
    Ok(())
}

/// Starts to destroy an app. The app's records are removed once none of its copies runs.
pub(crate) fn destroy_app(records: &RecordIndex, now: Moment, by: &str, name: &AppName) -> Changes<()> {
    let mut app = changeable(records, name)?.clone();
    app.destroying = true;
    let what = format!("destroyed app {name}");
    Ok((vec![event(records, now, by, Some(name), what), StoreRecord::App(app).into()], ()))
}
