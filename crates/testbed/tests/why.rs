//! First line of `gantry why` for running apps: the true cause, with Gantry's own actions attributed to Gantry.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use gantry_testbed::TestCluster;

/// A server with a switch for each of its faults.
const SERVER: &str = r#"
import http.server, os, signal, socket, struct, sys, threading, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
on = set()
class Site(http.server.BaseHTTPRequestHandler):
    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def do_GET(self):
        word = self.path.split("?")[0].strip("/")
        if word in ("sick", "go"):
            on.add(word)
        if word == "up" and "sick" in on:
            return self.answer(503, b"database is gone\nand more\n")
        if word == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            return
        if word == "error":
            print("no such table: users", file=sys.stderr, flush=True)
            return self.answer(500, b"broken\n")
        if word == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.wfile.flush()
            os.close(self.connection.detach())
            return
        if word == "slow":
            time.sleep(3)
        if word == "close":
            threading.Thread(target=lambda: (server.shutdown(), server.server_close())).start()
        if word == "asked" and "go" not in on:
            return self.answer(404, b"not yet\n")
        self.answer(200, b"ok\n")
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Site)
print("FATAL: an old line of no meaning", flush=True)
server.serve_forever()
time.sleep(1000)
"#;

/// A worker that misbehaves according to the name of its role, when the web role gives the signal.
const WORKER: &str = r#"
import os, resource, signal, socket, subprocess, sys, time, urllib.request
def asked():
    try:
        urllib.request.urlopen("http://web.faults.gantry.internal:8080/asked", timeout=3)
        return True
    except OSError:
        return False
while not asked():
    time.sleep(0.3)
time.sleep(1)
what = os.environ["GANTRY_ROLE"]
print("FATAL: the cause" if what == "npm" else "goes", flush=True)
if what == "done":
    sys.exit(0)
if what == "segv":
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "setting":
    os.environ["QUEUE_URL"]
if what == "name":
    urllib.request.urlopen("http://nowhere.gantry.internal/")
if what == "npm":
    print("npm ERR! code 1\nnpm ERR! A complete log of this run can be found in:\nnpm ERR!   /app/x.log", flush=True)
    sys.exit(1)
if what == "leaves":
    subprocess.Popen(["sleep", "1000"])
    print("Error: in the background now", flush=True)
    sys.exit(4)
if what == "term":
    os.kill(os.getpid(), signal.SIGTERM)
if what == "module":
    import nothing
if what == "port":
    taken = socket.create_server(("0.0.0.0", 9000))
    socket.socket().bind(("0.0.0.0", 9000))
if what == "files":
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    files = [open("/dev/null") for _ in range(100)]
if what == "refused":
    socket.create_connection(("web.faults.gantry.internal", 9))
if what == "readonly":
    open("/proc/sys/kernel/domainname", "w")
if what == "disk":
    for n in range(1000):
        open(f"/tmp/{n}", "wb").write(b"x" * 1_000_000)
if what == "memory":
    text = "x" * 1_000_000_000
if what == "child":
    subprocess.Popen([sys.executable, "-c", "x = []\nwhile True: x.append('x' * 1000000)"])
if what == "forks":
    children = []
    while True:
        try:
            children.append(subprocess.Popen(["sleep", "1000"]))
        except OSError:
            time.sleep(0.5)
time.sleep(1000)
"#;

