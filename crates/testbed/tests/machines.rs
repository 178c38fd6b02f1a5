//! Machines: what `gantry machine` shows, and two machines that have one name.

use gantry_testbed::TestCluster;
use serde_json::Value;

fn machine(world: &TestCluster) -> Value {
    let listed = world.gantry(&["machine", "ls", "--json"]).good();
    let machines: Vec<Value> = serde_json::from_str(&listed.out).expect("JSON");
    let name = machines[0]["name"].as_str().expect("a name");
    let shown = world.gantry(&["machine", "show", name, "--json"]).good();
    serde_json::from_str(&shown.out).expect("JSON")
}

/// A new store runs no migration, and a first start warns of nothing.
fn logs_a_clean_first_start(world: &TestCluster) {
    let log = world.log();
    assert!(log.contains("created the records of a new store") && !log.contains("migrated"), "{log}");
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warnings, Vec::<&str>::new());
}

/// A drain of the only machine moves nothing, and says so.
fn a_drain_of_the_only_machine_names_the_remedy(world: &TestCluster, name: &str) {
    let drained = world.gantry(&["machine", "drain", name]).good();
    assert!(drained.out.contains("draining"), "{drained:?}");
    for part in ["the cloud has no other machine", "It has no copies", &format!("`gantry machine uncordon {name}`")] {
        assert!(drained.err.contains(part), "{drained:?}");
    }
    let _ = world.gantry(&["machine", "uncordon", name]).good();
}

#[test]
fn a_machine_keeps_its_id_and_another_one_gets_its_name_only_when_it_is_lost() {
    let world = TestCluster::start(&[]);
    world.wait("the machine is ready", |world| world.gantry(&["machine", "ls"]).out.contains("ready").then_some(()));
    let first = machine(&world);
    assert_eq!((&first["state"], &first["instances"]), (&Value::from("ready"), &Value::from(0)));
    assert!(first["memory"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{first}");
    logs_a_clean_first_start(&world);
    a_drain_of_the_only_machine_names_the_remedy(&world, first["name"].as_str().expect("a name"));
    let unknown = world.gantry(&["machine", "show", "ghost"]);
    assert!(unknown.err.contains("there is no machine ghost"), "{unknown:?}");

    // A restarted agent is the same machine.
    let kill_agent = || {
        let pid = world.service_pid("agent");
        world.kill_service("agent");
        world.wait("it is back", |world| world.service_pid("agent").filter(|now| Some(*now) != pid).map(drop));
    };
    kill_agent();
    world.wait("it reports again", |world| (machine(world)["seen"].as_u64() > first["seen"].as_u64()).then_some(()));
    assert_eq!(machine(&world)["id"], first["id"]);

    // An agent with another id is another machine. The first one was heard a moment ago.
    std::fs::remove_file(world.path("data/machine-id")).expect("removed");
    kill_agent();
    world.wait("it is refused", |world| world.log().contains("belongs to machine").then_some(()));
    assert_eq!(machine(&world)["id"], first["id"]);
    world.wait("it has the name", |world| (machine(world)["id"] != first["id"]).then_some(()));
    let events = world.gantry(&["events"]).out;
    let id = |text: &Value| text.as_str().expect("an id")[..8].to_owned();
    assert!(events.contains(&format!("took the place of {}", id(&first["id"]))), "{events}");
    world.wait("it is ready", |world| (machine(world)["state"] == "ready").then_some(()));
}
