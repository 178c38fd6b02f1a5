//! Parser of `app.json` (Heroku, Dokku): `formation`, `healthchecks`, `cron` and `env`. The parser lists every key that
//! Gantry does not act on, so that users do not rely on such a key.

use std::collections::BTreeMap;

use gantry_model::role::RoleSchedule;
use gantry_model::{RoleName, Seconds};
use serde_json::{Map, Number, Value};

use crate::roles::{self, SettingError};

/// Size limit. A file of settings is about a page; a larger file is an attack.
const SIZE_MAX: usize = 256 << 10;

/// Maximum number of ignored keys to list.
const IGNORED_MAX: usize = 50;

/// Keys that only describe an app.
const DESCRIPTIVE: [&str; 8] =
    ["$schema", "name", "description", "keywords", "website", "repository", "logo", "success_url"];

/// Parsed content of `app.json`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct AppJson {
    /// Formation of each role.
    pub(crate) formation: BTreeMap<String, Formation>,
    /// Health checks of each role.
    pub(crate) healthchecks: BTreeMap<String, Vec<HealthCheck>>,
    /// Commands that run at fixed times.
    pub(crate) cron: Vec<CronEntry>,
    /// Configuration values that the app asks for.
    pub(crate) env: BTreeMap<String, EnvEntry>,
    /// Keys that ask for an unsupported feature, such as `healthchecks.web[0].onFailure`.
    pub(crate) ignored: Vec<String>,
}

/// Formation of a role.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Formation {
    /// Number of copies.
    pub(crate) quantity: Option<u32>,
}

/// A command that runs at fixed times.
#[derive(Debug, PartialEq)]
pub(crate) struct CronEntry {
    pub(crate) command: String,
    pub(crate) schedule: RoleSchedule,
}

/// Maximum number of entries of `cron`.
const CRON_MAX: usize = 100;

/// Stage in which a check applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before a copy is ready.
    #[default]
    Startup,
    /// After a copy is ready.
    Liveness,
}

/// A health check of a role.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct HealthCheck {
    pub(crate) stage: Stage,
    pub(crate) path: Option<String>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) host: Option<String>,
    pub(crate) content: Option<String>,
    /// Dokku's `uptime`: time that the process must live to pass the check.
    pub(crate) uptime: Option<Seconds>,
    pub(crate) attempts: Option<u32>,
    pub(crate) timeout: Option<Seconds>,
    pub(crate) wait: Option<Seconds>,
    pub(crate) initial_delay: Option<Seconds>,
}

impl HealthCheck {
    /// Target of the check, without its timing.
    pub(crate) fn target(&self) -> impl PartialEq + '_ {
        (&self.path, &self.command, &self.headers, &self.host, &self.content)
    }
}

/// A configuration value that the app asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum EnvEntry {
    /// A default value, used unless the variable is set.
    Value(String),
    /// An object with more settings.
    Request(EnvObject),
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct EnvObject {
    pub(crate) value: Option<String>,
    pub(crate) required: Option<bool>,
    pub(crate) generator: Option<String>,
}

/// Reason why `app.json` cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppJsonError {
    #[error("it has {0} bytes; at most {SIZE_MAX} are read")]
    TooLarge(usize),
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    #[error("{place} is {found}; it must be {expected}")]
    Kind { place: String, found: &'static str, expected: &'static str },
    #[error("{place} is {number}; it must be a whole number from 0")]
    NotWhole { place: String, number: Number },
    #[error("cron has {0} entries; at most {CRON_MAX} are read")]
    TooManyCron(usize),
    #[error("cron[{index}] needs the role name {name}, and another role has this name; rename it")]
    CronNameTaken { index: usize, name: RoleName },
    #[error("{place}: {error}")]
    Setting { place: String, error: SettingError },
    #[error(transparent)]
    Value(#[from] SettingError),
    #[error("generator {generator:?} of {name} is not known, only \"secret\"")]
    Generator { generator: String, name: String },
}

