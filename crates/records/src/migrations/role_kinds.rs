//! From version 4 to version 5: kind and exposure of roles.

use serde_json::{Map, Value, json};

use super::{PARTS, get, put};
use crate::RecordError;
use crate::schema::{RawRecords, StepChanges};

/// Each role gets the kind and the exposure that its name meant. Version 4 passes over the new fields.
pub(crate) fn role_kinds(records: &RawRecords) -> Result<StepChanges, RecordError> {
    let mut preparation = Vec::new();
    for key in records.keys() {
        let by_key = key.starts_with("releases/") || key.starts_with("builds/");
        if !by_key && !key.starts_with(PARTS) {
            continue;
        }
        let mut record = get(records, key)?;
        if by_key {
            for (name, role) in record.get_mut("roles").and_then(Value::as_object_mut).into_iter().flatten() {
                role.as_object_mut().into_iter().for_each(|role| classify(name, role));
            }
        } else {
            classify_specs(&mut record);
        }
        preparation.push(put(key.clone(), &record)?);
    }
    Ok((preparation, Vec::new()))
}

/// A part names the role of a spec only in the names of the instances with that spec.
fn classify_specs(part: &mut Value) {
    let instances = part.get("instances").and_then(Value::as_object).cloned().unwrap_or_default();
    for (id, instance) in &instances {
        let name = id.splitn(3, '.').nth(2).and_then(|name| name.rsplit_once('-')).map_or("", |(name, _)| name);
        let spec = match instance["spec"].as_u64().and_then(|index| usize::try_from(index).ok()) {
            Some(index) => part.pointer_mut(&format!("/specs/{index}/role")),
            None => part.get_mut("instances").and_then(|all| all.get_mut(id)?.pointer_mut("/spec/role")),
        };
        spec.and_then(Value::as_object_mut).into_iter().for_each(|role| classify(name, role));
    }
}

fn classify(name: &str, role: &mut Map<String, Value>) {
    let kind = match name {
        "release" => "job",
        name if name.starts_with('.') => "one_off",
        _ => "service",
    };
    let has_port = role.get("port").is_some_and(Value::is_u64);
    let exposure = match (kind, name) {
        ("service", "web") => "http",
        ("service", _) if has_port => "tcp",
        _ => "none",
    };
    role.extend([("kind".to_owned(), json!(kind)), ("exposure".to_owned(), json!(exposure))]);
}

#[cfg(test)]
mod tests {
    use gantry_model::{Exposure, Kind};

    use super::super::tests::{loaded, migrated, part, raw, role};
    use super::*;

    #[test]
    fn each_role_gets_the_kind_of_its_name() {
        let with_port = |mut role: Value| {
            role["port"] = json!(5432);
            role
        };
        let roles =
            json!({ "web": role(), "worker": role(), "db": with_port(role()), "release": role(), ".shell": role() });
        let image = format!("sha256:{}", "a".repeat(64));
        let records = migrated(raw(&[
            ("schema", json!({ "version": 4 })),
            (
                "releases/shop/00000001",
                json!({ "app": "shop", "number": 1, "image": image, "commit": null, "config": {},
                "roles": roles, "deploy": 1, "created": 0, "by": "alice", "cause": { "kind": "config", "keys": [] } }),
            ),
            ("plan/machines/m", part(&["shop.v1.web-1"])),
            ("plan/machines/n", part(&["shop.v1.release-1"])),
        ]));
        let index = loaded(&records);
        let release = index.releases.values().next().expect("an app").values().next().expect("a release");
        let found: Vec<(&str, Kind, Exposure)> =
            release.roles.iter().map(|(name, role)| (name.as_str(), role.kind, role.exposure)).collect();
        assert_eq!(
            found,
            [
                (".shell", Kind::OneOff, Exposure::None),
                ("db", Kind::Service, Exposure::Tcp),
                ("release", Kind::Job, Exposure::None),
                ("web", Kind::Service, Exposure::Http),
                ("worker", Kind::Service, Exposure::None),
            ]
        );
        let planned: Vec<(Kind, Exposure)> = index
            .plan
            .assignments()
            .map(|(_, _, assigned)| (assigned.spec.role.kind, assigned.spec.role.exposure))
            .collect();
        assert_eq!(planned, [(Kind::Service, Exposure::Http), (Kind::Job, Exposure::None)]);
    }
}
