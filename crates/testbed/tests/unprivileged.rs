//! A server without root: it serves the whole product, starts no container, and has no capability. Agent and router run
//! beside it as root.

mod site;

use gantry_testbed::World;
use site::{page, push_site, site};

/// A user id that no other test and no system uses.
const USER: u32 = 54_321;

/// Fields of `/proc/<pid>/status`.
fn field(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a field").trim().to_owned()
}

#[test]
fn a_server_without_root_builds_deploys_and_tells() {
    let world = World::start_apart(USER);
    let server = world.apart()[0];
    let repository = site(&world, "shop", 1);
    repository.compile_with("id -u > /app/made; echo kept >> /cache/made; cat /cache/made");
    push_site(&repository, "one");
    assert!(page(&world, "shop").starts_with("one"));
    push_site(&repository, "two");
    assert!(page(&world, "shop").starts_with("two"));
    let ran = world.gantry(&["run", "shop", "--", "cat", "made"]).good().out;
    assert_eq!(ran.trim(), "1000", "the compile step ran as the app's user");

    // The server's process has no right of root's, at any time of its life: capabilities cannot be gained.
    assert_eq!(field(server, "Uid").split_whitespace().collect::<Vec<_>>(), [USER.to_string().as_str(); 4]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(server, set), "0".repeat(16), "{set}");
    }

    // The agent tells the server what the server cannot see.
    let status: serde_json::Value =
        serde_json::from_str(&world.gantry(&["status", "--json"]).good().out).expect("JSON");
    for kind in ["blobs", "store", "git", "layers", "containers", "caches"] {
        assert!(status["space"][kind].as_u64().is_some_and(|bytes| bytes > 0), "{kind}: {status}");
    }
    // Nothing of a container, a layer or a cache is in the server's folder.
    let own: Vec<String> = std::fs::read_dir(world.path("server-data"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    for name in ["containers", "layers", "images", "caches", "times", "volumes", "init"] {
        assert!(!own.iter().any(|entry| entry == name), "{own:?}");
    }
    let _ = world.gantry(&["app", "destroy", "shop", "--confirm", "shop"]).good();
}
