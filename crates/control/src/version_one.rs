//! Translation between this program and one that speaks version 1 of the protocol.
//!
//! | this program | version 1 |
//! |---|---|
//! | `shop.v12.web-1.2`, the second placement of a slot | `shop.v12.web-1000001`, a slot of its own |
//! | a spec that names its configuration | a spec with the values |
//! | an endpoint with its allocation and machine | an endpoint with an instance, on the router's machine |
//! | addresses behind a name, each with its machine, and the role of the app's own name | addresses alone |
//!
//! Programs of version 1 know one machine: endpoints and addresses of other machines are left out.

use gantry_model::{AllocationId, MachineName, Slot};
use serde_json::{Map, Value, json};

use crate::update::{Items, Update};
use crate::version::ProtocolVersion;

/// Distance between the indexes of two placements of a slot.
const STRIDE: u32 = 1_000_000;

/// Kinds of keys that name an allocation.
const KEYS: [&str; 3] = ["allocation", "instance", "active"];

/// Reports whether the updates of a connection with this version are translated.
#[must_use]
pub fn is_translated(version: ProtocolVersion) -> bool {
    version == ProtocolVersion(1)
}

/// Translates an update before it goes out on a connection with the agreed `version`. The peers of a server of version 1
/// are on the machine `here`.
pub fn translate_sent(version: ProtocolVersion, update: &mut Update, here: &MachineName) {
    if is_translated(version) {
        downgrade(update, here);
    }
}

/// Translates an update that came in on a connection with the agreed `version`.
pub fn translate_received(version: ProtocolVersion, update: &mut Update, here: &MachineName) {
    if is_translated(version) {
        upgrade(update, here);
    }
}

/// Translates an update for a peer on the machine `here`.
pub fn downgrade(update: &mut Update, here: &MachineName) {
    let (configs, other) = std::mem::take(&mut update.set).into_iter().partition(|(key, _)| key.starts_with("config/"));
    let configs: Items = configs;
    update.set = other;
    let from = |kind: &str, _: &str, item| match kind {
        "spec" => with_config(item, &configs),
        "route" => with_endpoints(item, |endpoint| endpoint_before(endpoint, here)),
        "names" => names_before(item, here),
        "failures" => with_instances(item, older),
        _ => item,
    };
    translate(update, older, from);
}

/// Translates an update from a peer. The machine `here` is the only one that the peer's program knows.
pub fn upgrade(update: &mut Update, here: &MachineName) {
    let from = |kind: &str, name: &str, item| match kind {
        "route" => with_endpoints(item, |endpoint| Some(endpoint_since(endpoint, here))),
        "names" => names_since(name, item, here),
        "failures" => with_instances(item, newer),
        _ => item,
    };
    translate(update, newer, from);
}

/// Translates a routing table that a router of version 1 may have written.
#[must_use]
pub fn upgrade_table(mut table: Value, here: &MachineName) -> Value {
    let mut each = |part: &str, translate: &dyn Fn(&str, Value) -> Value| {
        for (name, item) in table.get_mut(part).and_then(Value::as_object_mut).into_iter().flatten() {
            *item = translate(name, item.take());
        }
    };
    each("routes", &|_, route| with_endpoints(route, |endpoint| Some(endpoint_since(endpoint, here))));
    each("names", &|app, names| names_since(app, names, here));
    table
}

type Renaming = fn(AllocationId) -> Option<AllocationId>;

fn older(id: AllocationId) -> Option<AllocationId> {
    let Slot { app, release, role, index } = id.slot;
    let index = index.checked_add(STRIDE.checked_mul(id.number.checked_sub(1)?)?).filter(|_| index < STRIDE)?;
    Some(Slot { app, release, role, index }.numbered(1))
}

/// Leaves a name of this version as it is.
fn newer(id: AllocationId) -> Option<AllocationId> {
    if id.number > 1 {
        return None;
    }
    let Slot { app, release, role, index } = id.slot;
    Some(Slot { app, release, role, index: index % STRIDE }.numbered(index / STRIDE + 1))
}

