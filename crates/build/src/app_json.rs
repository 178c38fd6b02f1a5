//! `app.json` (Heroku, Dokku): `formation`, `healthchecks` and `env` of it. Other keys are other tools' and passed over.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What is read of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AppJson {
    pub(crate) formation: BTreeMap<String, Formation>,
    pub(crate) healthchecks: BTreeMap<String, Vec<HealthCheck>>,
    pub(crate) env: BTreeMap<String, EnvEntry>,
}

/// How many copies of a role.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Formation {
    pub(crate) quantity: Option<u32>,
}

/// One check of a role.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HealthCheck {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) attempts: Option<u32>,
    pub(crate) timeout: Option<u32>,
    pub(crate) wait: Option<u32>,
}

/// A configuration value that the app asks for.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum EnvEntry {
    Value(String),
    Request(EnvObject),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EnvObject {
    pub(crate) value: Option<String>,
    pub(crate) required: Option<bool>,
    pub(crate) generator: Option<String>,
}

/// Reads the file.
///
/// # Errors
/// A sentence with line and column.
pub(crate) fn parse(text: &str) -> Result<AppJson, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
