//! From version 3 to version 4: endpoints and names with their machine.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{PARTS, ROUTES, get, put};
use crate::RecordError;
use crate::schema::{RawRecords, StepChanges};

/// Machine of each assigned allocation.
type Machines = BTreeMap<String, String>;

/// Each address gets its machine, and each app's own name the role that it leads to. The new fields stand beside the old
/// ones, which version 4 does not read.
pub(crate) fn machine_addresses(records: &RawRecords) -> Result<StepChanges, RecordError> {
    let mut machines = Machines::new();
    for part in records.keys().filter(|key| key.starts_with(PARTS)) {
        let plan = get(records, part)?;
        let instances = plan.get("instances").and_then(Value::as_object);
        let names = instances.into_iter().flat_map(|instances| instances.keys().cloned());
        machines.extend(names.map(|name| (name, part[PARTS.len()..].to_owned())));
    }
    let mut preparation = Vec::new();
    for key in records.keys().filter(|key| key.starts_with(ROUTES)) {
        let Value::Object(mut routes) = get(records, key)? else {
            return Err(RecordError::new(key, "expected an object"));
        };
        locate(&mut routes, &key[ROUTES.len()..], &machines);
        preparation.push(put(key.clone(), &Value::Object(routes))?);
    }
    Ok((preparation, Vec::new()))
}

fn locate(routes: &mut Map<String, Value>, app: &str, machines: &Machines) {
    let of_app = |name: &&String| name.split('.').next() == Some(app);
    let own = machines.keys().find(of_app).and_then(|name| machines.get(name));
    let any = own.or_else(|| machines.values().next());
    let mut located: BTreeMap<String, Value> = BTreeMap::new();
    for (_, route) in routes.get_mut("routes").and_then(Value::as_object_mut).into_iter().flatten() {
        let Some(endpoints) = route.get_mut("endpoints").and_then(Value::as_array_mut) else { continue };
        for endpoint in endpoints.iter_mut().filter_map(Value::as_object_mut) {
            let Some(instance) = endpoint.get("instance").cloned() else { continue };
            let Some(machine) = instance.as_str().and_then(|name| machines.get(name)).or(any) else { continue };
            located.insert(endpoint.get("address").map(Value::to_string).unwrap_or_default(), json!(machine));
            endpoint.extend([("machine".to_owned(), json!(machine)), ("allocation".to_owned(), instance)]);
        }
        // Without any machine, nothing runs that an endpoint could lead to.
        endpoints.retain(|endpoint| endpoint.get("machine").is_some());
    }
    let Some(names) = routes.get("names").and_then(Value::as_object) else { return };
    let at = |address: &Value| {
        let machine = located.get(&address.to_string()).cloned().or_else(|| any.map(|machine| json!(machine)))?;
        Some(json!({ "machine": machine, "address": address }))
    };
    let of_role = |(role, addresses): (&String, &Value)| {
        let addresses: Vec<Value> = addresses.as_array().into_iter().flatten().filter_map(at).collect();
        (role.clone(), json!(addresses))
    };
    let main = ["web", app].into_iter().find(|role| names.contains_key(*role));
    let roles: Value = names.iter().map(of_role).collect();
    routes.insert("resolver".to_owned(), json!({ "main": main, "roles": roles }));
}

#[cfg(test)]
mod tests {
    use gantry_model::{AppName, MachineName};

    use super::super::tests::{loaded, migrated, part, raw};
    use super::*;

    #[test]
    fn each_address_gets_its_machine() {
        let endpoint = |id: &str, address: &str| json!({ "instance": id, "address": address, "port": 8080 });
        let endpoints = [endpoint("shop.v1.web-1", "10.83.0.2"), endpoint("shop.v1.web-2", "10.83.0.3")];
        let records = migrated(raw(&[
            ("schema", json!({ "version": 3 })),
            ("plan/machines/m1", part(&["shop.v1.web-1"])),
            ("plan/machines/m2", part(&["shop.v1.web-2", "shop.v1.worker-1"])),
            (
                "plan/routes/shop",
                json!({ "revision": 7,
                "routes": { "shop.localhost": { "app": "shop", "release": 1, "endpoints": endpoints } },
                "names": { "web": ["10.83.0.2", "10.83.0.3"], "cron": ["10.83.0.9"] } }),
            ),
            ("plan/routes/blog", json!({ "revision": 6, "names": { "blog": [], "cron": [] } })),
            ("plan/routes/gone", json!({ "revision": 5 })),
        ]));
        let plan = loaded(&records).plan;
        let app = |name: &str| AppName::parse(name).expect("a name");
        let at = |name: &str| MachineName::parse(name).expect("a name");
        let found: Vec<(String, &MachineName)> =
            plan.endpoints().map(|endpoint| (endpoint.allocation.to_string(), endpoint.at.machine())).collect();
        assert_eq!(found, [("shop.v1.web-1".to_owned(), &at("m1")), ("shop.v1.web-2".to_owned(), &at("m2"))]);
        let names = plan.routes[&app("shop")].names.as_ref().expect("names");
        let roles: Vec<(&str, Vec<&str>)> = names
            .roles
            .iter()
            .map(|(role, at)| (role.as_str(), at.iter().map(|address| address.machine().as_str()).collect()))
            .collect();
        assert_eq!(
            roles,
            [("cron", vec!["m1"]), ("web", vec!["m1", "m2"])],
            "an unknown address is on a machine of the app"
        );
        let main = |name: &str| Some(plan.routes[&app(name)].names.as_ref()?.main.as_ref()?.to_string());
        assert_eq!((main("shop"), main("blog"), main("gone")), (Some("web".into()), Some("blog".into()), None));
    }
}
