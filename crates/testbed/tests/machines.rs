//! Machines: what `gantry machine` shows, and two machines that have one name.

use gantry_testbed::TestCluster;
use serde_json::Value;

fn machine(cluster: &TestCluster) -> Value {
    let listed = cluster.gantry(&["machine", "ls", "--json"]).good();
    let machines: Vec<Value> = serde_json::from_str(&listed.out).expect("JSON");
    let name = machines[0]["name"].as_str().expect("a name");
    let shown = cluster.gantry(&["machine", "show", name, "--json"]).good();
    serde_json::from_str(&shown.out).expect("JSON")
}

/// A new store runs no migration, and a first start warns of nothing.
fn logs_a_clean_first_start(cluster: &TestCluster) {
    let log = cluster.log();
    assert!(log.contains("created the records of a new store") && !log.contains("migrated"), "{log}");
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warnings, Vec::<&str>::new());
}

/// A drain of the only machine moves nothing, and says so.
fn a_drain_of_the_only_machine_names_the_remedy(cluster: &TestCluster, name: &str) {
    let drained = cluster.gantry(&["machine", "drain", name]).good();
    assert!(drained.out.contains("draining"), "{drained:?}");
    for part in ["the cloud has no other machine", "It has no copies", &format!("`gantry machine uncordon {name}`")] {
        assert!(drained.err.contains(part), "{drained:?}");
    }
    let _ = cluster.gantry(&["machine", "uncordon", name]).good();
}

#[test]
fn a_machine_keeps_its_id_and_another_one_gets_its_name_only_when_it_is_lost() {
    let cluster = TestCluster::start(&[]);
    cluster
        .wait("the machine is ready", |cluster| cluster.gantry(&["machine", "ls"]).out.contains("ready").then_some(()));
    let first = machine(&cluster);
    assert_eq!((&first["state"], &first["instances"]), (&Value::from("ready"), &Value::from(0)));
    assert!(first["memory"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{first}");
    logs_a_clean_first_start(&cluster);
    a_drain_of_the_only_machine_names_the_remedy(&cluster, first["name"].as_str().expect("a name"));
    let unknown = cluster.gantry(&["machine", "show", "ghost"]);
    assert!(unknown.err.contains("there is no machine ghost"), "{unknown:?}");

    // A restarted agent is the same machine.
    let kill_agent = || {
        let pid = cluster.service_pid("agent");
        cluster.kill_service("agent");
        cluster.wait("it is back", |cluster| cluster.service_pid("agent").filter(|now| Some(*now) != pid).map(drop));
    };
    kill_agent();
    cluster
        .wait("it reports again", |cluster| (machine(cluster)["seen"].as_u64() > first["seen"].as_u64()).then_some(()));
    assert_eq!(machine(&cluster)["id"], first["id"]);

    // An agent with another id is another machine. The first one was heard a moment ago.
    std::fs::remove_file(cluster.path("data/machine-id")).expect("removed");
    kill_agent();
    cluster.wait("it is refused", |cluster| cluster.log().contains("belongs to machine").then_some(()));
    assert_eq!(machine(&cluster)["id"], first["id"]);
    cluster.wait("it has the name", |cluster| (machine(cluster)["id"] != first["id"]).then_some(()));
    let events = cluster.gantry(&["events"]).out;
    let id = |text: &Value| text.as_str().expect("an id")[..8].to_owned();
    assert!(events.contains(&format!("took the place of {}", id(&first["id"]))), "{events}");
    cluster.wait("it is ready", |cluster| (machine(cluster)["state"] == "ready").then_some(()));
}