/// Translates the keys of an update with `to`, and its items with `item`.
fn translate(update: &mut Update, to: Renaming, item: impl Fn(&str, &str, Value) -> Value) {
    let entry = |(key, value): (String, Value)| {
        let (kind, name) = key.split_once('/').unwrap_or((&key, ""));
        let value = item(kind, name, value);
        (renamed_key(key, to), value)
    };
    update.set = std::mem::take(&mut update.set).into_iter().map(entry).collect();
    update.removed = std::mem::take(&mut update.removed).into_iter().map(|key| renamed_key(key, to)).collect();
}

/// A name without a counterpart stays: the reader reports the item as unreadable.
fn renamed_key(key: String, to: Renaming) -> String {
    let parts = key.split_once('/').filter(|(kind, _)| KEYS.contains(kind));
    parts.and_then(|(kind, name)| Some(format!("{kind}/{}", renamed(name, to)?))).unwrap_or(key)
}

fn renamed(text: &str, to: Renaming) -> Option<String> {
    AllocationId::parse(text).and_then(to).map(|id| id.to_string())
}

/// Puts the values of its configuration into a spec.
fn with_config(mut spec: Value, configs: &Items) -> Value {
    let digest = spec["config"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    if let Some(values) = digest.and_then(|digest| configs.get(&format!("config/{digest}"))) {
        spec["config"] = values.clone();
    }
    spec
}

/// Translates the endpoints of a route.
fn with_endpoints(mut route: Value, endpoint: impl Fn(Map<String, Value>) -> Option<Map<String, Value>>) -> Value {
    if let Some(endpoints) = route.get_mut("endpoints").and_then(Value::as_array_mut) {
        *endpoints = std::mem::take(endpoints)
            .into_iter()
            .filter_map(|item| match item {
                Value::Object(fields) => endpoint(fields).map(Value::Object),
                other => Some(other),
            })
            .collect();
    }
    route
}

fn endpoint_before(mut fields: Map<String, Value>, here: &MachineName) -> Option<Map<String, Value>> {
    fields.remove("machine").filter(|machine| machine.as_str() == Some(here.as_str()))?;
    rename_field(&mut fields, "allocation", "instance", older);
    Some(fields)
}

/// Leaves an endpoint of this version as it is.
fn endpoint_since(mut fields: Map<String, Value>, here: &MachineName) -> Map<String, Value> {
    if fields.contains_key("instance") {
        rename_field(&mut fields, "instance", "allocation", newer);
        fields.insert("machine".to_owned(), json!(here));
    }
    fields
}

fn rename_field(fields: &mut Map<String, Value>, from: &str, to: &str, renaming: Renaming) {
    if let Some(value) = fields.remove(from) {
        let id = value.as_str().and_then(|text| renamed(text, renaming));
        fields.insert(to.to_owned(), id.map_or(value, Value::String));
    }
}

/// Translates the instances of an app's failures, by kind of failure.
fn with_instances(mut failures: Value, to: Renaming) -> Value {
    for (_, run) in failures.as_object_mut().into_iter().flatten() {
        if let Some(run) = run.as_object_mut() {
            rename_field(run, "instance", "instance", to);
        }
    }
    failures
}

fn names_before(names: Value, here: &MachineName) -> Value {
    let address = |at: &Value| (at["machine"] == json!(here)).then(|| at["address"].clone());
    let addresses = |at: &Value| at.as_array().into_iter().flatten().filter_map(address).collect::<Vec<_>>();
    let roles = names["roles"].as_object().into_iter().flatten();
    roles.map(|(role, at)| (role.clone(), json!(addresses(at)))).collect()
}

/// In version 1, the app's own name leads to its web role, or else to the role with the app's name. Leaves names of this
/// version as they are.
fn names_since(app: &str, names: Value, here: &MachineName) -> Value {
    let Value::Object(roles) = names else { return names };
    if roles.get("roles").is_some_and(Value::is_object) {
        return Value::Object(roles);
    }
    let main = ["web", app].into_iter().find(|role| roles.contains_key(*role));
    let at = |address: &Value| json!({ "machine": here, "address": address });
    let located = |at_role: &Value| at_role.as_array().into_iter().flatten().map(at).collect::<Vec<_>>();
    let roles: Value = roles.iter().map(|(role, addresses)| (role.clone(), json!(located(addresses)))).collect();
    json!({ "main": main, "roles": roles })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> MachineName {
        MachineName::parse("m").expect("a name")
    }

    /// An update with the name of a second placement.
    fn update(second: &str, route: Value, names: Value) -> Update {
        let set = Items::from([
            ("allocation/shop.v1.web-1".to_owned(), json!({"goal": {"kind": "run"}})),
            (format!("instance/{second}"), json!({"phase": "ready"})),
            ("route/shop.example".to_owned(), json!({"app": "shop", "endpoints": route})),
            ("names/shop".to_owned(), names),
            ("failures/shop".to_owned(), json!({"broken": {"count": 1, "instance": second}})),
        ]);
        Update { base: Some(3), revision: 4, set, removed: vec![format!("active/{second}")] }
    }

    fn new() -> Update {
        let endpoint = |id: &str| json!({"allocation": id, "machine": "m", "address": "10.0.0.2", "port": 80});
        let names = json!({"main": "web", "roles": {"web": [{"machine": "m", "address": "10.0.0.2"}], "cron": []}});
        update("shop.v1.web-2.3", json!([endpoint("shop.v1.web-1"), endpoint("shop.v1.web-2.3")]), names)
    }

    fn old() -> Update {
        let endpoint = |id: &str| json!({"instance": id, "address": "10.0.0.2", "port": 80});
        let route = json!([endpoint("shop.v1.web-1"), endpoint("shop.v1.web-2000002")]);
        update("shop.v1.web-2000002", route, json!({"web": ["10.0.0.2"], "cron": []}))
    }

    #[test]
    fn translates_both_ways() {
        let mut update = new();
        downgrade(&mut update, &here());
        assert_eq!(update, old());
        upgrade(&mut update, &here());
        assert_eq!(update, new());
        upgrade(&mut update, &here());
        assert_eq!(update, new(), "what is new already stays");
    }

    #[test]
    fn puts_configurations_into_specs() {
        let set = Items::from([
            ("config/ab".to_owned(), json!({"COLOR": "blue"})),
            ("spec/cd".to_owned(), json!({"config": "sha256:ab", "once": false})),
        ]);
        let mut update = Update { set, ..Update::default() };
        downgrade(&mut update, &here());
        let spec = json!({"config": {"COLOR": "blue"}, "once": false});
        assert_eq!(update.set, Items::from([("spec/cd".to_owned(), spec)]));
    }

    #[test]
    fn leaves_out_addresses_of_other_machines() {
        let mut update = new();
        downgrade(&mut update, &MachineName::parse("other").expect("a name"));
        assert_eq!(update.set["route/shop.example"]["endpoints"], json!([]));
        assert_eq!(update.set["names/shop"], json!({"web": [], "cron": []}));
    }

    #[test]
    fn an_apps_own_name_leads_to_one_role() {
        for (roles, main) in [
            (json!({"web": [], "shop": []}), json!("web")),
            (json!({"shop": []}), json!("shop")),
            (json!({"cron": []}), json!(null)),
        ] {
            assert_eq!(names_since("shop", roles.clone(), &here())["main"], main, "{roles}");
        }
    }

    #[test]
    fn keeps_items_without_a_version_one_form() {
        let item = |id: &str| Items::from([(format!("instance/{id}"), json!({})), ("plan".to_owned(), json!(4))]);
        let mut update = Update { set: item("shop.v1.web-2.4294967295"), ..Update::default() };
        downgrade(&mut update, &here());
        assert_eq!(update.set, item("shop.v1.web-2.4294967295"));
        // Settings of an app are no names, and an item of another form is the reader's to refuse.
        let odd = Items::from([
            ("spec/ab".to_owned(), json!({"config": {"instance": "shop.v1.web-1.2"}})),
            ("route/x".to_owned(), json!({"endpoints": [7]})),
        ]);
        let mut update = Update { set: odd.clone(), ..Update::default() };
        downgrade(&mut update, &here());
        assert_eq!(update.set, odd);
    }
}
