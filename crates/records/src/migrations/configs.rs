//! From version 5 to version 6: a record for each configuration.

use std::collections::BTreeMap;

use gantry_model::ReleaseConfig;
use serde_json::Value;

use super::{PARTS, get, put};
use crate::RecordError;
use crate::config_key;
use crate::schema::{RawRecords, StepChanges};

/// Each configuration that a release or a spec contains becomes a record. Records written from now on name it by its
/// digest.
pub(crate) fn configs(records: &RawRecords) -> Result<StepChanges, RecordError> {
    let mut found = BTreeMap::new();
    for key in records.keys().filter(|key| key.starts_with("releases/") || key.starts_with(PARTS)) {
        let record = get(records, key)?;
        let listed = record.get("specs").and_then(Value::as_array).into_iter().flatten();
        let inline = record.get("instances").and_then(Value::as_object).into_iter().flat_map(|all| all.values());
        let specs = listed.chain(inline.filter_map(|instance| instance.get("spec")));
        for values in
            specs.chain([&record]).filter_map(|holder| holder.get("config")).filter(|values| values.is_object())
        {
            let config: ReleaseConfig =
                serde_json::from_value(values.clone()).map_err(|error| RecordError::new(key, error))?;
            found.insert(config_key(config.digest()), values.clone());
        }
    }
    let preparation = found.into_iter().map(|(key, values)| put(key, &values)).collect::<Result<_, _>>()?;
    Ok((preparation, Vec::new()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{loaded, migrated, part, raw};

    #[test]
    fn each_configuration_becomes_one_record() {
        let release = |number: u64, color: &str| {
            let image = format!("sha256:{}", "a".repeat(64));
            json!({ "app": "shop", "number": number, "image": image, "commit": null, "config": { "COLOR": color },
                "roles": {}, "deploy": 1, "created": 0, "by": "alice", "cause": { "kind": "config", "keys": [] } })
        };
        let mut of_machine = part(&["shop.v1.web-1"]);
        of_machine["specs"][0]["config"] = json!({ "COLOR": "blue" });
        let records = migrated(raw(&[
            ("schema", json!({ "version": 5 })),
            ("releases/shop/00000001", release(1, "blue")),
            ("releases/shop/00000002", release(2, "blue")),
            ("releases/shop/00000003", release(3, "red")),
            ("plan/machines/m", of_machine),
            ("plan/machines/n", part(&["shop.v2.web-1"])),
        ]));
        assert_eq!(records.keys().filter(|key| key.starts_with("configs/")).count(), 3, "blue, red and none");
        let index = loaded(&records);
        for release in index.releases.values().flat_map(|releases| releases.values()) {
            assert!(index.configs.contains_key(release.config.digest()));
        }
        for (_, _, assignment) in index.plan.assignments() {
            assert_eq!(index.configs[assignment.spec.config.digest()], assignment.spec.config);
        }
    }
}
