//! Apps, and the bases that they are on.

use gantry_api::Problem;
use gantry_api::types::{ChangeHosts, CreateApp};
use gantry_model::{App, AppName, BaseName, DeployState, HostName, Moment};

use super::{Changes, app, event};
use crate::mirror::{Change, Mirror, Record, base_key};

/// Creates an app.
pub(crate) fn create_app(mirror: &Mirror, now: Moment, by: &str, request: CreateApp, domain: &HostName) -> Changes<()> {
    if mirror.apps.contains_key(&request.name) {
        return Err(Problem::conflict(format!("there is an app {} already", request.name)));
    }
    for host in &request.hosts {
        free_host(mirror, host, domain)?;
    }
    if let Some(base) = &request.base {
        known_base(mirror, base)?;
    }
    let mut app = App::new(request.name.clone(), now);
    app.base = request.base;
    app.hosts = request.hosts;
    if let Some(branch) = request.branch {
        app.branch = checked_branch(branch)?;
    }
    let what = format!("created app {}", request.name);
    Ok((vec![event(mirror, now, by, Some(&request.name), what), Record::App(app).into()], ()))
}

fn known_base(mirror: &Mirror, base: &BaseName) -> Result<(), Problem> {
    let missing = || Problem::missing(format!("there is no base {base}")).hint("`gantry base ls` lists them");
    mirror.bases.contains_key(base).then_some(()).ok_or_else(missing)
}

/// Gives an app another base, from its next push on.
pub(crate) fn change_base(mirror: &Mirror, now: Moment, by: &str, name: &AppName, base: BaseName) -> Changes<()> {
    known_base(mirror, &base)?;
    let mut app = app(mirror, name)?.clone();
    let what = format!("put {name} on base {base}");
    app.base = Some(base);
    Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], ()))
}

/// Forgets a base that no app is on. What was built on it keeps what it needs of it.
pub(crate) fn remove_base(mirror: &Mirror, now: Moment, by: &str, base: &BaseName) -> Changes<()> {
    known_base(mirror, base)?;
    let on_it = mirror.apps.values().filter(|app| app.base.as_ref() == Some(base) && !app.destroying);
    let on_it: Vec<&str> = on_it.map(|app| app.name.as_str()).collect();
    if let [first, ..] = on_it.as_slice() {
        let why = format!("base {base} is what {} is built on", on_it.join(", "));
        return Err(Problem::conflict(why).hint(format!("`gantry app base {first} OTHER` puts it on another")));
    }
    // It may be on this one, and nothing names what it is made of before it is done.
    let building = |app: &AppName| mirror.open_deploys(app).any(|deploy| deploy.state == DeployState::Building);
    if let Some(app) = mirror.apps.keys().find(|app| building(app)) {
        return Err(Problem::conflict(format!("{app} is being built")).hint("remove the base once the build is over"));
    }
    let what = format!("removed base {base}");
    Ok((vec![event(mirror, now, by, None, what), Change::Remove(base_key(base))], ()))
}

/// The most host names of an app besides its own.
const HOSTS_MAX: usize = 100;

/// Gives an app host names, and takes some away.
pub(crate) fn change_hosts(
    mirror: &Mirror,
    now: Moment,
    by: &str,
    name: &AppName,
    change: ChangeHosts,
    domain: &HostName,
) -> Changes<()> {
    let mut app = app(mirror, name)?.clone();
    if let Some(host) = change.remove.iter().find(|host| !app.hosts.contains(host)) {
        return Err(Problem::missing(format!("app {name} has no host {host}")).hint("`gantry app show` lists them"));
    }
    app.hosts.retain(|host| !change.remove.contains(host));
    for host in &change.add {
        let own = mirror.apps.get(name).is_some_and(|app| app.hosts.contains(host));
        if !own {
            free_host(mirror, host, domain)?;
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
    Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], ()))
}

/// Deploys another branch of an app, from its next push on.
pub(crate) fn change_branch(mirror: &Mirror, now: Moment, by: &str, name: &AppName, branch: String) -> Changes<()> {
    let mut app = app(mirror, name)?.clone();
    app.branch = checked_branch(branch)?;
    let what = format!("put {name} on branch {}", app.branch);
    Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], ()))
}

/// A branch is one of git's own names, and never an option.
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

/// No other app has this host name.
fn free_host(mirror: &Mirror, host: &HostName, domain: &HostName) -> Result<(), Problem> {
    if let Some(other) = mirror.apps.values().find(|app| app.hosts.contains(host)) {
        return Err(Problem::conflict(format!("{host} belongs to app {} already", other.name)));
    }
    if host.as_str().ends_with(&format!(".{domain}")) {
        let why = format!("names below {domain} are given to apps by their own names, {host} cannot be taken");
        return Err(Problem::conflict(why));
    }
    Ok(())
}

/// Begins to destroy an app; its records go once nothing of it runs.
pub(crate) fn destroy_app(mirror: &Mirror, now: Moment, by: &str, name: &AppName) -> Changes<()> {
    let mut app = app(mirror, name)?.clone();
    app.destroying = true;
    let what = format!("destroyed app {name}");
    Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], ()))
}