/// Parses the file.
///
/// # Errors
/// [`AppJsonError`].
pub(crate) fn parse(text: &str) -> Result<AppJson, AppJsonError> {
    if text.len() > SIZE_MAX {
        return Err(AppJsonError::TooLarge(text.len()));
    }
    let value: Value = serde_json::from_str(text)?;
    let mut app = AppJson::default();
    for (key, value) in object(&value, "the file")? {
        match key.as_str() {
            "formation" => {
                for (role, value) in object(value, key)? {
                    let formation = app.formation(&format!("formation.{role}"), value)?;
                    app.formation.insert(role.clone(), formation);
                }
            }
            "healthchecks" => {
                for (role, value) in object(value, key)? {
                    let checks = app.checks(&format!("healthchecks.{role}"), value)?;
                    app.healthchecks.insert(role.clone(), checks);
                }
            }
            "cron" => {
                let Value::Array(entries) = value else {
                    return Err(wrong(value, key, "a list of {\"command\": …, \"schedule\": …}"));
                };
                if entries.len() > CRON_MAX {
                    return Err(AppJsonError::TooManyCron(entries.len()));
                }
                for (index, value) in entries.iter().enumerate() {
                    let entry = app.cron(&format!("cron[{index}]"), value)?;
                    app.cron.push(entry);
                }
            }
            "env" => {
                for (name, value) in object(value, key)? {
                    let entry = app.entry(&format!("env.{name}"), value)?;
                    app.env.insert(name.clone(), entry);
                }
            }
            key if DESCRIPTIVE.contains(&key) => {}
            key => app.ignore(key.to_owned()),
        }
    }
    Ok(app)
}

impl AppJson {
    fn ignore(&mut self, key: String) {
        if self.ignored.len() < IGNORED_MAX {
            self.ignored.push(key.chars().take(100).collect());
        }
    }

    fn formation(&mut self, place: &str, value: &Value) -> Result<Formation, AppJsonError> {
        let mut formation = Formation::default();
        for (key, value) in object(value, place)? {
            match key.as_str() {
                "quantity" => formation.quantity = Some(number(value, &format!("{place}.quantity"))?),
                _ => self.ignore(format!("{place}.{key}")),
            }
        }
        Ok(formation)
    }

