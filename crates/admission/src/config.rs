//! Configuration of an app: values that people set, and values that the app itself requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::deploy::DeployOrder;
use gantry_model::execve::{self, TooLong};
use gantry_model::{App, AppName, AuditAction, Deploy, DeployCause, DeployNumber, DeployState, Release};
use gantry_records::StoreRecord;

use crate::{Actor, Admitted, Refusal, find_changeable_app};

/// Maximum number of configuration values of an app: a record of the store holds 1 MiB.
const VALUES_MAX: usize = 500;

/// Largest total size of an app's configuration, in bytes.
const BYTES_MAX: usize = 256 << 10;

impl Actor<'_> {
    /// Changes the configuration, and starts a deploy for the release that carries the change. `image` is the
    /// environment of the image that serves. Returns no deploy if nothing changes, or if no release exists.
    ///
    /// # Errors
    /// When the app is missing, a rollback is in progress, or a value is invalid or too large.
    pub fn change_config(
        &self,
        name: &AppName,
        new_values: BTreeMap<String, Option<String>>,
        image: &[String],
    ) -> Admitted<Option<DeployNumber>> {
        let records = self.records;
        let mut app = find_changeable_app(records, name)?.clone();
        if records.open_deploys(name).any(|deploy| matches!(deploy.cause, DeployCause::Rollback { .. })) {
            return Err(Refusal::RollbackInProgress { app: name.clone() });
        }
        new_values.iter().try_for_each(|(key, value)| check_variable(key, value.as_deref()))?;
        let keys: Vec<String> = new_values.keys().cloned().collect();
        let before = app.config.clone();
        for (key, value) in new_values {
            match value {
                Some(value) => drop(app.config.insert(key, value)),
                None => drop(app.config.remove(&key)),
            }
        }
        check_size(app.config.iter())?;
        if let Some(release) = app.current.and_then(|number| records.release(name, number)) {
            for (role, settings) in &release.roles {
                execve::check_role(role.as_str(), settings, image, &app.config)?;
            }
        }
        if app.config == before && !self.is_due(&app, &keys) {
            return Ok((Vec::new(), None));
        }
        if app.current.is_none() && records.open_deploys(name).next().is_none() {
            // No release exists that a deploy could repeat. The first push carries the configuration.
            let (changes, ()) = self.changed(app, AuditAction::ConfigChanged { keys })?;
            return Ok((changes, None));
        }
        let (changes, deploy) = self.deploy(app, DeployCause::Config { keys }, false);
        Ok((changes, Some(deploy)))
    }

    /// Returns whether unchanged values still need a deploy: the serving release has other values, because their deploy
    /// failed, and no deploy under way has the values either.
    fn is_due(&self, app: &App, keys: &[String]) -> bool {
        let same = |release: &Arc<Release>| keys.iter().all(|key| release.config.get(key) == app.config.get(key));
        let has_it = |number| self.records.release(&app.name, number).is_some_and(same);
        let goes_on =
            |deploy: &&Arc<Deploy>| deploy.state != DeployState::Reverting && deploy.order != Some(DeployOrder::Abort);
        let mut carried = self.records.open_deploys(&app.name).filter(goes_on);
        app.current.is_some_and(|current| !has_it(current)) && !carried.any(|deploy| deploy.release.is_none_or(has_it))
    }

    /// Writes an app together with its next deploy.
    pub(crate) fn deploy(
        &self,
        mut app: App,
        cause: DeployCause,
        hold: bool,
    ) -> (Vec<gantry_records::RecordChange>, DeployNumber) {
        app.last_deploy += 1;
        let number = DeployNumber(app.last_deploy);
        let action = AuditAction::DeployRequested { deploy: number, cause: cause.clone() };
        let event = self.event(Some(&app.name), action);
        let deploy = Deploy::new(app.name.clone(), number, cause, self.name.to_owned(), hold, self.now);
        (vec![event, StoreRecord::App(app).into(), StoreRecord::Deploy(deploy).into()], number)
    }
}

/// Refuses a configuration that is too large for a record.
fn check_size<'a>(config: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), Refusal> {
    let (count, bytes) = config.fold((0, 0), |(count, size), (key, value)| (count + 1, size + key.len() + value.len()));
    if count <= VALUES_MAX && bytes <= BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::ConfigTooLarge { count, bytes, most_values: VALUES_MAX, most_bytes: BYTES_MAX })
}

/// Refuses a name that is invalid or reserved, and a value that no environment can hold.
fn check_variable(key: &str, value: Option<&str>) -> Result<(), Refusal> {
    let key = key.to_owned();
    if !execve::is_variable_name(&key) {
        return Err(Refusal::InvalidVariableName { key });
    }
    if ["PORT", "REVISION"].contains(&key.as_str()) || key.starts_with("GANTRY_") {
        return Err(Refusal::ReservedVariable { key });
    }
    let value = value.unwrap_or_default();
    if value.contains('\0') {
        return Err(Refusal::InvalidVariableValue { key });
    }
    Ok(execve::check_variable(&key, value)?)
}

/// A value that an app requests in `app.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedValue {
    /// The app brings the value.
    Default(String),
    /// The server makes a secret.
    Secret,
    /// A person must set the value.
    Required,
}

/// Configuration that an app requested in `app.json` and did not have.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RequestedConfig {
    /// All values by name.
    pub values: BTreeMap<String, String>,
    /// Names of the values that stand in `app.json`, as opposed to new secrets.
    pub brought: BTreeSet<String>,
}

/// Names the values without their contents, which may be secret.
impl std::fmt::Debug for RequestedConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// Reason why the configuration that an app requests cannot be provided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestedConfigError {
    /// A person must set a value first.
    #[error("app.json requires {key}; set it with `gantry config set {app} {key}=…`")]
    Missing {
        /// The app.
        app: AppName,
        /// Name of the value.
        key: String,
    },
    /// A value is too long for a process.
    #[error("in app.json, {0}")]
    TooLong(TooLong),
    /// The configuration would be too large.
    #[error("with the values that app.json requests, {0}")]
    TooLarge(Refusal),
}

/// Returns the configuration that an app requests in `app.json` and does not have. `secret` makes new secrets.
///
/// # Errors
/// [`RequestedConfigError`].
pub fn requested_config(
    app: &App,
    requests: &BTreeMap<String, RequestedValue>,
    mut secret: impl FnMut() -> String,
) -> Result<RequestedConfig, RequestedConfigError> {
    let mut requested = RequestedConfig::default();
    for (key, request) in requests.iter().filter(|(key, _)| !app.config.contains_key(*key)) {
        let value = match request {
            RequestedValue::Default(value) => value.clone(),
            RequestedValue::Secret => secret(),
            RequestedValue::Required => {
                return Err(RequestedConfigError::Missing { app: app.name.clone(), key: key.clone() });
            }
        };
        execve::check_variable(key, &value).map_err(RequestedConfigError::TooLong)?;
        if matches!(request, RequestedValue::Default(_)) {
            requested.brought.insert(key.clone());
        }
        requested.values.insert(key.clone(), value);
    }
    check_size(app.config.iter().chain(&requested.values)).map_err(RequestedConfigError::TooLarge)?;
    Ok(requested)
}
