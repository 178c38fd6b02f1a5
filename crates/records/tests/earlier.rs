//! The records of a server of schema version 2, migrated to the present version.

use std::collections::BTreeMap;

use gantry_model::{Exposure, Kind};
use gantry_records::RecordIndex;
use gantry_records::schema::{self, RawRecords, VERSION};
use serde_json::Value;

fn version_2() -> RawRecords {
    let text = include_str!("store-version-2.json");
    let records: BTreeMap<String, Value> = serde_json::from_str(text).expect("a fixture");
    records.into_iter().map(|(key, value)| (key, value.to_string().into_bytes())).collect()
}

fn load(records: &RawRecords) -> RecordIndex {
    RecordIndex::load(records.iter().map(|(key, value)| (key.as_str(), value.as_slice()))).expect("records")
}

#[test]
fn a_migrated_instance_keeps_its_name_and_gets_kind_and_number() {
    let records = version_2();
    let named = |key: &String| key.starts_with("plan/machines/");
    let parts = records.iter().filter(|(key, _)| named(key));
    let part = |value: &Vec<u8>| serde_json::from_slice::<Value>(value).expect("JSON")["instances"].clone();
    let before: Vec<String> = parts
        .flat_map(|(_, value)| part(value).as_object().expect("instances").keys().cloned().collect::<Vec<_>>())
        .collect();
    let migrated = schema::migrated(records).expect("migrated");
    let index = load(&migrated);
    let after: Vec<String> = index.plan.assignments().map(|(_, id, _)| id.to_string()).collect();
    assert!(!after.is_empty());
    assert_eq!(after, before);
    for (machine, id, assignment) in index.plan.assignments() {
        assert_eq!(index.plan.numbers[&id.slot.app].highest(&id.slot), 1, "{id}");
        let release = index.release(&id.slot.app, id.slot.release).expect("a release");
        let role = &release.roles[&id.slot.role];
        let kind = if id.slot.role.as_str() == "release" { Kind::Job } else { Kind::Service };
        assert_eq!((role.kind, assignment.spec.role.kind), (kind, kind), "{id}");
        assert_eq!(role.exposure == Exposure::Http, id.slot.role.as_str() == "web", "{id}");
        assert_eq!(index.configs[release.config.digest()], assignment.spec.config, "{id}");
        let of_app = &index.plan.routes[&id.slot.app];
        assert!(of_app.endpoints().all(|endpoint| endpoint.at.machine() == machine), "{id}");
        let names = of_app.names.as_ref().expect("names");
        assert!(names.roles.values().flatten().all(|address| address.machine() == machine), "{id}");
    }
    assert!(index.plan.endpoints().count() > 0);
}

/// A server that is killed in a migration leaves a prefix of its changes.
#[test]
fn every_prefix_of_a_migration_leads_to_the_same_records() {
    let whole = schema::migrated(version_2()).expect("migrated");
    let mut records = version_2();
    while let Some(migration) = schema::next_migration(&records).expect("a migration") {
        for change in migration.preparation.iter().step_by(3).cloned() {
            change.apply(&mut records);
        }
        assert_eq!(schema::migrated(records.clone()).expect("migrated"), whole, "to {}", migration.to);
        migration.preparation.into_iter().chain(migration.switch).for_each(|change| change.apply(&mut records));
    }
    assert_eq!(schema::version(records.get(schema::KEY).map(Vec::as_slice)).expect("a version"), VERSION);
}