    fn checks(&mut self, place: &str, value: &Value) -> Result<Vec<HealthCheck>, AppJsonError> {
        let Value::Array(values) = value else {
            return Err(wrong(value, place, "a list of checks"));
        };
        let mut checks: Vec<HealthCheck> = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let place = format!("{place}[{index}]");
            let check = self.check(&place, value)?;
            if checks.iter().any(|known| known.stage == check.stage) {
                self.ignore(format!("{place} (a second check of its type)"));
            } else {
                checks.push(check);
            }
        }
        Ok(checks)
    }

    fn check(&mut self, place: &str, value: &Value) -> Result<HealthCheck, AppJsonError> {
        let mut check = HealthCheck::default();
        for (key, value) in object(value, place)? {
            let at = format!("{place}.{key}");
            match key.as_str() {
                "name" => {}
                "type" => match text(value, &at)?.as_str() {
                    "startup" => check.stage = Stage::Startup,
                    "liveness" => check.stage = Stage::Liveness,
                    // In Gantry, a liveness check also decides readiness after the start.
                    other => self.ignore(format!("{at} {other:?} (read as startup)")),
                },
                "path" => check.path = Some(text(value, &at)?),
                "command" => check.command = Some(words(value, &at)?),
                "content" => check.content = Some(text(value, &at)?).filter(|content| !content.is_empty()),
                "httpHeaders" => self.headers(&mut check, &at, value)?,
                "uptime" => check.uptime = Some(Seconds(number(value, &at)?)),
                "attempts" => check.attempts = Some(number(value, &at)?),
                "timeout" => check.timeout = Some(Seconds(number(value, &at)?)),
                "wait" => check.wait = Some(Seconds(number(value, &at)?)),
                "initialDelay" => check.initial_delay = Some(Seconds(number(value, &at)?)),
                "scheme" if matches!(value, Value::String(scheme) if scheme.eq_ignore_ascii_case("http")) => {}
                "listening" if *value == Value::Bool(false) => {}
                // A check without path and command already checks the port.
                "listening" if *value == Value::Bool(true) => {}
                "port" => self.ignore(format!("{at} (checks go to $PORT)")),
                _ => self.ignore(at),
            }
        }
        Ok(check)
    }

    /// Reads header fields from a list of `{name, value}`.
    fn headers(&mut self, check: &mut HealthCheck, place: &str, value: &Value) -> Result<(), AppJsonError> {
        let Value::Array(fields) = value else {
            return Err(wrong(value, place, "a list of {\"name\": …, \"value\": …}"));
        };
        for (index, field) in fields.iter().enumerate() {
            let place = format!("{place}[{index}]");
            let field = object(field, &place)?;
            let part = |key: &str| text(field.get(key).unwrap_or(&Value::Null), &format!("{place}.{key}"));
            let (name, value) = (part("name")?, part("value")?);
            if name.eq_ignore_ascii_case("host") {
                check.host = Some(value);
            } else {
                check.headers.insert(name, value);
            }
        }
        Ok(())
    }

    fn cron(&mut self, place: &str, value: &Value) -> Result<CronEntry, AppJsonError> {
        let fields = object(value, place)?;
        let of = |key: &str| text(fields.get(key).unwrap_or(&Value::Null), &format!("{place}.{key}"));
        let (command, cron) = (of("command")?, of("schedule")?);
        let at = |key: &str| {
            let place = format!("{place}.{key}");
            move |error| AppJsonError::Setting { place, error }
        };
        roles::check_command(&command).map_err(at("command"))?;
        let cron = roles::cron(cron).map_err(at("schedule"))?;
        let mut schedule = roles::of_cron(cron);
        for key in fields.keys() {
            match key.as_str() {
                "command" | "schedule" => {}
                "concurrency_policy" => {
                    let policy = of(key)?.parse().map_err(SettingError::Policy);
                    schedule.overlap = policy.map_err(at(key))?;
                }
                _ => self.ignore(format!("{place}.{key}")),
            }
        }
        Ok(CronEntry { command, schedule })
    }

    fn entry(&mut self, place: &str, value: &Value) -> Result<EnvEntry, AppJsonError> {
        let Value::Object(fields) = value else {
            let wrong = || wrong(value, place, "a text, a number, true, false, or an object");
            return Ok(EnvEntry::Value(scalar(value).ok_or_else(wrong)?));
        };
        let mut request = EnvObject::default();
        for (key, value) in fields {
            let at = format!("{place}.{key}");
            match key.as_str() {
                "description" => {}
                "value" => {
                    let wrong = || wrong(value, &at, "a text, a number, true or false");
                    request.value = Some(scalar(value).ok_or_else(wrong)?);
                }
                "required" => match value {
                    Value::Bool(required) => request.required = Some(*required),
                    _ => return Err(wrong(value, &at, "true or false")),
                },
                "generator" => request.generator = Some(text(value, &at)?),
                _ => self.ignore(at),
            }
        }
        Ok(EnvEntry::Request(request))
    }
}

/// The error of a value of the wrong kind.
fn wrong(value: &Value, place: &str, expected: &'static str) -> AppJsonError {
    AppJsonError::Kind { place: place.to_owned(), found: kind(value), expected }
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, AppJsonError> {
    value.as_object().ok_or_else(|| wrong(value, place, "an object"))
}

fn text(value: &Value, place: &str) -> Result<String, AppJsonError> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong(value, place, "a text"))
}

