//! Services, keys and locks for applications: from real containers, with two apps, and while processes are killed.

use std::time::{Duration, Instant};

use gantry_testbed::{Etcd, Output, TestCluster};
use serde_json::Value;

/// A client in a container: `api.py METHOD PATH [BODY]` prints the status and the body.
const API: &str = r#"
import os, sys, urllib.request, urllib.error
method, path, body = sys.argv[1], sys.argv[2], (sys.argv[3].encode() if len(sys.argv) > 3 else None)
request = urllib.request.Request(os.environ["GANTRY_API"] + path, method=method, data=body)
try:
    answer = urllib.request.urlopen(request, timeout=60)
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"#;

/// A resource that checks fencing tokens: it refuses a write with a token below the highest one.
const RESOURCE: &str = r#"
import http.server, os
class Resource(http.server.BaseHTTPRequestHandler):
    highest = 0
    def do_POST(self):
        token = int(self.headers["Token"])
        stale = token < Resource.highest
        Resource.highest = max(Resource.highest, token)
        print("refused" if stale else "took", token, self.headers["Who"], flush=True)
        self.send_response(409 if stale else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Resource).serve_forever()
"#;

/// A copy that holds the lock for a while, writes, and releases it, for ever. It renews before each write, and goes on
/// to the next round when anything fails.
const WORKER: &str = r#"
import json, os, time, urllib.request
def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["GANTRY_API"] + path, method=method, data=data)
    return json.load(urllib.request.urlopen(request, timeout=60))
def write(token):
    head = {"Token": str(token), "Who": os.environ["GANTRY_INSTANCE"]}
    url = "http://resource.shop.gantry.internal:" + os.environ["RESOURCE_PORT"]
    urllib.request.urlopen(urllib.request.Request(url, method="POST", headers=head), timeout=5)
while True:
    token = None
    try:
        token = call("POST", "/v1/locks/job", {"ttl": 2, "wait": 10})["token"]
        for _ in range(4):
            call("PUT", "/v1/locks/job", {"token": token})
            # Where the test stops a copy, it still believes that it holds the lock.
            if os.path.exists("/tmp/stall"):
                os.unlink("/tmp/stall")
                print("stalls with", token, flush=True)
                time.sleep(6)
            write(token)
            time.sleep(0.1)
        call("DELETE", f"/v1/locks/job?token={token}")
    except Exception as error:
        print(os.environ["GANTRY_INSTANCE"], token, error, flush=True)
        time.sleep(0.2)
"#;

/// Pushes an app whose role `idle` waits in a container.
fn push_app(cluster: &TestCluster, app: &str, roles: &str) {
    let _ = cluster.gantry(&["app", "create", app]).good();
    let repository = cluster.repository(app, None);
    for (name, text) in [("api.py", API), ("resource.py", RESOURCE), ("worker.py", WORKER)] {
        repository.write(name, text);
    }
    repository.write("container/roles.json", roles);
    repository.commit("one");
    let _ = repository.push().good();
}

const IDLE: &str = "{ idle: { command: 'sleep 100000', memory: '64M' } }";

fn exec(cluster: &TestCluster, app: &str, words: &[&str]) -> Output {
    cluster.gantry(&[&["exec", app, "--instance", "idle-1", "--"], words].concat())
}

fn kill(pid: u32) {
    let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
}

/// Calls the API from a container of an app. Returns status and body; the status is zero while the server is away.
fn call(cluster: &TestCluster, app: &str, words: &[&str]) -> (u16, Value) {
    let said = exec(cluster, app, &[&["python3", "/app/api.py"], words].concat());
    let (status, body) = said.out.trim().split_once(' ').unwrap_or((said.out.trim(), ""));
    (status.parse().unwrap_or_default(), serde_json::from_str(body).unwrap_or(Value::from(body)))
}