/// Roles of the worker, and the expected text of `gantry why` for each.
const FAULTS: [(&str, &str); 17] = [
    ("child", "ran out of memory: its limit is 48M; raise `memory` of the role; "),
    ("done", "exited with 0; it must run until Gantry stops it"),
    ("segv", "was killed by signal 11 (SIGSEGV) (last output: goes); the program crashed"),
    ("killed", "was killed by signal 9 (SIGKILL) (last output: goes); Gantry did not send the signal"),
    ("setting", "(last output: KeyError: 'QUEUE_URL'); set QUEUE_URL with `gantry config set faults QUEUE_URL=VALUE`"),
    ("name", "only ready instances have DNS names"),
    ("npm", "(last output: FATAL: the cause)"),
    ("term", "was killed by signal 15 (SIGTERM) (last output: goes); Gantry did not send the signal"),
    ("module", "(last output: ModuleNotFoundError: No module named 'nothing'); install it in container/compile"),
    ("port", "Address already in use); another process in the container uses that port"),
    ("files", "(last output: OSError: [Errno 24] Too many open files"),
    ("refused", "(last output: ConnectionRefusedError: [Errno 111] Connection refused)"),
    ("readonly", "(last output: OSError: [Errno 30] Read-only file system: '/proc/sys/kernel/domainname')"),
    ("disk", "wrote more than its limit of 20M to its disk; raise `disk` of the role, or use a volume; that was"),
    ("memory", "ran out of memory: its limit is 48M; raise `memory` of the role; that was"),
    ("leaves", "exited with 4 (last output: Error: in the background now)"),
    ("forks", "reached its limit of 16 processes and threads; raise `pids` of the role; "),
];

fn create(cluster: &TestCluster, app: &str, roles: &str) -> gantry_testbed::Repository {
    let _ = cluster.gantry(&["app", "create", app]).good();
    let repository = cluster.repository(app, None);
    repository.write("server.py", SERVER);
    repository.write("worker.py", WORKER);
    repository.write("container/roles.json", roles);
    repository.commit("it");
    repository
}

fn why(cluster: &TestCluster, arguments: &[&str]) -> String {
    cluster.gantry(&[&["why"][..], arguments].concat()).good().out
}

fn first(cluster: &TestCluster, arguments: &[&str]) -> String {
    why(cluster, arguments).lines().next().unwrap_or_default().to_owned()
}

/// Waits until the first line contains `expected`.
fn wait_for_text(cluster: &TestCluster, arguments: &[&str], expected: &str) {
    let last = Mutex::new(String::new());
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cluster.wait("the first line of `why` has the text", |cluster| {
            // The server may be away for a moment.
            let line =
                cluster.gantry(&[&["why"][..], arguments].concat()).out.lines().next().unwrap_or_default().to_owned();
            let found = line.contains(expected).then_some(());
            *last.lock().expect("a line") = line;
            found
        });
    }));
    assert!(found.is_ok(), "{arguments:?}: not {expected:?}, but {}", last.lock().expect("a line"));
}

fn status_of(cluster: &TestCluster, app: &str, path: &str) -> String {
    let url = format!("http://{app}.localhost:{}/{path}", cluster.http_port());
    let mut curl = std::process::Command::new("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", &url]);
    gantry_testbed::run(curl).out
}

/// Workers that crash, reach limits, or end too early, while the web role serves.
fn workers(cluster: &TestCluster) {
    let worker = |(name, _): &(&str, &str)| {
        format!("{name}: {{ command: 'python3 worker.py', memory: '48M', disk: '20M', pids: 16 }}")
    };
    let workers: Vec<String> = FAULTS.iter().map(worker).collect();
    let roles =
        format!("{{ web: {{ command: 'python3 server.py', health: {{ path: '/up' }} }}, {} }}", workers.join(", "));
    let _ = create(cluster, "faults", &roles).push().good();
    wait_for_text(cluster, &["faults"], "done (push of ");
    assert!(first(cluster, &["faults"]).contains("v1 serves"));
    assert_eq!(status_of(cluster, "faults", "go"), "200");
    for (role, expected) in FAULTS {
        let id = format!("faults.v1.{role}-1");
        wait_for_text(cluster, &["faults", &id], expected);
        let line = first(cluster, &["faults", &id]);
        assert!(!line.contains("left running") && !line.contains("1 times"), "{line}");
    }
    // The log of a copy says which limit ended the copy.
    for (role, expected) in [
        ("memory", "gantry: memory-1 ended: it ran out of memory: its limit is 48M; raise `memory` of the role"),
        ("disk", "gantry: disk-1 ended: it wrote more than its limit of 20M to its disk; raise `disk` of the role"),
    ] {
        let logs = cluster.gantry(&["logs", "faults", "--role", role]).good().out;
        assert!(logs.contains(expected), "{expected}\n{logs}");
    }
    let line = first(cluster, &["faults"]);
    assert!(line.starts_with("app faults: faults.v1.") && !line.contains("serves"), "{line}");
    let events = cluster.gantry(&["events"]).good().out;
    for expected in ["faults.v1.segv-1 was killed by signal 11", "faults.v1.forks-1 reached its limit of 16 processes"]
    {
        assert!(events.contains(expected), "{expected}\n{events}");
    }
    assert!(cluster.gantry(&["ps", "faults"]).good().out.contains("reached its limit of 16 processes"));
}

