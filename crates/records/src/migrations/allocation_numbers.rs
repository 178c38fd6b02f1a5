//! From version 2 to version 3: the numbers of allocations.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{PARTS, get, key, put};
use crate::RecordError;
use crate::schema::{RawChange, RawRecords, StepChanges};

/// Prefix of the numbers in version 3.
const NUMBERS: &str = "plan/allocations/";

/// Every assigned instance becomes the first allocation of its slot. Its name stays, so what runs on the machines goes
/// on.
pub(crate) fn allocation_numbers(records: &RawRecords) -> Result<StepChanges, RecordError> {
    let mut apps: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for part in records.keys().filter(|key| key.starts_with(PARTS)) {
        let plan = get(records, part)?;
        for slot in plan.get("instances").and_then(Value::as_object).into_iter().flat_map(|instances| instances.keys())
        {
            let Some((app, _)) = slot.split_once('.') else {
                return Err(RecordError::new(part, format!("{slot:?} is no instance")));
            };
            apps.entry(app.to_owned()).or_default().insert(slot.clone(), json!(1));
        }
    }
    let numbers = |(app, slots): (String, BTreeMap<String, Value>)| {
        put(format!("{NUMBERS}{app}"), &slots.into_iter().collect::<Value>())
    };
    let mut preparation = apps.into_iter().map(numbers).collect::<Result<Vec<_>, _>>()?;
    // An interrupted migration may have left numbers of an app that is gone by now.
    let kept: BTreeSet<&str> = preparation.iter().map(key).collect();
    let stale = records.keys().filter(|key| key.starts_with(NUMBERS) && !kept.contains(key.as_str()));
    let stale: Vec<RawChange> = stale.map(|key| RawChange::Remove(key.clone())).collect();
    preparation.extend(stale);
    Ok((preparation, Vec::new()))
}

#[cfg(test)]
mod tests {
    use gantry_model::{AppName, Slot};

    use super::super::tests::{loaded, migrated, part, raw};
    use super::*;
    use crate::schema;

    #[test]
    fn each_assigned_instance_becomes_the_first_allocation_of_its_slot() {
        let records = migrated(raw(&[
            ("schema", json!({ "version": 2 })),
            ("plan/machines/m1", part(&["shop.v1.web-1", "shop.v1.web-2", "blog.v4.web-1"])),
            ("plan/machines/m2", part(&["shop.v2.web-1"])),
            ("plan/allocations/gone", json!({ "gone.v1.web-1": 1 })),
        ]));
        let plan = loaded(&records).plan;
        let numbers: Vec<(&str, Vec<String>)> = plan
            .numbers
            .iter()
            .map(|(app, numbers)| (app.as_str(), numbers.0.keys().map(Slot::to_string).collect()))
            .collect();
        assert_eq!(
            numbers,
            [
                ("blog", vec!["blog.v4.web-1".to_owned()]),
                ("shop", ["shop.v1.web-1", "shop.v1.web-2", "shop.v2.web-1"].map(str::to_owned).to_vec()),
            ]
        );
        assert!(plan.numbers.values().all(|numbers| numbers.0.values().all(|number| *number == 1)));
        for (_, id, _) in plan.assignments() {
            assert_eq!(plan.numbers[&id.slot.app].highest(&id.slot), id.number);
        }
        assert!(!plan.numbers.contains_key(&AppName::parse("gone").expect("a name")));
    }

    #[test]
    fn names_the_plan_part_with_an_invalid_instance() {
        let part = json!({ "instances": { "nonsense": {} } });
        let refused = schema::next_migration(&raw(&[("schema", json!({ "version": 2 })), ("plan/machines/m", part)]));
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains("plan/machines/m") && text.contains("nonsense"), "{text}");
    }
}
