//! Applications that misbehave, each in its own way. What the push says at its end and what `gantry why` says first is
//! checked in under `transcripts/`: it must name the true cause and the remedy. GANTRY_TEST_BLESS=1 writes them anew.

mod site;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use gantry_testbed::World;
use site::{SERVER, page};

/// One application.
struct Broken {
    name: &'static str,
    server: String,
    /// Inside `web: { … }`.
    role: &'static str,
    compile: Option<&'static str>,
}

/// The last lines of a push that are kept.
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
        // A disk that is full would hurt the others: it stops by itself at 3 GB, and long before that it is stopped.
        Broken {
            name: "fills-the-disk",
            server: "for n in range(3000):\n    open(f'/tmp/{n}', 'wb').write(b'x' * 1_000_000)\nimport time\ntime.sleep(1000)\n".to_owned(),
            role: "command: 'python3 server.py', disk: '20M', health: { path: '/up' }",
            compile: None,
        },
        // The same in files that no folder shows.
        Broken {
            name: "fills-the-disk-unseen",
            server: "import os, time\nfiles = []\nfor n in range(900):\n    files.append(open(f'/tmp/{n}', 'wb'))\n    os.remove(f'/tmp/{n}')\n    files[-1].write(b'x' * 3_000_000)\ntime.sleep(1000)\n".to_owned(),
            role: "command: 'python3 server.py', disk: '20M', health: { path: '/up' }",
            compile: None,
        },
        Broken {
            name: "writes-one-large-file",
            // Without last words: whether it can still say them depends on who is quicker, it or the count of what it wrote.
            server: "import sys\nsys.excepthook = lambda *_: None\nwith open('/tmp/large', 'wb') as file:\n    for n in range(3000):\n        file.write(b'x' * 1_000_000)\n".to_owned(),
            role: "command: 'python3 server.py', disk: '20M', health: { path: '/up' }",
            compile: None,
        },
        Broken { name: "no-such-command", server: good("", ""), role: "command: 'gunicorn app', health: { path: '/up' }", compile: None },
        // These work, whatever they do besides.
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
        compiles("compile-leaves-daemons", "(sleep 1000 &); echo done"),
    ]
}

/// Pushes one; its transcript.
fn transcript(world: &World, broken: &Broken) -> String {
    let name = broken.name;
    let _ = world.gantry(&["app", "create", name]).good();
    let repository = world.repository(name, None);
    repository.write("server.py", &broken.server);
    repository.write("container/roles.json", &format!("{{ web: {{ {} }} }}", broken.role));
    if let Some(compile) = broken.compile {
        repository.compile_with(compile);
    }
    repository.commit("it");
    // The verdict is the one of the bake time's end.
    let push = repository.attempt(&["push", "-o", "wait", "gantry", "HEAD:main"]);
    if name == "leaks-under-load" {
        let _ = page(world, name);
        told(world, name, "out of memory");
    }
    if name == "deaf-to-sigterm" {
        // The next release is to take its place.
        repository.write("more", "");
        repository.commit("more");
        let _ = repository.attempt(&["push", "-o", "wait", "gantry", "HEAD:main"]).good();
        told(world, name, "runs on");
    }
    if name.starts_with("prints-with") {
        told(world, name, "prints so much");
        let kept = logs(world, name).iter().map(|path| path.metadata().map_or(0, |is| is.len())).sum::<u64>();
        // A segment of 8 MiB that is full, and as much of the other as it has since it was emptied.
        assert!((7 << 20..17 << 20).contains(&kept), "{name}: {kept} bytes of log");
        let told = world.gantry(&["logs", name, "-n", "1"]).good().out;
        assert!(told.contains("xxxx"), "{name}: {told}");
    }
    let said = push.err.lines().filter_map(|line| line.strip_prefix("remote: ")).map(str::trim_end);
    // How long something waits, and so whether it is told, is not the same each time.
    let said: Vec<&str> = said.filter(|line| line.starts_with(" !") || !line.contains(" is not ready")).collect();
    // Of the steps the last one counts; one that lasts milliseconds may not be told.
    let end = said.len().saturating_sub(1);
    let said: Vec<&str> = said
        .into_iter()
        .enumerate()
        .filter(|(at, line)| *at == end || !line.starts_with("----->"))
        .map(|(_, line)| line)
        .collect();
    let last = said[said.len().saturating_sub(LINES)..].join("\n");
    let why = world.gantry(&["why", name]).good().out;
    let verdict = if push.status == 0 {
        let text = page(world, name);
        assert!(text.starts_with("it works") || name == "leaks-under-load", "{name}: {text}");
        "deployed"
    } else {
        "refused"
    };
    let why = why.lines().next().unwrap_or_default();
    normal(&format!("push: {verdict}\n{last}\n\nwhy: {why}\n"))
}