/// Gantry reports a failing check from the first failure on, and names itself as the cause of the stop.
fn sick(cluster: &TestCluster) {
    let roles = "{ web: { command: 'python3 server.py', health: { path: '/up', attempts: 2 } } }";
    let _ = create(cluster, "sick", roles).push().good();
    assert_eq!(status_of(cluster, "sick", "sick"), "200");
    wait_for_text(cluster, &["sick"], "sick.v1.web-1 serves, but 1 of 2 checks failed: GET /up: 503: database is gone");
    assert!(
        cluster.gantry(&["ps", "sick"]).good().out.contains("1 of 2 checks failed: GET /up: 503: database is gone")
    );
    const STOPPED: &str =
        "sick.v1.web-1 failed its check 2 times in a row and was stopped: GET /up: 503: database is gone";
    wait_for_text(cluster, &["sick"], STOPPED);
    wait_for_text(cluster, &["sick"], "restarted 1 time");
    wait_for_text(
        cluster,
        &["sick", "sick.v1.web-1"],
        "sick.v1.web-1: failed its check 2 times in a row and was stopped: GET /up: 503",
    );
    let line = first(cluster, &["sick"]);
    assert!(!line.contains("exited") && !line.contains("FATAL") && !line.contains("1 times"), "{line}");
    let events = cluster.gantry(&["events"]).good().out;
    assert!(events.contains(STOPPED), "{events}");
    let logs = cluster.gantry(&["logs", "sick", "-n", "100"]).good().out;
    for expected in
        ["gantry: check 1 of 2 failed: GET /up: 503: database is gone", "gantry: stopped: its check failed 2 times"]
    {
        assert!(logs.contains(expected), "{expected}\n{logs}");
    }
    // After the restart the instance is healthy. A restarted agent still knows the start time.
    let since = || serde_json::from_str::<serde_json::Value>(&cluster.gantry(&["ps", "sick", "--json"]).out).ok();
    cluster.wait("it is ready", |_| (since()?[0]["phase"] == "ready").then_some(()));
    let started = since().expect("JSON")[0]["since"].clone();
    cluster.kill_service("agent");
    cluster.wait("another agent reports", |cluster| {
        let status = cluster.gantry(&["status", "--json"]).out;
        let status: serde_json::Value = serde_json::from_str(&status).ok()?;
        (status["machines"]["m"]["silent_millis"].as_u64()? < 5000).then_some(())
    });
    assert_eq!(since().expect("JSON")[0]["since"], started);
}

