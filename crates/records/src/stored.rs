//! Form of releases and of machines' parts in the store: they name configurations by digest. Each configuration is a record
//! of its own, so that plain values are stored once.
//!
//! Records from before version 6 contain the values themselves. They are read as they are.

use std::collections::BTreeMap;

use gantry_model::{Digest, MachinePlan, Release, ReleaseConfig};
use serde_json::{Value, json};

use crate::RecordError;
use crate::record::read;

/// The configurations of a store.
pub(crate) type Configs = BTreeMap<Digest, ReleaseConfig>;

/// Serializes a release.
pub(crate) fn release(release: &Release) -> Result<Vec<u8>, serde_json::Error> {
    let mut value = serde_json::to_value(release)?;
    value["config"] = json!(release.config.digest());
    serde_json::to_vec(&value)
}

/// Serializes a machine's part.
pub(crate) fn part(part: &MachinePlan) -> Result<Vec<u8>, serde_json::Error> {
    let mut value = serde_json::to_value(part)?;
    value.as_object_mut().map(|fields| fields.remove("configs"));
    serde_json::to_vec(&value)
}

/// Parses a release.
pub(crate) fn read_release(key: &str, value: &[u8], configs: &Configs) -> Result<Release, RecordError> {
    let mut value: Value = read(key, value)?;
    let config = match value.get("config").filter(|config| config.is_string()) {
        Some(digest) => Some(named(key, digest, configs)?.clone()),
        None => None,
    };
    if config.is_some() {
        value["config"] = json!({});
    }
    let mut release: Release = typed(key, value)?;
    release.config = match config {
        Some(config) => config,
        None => configs.get(release.config.digest()).unwrap_or(&release.config).clone(),
    };
    Ok(release)
}

/// Parses a machine's part.
pub(crate) fn read_part(key: &str, value: &[u8], configs: &Configs) -> Result<MachinePlan, RecordError> {
    let mut value: Value = read(key, value)?;
    let mut used = BTreeMap::new();
    for spec in value.get("specs").and_then(Value::as_object).into_iter().flat_map(|specs| specs.values()) {
        if let Some(digest) = spec.get("config").filter(|config| config.is_string()) {
            used.insert(digest.to_string().trim_matches('"').to_owned(), json!(named(key, digest, configs)?));
        }
    }
    if let Some(fields) = value.as_object_mut().filter(|_| !used.is_empty()) {
        fields.insert("configs".to_owned(), json!(used));
    }
    typed(key, value)
}

fn named<'a>(key: &str, digest: &Value, configs: &'a Configs) -> Result<&'a ReleaseConfig, RecordError> {
    let parsed = digest.as_str().and_then(|text| text.parse().ok());
    let found = parsed.and_then(|digest: Digest| configs.get(&digest));
    found.ok_or_else(|| RecordError::new(key, format!("the configuration {digest} is missing")))
}

fn typed<T: serde::de::DeserializeOwned>(key: &str, value: Value) -> Result<T, RecordError> {
    serde_json::from_value(value).map_err(|error| RecordError::new(key, error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_model::{
        AllocationId, AppName, Assignment, DeployCause, DeployNumber, InstanceGoal, InstanceSpec, Moment,
        ReleaseNumber, Role, RoleCommand,
    };

    use super::*;

    fn config() -> ReleaseConfig {
        BTreeMap::from([("SECRET".to_owned(), "hunter2".to_owned())]).into()
    }

    fn image() -> Digest {
        Digest::from_hex(&"a".repeat(64)).expect("a digest")
    }

    fn release() -> Release {
        Release {
            app: AppName::parse("shop").expect("a name"),
            number: ReleaseNumber(1),
            image: image(),
            commit: None,
            config: config(),
            roles: BTreeMap::new(),
            deploy: DeployNumber(1),
            created: Moment(1),
            by: "alice".into(),
            cause: DeployCause::Config { keys: Vec::new() },
        }
    }

    fn part() -> MachinePlan {
        let role = Role::new(RoleCommand::Shell("run".to_owned()));
        let spec = InstanceSpec { image: image(), commit: None, config: config(), role, volumes_of: None };
        let id = AllocationId::parse("shop.v1.web-1").expect("an id");
        let assignment = Assignment { spec: Arc::new(spec), goal: InstanceGoal::Run };
        MachinePlan { instances: [(id, assignment)].into(), ..MachinePlan::default() }
    }

    #[test]
    fn releases_and_parts_name_their_configuration() {
        let configs = Configs::from([(config().digest().clone(), config())]);
        for text in [super::release(&release()).expect("written"), super::part(&part()).expect("written")] {
            let text = String::from_utf8(text).expect("text");
            assert!(!text.contains("hunter2") && text.contains(config().digest().as_str()), "{text}");
        }
        let text = super::release(&release()).expect("written");
        assert_eq!(read_release("releases/shop/1", &text, &configs).expect("read"), release());
        let text = super::part(&part()).expect("written");
        assert_eq!(read_part("plan/machines/m", &text, &configs).expect("read"), part());
    }

    #[test]
    fn records_of_earlier_versions_contain_the_values() {
        let text = serde_json::to_vec(&release()).expect("written");
        assert_eq!(read_release("releases/shop/1", &text, &Configs::new()).expect("read"), release());
        let mut value = serde_json::to_value(part()).expect("written");
        value.as_object_mut().expect("an object").remove("configs");
        for spec in value["specs"].as_object_mut().expect("specs").values_mut() {
            spec["config"] = json!(config());
        }
        assert_eq!(
            read_part("plan/machines/m", &value.to_string().into_bytes(), &Configs::new()).expect("read"),
            part()
        );
    }

    #[test]
    fn a_missing_configuration_is_named() {
        let text = super::release(&release()).expect("written");
        let error = read_release("releases/shop/1", &text, &Configs::new()).expect_err("refused").to_string();
        assert!(error.contains("releases/shop/1") && error.contains(config().digest().as_str()), "{error}");
        let text = super::part(&part()).expect("written");
        assert!(read_part("plan/machines/m", &text, &Configs::new()).is_err());
    }
}
