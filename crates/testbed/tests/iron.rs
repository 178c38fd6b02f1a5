//! The published clients of IronWorker and IronMQ, unmodified but for host, port and token.

use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_testbed::{World, run};

/// The clients, as they are on PyPI.
const CLIENTS: [&str; 3] = ["iron-worker==1.3.8", "iron-mq==0.9", "iron-core==1.2.1"];

const ROLES: &str = r#"{
    greet: { instances: 0, command: "echo to the log >&2; sed -E 's/.*\"name\": \"([^\"]*)\".*/hello \\1/' $PAYLOAD_FILE" },
    slow: { instances: 0, command: 'sleep 100' },
}"#;

/// An environment with the clients, which is made once.
fn clients() -> PathBuf {
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
fn world() -> World {
    let world = World::start(&[]);
    let _ = world.gantry(&["app", "create", "shop"]).good();
    world
}

/// Runs a script with the clients.
fn script(world: &World, name: &str) {
    let mut client = Command::new(clients());
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/iron").join(name));
    client.env("CLOUD", format!("http://127.0.0.1:{}", world.api_port())).env("TOKEN", world.token());
    let said = run(client);
    assert!(said.status == 0 && said.out.ends_with("all is well\n"), "{}", said.all());
}

#[test]
fn the_published_worker_client_runs_unmodified() {
    let world = world();
    let shop = world.repository("shop", None);
    shop.write("container/roles.json", ROLES);
    shop.commit("one");
    let _ = shop.push().good();
    // The stack of the uploaded code.
    let archive = std::env::var("GANTRY_TEST_BASE").expect("a base");
    let _ = world.gantry(&["base", "import", "python", &archive]).good();
    script(&world, "worker.py");
}

#[test]
fn the_published_message_client_runs_unmodified() {
    script(&world(), "messages.py");
}
