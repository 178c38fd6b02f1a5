//! The published clients of IronWorker and IronMQ, unmodified but for host, port and token.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gantry_testbed::{TestCluster, run};

/// The clients, as they are on PyPI.
const CLIENTS: [&str; 3] = ["iron-worker==1.3.8", "iron-mq==0.9", "iron-core==1.2.1"];

const ROLES: &str = r#"{
    greet: { instances: 0, command: "echo to the log >&2; sed -E 's/.*\"name\": \"([^\"]*)\".*/hello \\1/' $PAYLOAD_FILE" },
    slow: { instances: 0, command: 'sleep 100' },
}"#;

/// An environment with the clients, which is made once: the tests run at the same time.
fn clients() -> &'static Path {
    static CLIENTS_MADE: OnceLock<PathBuf> = OnceLock::new();
    CLIENTS_MADE.get_or_init(make_clients)
}

fn make_clients() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("iron-clients");
    let python = folder.join("bin/python");
    if !python.exists() {
        let making = folder.with_extension("new");
        let _ = std::fs::remove_dir_all(&making);
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&making);
        let _ = run(make).good();
        let mut install = Command::new(making.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(CLIENTS);
        let _ = run(install).good();
        std::fs::rename(&making, &folder).expect("renamed");
    }
    python
}

/// A cluster with the app `shop`.
fn cluster() -> TestCluster {
    let cluster = TestCluster::start(&[]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    cluster
}

/// Runs a script with the clients.
fn script(cluster: &TestCluster, name: &str) {
    let mut client = Command::new(clients());
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/iron").join(name));
    client.env("CLOUD", format!("http://127.0.0.1:{}", cluster.api_port())).env("TOKEN", cluster.token());
    // The scripts share a module, and leave no compiled copy of it beside them.
    client.env("PYTHONDONTWRITEBYTECODE", "1");
    let said = run(client);
    assert!(said.status == 0 && said.out.ends_with("all is well\n"), "{}", said.all());
}

#[test]
fn the_published_worker_client_runs_unmodified() {
    let cluster = cluster();
    let shop = cluster.repository("shop", None);
    shop.write("container/roles.json", ROLES);
    shop.commit("one");
    let _ = shop.push().good();
    // The stack of the uploaded code.
    let archive = std::env::var("GANTRY_TEST_BASE").expect("a base");
    let _ = cluster.gantry(&["base", "import", "python", &archive]).good();
    script(&cluster, "worker.py");
}

#[test]
fn a_pushed_message_goes_into_another_queue_and_becomes_a_task() {
    let cluster = cluster();
    let shop = cluster.repository("shop", None);
    shop.write("container/roles.json", ROLES);
    shop.commit("one");
    let _ = shop.push().good();
    script(&cluster, "forwards.py");
}

#[test]
fn the_published_message_client_runs_unmodified() {
    script(&cluster(), "messages.py");
}

#[test]
fn the_published_message_client_pushes_to_receivers_of_all_kinds() {
    let cluster = cluster();
    let _ = cluster.gantry(&["cluster", "policy", "set", "callback-private-addresses=127.0.0.0/8"]).good();
    script(&cluster, "pushes.py");
}
