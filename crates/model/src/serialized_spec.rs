//! Serialized spec. Programs of the version before read the kind from the field `once`, and write that field alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::{AppName, Digest, InstanceSpec, Kind, Role};

/// The form that is written.
#[derive(Serialize)]
struct WrittenSpec<'a> {
    image: &'a Digest,
    commit: &'a Option<String>,
    config: &'a BTreeMap<String, String>,
    role: &'a Role,
    once: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes_of: &'a Option<AppName>,
}

impl Serialize for InstanceSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { image, commit, config, role, volumes_of } = self;
        WrittenSpec { image, commit, config, role, once: !role.is_service(), volumes_of }.serialize(serializer)
    }
}

/// The form that is read.
#[derive(Deserialize)]
pub(crate) struct SerializedSpec {
    image: Digest,
    commit: Option<String>,
    config: BTreeMap<String, String>,
    role: Role,
    #[serde(default)]
    once: bool,
    #[serde(default)]
    volumes_of: Option<AppName>,
}

impl From<SerializedSpec> for InstanceSpec {
    fn from(SerializedSpec { image, commit, config, mut role, once, volumes_of }: SerializedSpec) -> Self {
        if once && role.is_service() {
            role.kind = Kind::Job;
        }
        Self { image, commit, config, role, volumes_of }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, to_value};

    use super::*;
    use crate::RoleCommand;

    #[test]
    fn reads_and_writes_the_kind_for_the_version_before() {
        for (kind, once) in [(Kind::Service, false), (Kind::Job, true), (Kind::OneOff, true)] {
            let role = Role { kind, ..Role::new(RoleCommand::Shell("run".to_owned())) };
            let image = Digest::from_hex(&"a".repeat(64)).expect("a digest");
            let spec = InstanceSpec { image, commit: None, config: BTreeMap::new(), role, volumes_of: None };
            let mut text = to_value(&spec).expect("written");
            assert_eq!(text["once"], once);
            assert_eq!(from_value::<InstanceSpec>(text.clone()).expect("read"), spec);
            text["role"].as_object_mut().expect("a role").remove("kind");
            let before: InstanceSpec = from_value(text).expect("read");
            assert_eq!(before.role.kind, if once { Kind::Job } else { Kind::Service });
        }
    }
}
