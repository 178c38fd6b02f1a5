//! The volumes that the records name: those of the roles of each app's serving release.

use std::collections::BTreeMap;

use gantry_agent::StoredVolume;
use gantry_model::{App, AppName, MachineName, ReleaseNumber, Role, RoleName, VolumeName};
use gantry_records::schema::{self, RawRecords};
use serde::Deserialize;
use serde_json::Value;

/// A volume of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoleVolume {
    pub(crate) app: AppName,
    pub(crate) role: RoleName,
    pub(crate) volume: StoredVolume,
    /// The machine that has the data; none before a copy has run.
    pub(crate) machine: Option<MachineName>,
}

/// Returns the volumes of all services with at least one copy.
pub(crate) fn role_volumes<'a>(records: impl Iterator<Item = (&'a str, &'a Value)>) -> Vec<RoleVolume> {
    let (mut apps, mut releases) = (Vec::new(), BTreeMap::new());
    // A backup may have records of an earlier version.
    let raw: RawRecords = records.map(|(key, value)| (key.to_owned(), value.to_string().into_bytes())).collect();
    let records = schema::migrated(raw.clone()).unwrap_or(raw);
    for (key, value) in &records {
        match key.split_once('/') {
            Some(("apps", _)) => apps.extend(read::<App>(value)),
            Some(("releases", _)) => {
                releases.extend(
                    read::<ReleaseRoles>(value).map(|release| ((release.app.clone(), release.number), release)),
                );
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for app in apps {
        let current = app.current.and_then(|number| releases.get(&(app.name.clone(), number)));
        for (name, role) in current.iter().flat_map(|release| &release.roles) {
            let copies = app.scale.get(name).copied().unwrap_or(role.instances);
            if !role.is_service() || copies == 0 {
                continue;
            }
            let names = role.volumes.keys().filter_map(|name| VolumeName::parse(name).ok());
            found.extend(names.map(|volume| RoleVolume {
                app: app.name.clone(),
                role: name.clone(),
                machine: app.data.get(volume.as_str()).cloned(),
                volume: StoredVolume { app: app.volume_folder().clone(), name: volume },
            }));
        }
    }
    found
}

/// The roles of a release.
#[derive(Deserialize)]
struct ReleaseRoles {
    app: AppName,
    number: ReleaseNumber,
    roles: BTreeMap<RoleName, Role>,
}

/// Reads a record. The records of a store or a backup were checked before.
fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}
