//! A store of an earlier version of Gantry (`records/tests/store-cf11495.db`) opens, with everything that was recorded.

use std::path::Path;

use gantry_testbed::TestCluster;
use serde_json::Value;

#[test]
fn a_store_of_an_earlier_version_opens_with_its_apps() {
    let mut world = TestCluster::start_with_file();
    let _ = world.down().good();
    let data = world.path("data");
    for entry in std::fs::read_dir(data.join("server")).expect("a folder").flatten() {
        if entry.file_name().to_string_lossy().starts_with("store.db") {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
    // The earlier version kept the store in the data folder itself.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../records/tests/store-cf11495.db");
    std::fs::copy(fixture, data.join("store.db")).expect("copied");
    // The administrator's token of the fixture is lost.
    std::fs::remove_file(data.join("admin-token")).expect("removed");
    world.up();
    let ask = |words: &[&str]| -> Value { serde_json::from_str(&world.gantry(words).good().out).expect("JSON") };
    let hello = ask(&["app", "show", "hello", "--json"]);
    assert_eq!((hello["current"].as_u64(), hello["scale"]["web"].as_u64()), (Some(7), Some(2)), "{hello}");
    assert_eq!(ask(&["app", "show", "redis", "--json"])["current"].as_u64(), Some(1));
    assert_eq!(world.gantry(&["config", "get", "hello", "COLOR"]).good().out.trim(), "green");
    let releases = ask(&["releases", "hello", "--json"]);
    assert_eq!(releases.as_array().map(Vec::len), Some(8), "{releases}");
    // The next server finds the same.
    world.kill_service("server");
    world.wait("it serves again", |world| (world.gantry(&["status"]).status == 0).then_some(()));
    assert_eq!(ask(&["app", "show", "hello", "--json"])["current"].as_u64(), Some(7));
}
