//! Misbehaving applications, each with its own fault. The last lines of the push and the first line of `gantry why`
//! are checked in under `transcripts/`: they must name the true cause and the remedy. GANTRY_TEST_BLESS=1 rewrites
//! the transcripts.

mod site;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use gantry_testbed::TestCluster;
use site::{SERVER, page};

/// A misbehaving application.
struct Broken {
    name: &'static str,
    server: String,
    /// Settings inside `web: { … }`.
    role: &'static str,
    compile: Option<&'static str>,
}

/// Number of last lines of a push that a transcript keeps.
const LINES: usize = 8;

const CHECKED: &str = "command: 'python3 server.py', health: { path: '/up' }";

fn good(from: &str, to: &str) -> String {
    assert!(SERVER.contains(from), "{from}");
    SERVER.replace(from, to).replace("VERSION", "it works")
}

fn applications() -> Vec<Broken> {
    let get = "    def do_GET(self):\n";
    let checked = |name, server| Broken { name, server, role: CHECKED, compile: None };
    let compiles = |name, compile| Broken { name, server: good("", ""), role: CHECKED, compile: Some(compile) };
    let small = "command: 'python3 server.py', memory: '48M', health: { path: '/up' }";
    vec![
        checked("binds-loopback", good("\"0.0.0.0\"", "\"127.0.0.1\"")),
        checked("wrong-port", good("int(os.environ[\"PORT\"])", "3000")),
        checked("never-binds", "import time\nprint('thinking', flush=True)\ntime.sleep(1000)\n".to_owned()),
        checked("missing-module", "import flask_that_nobody_installed\n".to_owned()),
        checked(
            "exits-later",
            good(get, &format!("{get}        import threading\n        threading.Timer(0.5, lambda: os._exit(9)).start()\n")),
        ),
        Broken {
            name: "leaks-at-start",
            server: "x = []\nwhile True:\n    x.append('x' * 1000000)\n".to_owned(),
            role: small,
            compile: None,
        },
        Broken {
            name: "leaks-under-load",
            server: good(get, &format!("{get}        Site.leak = b'x' * 60_000_000 if self.path == '/' else b''\n")),
            role: "command: 'python3 server.py', memory: '48M', health: { path: '/up' }",
            compile: None,
        },
        checked("fails-its-check", good("send_response(200)", "send_response(500)")),
        checked("hangs-on-its-check", good(get, &format!("{get}        time.sleep(1000)\n"))),
        checked("closes-half-way", good(get, &format!("{get}        self.wfile.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n'); self.wfile.flush(); os.close(self.connection.fileno()); return\n"))),
        checked("closes-in-the-body", good("self.wfile.write(text)", "self.wfile.write(text[:5]); self.wfile.flush(); os.close(self.connection.fileno())")),
        Broken {
            name: "forks-without-end",
            server: "import os, time\nwhile True:\n    try:\n        if os.fork() == 0:\n            time.sleep(1000)\n    except OSError as error:\n        print('cannot fork:', error, flush=True)\n        raise\n".to_owned(),
            role: "command: 'python3 server.py', memory: '2G', pids: 64, health: { path: '/up' }",
            compile: None,
        },
        // A full disk would disturb the other applications. This one stops by itself at 3 GB; the agent must stop the
        // process long before.
        Broken {
            name: "fills-the-disk",
            server: "for n in range(3000):\n    open(f'/tmp/{n}', 'wb').write(b'x' * 1_000_000)\nimport time\ntime.sleep(1000)\n".to_owned(),
            role: "command: 'python3 server.py', disk: '20M', health: { path: '/up' }",
            compile: None,
        },
        // The same fault, with files that were deleted while open.
        Broken {
            name: "fills-the-disk-unseen",
            server: "import os, time\nfiles = []\nfor n in range(900):\n    files.append(open(f'/tmp/{n}', 'wb'))\n    os.remove(f'/tmp/{n}')\n    files[-1].write(b'x' * 3_000_000)\ntime.sleep(1000)\n".to_owned(),
            role: "command: 'python3 server.py', disk: '20M', health: { path: '/up' }",
            compile: None,
        },
        Broken {
            name: "writes-one-large-file",
            // The exception hook prints nothing: a race between the process and the disk-usage check decides whether
            // the process can still print.
            server: "import sys\nsys.excepthook = lambda *_: None\nwith open('/tmp/large', 'wb') as file:\n    for n in range(3000):\n        file.write(b'x' * 1_000_000)\n".to_owned(),
            role: "command: 'python3 server.py', disk: '20M', health: { path: '/up' }",
            compile: None,
        },
        Broken { name: "no-such-command", server: good("", ""), role: "command: 'gunicorn app', health: { path: '/up' }", compile: None },
        // These applications work in spite of their faults.
        checked("deaf-to-sigterm", good("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")),
        checked("answers-after-29-s", good(get, &format!("{get}        time.sleep(29 if self.path == '/' else 0)\n"))),
        checked("starts-slowly", good("import http.server", "import time; time.sleep(4)\nimport http.server")),
        checked(
            "prints-without-end",
            good("server.serve_forever()", "import threading\nthreading.Thread(target=lambda: [os.write(1, b'x' * 65000 + b'\\n') for _ in iter(int, 1)], daemon=True).start()\nserver.serve_forever()"),
        ),
        checked(
            "prints-without-newlines",
            good("server.serve_forever()", "import threading\nthreading.Thread(target=lambda: [(os.write(1, b'x' * 4096), time.sleep(0.001)) for _ in iter(int, 1)], daemon=True).start()\nserver.serve_forever()"),
        ),
        checked("prints-bytes", good("server.serve_forever()", "os.write(1, bytes(range(256)) * 100 + b'\\n')\nserver.serve_forever()")),
        compiles("compile-hangs", "echo resolving; sleep 1000"),
        compiles("compile-eats-memory", "python3 -c 'x = []\nwhile True: x.append(\"x\" * 1000000)'"),
        compiles("compile-fills-the-disk", "for n in $(seq 500); do head -c 4000000 /dev/zero > /tmp/$n || exit; sleep 0.01; done"),
        compiles("compile-fails", "echo 'no such gem: rails' >&2; exit 3"),
        compiles(
            "compile-meets-an-unknown-authority",
            "echo 'curl: (60) SSL certificate problem: unable to get local issuer certificate' >&2; exit 60",
        ),
        compiles("compile-leaves-daemons", "(sleep 1000 &); echo done"),
    ]
}