/// Requests that fail while the checks pass.
fn traffic(cluster: &TestCluster) {
    let roles = "{ web: { command: 'python3 server.py', request_timeout: 1, health: { path: '/up' } } }";
    let _ = create(cluster, "traffic", roles).push().good();
    assert_eq!(status_of(cluster, "traffic", ""), "200");
    assert_eq!(status_of(cluster, "traffic", "reset"), "502");
    wait_for_text(cluster, &["traffic"], "1 of 1 requests failed in the last ");
    let line = first(cluster, &["traffic"]);
    assert!(line.contains("traffic.v1.web-1 closed the connection before it responded (502)"), "{line}");
    // The most frequent failure of the last two minutes is the first line.
    for _ in 0..2 {
        let _ = status_of(cluster, "traffic", "cut");
    }
    wait_for_text(cluster, &["traffic"], "requests failed in the last ");
    wait_for_text(
        cluster,
        &["traffic"],
        "the response of traffic.v1.web-1 ended early; `gantry logs traffic` shows its output",
    );
    for _ in 0..3 {
        assert_eq!(status_of(cluster, "traffic", "slow"), "504");
    }
    wait_for_text(cluster, &["traffic"], "traffic.v1.web-1 sent no response within `request_timeout` (504)");
    let _ = create(cluster, "error", roles).push().good();
    assert_eq!(status_of(cluster, "error", "error"), "500");
    wait_for_text(cluster, &["error"], "1 of 1 requests failed in the last ");
    assert!(first(cluster, &["error"]).contains("the application itself returned 500"));
    let evidence = why(cluster, &["error"]);
    assert!(evidence.contains("  the last error output of error.v1.web-1:\n  no such table: users\n"), "{evidence}");
    // A role scaled to zero is the owner's choice, and the first line says so.
    let _ = cluster.gantry(&["scale", "error", "web=0"]).good();
    wait_for_text(cluster, &["error"], "web is scaled to 0, so no copy runs; `gantry scale error web=1` starts one");
    // The line ends with the code of the cause, which `gantry explain` knows.
    let line = first(cluster, &["error"]);
    assert!(line.ends_with(" [scaled_to_zero]"), "{line}");
    let explained = cluster.gantry(&["explain", "scaled_to_zero"]).good().out;
    assert!(explained.contains("The role that serves requests has no copies."), "{explained}");
}

/// A release step is no service: neither during the step nor afterwards does the first line report a crash.
fn steps(cluster: &TestCluster) {
    let roles = "{ worker: 'sleep 100000', release: 'echo migrating; sleep 2' }";
    let repository = create(cluster, "steps", roles);
    let pushed = std::thread::scope(|scope| {
        let push = scope.spawn(|| repository.push());
        let mut lines = Vec::new();
        while !push.is_finished() {
            lines.push(first(cluster, &["steps"]));
        }
        for _ in 0..20 {
            lines.push(first(cluster, &["steps"]));
        }
        for line in &lines {
            assert!(!line.contains("exited") && !line.contains("restarted"), "{line}");
        }
        push.join().expect("a push").good()
    });
    assert!(
        pushed.err.contains("none of its roles serves HTTP") && !pushed.err.contains("remote: http://"),
        "{}",
        pushed.err
    );
    assert!(pushed.err.contains("v1 runs"), "{}", pushed.err);
    wait_for_text(cluster, &["steps"], "v1 runs; none of its roles serves HTTP");
}

/// The first line reports a hanging compile step with its duration and its last output.
fn compiles(cluster: &TestCluster) {
    let repository = create(cluster, "compiles", "{ web: 'python3 server.py' }");
    repository.compile_with("echo resolving; sleep 1000");
    repository.commit("hangs");
    std::thread::scope(|scope| {
        let push = scope.spawn(|| repository.push());
        wait_for_text(cluster, &["compiles"], "ago: resolving");
        let line = first(cluster, &["compiles"]);
        assert!(line.contains("Running container/compile, for "), "{line}");
        let _ = cluster.gantry(&["abort", "compiles"]).good();
        let _ = push.join().expect("a push");
    });
    wait_for_text(cluster, &["compiles"], "reverted: aborted by `gantry abort`; nothing serves");
}

/// A web role without a health path, whose port closes after the deploy.
fn closes(cluster: &TestCluster) {
    let _ = create(cluster, "closes", "{ web: 'python3 server.py' }").push().good();
    assert_eq!(status_of(cluster, "closes", "close"), "200");
    wait_for_text(
        cluster,
        &["closes"],
        "closes.v1.web-1 serves, but 1 of 3 checks failed: connect to port 8080: connection refused",
    );
}

