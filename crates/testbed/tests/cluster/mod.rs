//! Questions of the fleet tests about an app, and the checks that hold after every fault.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use gantry_testbed::load::{PLAIN, Report};
use gantry_testbed::{Fleet, FleetLoad, Repository};
use serde_json::Value;

/// Settings of a role that serves the site.
pub(crate) const CHECKED: &str = "command: 'python3 server.py', health: { path: '/up' }";

/// Creates an app with settings of its role `web`.
pub(crate) fn create_app(fleet: &Fleet, name: &str, web: &str) -> Repository {
    let _ = fleet.gantry(&["app", "create", name]).good();
    let repository = fleet.repository(name);
    repository.write("container/roles.json", &format!("{{ web: {{ {web} }} }}"));
    repository
}

/// An app's allocations that are ready, each with its machine.
pub(crate) fn ready_copies(fleet: &Fleet, app: &str) -> BTreeMap<String, String> {
    let is_ready = |instance: &&Value| instance["phase"] == "ready" && instance["goal"] == "run";
    instances(fleet, &[app])
        .iter()
        .filter(is_ready)
        .map(|instance| (text(&instance["id"]), text(&instance["machine"])))
        .collect()
}

/// Instances that `gantry ps` lists.
fn instances(fleet: &Fleet, app: &[&str]) -> Vec<Value> {
    let listed = fleet.gantry(&[&["ps", "--json"], app].concat());
    serde_json::from_str(&listed.out).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// The server's view of a machine.
pub(crate) fn machine(fleet: &Fleet, name: &str) -> Value {
    let shown = fleet.gantry(&["machine", "show", name, "--json"]);
    serde_json::from_str(&shown.out).unwrap_or_default()
}

/// Waits until the server reports that a machine is in a state.
pub(crate) fn wait_for_state(fleet: &Fleet, name: &str, state: &str) {
    fleet.wait(&format!("{name} is {state}"), |fleet| (machine(fleet, name)["state"] == state).then_some(()));
}

/// Waits until an app has `count` ready copies, none of them on the machines.
pub(crate) fn wait_for_copies_apart_from(fleet: &Fleet, app: &str, count: usize, machines: &[&str]) {
    fleet.wait(&format!("{count} copies are ready elsewhere"), |fleet| {
        let ready = ready_copies(fleet, app);
        let apart = ready.values().filter(|machine| !machines.contains(&machine.as_str()));
        (apart.count() >= count).then_some(())
    });
}

/// Runs a case while clients ask for an app through the routers of some machines. Every request must have a good
/// response: the requests may be repeated, so a living copy can serve each of them.
pub(crate) fn under_load(fleet: &mut Fleet, app: &str, routers: &[&str], case: impl FnOnce(&mut Fleet)) {
    for (router, report) in load_during(fleet, app, routers, case) {
        assert_eq!(report.failed, 0, "{router}: {report:?}");
    }
}

/// Runs a case while clients ask for an app through the routers of some machines. Each router must go on serving. Returns
/// the report of each router's clients.
pub(crate) fn load_during<'a>(
    fleet: &mut Fleet,
    app: &str,
    routers: &[&'a str],
    case: impl FnOnce(&mut Fleet),
) -> Vec<(&'a str, Report)> {
    let loads: Vec<_> = routers.iter().map(|router| (*router, fleet.load(router, app, &PLAIN))).collect();
    case(fleet);
    let end = |(router, load): (&'a str, FleetLoad)| {
        let sent = load.sent();
        fleet.wait(&format!("{router} goes on serving"), |_| (load.sent() > sent + 20).then_some(()));
        (router, load.end())
    };
    loads.into_iter().map(end).collect()
}

/// Waits until every machine is ready, and has exactly the containers that the server reports.
pub(crate) fn wait_until_settled(fleet: &Fleet, apps: &[(&str, usize)]) {
    fleet.wait_until_ready(&fleet.names());
    fleet.wait("every machine has its containers and no others", |fleet| {
        let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for instance in instances(fleet, &[]) {
            let is_settled = instance["phase"] == "ready" && instance["goal"] == "run";
            is_settled.then_some(())?;
            expected.entry(text(&instance["machine"])).or_default().insert(text(&instance["id"]));
        }
        for (app, copies) in apps {
            (ready_copies(fleet, app).len() == *copies).then_some(())?;
        }
        let all = fleet.names();
        all.iter().all(|name| containers(fleet, name) == expected.remove(name).unwrap_or_default()).then_some(())
    });
}

/// Names of the container folders of a machine.
fn containers(fleet: &Fleet, machine: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(fleet.path(machine, "data/containers")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Changes that the server has acknowledged. The test asks for all of them in the end.
#[derive(Default)]
pub(crate) struct Acknowledged(Vec<String>);

impl Acknowledged {
    /// Makes a change; the server must take it.
    pub(crate) fn change(&mut self, fleet: &Fleet, name: &str) {
        let _ = fleet.gantry(&["token", "create", name, "--read"]).good();
        self.0.push(name.to_owned());
    }

    /// Fails if one of the changes is gone.
    pub(crate) fn check(&self, fleet: &Fleet) {
        let listed = fleet.gantry(&["token", "ls", "--json"]).good().out;
        let listed: Vec<Value> = serde_json::from_str(&listed).expect("JSON");
        let there: Vec<String> = listed.iter().map(|token| text(&token["name"])).collect();
        let lost: Vec<&String> = self.0.iter().filter(|name| !there.contains(name)).collect();
        assert!(lost.is_empty(), "acknowledged changes are lost: {lost:?}");
    }
}
