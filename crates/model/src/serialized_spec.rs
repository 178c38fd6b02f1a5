//! Serialized spec, with the values of its configuration or with their digest. Programs of the version before read the kind
//! from the field `once`, and write that field alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::{AppName, Digest, InstanceSpec, Kind, ReleaseConfig, Role};

/// The form that is written.
#[derive(Serialize)]
struct WrittenSpec<'a, C> {
    image: &'a Digest,
    commit: &'a Option<String>,
    config: C,
    role: &'a Role,
    once: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes_of: &'a Option<AppName>,
}

impl<'a, C> WrittenSpec<'a, C> {
    fn new(spec: &'a InstanceSpec, config: C) -> Self {
        let InstanceSpec { image, commit, role, volumes_of, config: _ } = spec;
        Self { image, commit, config, role, once: !role.is_service(), volumes_of }
    }
}

impl InstanceSpec {
    /// The spec as it is written where configurations stand apart: with the digest of its configuration.
    pub fn by_reference(&self) -> impl Serialize {
        WrittenSpec::new(self, self.config.digest())
    }

    /// The digest of the spec.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of_json(&self.by_reference())
    }
}

impl Serialize for InstanceSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WrittenSpec::new(self, &self.config).serialize(serializer)
    }
}

/// The form that is read.
#[derive(Deserialize)]
pub(crate) struct SerializedSpec {
    image: Digest,
    commit: Option<String>,
    config: ConfigForm,
    role: Role,
    #[serde(default)]
    once: bool,
    #[serde(default)]
    volumes_of: Option<AppName>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConfigForm {
    Reference(Digest),
    Values(ReleaseConfig),
}

/// A spec names a configuration that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration {0} is missing")]
pub(crate) struct MissingConfig(Digest);

impl SerializedSpec {
    /// Returns the spec with its configuration, which stands in the spec or among `configs`.
    pub(crate) fn resolve(self, configs: &BTreeMap<Digest, ReleaseConfig>) -> Result<InstanceSpec, MissingConfig> {
        let Self { image, commit, config, mut role, once, volumes_of } = self;
        if once && role.is_service() {
            role.kind = Kind::Job;
        }
        let config = match config {
            ConfigForm::Values(config) => config,
            ConfigForm::Reference(digest) => configs.get(&digest).cloned().ok_or(MissingConfig(digest))?,
        };
        Ok(InstanceSpec { image, commit, config, role, volumes_of })
    }
}

impl TryFrom<SerializedSpec> for InstanceSpec {
    type Error = MissingConfig;
    fn try_from(spec: SerializedSpec) -> Result<Self, MissingConfig> {
        spec.resolve(&BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;
    use crate::RoleCommand;

    fn spec(kind: Kind) -> InstanceSpec {
        let role = Role { kind, ..Role::new(RoleCommand::Shell("run".to_owned())) };
        let config = BTreeMap::from([("COLOR".to_owned(), "blue".to_owned())]).into();
        let image = Digest::from_hex(&"a".repeat(64)).expect("a digest");
        InstanceSpec { image, commit: None, config, role, volumes_of: None }
    }

    #[test]
    fn reads_and_writes_the_kind_for_the_version_before() {
        for (kind, once) in [(Kind::Service, false), (Kind::Job, true), (Kind::OneOff, true)] {
            let spec = spec(kind);
            let mut text = to_value(&spec).expect("written");
            assert_eq!((&text["once"], &text["config"]), (&json!(once), &json!({"COLOR": "blue"})));
            assert_eq!(from_value::<InstanceSpec>(text.clone()).expect("read"), spec);
            text["role"].as_object_mut().expect("a role").remove("kind");
            let before: InstanceSpec = from_value(text).expect("read");
            assert_eq!(before.role.kind, if once { Kind::Job } else { Kind::Service });
        }
    }

    #[test]
    fn a_reference_needs_its_configuration() {
        let spec = spec(Kind::Service);
        let text = to_value(spec.by_reference()).expect("written");
        assert_eq!(text["config"], json!(spec.config.digest()));
        let form = || from_value::<SerializedSpec>(text.clone()).expect("read");
        let configs = BTreeMap::from([(spec.config.digest().clone(), spec.config.clone())]);
        assert_eq!(form().resolve(&configs), Ok(spec.clone()));
        assert_eq!(form().resolve(&BTreeMap::new()), Err(MissingConfig(spec.config.digest().clone())));
        assert!(from_value::<InstanceSpec>(text).expect_err("refused").to_string().contains("is missing"));
    }
}