/// Pushes an application and returns its transcript.
fn transcript(cluster: &TestCluster, broken: &Broken) -> String {
    let name = broken.name;
    let _ = cluster.gantry(&["app", "create", name]).good();
    let repository = cluster.repository(name, None);
    repository.write("server.py", &broken.server);
    repository.write("container/roles.json", &format!("{{ web: {{ {} }} }}", broken.role));
    if let Some(compile) = broken.compile {
        repository.compile_with(compile);
    }
    repository.commit("it");
    // The push waits for the verdict at the end of the bake time.
    let push = repository.attempt(&["push", "-o", "wait", "gantry", "HEAD:main"]);
    if name == "leaks-under-load" {
        let _ = page(cluster, name);
        wait_until_explained(cluster, name, "out of memory");
    }
    if name == "deaf-to-sigterm" {
        // A second release replaces the application.
        repository.write("more", "");
        repository.commit("more");
        let _ = repository.attempt(&["push", "-o", "wait", "gantry", "HEAD:main"]).good();
        wait_until_explained(cluster, name, "is still running");
    }
    if name.starts_with("prints-with") {
        wait_until_explained(cluster, name, "prints so much");
        let kept = logs(cluster, name).iter().map(|path| path.metadata().map_or(0, |is| is.len())).sum::<u64>();
        // One full segment of 8 MiB, and the part of the other segment that was written since its last truncation.
        assert!((7 << 20..17 << 20).contains(&kept), "{name}: {kept} bytes of log");
        let output = cluster.gantry(&["logs", name, "-n", "1"]).good().out;
        assert!(output.contains("xxxx"), "{name}: {output}");
    }
    let said = push.err.lines().filter_map(|line| line.strip_prefix("remote: ")).map(str::trim_end);
    // The waiting times differ from run to run, and with them the lines that report them.
    let is_of_load = |line: &str| line.contains(" is not ready") || line.contains("Waiting until another build");
    let said: Vec<&str> = said.filter(|line| line.starts_with(" !") || !is_of_load(line)).collect();
    // Of the progress lines, only the last is stable: a phase of a few milliseconds may not be reported.
    let end = said.len().saturating_sub(1);
    let said: Vec<&str> = said
        .into_iter()
        .enumerate()
        .filter(|(at, line)| *at == end || !line.starts_with("----->"))
        .map(|(_, line)| line)
        .collect();
    let last = said[said.len().saturating_sub(LINES)..].join("\n");
    let why = cluster.gantry(&["why", name]).good().out;
    let verdict = if push.status == 0 {
        let text = page(cluster, name);
        assert!(text.starts_with("it works") || name == "leaks-under-load", "{name}: {text}");
        "deployed"
    } else {
        "refused"
    };
    let why = why.lines().next().unwrap_or_default();
    normal(&format!("push: {verdict}\n{last}\n\nwhy: {why}\n"))
}