#[test]
fn each_app_has_its_own_keys_and_sees_the_services_of_all() {
    let cluster = TestCluster::start(&[]);
    push_app(&cluster, "shop", IDLE);
    push_app(&cluster, "other", IDLE);
    // Compare-and-swap.
    let (status, first) = call(&cluster, "shop", &["PUT", "/v1/kv/config/color?cas=0", "green"]);
    assert_eq!((status, &first["version"]), (200, &Value::from(1)), "{first}");
    let revision = first["revision"].as_i64().expect("a revision");
    assert_eq!(call(&cluster, "shop", &["PUT", "/v1/kv/config/color?cas=0", "red"]).1["code"], "revision_conflict");
    let swap = format!("/v1/kv/config/color?cas={revision}");
    assert_eq!(call(&cluster, "shop", &["PUT", &swap, "blue"]).0, 200);
    assert_eq!(call(&cluster, "shop", &["GET", "/v1/kv/config/color?raw=true"]).1, "blue");
    // A watch from the first revision finds the second write at once.
    let watch = format!("/v1/kv?prefix=config/&wait={revision}");
    let (_, watched) = call(&cluster, "shop", &["GET", &watch]);
    assert_eq!((&watched["events"][0]["value"], &watched["events"][1]), (&"blue".into(), &Value::Null), "{watched}");
    // The other app has a key of the same name, and nothing of the first.
    assert_eq!(call(&cluster, "other", &["GET", "/v1/kv?prefix="]).1["entries"], Value::Array(Vec::new()));
    assert_eq!(call(&cluster, "other", &["GET", "/v1/kv/config/color"]).1["code"], "key_not_found");
    assert_eq!(call(&cluster, "other", &["GET", "/v1/apps/shop/locks/job"]).1["code"], "scope_insufficient");
    // A key with a time to live ends.
    assert_eq!(call(&cluster, "shop", &["PUT", "/v1/kv/beat?ttl=2", "now"]).0, 200);
    assert_eq!(call(&cluster, "shop", &["GET", "/v1/kv/beat"]).0, 200);
    cluster.wait("the key ends", |cluster| (call(cluster, "shop", &["GET", "/v1/kv/beat"]).0 == 404).then_some(()));
    // Services of all apps, as in DNS.
    let (_, service) = call(&cluster, "shop", &["GET", "/v1/services/other/idle"]);
    assert_eq!(service["instances"].as_array().map(Vec::len), Some(1), "{service}");
    assert_eq!(call(&cluster, "shop", &["GET", "/v1/services/other/none"]).1["code"], "role_not_found");
    // The API serves only containers of an app, and identifies a container by its address.
    let api = exec(&cluster, "shop", &["sh", "-c", "echo $GANTRY_API"]).good().out.trim().to_owned();
    let from_outside = gantry_testbed::run({
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "--max-time", "5", &format!("{api}/v1/kv")]);
        curl
    });
    assert_ne!(from_outside.status, 0, "{}", from_outside.all());
    let neighbour = service["instances"][0]["address"].as_str().expect("an address");
    let spoof = format!(
        "import socket, urllib.parse, os\n\
         try:\n    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP); print('raw')\n\
         except PermissionError: pass\n\
         s = socket.socket(); s.settimeout(3)\n\
         api = urllib.parse.urlparse(os.environ['GANTRY_API'])\n\
         try:\n    s.setsockopt(socket.IPPROTO_IP, 15, 1); s.bind(('{neighbour}', 0)); s.connect((api.hostname, api.port)); print('spoofed')\n\
         except OSError as error: print('refused', error)\n"
    );
    let said = exec(&cluster, "shop", &["python3", "-c", &spoof]).good();
    assert!(said.out.starts_with("refused"), "{}", said.all());
}

#[test]
fn a_machine_asks_for_its_own_apps_alone() {
    let cluster = TestCluster::start(&[]);
    push_app(&cluster, "shop", IDLE);
    let _ = cluster.gantry(&["app", "create", "elsewhere"]).good();
    let token = std::fs::read_to_string(cluster.path("data/machine-token")).expect("a token");
    let ask = |token: &str, path: &str| {
        let url = format!("http://127.0.0.1:{}/internal/v1/machines/{path}/v1/kv", cluster.api_port());
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H"]);
        curl.arg(format!("Authorization: Bearer {}", token.trim())).arg(url);
        gantry_testbed::run(curl).good().out
    };
    assert_eq!(ask(&token, "m/as/shop"), "200");
    assert_eq!(ask(&token, "m/as/elsewhere"), "403", "no copy runs there");
    assert_eq!(ask(&token, "other/as/shop"), "403", "the token of another machine");
    assert_eq!(ask(&cluster.token(), "m/as/shop"), "403", "no machine's token");
}

