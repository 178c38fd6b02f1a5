//! A store of an earlier version of Gantry (`records/tests/store-cf11495.db`) opens, with everything that was recorded. Apps
//! of the earlier program run on under the present one.

use std::collections::BTreeSet;
use std::path::Path;

use gantry_testbed::TestCluster;
use serde_json::Value;

#[test]
fn a_store_of_an_earlier_version_opens_with_its_apps() {
    let mut cluster = TestCluster::start_with_file();
    let _ = cluster.down().good();
    let data = cluster.path("data");
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
    cluster.up();
    let ask = |words: &[&str]| -> Value { serde_json::from_str(&cluster.gantry(words).good().out).expect("JSON") };
    let hello = ask(&["app", "show", "hello", "--json"]);
    assert_eq!((hello["current"].as_u64(), hello["scale"]["web"].as_u64()), (Some(7), Some(2)), "{hello}");
    assert_eq!(ask(&["app", "show", "redis", "--json"])["current"].as_u64(), Some(1));
    assert_eq!(cluster.gantry(&["config", "get", "hello", "COLOR"]).good().out.trim(), "green");
    let releases = ask(&["releases", "hello", "--json"]);
    assert_eq!(releases.as_array().map(Vec::len), Some(8), "{releases}");
    // The next server finds the same.
    cluster.kill_service("server");
    cluster.wait("it serves again", |cluster| (cluster.gantry(&["status"]).status == 0).then_some(()));
    assert_eq!(ask(&["app", "show", "hello", "--json"])["current"].as_u64(), Some(7));
}

/// A site whose page names the process: each process chooses a name at its start.
const NAMED: &str = r#"
import http.server, os, uuid
NAME = uuid.uuid4().hex.encode()
class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(NAME)))
        self.end_headers()
        self.wfile.write(NAME)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Site).serve_forever()
"#;

/// The containers by name, each with the id and the start time of its first process, in ticks since the boot.
fn processes(cluster: &TestCluster) -> Vec<(String, u32, String)> {
    let started = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program, in brackets, may contain spaces. The start time is field 22, and the state field 3.
        text.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(19)).unwrap_or("gone").to_owned()
    };
    cluster.containers().into_iter().map(|(name, pid)| (name, pid, started(pid))).collect()
}

/// The names of the two processes that answer the site's requests.
fn pages(cluster: &TestCluster) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    cluster.wait("both copies have answered", |cluster| {
        let page = cluster.curl("named.localhost", &["--fail"]);
        names.extend((page.status == 0).then_some(page.out));
        (names.len() == 2).then(|| names.clone())
    })
}

/// Waits until all copies of the site are ready, and none was restarted.
fn wait_until_ready(cluster: &TestCluster) {
    cluster.wait("every copy is ready", |cluster| {
        let listed: Value = serde_json::from_str(&cluster.gantry(&["ps", "named", "--json"]).out).ok()?;
        let is_ready = |copy: &Value| copy["phase"] == "ready" && copy["goal"] == "run" && copy["restarts"] == 0;
        listed.as_array().is_some_and(|all| all.len() == 3 && all.iter().all(is_ready)).then_some(())
    });
}

/// `GANTRY_TEST_PEER` names the program of commit cf11495, which `tools/peer-program` builds.
#[test]
fn apps_of_an_earlier_program_run_on_without_a_restart() {
    let Some(peer) = std::env::var_os("GANTRY_TEST_PEER") else { return };
    let mut cluster = TestCluster::start_earlier(Path::new(&peer));
    let _ = cluster.gantry(&["app", "create", "named"]).good();
    let repository = cluster.repository("named", None);
    repository.write("server.py", NAMED);
    let web = "web: { command: 'python3 server.py', instances: 2, health: { path: '/up' } }";
    repository.write("container/roles.json", &format!("{{ {web}, worker: {{ command: 'sleep 100000' }} }}"));
    repository.commit("one");
    let _ = repository.push().good();
    let _ = cluster.gantry(&["config", "set", "named", "COLOR=green"]).good();
    let before = cluster.wait("only containers of the second release are left", |cluster| {
        let found = processes(cluster);
        (found.len() == 3 && found.iter().all(|(name, _, _)| name.starts_with("named.v2."))).then_some(found)
    });
    let answered = pages(&cluster);

    cluster.upgrade();
    wait_until_ready(&cluster);
    assert_eq!(processes(&cluster), before);
    assert_eq!(pages(&cluster), answered);
    let shown = cluster.gantry(&["app", "show", "named", "--json"]).good().out;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["current"], 2, "{shown}");
    // The next agent and the next server leave the containers alone as well.
    for service in ["agent", "server"] {
        let killed = cluster.service_pid(service);
        cluster.kill_service(service);
        cluster.wait("another process serves", |cluster| {
            cluster.service_pid(service).filter(|pid| Some(*pid) != killed && cluster.gantry(&["status"]).status == 0)
        });
        wait_until_ready(&cluster);
    }
    assert_eq!(processes(&cluster), before);
    assert_eq!(pages(&cluster), answered);
    // A new release of the present program replaces the containers.
    let _ = cluster.gantry(&["config", "set", "named", "COLOR=blue"]).good();
    assert!(pages(&cluster).is_disjoint(&answered));
    assert_eq!(cluster.gantry(&["config", "get", "named", "COLOR"]).good().out, "blue\n");
}