fn words(value: &Value, place: &str) -> Result<Vec<String>, AppJsonError> {
    let wrong = || wrong(value, place, "a list of words such as [\"bin/check\", \"-q\"]");
    let words = value.as_array().filter(|words| !words.is_empty()).ok_or_else(wrong)?;
    words.iter().map(|word| word.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn number(value: &Value, place: &str) -> Result<u32, AppJsonError> {
    let whole = value.as_u64().and_then(|number| u32::try_from(number).ok());
    whole.ok_or_else(|| match value {
        Value::Number(number) => AppJsonError::NotWhole { place: place.to_owned(), number: number.clone() },
        _ => wrong(value, place, "a whole number from 0"),
    })
}

/// Converts a value to the text of an environment variable.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null or missing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_key_is_done_or_named() {
        let json = r#"{ "name": "x", "keywords": ["a"], "scripts": { "postdeploy": "true" }, "addons": ["redis"],
            "cron": [{ "command": "bin/clean", "schedule": "@daily", "concurrency_policy": "forbid", "maintenance": true }],
            "formation": { "web": { "quantity": 2, "size": "2x" } },
            "healthchecks": { "web": [
                { "type": "startup", "name": "t", "command": ["false"], "attempts": 60, "wait": 10, "initialDelay": 5 },
                { "type": "startup", "path": "/up", "port": 9 },
                { "type": "liveness", "path": "/up", "content": "fine", "scheme": "https", "onFailure": {}, "warn": true,
                  "httpHeaders": [{ "name": "Host", "value": "x.example" }, { "name": "X-Key", "value": "1" }] } ] },
            "env": { "A": { "description": "x", "secret": true, "value": 7 } } }"#;
        let app = parse(json).expect("settings");
        let ignored = [
            "addons",
            "cron[0].maintenance",
            "formation.web.size",
            "healthchecks.web[1].port (checks go to $PORT)",
            "healthchecks.web[1] (a second check of its type)",
            "healthchecks.web[2].onFailure",
            "healthchecks.web[2].scheme",
            "healthchecks.web[2].warn",
            "env.A.secret",
            "scripts",
        ];
        let sorted = |mut keys: Vec<String>| {
            keys.sort_unstable();
            keys
        };
        assert_eq!(sorted(app.ignored), sorted(ignored.iter().map(ToString::to_string).collect()));
        let [CronEntry { command, schedule }] = &app.cron[..] else { panic!("one entry") };
        assert_eq!((command.as_str(), schedule.cron.as_str()), ("bin/clean", "@daily"));
        assert_eq!(schedule.overlap, gantry_model::role::OverlapPolicy::Forbid);
        let [startup, liveness] = &app.healthchecks["web"][..] else { panic!("two checks") };
        assert_eq!(startup.command.as_deref(), Some(&["false".to_owned()][..]));
        assert_eq!(
            (startup.attempts, startup.wait, startup.initial_delay),
            (Some(60), Some(Seconds(10)), Some(Seconds(5)))
        );
        assert_eq!((liveness.host.as_deref(), liveness.content.as_deref()), (Some("x.example"), Some("fine")));
        assert_eq!(liveness.headers, BTreeMap::from([("X-Key".to_owned(), "1".to_owned())]));
        assert!(matches!(&app.env["A"], EnvEntry::Request(request) if request.value.as_deref() == Some("7")));
    }

    #[test]
    fn numbers_and_truths_of_the_environment_are_texts() {
        let app = parse(r#"{ "env": { "N": 5, "F": 1.50, "B": true, "T": "x" } }"#).expect("settings");
        for (name, value) in [("N", "5"), ("F", "1.5"), ("B", "true"), ("T", "x")] {
            assert_eq!(app.env[name], EnvEntry::Value(value.to_owned()));
        }
    }

    #[test]
    fn a_mistake_names_its_key() {
        for (json, expected) in [
            (r#"{ "env": { "N": [] } }"#, "env.N is a list; it must be a text, a number, true, false, or an object"),
            (r#"{ "env": { "N": null } }"#, "env.N is null"),
            (r#"{ "env": { "N": { "value": {} } } }"#, "env.N.value is an object"),
            (r#"{ "env": { "N": { "required": "yes" } } }"#, "env.N.required is a text; it must be true or false"),
            (r#"{ "env": [] }"#, "env is a list; it must be an object"),
            (r#"{ "formation": { "web": 2 } }"#, "formation.web is a number"),
            (r#"{ "formation": { "web": { "quantity": -1 } } }"#, "formation.web.quantity is -1"),
            (r#"{ "healthchecks": { "web": {} } }"#, "healthchecks.web is an object; it must be a list"),
            (r#"{ "healthchecks": { "web": [{ "command": "x" }] } }"#, "healthchecks.web[0].command is a text"),
            (r#"{ "healthchecks": { "web": [{ "httpHeaders": [{}] }] } }"#, "healthchecks.web[0].httpHeaders[0].name"),
            ("[]", "the file is a list"),
            ("{", "line 1 column 1"),
        ] {
            let error = parse(json).expect_err(json).to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in prop_oneof!["\\PC{0,200}", "[{}\\[\\]\":,a-z0-9]{0,200}"],
            key in prop_oneof![Just("env"), Just("formation"), Just("healthchecks"), Just("x")],
            value in "(\\{\"[a-zA-Z]{0,6}\":)?(\\{\"(quantity|value|generator|path|required)\":)?(\"[ -!#-~]{0,9}\"|[0-9-]{1,12}|null|\\[\\])\\}?\\}?",
        ) {
            let _ = (parse(&text), parse(&format!("{{\"{key}\":{value}}}")));
        }
    }
}