/// Waits until the output of `gantry why` contains `what`.
fn wait_until_explained(cluster: &TestCluster, name: &str, what: &str) {
    cluster.wait("`why` names the cause", |cluster| cluster.gantry(&["why", name]).out.contains(what).then_some(()));
}

/// Log segments of an app's only instance.
fn logs(cluster: &TestCluster, name: &str) -> Vec<std::path::PathBuf> {
    let folder = cluster.path("data/logs").join(name).join(format!("{name}.v1.web-1"));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Removes the parts of a text that differ from run to run.
fn normal(text: &str) -> String {
    let mut words = Vec::new();
    for line in text.lines() {
        let split: Vec<&str> = line.split(' ').collect();
        let seconds = |at: usize| split.get(at + 1).is_some_and(|unit| ["s", "s:", "s;"].contains(unit));
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let line = split.iter().enumerate().map(|(at, text)| {
            if number(text.trim_start_matches('(')) && (seconds(at) || line.contains(", restarted ")) {
                "N".to_owned()
            } else if *text == "time" && line.contains(", restarted ") {
                "times".to_owned()
            } else {
                word(text)
            }
        });
        words.push(line.collect::<Vec<_>>().join(" "));
    }
    words.join("\n") + "\n"
}

fn word(word: &str) -> String {
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex(word, 10) {
        return "COMMIT".to_owned();
    }
    if hex(word, 12) {
        return "IMAGE".to_owned();
    }
    if let Some(commit) = word.strip_suffix(");").filter(|commit| hex(commit, 10)) {
        return word.replace(commit, "COMMIT");
    }
    if let Some(rest) = word.strip_prefix("http://") {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, port) = host.split_once(':').unwrap_or((host, ""));
        let name = if name.starts_with("10.") { "ADDRESS" } else { name };
        let port = if port == "8080" { port } else { "PORT" };
        return format!("http://{name}:{port}/{path}");
    }
    word.to_owned()
}

#[test]
fn faults_of_applications_are_reported_as_in_the_transcripts() {
    // Only applications that hang may reach these limits, even on a slow machine. Everything else takes a second or
    // two.
    let limits = ["--deadline", "10", "--compile-time", "20", "--compile-memory", "64M", "--compile-disk", "70M"];
    let cluster = TestCluster::start(&limits);
    let queue = Mutex::new(applications());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let bless = std::env::var_os("GANTRY_TEST_BLESS").is_some();
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(broken) = queue.lock().expect("queue").pop() else { return };
                    // An application that panics the test must not prevent the report of the others.
                    let found = catch_unwind(AssertUnwindSafe(|| transcript(&cluster, &broken)));
                    let found = found.unwrap_or_else(|_| "it went otherwise, as is told above\n".to_owned());
                    let path = folder.join(format!("{}.txt", broken.name));
                    if bless {
                        std::fs::write(&path, &found).expect("written");
                    } else if std::fs::read_to_string(&path).unwrap_or_default() != found {
                        wrong.lock().expect("wrong").push(format!("--- {}\n{found}", broken.name));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("wrong");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Every process that a compile step started ended with the step, whatever the outcome.
    let strays = cluster.strays(&[]);
    let of_builds: Vec<_> = strays.iter().filter(|stray| stray.contains("group of build")).collect();
    assert!(of_builds.is_empty(), "{of_builds:?}");
    // An application that was killed because it ignored SIGTERM has a log line that says so.
    cluster.wait("the log names the kill", |cluster| {
        let last = cluster.gantry(&["logs", "deaf-to-sigterm", "-n", "1000"]).good().out;
        last.contains("gantry: did not end within 30 s of TERM; killed").then_some(())
    });
    assert!(cluster.gantry(&["logs", "prints-bytes", "-n", "10"]).good().out.contains('\u{fffd}'));
}

/// The same faults with the default timeouts that users meet: one minute until an instance is ready, ten seconds
/// until it ends. Runs on request only.
#[test]
fn slow_faults_of_applications_are_reported_as_in_the_transcripts() {
    if std::env::var_os("GANTRY_TEST_LONG").is_none() {
        return;
    }
    let cluster = TestCluster::start(&["--deadline", "120", "--bake-time", "15"]);
    let checked = |name, server| Broken { name, server, role: CHECKED, compile: None };
    let timer = "        threading.Timer(10, lambda: os._exit(9)).start()\n";
    let get = "    def do_GET(self):\n";
    for broken in [
        checked("starts-slowly", good("import http.server", "import time; time.sleep(60)\nimport http.server")),
        checked("exits-later", good(get, &format!("{get}        import threading\n{timer}"))),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/transcripts/{}.txt", broken.name));
        assert_eq!(transcript(&cluster, &broken), std::fs::read_to_string(path).expect("a transcript"));
    }
}
