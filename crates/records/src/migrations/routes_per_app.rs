//! From version 1 to version 2: routes of each app.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{ROUTES, key, put};
use crate::RecordError;
use crate::schema::{RawChange, RawRecords, StepChanges};

/// Key of the routing table in version 1.
const TABLE: &str = "plan/table";

/// The routing table of the cluster becomes routes of each app. The routes keep the table's
/// generation as their revision, so what routers have acknowledged stays acknowledged.
pub(crate) fn routes_per_app(records: &RawRecords) -> Result<StepChanges, RecordError> {
    let table: Map<String, Value> = match records.get(TABLE) {
        Some(value) => serde_json::from_slice(value).map_err(|error| RecordError::new(TABLE, error))?,
        None => Map::new(),
    };
    let part = |name: &str| table.get(name).and_then(Value::as_object).into_iter().flatten();
    let generation = table.get("generation").cloned().unwrap_or_else(|| json!(0));
    let mut apps: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for kind in ["routes", "closed"] {
        for (host, route) in part(kind) {
            let Some(app) = route.get("app").and_then(Value::as_str) else {
                return Err(RecordError::new(TABLE, format!("the route of {host} names no app")));
            };
            let routes = apps.entry(app.to_owned()).or_default().entry(kind).or_insert_with(|| json!({}));
            if let Some(routes) = routes.as_object_mut() {
                routes.insert(host.clone(), route.clone());
            }
        }
    }
    for (app, names) in part("names") {
        apps.entry(app.clone()).or_default().insert("names".to_owned(), names.clone());
    }
    let mut preparation = Vec::new();
    for (app, mut routes) in apps {
        routes.insert("revision".to_owned(), generation.clone());
        preparation.push(put(format!("{ROUTES}{app}"), &Value::Object(routes))?);
    }
    // An interrupted migration may have left routes of an app that is gone by now.
    let kept: BTreeSet<&str> = preparation.iter().map(key).collect();
    let stale = records.keys().filter(|key| key.starts_with(ROUTES) && !kept.contains(key.as_str()));
    let stale: Vec<RawChange> = stale.map(|key| RawChange::Remove(key.clone())).collect();
    preparation.extend(stale);
    let mut head = json!({ "revision": generation });
    if let Some(proxies) = table.get("trusted_proxies") {
        head["trusted_proxies"] = proxies.clone();
    }
    let switch = vec![put("plan/routing".to_owned(), &head)?, RawChange::Remove(TABLE.to_owned())];
    Ok((preparation, switch))
}

#[cfg(test)]
mod tests {
    use gantry_model::{AppName, Generation};

    use super::super::tests::{loaded, migrated, raw};
    use super::*;
    use crate::schema;

    fn table() -> Value {
        let route = |app: &str, index: u32| {
            json!({ "app": app, "release": 1, "endpoints":
                [{ "instance": format!("{app}.v1.web-{index}"), "address": "10.83.0.2", "port": 8080 }] })
        };
        json!({
            "generation": 7,
            "routes": { "shop.localhost": route("shop", 1), "shop.example": route("shop", 1), "blog.localhost": route("blog", 1) },
            "closed": { "empty.localhost": { "app": "empty", "reason": "no_release" } },
            "names": { "shop": { "web": ["10.83.0.2"] }, "blog": { "web": ["10.83.0.2"] }, "worker": {} },
            "trusted_proxies": ["10.0.0.0/8"],
        })
    }

    #[test]
    fn splits_the_table_by_app_and_keeps_its_generation() {
        let records = migrated(raw(&[("plan/table", table())]));
        assert!(!records.contains_key("plan/table"));
        let plan = loaded(&records).plan;
        let hosts: Vec<(&str, usize, usize, bool)> = plan
            .routes
            .iter()
            .map(|(app, routes)| (app.as_str(), routes.routes.len(), routes.closed.len(), routes.names.is_some()))
            .collect();
        assert_eq!(hosts, [("blog", 1, 0, true), ("empty", 0, 1, false), ("shop", 2, 0, true), ("worker", 0, 0, true)]);
        assert!(plan.routes.values().all(|routes| routes.revision == Generation(7)));
        assert_eq!((plan.routing.revision, plan.routing.trusted_proxies.len()), (Generation(7), 1));
    }

    #[test]
    fn a_repeated_migration_removes_routes_of_apps_that_are_gone() {
        let shop = AppName::parse("shop").expect("a name");
        let left = json!({ "revision": 3, "names": {} });
        let records =
            migrated(raw(&[("plan/table", table()), ("plan/routes/gone", left.clone()), ("plan/routes/shop", left)]));
        let plan = loaded(&records).plan;
        assert_eq!((plan.routes.len(), plan.routes[&shop].routes.len()), (4, 2));
    }

    #[test]
    fn a_store_without_a_table_gets_no_routes() {
        let plan = loaded(&migrated(RawRecords::new())).plan;
        assert_eq!((plan.routes.len(), plan.routing.revision), (0, Generation(0)));
    }

    #[test]
    fn names_a_route_without_an_app() {
        let error = schema::next_migration(&raw(&[("plan/table", json!({ "routes": { "x.localhost": {} } }))]));
        let text = error.expect_err("refused").to_string();
        assert!(text.contains("plan/table") && text.contains("x.localhost"), "{text}");
    }
}
