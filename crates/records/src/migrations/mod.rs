//! The migrations between schema versions, as functions of all records. A migration reads JSON and not today's types, so
//! that later changes of the types leave the migration as it is.

mod allocation_numbers;
mod configs;
mod machine_addresses;
mod role_kinds;
mod routes_per_app;

use serde_json::Value;

pub(crate) use allocation_numbers::allocation_numbers;
pub(crate) use configs::configs;
pub(crate) use machine_addresses::machine_addresses;
pub(crate) use role_kinds::role_kinds;
pub(crate) use routes_per_app::routes_per_app;

use crate::RecordError;
use crate::schema::{RawChange, RawRecords};

/// Prefix of the machines' parts of the plan.
const PARTS: &str = "plan/machines/";

/// Prefix of the routes of each app.
const ROUTES: &str = "plan/routes/";

fn put(key: String, value: &Value) -> Result<RawChange, RecordError> {
    let text = serde_json::to_vec(value).map_err(|error| RecordError::new(&key, error))?;
    Ok(RawChange::Put(key, text))
}

fn key(change: &RawChange) -> &str {
    match change {
        RawChange::Put(key, _) | RawChange::Remove(key) => key,
    }
}

/// Reads the record under a key.
fn get(records: &RawRecords, key: &str) -> Result<Value, RecordError> {
    let value = records.get(key).map_or(&b"null"[..], Vec::as_slice);
    serde_json::from_slice(value).map_err(|error| RecordError::new(key, error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{RecordIndex, schema};

    pub(super) fn raw(entries: &[(&str, Value)]) -> RawRecords {
        let text = |value: &Value| serde_json::to_vec(value).expect("JSON");
        entries.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect()
    }

    /// A role in version 2.
    pub(super) fn role() -> Value {
        json!({ "command": { "shell": "run" }, "port": null, "instances": 1, "stop_signal": "TERM",
            "stop_timeout": 30, "limits": { "memory": 1024, "cpu": 1.0, "pids": 64 },
            "health": { "path": null, "interval": 1, "timeout": 5, "attempts": 3, "settle": 5, "watch": 10 } })
    }

    /// A machine's part of the plan in version 2.
    pub(super) fn part(instances: &[&str]) -> Value {
        let line = |id: &&str| ((*id).to_owned(), json!({ "spec": 0, "goal": { "kind": "stop" } }));
        let image = format!("sha256:{}", "a".repeat(64));
        let spec = json!({ "image": image, "commit": null, "config": {}, "once": false, "role": role() });
        json!({ "generation": 3, "specs": [spec], "instances": instances.iter().map(line).collect::<Value>() })
    }

    pub(super) fn migrated(records: RawRecords) -> RawRecords {
        schema::migrated(records).expect("migrations")
    }

    pub(super) fn loaded(records: &RawRecords) -> RecordIndex {
        RecordIndex::load(records.iter().map(|(key, value)| (key.as_str(), value.as_slice()))).expect("records")
    }
}