/// Waits until `gantry why` tells of it.
fn told(world: &World, name: &str, what: &str) {
    world.wait("it is told", |world| world.gantry(&["why", name]).out.contains(what).then_some(()));
}

/// The log's segments of an app's only instance.
fn logs(world: &World, name: &str) -> Vec<std::path::PathBuf> {
    let folder = world.path("data/logs").join(name).join(format!("{name}.v1.web-1"));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Without what differs from run to run.
fn normal(text: &str) -> String {
    let mut words = Vec::new();
    for line in text.lines() {
        let split: Vec<&str> = line.split(' ').collect();
        let seconds = |at: usize| split.get(at + 1).is_some_and(|unit| ["s", "s:", "s;"].contains(unit));
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let line = split.iter().enumerate().map(|(at, text)| {
            if number(text.trim_start_matches('(')) && (seconds(at) || line.contains("started again")) {
                "N".to_owned()
            } else if *text == "time" && line.contains("started again") {
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
fn what_an_application_does_wrong_is_said() {
    // Only what hangs may reach these, however slow the machine: what it would do otherwise takes it a second or two.
    let limits = ["--deadline", "10", "--compile-time", "20", "--compile-memory", "64M", "--compile-disk", "70M"];
    let world = World::start(&limits);
    let queue = Mutex::new(applications());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let bless = std::env::var_os("GANTRY_TEST_BLESS").is_some();
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(broken) = queue.lock().expect("queue").pop() else { return };
                    // One that goes another way altogether keeps none of the others from being told.
                    let found = catch_unwind(AssertUnwindSafe(|| transcript(&world, &broken)));
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
    // Whatever was begun by a compile step ended with it, however it ended.
    let strays = world.strays(&[]);
    let of_builds: Vec<_> = strays.iter().filter(|stray| stray.contains("group of build")).collect();
    assert!(of_builds.is_empty(), "{of_builds:?}");
    // And what was killed because it did not end says so itself.
    world.wait("it is told", |world| {
        let last = world.gantry(&["logs", "deaf-to-sigterm", "-n", "1000"]).good().out;
        last.contains("gantry: it did not end within 30 s of TERM, and is killed").then_some(())
    });
    assert!(world.gantry(&["logs", "prints-bytes", "-n", "10"]).good().out.contains('\u{fffd}'));
}

/// The same with the times that people meet, and the defaults: a minute until it serves, ten seconds until it ends. When asked for.
#[test]
fn what_takes_its_time_is_said_too() {
    if std::env::var_os("GANTRY_TEST_LONG").is_none() {
        return;
    }
    let world = World::start(&["--deadline", "120", "--watch", "15"]);
    let checked = |name, server| Broken { name, server, role: CHECKED, compile: None };
    let timer = "        threading.Timer(10, lambda: os._exit(9)).start()\n";
    let get = "    def do_GET(self):\n";
    for broken in [
        checked("starts-slowly", good("import http.server", "import time; time.sleep(60)\nimport http.server")),
        checked("exits-later", good(get, &format!("{get}        import threading\n{timer}"))),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/transcripts/{}.txt", broken.name));
        assert_eq!(transcript(&world, &broken), std::fs::read_to_string(path).expect("a transcript"));
    }
}