#[test]
fn keys_and_locks_outlive_the_server_and_a_destroyed_app_leaves_nothing_but_its_revisions() {
    let cluster = TestCluster::start(&[]);
    push_app(&cluster, "shop", IDLE);
    assert_eq!(call(&cluster, "shop", &["PUT", "/v1/kv/a", "1"]).0, 200);
    let (_, held) = call(&cluster, "shop", &["POST", "/v1/locks/job", r#"{"ttl": 60}"#]);
    let token = held["token"].as_i64().expect("a token");
    let server = cluster.service_pid("server").expect("a server");
    kill(server);
    let found = cluster.wait("the key is there", |cluster| {
        let (status, found) = call(cluster, "shop", &["GET", "/v1/kv/a"]);
        (status == 200).then_some(found)
    });
    assert_eq!(found["value"], "1");
    let (_, lock) = call(&cluster, "shop", &["GET", "/v1/locks/job"]);
    assert_eq!(lock["holder"]["token"], token, "{lock}");
    assert_eq!(call(&cluster, "shop", &["POST", "/v1/locks/job", "{}"]).1["code"], "lock_held");
    let _ = cluster.gantry(&["app", "destroy", "shop", "--confirm", "shop"]).good();
    push_app(&cluster, "shop", IDLE);
    assert_eq!(call(&cluster, "shop", &["GET", "/v1/kv/a"]).0, 404);
    let (_, again) = call(&cluster, "shop", &["POST", "/v1/locks/job", "{}"]);
    assert!(again["token"].as_i64().expect("a token") > token, "{again} after {token}");
}

#[test]
fn a_lock_of_the_command_line_ends_its_command_when_it_is_lost() {
    let cluster = TestCluster::start(&[]);
    push_app(&cluster, "shop", IDLE);
    let said = cluster.gantry(&["lock", "run", "shop/job", "--", "sh", "-c", "echo token $GANTRY_LOCK_TOKEN; exit 7"]);
    assert_eq!(said.status, 7, "{}", said.all());
    let first: i64 = said.out.trim().strip_prefix("token ").and_then(|token| token.parse().ok()).expect("a token");
    let mut holder = cluster.gantry_into("holder", &["lock", "run", "shop/job", "--ttl", "6s", "--", "sleep", "1000"]);
    let token = cluster.wait("the lock is held", |cluster| {
        let shown: Value = serde_json::from_str(&cluster.gantry(&["lock", "show", "shop/job", "--json"]).out).ok()?;
        shown["holder"]["token"].as_i64()
    });
    assert!(token > first);
    assert_eq!(cluster.gantry(&["lock", "run", "shop/job", "--wait", "0s", "--", "true"]).status, 70);
    // Someone releases the lock under the holder, as the end of its time would.
    assert_eq!(call(&cluster, "shop", &["DELETE", &format!("/v1/locks/job?token={token}")]).0, 200);
    let begun = Instant::now();
    assert_eq!(holder.wait().expect("ended").code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let said = std::fs::read_to_string(cluster.path("holder")).expect("a file");
    assert!(said.contains("was lost"), "{said}");
}

#[test]
fn a_resource_takes_no_write_of_an_old_holder_whoever_is_killed() {
    let cluster = TestCluster::start(&[]);
    let roles = "{ resource: { command: 'python3 resource.py', memory: '64M', port: 7000 }, \
                   worker: { command: 'python3 worker.py', memory: '64M', instances: 2, env: { RESOURCE_PORT: '7000' } } }";
    push_app(&cluster, "shop", roles);
    // Writes in the order in which the resource saw them: taken or not, token, copy.
    let writes = |cluster: &TestCluster| -> Vec<(bool, i64, String)> {
        let said = cluster.gantry(&["logs", "shop", "-p", "resource", "-n", "100000"]).out;
        let parse = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [.., taken @ ("took" | "refused"), token, who] = words.as_slice() else { return None };
            Some((*taken == "took", token.parse().ok()?, (*who).to_owned()))
        };
        said.lines().filter_map(parse).collect()
    };
    let taken = |cluster: &TestCluster| writes(cluster).into_iter().filter(|(taken, ..)| *taken).count();
    let progress = |cluster: &TestCluster, what: &str| {
        let before = taken(cluster);
        cluster.wait(what, |cluster| (taken(cluster) > before + 8).then_some(()));
    };
    progress(&cluster, "both copies work");
    for service in ["server", "agent"] {
        kill(cluster.service_pid(service).expect("a service"));
        progress(&cluster, &format!("the copies work on after the end of the {service}"));
    }
    let worker = cluster.containers().into_iter().find(|(name, _)| name.contains("worker")).expect("a copy").1;
    kill(worker);
    progress(&cluster, "the copies work on after the end of a copy");
    // A copy stands still while it holds the lock, loses it, and then writes with its old token.
    for copy in ["worker-1", "worker-2"] {
        cluster.wait("the copy takes the order to stall", |cluster| {
            let info = cluster.gantry(&["exec", "shop", "--instance", copy, "--", "touch", "/tmp/stall"]);
            (info.status == 0).then_some(())
        });
    }
    let refused = cluster.wait("the write of an old holder is refused", |cluster| {
        writes(cluster).into_iter().find(|(taken, ..)| !*taken)
    });
    progress(&cluster, "the copies work on");
    let all = writes(&cluster);
    let tokens: Vec<i64> = all.iter().filter(|(taken, ..)| *taken).map(|(_, token, _)| *token).collect();
    assert!(tokens.is_sorted(), "{tokens:?}");
    // One token has one holder.
    let mut holders = std::collections::BTreeMap::new();
    for (_, token, who) in &all {
        assert_eq!(holders.entry(*token).or_insert(who), &who, "{all:?}");
    }
    assert!(refused.1 < *tokens.last().expect("a token"), "{refused:?}");
}

/// Installs a client of etcd; none without the package index.
fn etcd_client(folder: &std::path::Path) -> Option<std::path::PathBuf> {
    let target = folder.join("python");
    let installed = std::process::Command::new("pip")
        .args(["install", "--quiet", "--target"])
        .arg(&target)
        .arg("etcd3gw==2.7.0")
        .output()
        .ok()?;
    installed.status.success().then_some(target)
}

#[test]
fn an_etcd_client_gets_the_responses_of_etcd() {
    let cluster = TestCluster::start(&[]);
    push_app(&cluster, "shop", IDLE);
    let Some(client) = etcd_client(&cluster.path("client")) else {
        eprintln!("not run: pip cannot install etcd3gw");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/etcd3gw/client.py");
    let python = |command: &mut std::process::Command, host: &str, port: &str| {
        command.args(["python3", script, host, port]).env("PYTHONPATH", &client);
        String::from_utf8_lossy(&command.output().expect("run").stdout).into_owned()
    };
    // In the container's network, the client is the container.
    let pid = cluster.containers()[0].1.to_string();
    let api = exec(&cluster, "shop", &["sh", "-c", "echo $GANTRY_API"]).good().out;
    let (host, port) = api.trim().trim_start_matches("http://").split_once(':').expect("a port");
    let mut inside = std::process::Command::new("nsenter");
    let own = python(inside.args(["-n", "-t", &pid]), host, port);
    let etcd = Etcd::start();
    let address = etcd.address().trim_start_matches("etcd://").split('/').next().expect("an address").to_owned();
    let (host, port) = address.split_once(':').expect("a port");
    cluster.wait("etcd serves", |_| std::net::TcpStream::connect(&address).ok());
    std::thread::sleep(Duration::from_secs(1));
    let expected = python(&mut std::process::Command::new("env"), host, port);
    for (own, expected) in own.lines().zip(expected.lines()) {
        assert_eq!(own, expected);
    }
    assert_eq!(own.lines().count(), expected.lines().count(), "{own}\n{expected}");
    assert!(own.contains("resign"), "{own}");
}

#[test]
fn a_removal_of_many_keys_outlives_a_kill() {
    let cluster = TestCluster::start(&[]);
    cluster.make_failpoints();
    push_app(&cluster, "shop", IDLE);
    let token = std::fs::read_to_string(cluster.path("data/machine-token")).expect("a token");
    let api = format!("http://127.0.0.1:{}/internal/v1/machines/m/as/shop", cluster.api_port());
    let curl = |words: &[&str]| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "-H", &format!("Authorization: Bearer {}", token.trim())]).args(words);
        gantry_testbed::run(curl)
    };
    // More keys than a transaction takes.
    let keys = format!("{api}/v1/kv/key[1-300]");
    let put = curl(&["-o", "/dev/null", "-w", "%{http_code}\\n", "-X", "PUT", "-d", "value", &keys]).good();
    assert_eq!(put.out.lines().filter(|code| *code == "200").count(), 300, "{}", put.out);
    let _ = curl(&["-X", "PUT", "-d", "value", &format!("{api}/v1/kv/other")]).good();
    std::fs::write(cluster.path("failpoints/kill"), "coordination.cleared\n").expect("armed");
    // From "key" up to "kez".
    let range = r#"{"key":"a2V5","range_end":"a2V6"}"#;
    let lost = curl(&["-d", range, &format!("{api}/v3/kv/deleterange")]);
    assert_ne!(lost.status, 0, "acknowledged by a killed server: {}", lost.out);
    let killed = std::fs::read_to_string(cluster.path("failpoints/killed")).unwrap_or_default();
    assert!(killed.trim_end().ends_with("coordination.cleared"), "{killed}");
    let left = cluster.wait("the server is back", |_| {
        let listed = curl(&["-f", &format!("{api}/v1/kv")]);
        (listed.status == 0).then_some(listed.out)
    });
    let left: Value = serde_json::from_str(&left).expect("JSON");
    let text = left.to_string();
    assert!(text.contains("other") && !text.contains("key1"), "{text}");
    // The keys can be written again.
    let _ = curl(&["-f", "-X", "PUT", "-d", "again", &format!("{api}/v1/kv/key1")]).good();
}
