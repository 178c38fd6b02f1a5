//! Configuration of an app: values that people set, and values that the app itself requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_api::Problem;
use gantry_build::EnvRequest;
use gantry_model::deploy::DeployOrder;
use gantry_model::{App, AppName, Deploy, DeployCause, DeployNumber, DeployState, Moment, Release, execve};

use super::{Changes, changeable, event};
use crate::records::{RecordIndex, StoreRecord};

/// Most configuration values of an app, and their largest total size: a record of the store holds 1 MiB.
const CONFIG_MAX: (usize, usize) = (500, 256 << 10);

/// Changes the configuration, and starts a deploy for the release that carries the change. `image` is the environment
/// of the image that serves.
pub(crate) fn change_config(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    name: &AppName,
    wanted: BTreeMap<String, Option<String>>,
    image: &[String],
) -> Changes<Option<DeployNumber>> {
    let mut app = changeable(records, name)?.clone();
    if records.open_deploys(name).any(|deploy| matches!(deploy.cause, DeployCause::Rollback { .. })) {
        let why = format!("a rollback of {name} is under way, and brings the configuration of then");
        return Err(Problem::conflict(why).hint("set it again once the rollback is over"));
    }
    for (key, value) in &wanted {
        check_config(key, value.as_deref())?;
    }
    let keys: Vec<String> = wanted.keys().cloned().collect();
    let before = app.config.clone();
    for (key, value) in wanted {
        match value {
            Some(value) => drop(app.config.insert(key, value)),
            None => drop(app.config.remove(&key)),
        }
    }
    check_size(app.config.iter()).map_err(Problem::invalid)?;
    if let Some(release) = app.current.and_then(|number| records.release(name, number)) {
        for (role, settings) in &release.roles {
            execve::check_role(role.as_str(), settings, image, &app.config)
                .map_err(|error| Problem::invalid(error.to_string()))?;
        }
    }
    if app.config == before && !is_due(records, &app, &keys) {
        return Ok((Vec::new(), None));
    }
    if app.current.is_none() && records.open_deploys(name).next().is_none() {
        // No release exists that a deploy could repeat. The first push carries the configuration.
        let what = format!("config {}", keys.join(", "));
        return Ok((vec![event(records, now, by, Some(name), what), StoreRecord::App(app).into()], None));
    }
    app.last_deploy += 1;
    let number = DeployNumber(app.last_deploy);
    let cause = DeployCause::Config { keys };
    let what = format!("deploy {number} asked for: {cause}");
    let deploy = Deploy::new(name.clone(), number, cause, by.to_owned(), false, now);
    let changes = vec![
        event(records, now, by, Some(name), what),
        StoreRecord::App(app).into(),
        StoreRecord::Deploy(deploy).into(),
    ];
    Ok((changes, Some(number)))
}

/// Whether values that the app already has still need a deploy. That is so if the serving release differs in them,
/// because the deploy that carried them failed, and no deploy under way has them.
fn is_due(records: &RecordIndex, app: &App, keys: &[String]) -> bool {
    use DeployState::Reverting;
    let same = |release: &Arc<Release>| keys.iter().all(|key| release.config.get(key) == app.config.get(key));
    let has_it = |number| records.release(&app.name, number).is_some_and(same);
    let goes_on = |deploy: &&Arc<Deploy>| deploy.state != Reverting && deploy.order != Some(DeployOrder::Abort);
    app.current.is_some_and(|current| !has_it(current))
        && !records.open_deploys(&app.name).filter(goes_on).any(|deploy| deploy.release.is_none_or(has_it))
}

/// Refuses a configuration that is too large for a record.
fn check_size<'a>(config: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), String> {
    let (count, size) = config.fold((0, 0), |(count, size), (key, value)| (count + 1, size + key.len() + value.len()));
    if count <= CONFIG_MAX.0 && size <= CONFIG_MAX.1 {
        return Ok(());
    }
    let (most, bytes) = CONFIG_MAX;
    Err(format!("the configuration is too large: {count} values, {size} bytes; at most {most} values, {bytes} bytes"))
}

/// Refuses a name that is invalid or reserved, and a value that no environment can hold.
fn check_config(key: &str, value: Option<&str>) -> Result<(), Problem> {
    if !execve::is_variable_name(key) {
        return Err(Problem::invalid(format!("{key:?} cannot be the name of an environment variable")));
    }
    if ["PORT", "REVISION"].contains(&key) || key.starts_with("GANTRY_") {
        return Err(Problem::invalid(format!("{key} is set by Gantry itself")));
    }
    if value.is_some_and(|value| value.contains('\0')) {
        return Err(Problem::invalid(format!("the value of {key} holds a NUL character")));
    }
    execve::check_variable(key, value.unwrap_or_default()).map_err(|error| Problem::invalid(error.to_string()))
}

/// Configuration that an app requested in `app.json` and did not have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Requested {
    pub(crate) values: BTreeMap<String, String>,
    /// Names of the values that stand in `app.json`, as opposed to new secrets.
    pub(crate) brought: BTreeSet<String>,
}

/// Returns the configuration that an app requests in `app.json` and does not have. `secret` makes new secrets.
pub(crate) fn requested_config(
    app: &App,
    requests: &BTreeMap<String, EnvRequest>,
    mut secret: impl FnMut() -> String,
) -> Result<Requested, String> {
    let mut requested = Requested::default();
    for (name, request) in requests.iter().filter(|(name, _)| !app.config.contains_key(*name)) {
        let value = match request {
            EnvRequest::Default(value) => value.clone(),
            EnvRequest::Secret => secret(),
            EnvRequest::Required => {
                return Err(format!("app.json requires {name}; set it with `gantry config set {} {name}=…`", app.name));
            }
        };
        execve::check_variable(name, &value).map_err(|error| format!("in app.json, {error}"))?;
        if matches!(request, EnvRequest::Default(_)) {
            requested.brought.insert(name.clone());
        }
        requested.values.insert(name.clone(), value);
    }
    check_size(app.config.iter().chain(&requested.values))
        .map_err(|why| format!("with what app.json asks for, {why}"))?;
    Ok(requested)
}