/// Deploys that fail before the application serves.
fn starts(cluster: &TestCluster) {
    let _ = cluster.gantry(&["app", "create", "never"]).good();
    wait_for_text(
        cluster,
        &["never"],
        "app never: never was never deployed; run `git push`, or `gantry deploy never --image REF`",
    );
    // Contents of `serve`, its mode, and the expected first line.
    for (app, script, mode, expected) in [
        ("bit", "#!/bin/sh\nsleep 100000\n", 0o644, "Permission denied); make it executable: chmod +x ./serve"),
        ("interpreter", "#!/usr/bin/nothing\n", 0o755, "the interpreter in the command's first line, was not found"),
        ("windows", "#!/bin/sh\r\nsleep 100000\r\n", 0o755, "lines that end with LF, not CR LF"),
        ("done", "#!/bin/sh\ntrue\n", 0o755, "exited with 0; it must run until Gantry stops it"),
    ] {
        let repository = create(cluster, app, "{ web: './serve' }");
        repository.write("serve", script);
        let path = cluster.path(&format!("repository-{app}/serve"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
        repository.commit("serve");
        assert_ne!(repository.push().status, 0);
        let line = first(cluster, &[app]);
        assert!(line.starts_with(&format!("deploy #1 of {app}: reverted: {app}.v1.web-1 exited with ")), "{line}");
        assert!(line.contains(expected), "{line}");
    }
    let repository = create(cluster, "baseless", "{ web: 'true' }");
    repository.write("container/base", "nowhere\n");
    repository.commit("base");
    assert_ne!(repository.push().status, 0);
    let line = first(cluster, &["baseless"]);
    assert!(line.contains("there is no base nowhere; existing bases: debian"), "{line}");
}

/// A copy that ignores the stop signal holds its volume, and later holds up the destruction of its app.
fn holds_its_volume(cluster: &TestCluster) {
    let roles = "{ web: { command: 'python3 server.py', volumes: { data: '/data' }, stop_timeout: 5, health: { path: '/up' } } }";
    let repository = create(cluster, "volume", roles);
    repository.replace("server.py", "lambda *_: os._exit(0)", "signal.SIG_IGN");
    repository.commit("deaf");
    let _ = repository.push().good();
    repository.write("more", "");
    repository.commit("more");
    let mut push = repository.push_in_background();
    wait_for_text(
        cluster,
        &["volume"],
        "web runs one copy at a time, so its old copy volume.v1.web-1 must be gone before the new one starts",
    );
    let line = first(cluster, &["volume"]);
    assert!(line.starts_with("deploy #2 of volume: "), "{line}");
    assert!(push.wait().expect("a push").success());
    let mut destroy = cluster.gantry_into("destroy", &["app", "destroy", "volume", "--confirm", "volume"]);
    wait_for_text(cluster, &["volume"], "app volume: volume is being destroyed");
    assert!(destroy.wait().expect("an end").success());
}

/// Services of the machine that stand still, while the apps go on.
fn machine(cluster: &TestCluster) {
    let _ =
        create(cluster, "machine", "{ web: { command: 'python3 server.py', health: { path: '/up' } } }").push().good();
    let pid = |service| cluster.service_pid(service).expect("it runs");
    let (router, agent) = (pid("router"), pid("agent"));
    cluster.signal("STOP", router);
    cluster.signal("STOP", agent);
    wait_for_text(cluster, &["machine"], "app machine: no router has reported for 1");
    cluster.signal("CONT", router);
    wait_for_text(cluster, &["machine"], "app machine: machine m has been silent for 1");
    cluster.kill_service("server");
    wait_for_text(cluster, &["machine"], "app machine: machine m has not reported");
    cluster.signal("CONT", agent);
    wait_for_text(cluster, &["machine"], "v1 serves");
}

#[test]
fn the_first_line_of_why_names_the_true_cause() {
    let cluster = TestCluster::start(&[]);
    let cluster = &cluster;
    std::thread::scope(|scope| {
        for case in [workers, sick, traffic, steps, compiles, closes, starts, holds_its_volume] {
            scope.spawn(move || case(cluster));
        }
    });
    machine(cluster);
}
