//! Failpoints: each failpoint in the code kills its process once. Afterwards the cloud must reach the wanted state.
//!
//! The test reads the failpoints from the source, so that a new failpoint cannot be forgotten. A survey runs each
//! operation once and notes the failpoints that the operation passes. Then the test kills a process at each
//! failpoint, in one of the operations that pass the failpoint. With `GANTRY_TEST_LONG` the test covers each of these
//! operations, and also kills a second process at the next failpoint of the recovery. A failpoint that no operation
//! passes fails the test.

mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_testbed::load::{Load, LoadKind, Target};
use gantry_testbed::{Repository, TestCluster, run};
use site::{SERVER, page, push_site, site};

/// Time limit from a kill to the wanted state, beside the operation itself: the restart, two seconds of bake time, and the
/// drain of the old release.
const RECOVERED: Duration = Duration::from_secs(10);

/// Time limit of an operation without a kill.
const CONVERGED: Duration = Duration::from_secs(60);

/// An operation that a client requests. Each passes failpoints of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Push,
    /// Push of an app with a release step and a volume. The first time the agent makes the volume's folder. The old
    /// copy stops before the new copy starts.
    Volume,
    /// Push of a release whose first copy exits and whose other copies run without answering. The others ensure that
    /// instances must be stopped each time.
    BadPush,
    /// Three pushes at once.
    Superseded,
    Configuration,
    Held,
    Rollback,
    /// Scales up to three copies.
    ScaleUp,
    /// Scales back to two copies.
    ScaleDown,
    Destroy,
    /// Another name for an app. The app of the new name stays until the next rename.
    Rename,
    /// Import, snapshot, restore and removal of a volume that no role has.
    Data,
    /// A container job.
    Job,
    /// A lock of an app, taken and released.
    Lock,
    /// Restart of the agent without a request.
    AgentStart,
}

const OPERATIONS: [Operation; 15] = [
    Operation::Push,
    Operation::Volume,
    Operation::Configuration,
    Operation::Rollback,
    Operation::Held,
    Operation::ScaleUp,
    Operation::ScaleDown,
    Operation::Destroy,
    Operation::Rename,
    Operation::Data,
    Operation::Job,
    Operation::Lock,
    Operation::AgentStart,
    Operation::Superseded,
    Operation::BadPush,
];

/// Failpoints at which other tests kill: `unprivileged` (`gantry up` passes them before it starts a service),
/// `joining`, `schedules`, `codes`, `callbacks` (`delivery.`), `snapshots`, `jobs` (`transfer.`), `discovery`
/// (`coordination.cleared`), `slots` of the sandbox (`slot.`), and `servers` (the others: they need several servers or
/// etcd).
const ELSEWHERE: [&str; 21] = [
    "server.",
    "init.",
    "join.",
    "schedule.",
    "slot.",
    "coordination.cleared",
    "copy.",
    "blob.copied",
    "code.",
    "leadership.taken",
    "migrate.copied",
    "push.packed",
    "replica.repaired",
    "replica.written",
    "repository.packed",
    "delivery.",
    "snapshot.checked",
    "snapshot.layer",
    "snapshot.image",
    "snapshot.written",
    "transfer.",
];

/// Names of the failpoints in the source that a cloud of one machine passes.
fn failpoints() -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut grep = Command::new("grep");
    grep.args(["-rhoE", "failpoint!\\(\"[a-z.]+\"\\)", "--include=*.rs"]).arg(crates);
    let names = run(grep).good().out;
    let names = names.lines().filter_map(|line| line.split('"').nth(1));
    let is_here = |name: &&str| !ELSEWHERE.iter().any(|other| name.starts_with(other));
    names.filter(is_here).map(str::to_owned).collect()
}

/// The API's description of an app; null while the server is away.
fn app_info(cluster: &TestCluster, app: &str) -> serde_json::Value {
    serde_json::from_str(&cluster.gantry(&["app", "show", app, "--json"]).out).unwrap_or_default()
}

fn shop(cluster: &TestCluster) -> serde_json::Value {
    app_info(cluster, "shop")
}

/// Roles of the app with a volume and a release step. The step prints a line each time it runs.
const BOOKS: &str = "{
    release: 'echo migrating',
    web: { command: 'python3 server.py', volumes: { data: '/data' }, health: { path: '/up' } },
}";

const BAD: &str = "
import socket, time
time.sleep(0.5)
if socket.gethostname().startswith('web-1'):
    raise SystemExit(3)
time.sleep(3600)
";

struct Sweep {
    cluster: TestCluster,
    repository: Repository,
    /// Repository of the app `books`.
    books: Repository,
    /// Counter that makes each push and configuration different.
    number: u32,
    /// Time from the begin of each operation to the wanted state, without a kill.
    undisturbed: BTreeMap<Operation, Duration>,
    slowest: Duration,
    second_kills: usize,
}

impl Sweep {
    fn start() -> Self {
        let cluster = TestCluster::start(&["--collect-every", "3"]);
        cluster.make_failpoints();
        let repository = site(&cluster, "shop", 2);
        repository.compile_with("echo $$ > /app/made");
        push_site(&repository, "v0");
        let books = site(&cluster, "books", 1);
        books.write("container/roles.json", BOOKS);
        // A blob over 8 MiB is written in parts, which have failpoints of their own.
        let noise: String = (0..1_400_000).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
        books.write("noise", &noise);
        push_site(&books, "v0");
        Self {
            cluster,
            repository,
            books,
            number: 0,
            undisturbed: BTreeMap::new(),
            slowest: Duration::ZERO,
            second_kills: 0,
        }
    }

    /// Names in a file of the failpoints' folder.
    fn noted(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.cluster.path("failpoints").join(file)).unwrap_or_default();
        text.lines().filter_map(|line| line.split(' ').next_back()).map(str::to_owned).collect()
    }

    /// Removes the notes of passed failpoints and kills.
    fn forget(&self) {
        for file in ["passed", "killed"] {
            let _ = std::fs::remove_file(self.cluster.path("failpoints").join(file));
        }
    }

    fn background(&self, arguments: &[&str]) -> Child {
        self.cluster.gantry_into("background", arguments)
    }

    fn change(&mut self, text: &str) -> Child {
        self.number += 1;
        self.repository.write("server.py", text);
        self.repository.commit(&format!("v{}", self.number));
        self.repository.push_in_background()
    }

    fn push(&mut self) -> Child {
        let text = SERVER.replace("VERSION", &format!("v{}", self.number + 1));
        self.change(&text)
    }

    /// The commit that serves. Images of older commits may have been garbage-collected.
    fn serving(&self) -> String {
        let text = self.cluster.gantry(&["releases", "shop", "--json"]).good().out;
        let releases: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        let current = &shop(&self.cluster)["current"];
        let serving = releases.iter().find(|release| &release["number"] == current).expect("it serves");
        serving["commit"].as_str().expect("a commit").to_owned()
    }

    /// Creates the state that an operation needs.
    fn prepare(&self, operation: Operation) {
        let scale = |copies: u32| {
            let _ = self.cluster.gantry(&["scale", "shop", &format!("web={copies}")]).good();
            self.converge("what comes before", CONVERGED);
        };
        match operation {
            Operation::Destroy | Operation::Rename => {
                self.destroy("heir");
                let _ = self.cluster.gantry(&["app", "create", "victim"]).good();
                let _ =
                    self.cluster.gantry(&["deploy", "victim", "--image", &format!("shop:{}", self.serving())]).good();
                let victim = self.cluster.gantry(&["app", "show", "victim", "--json"]).good().out;
                let shown: serde_json::Value = serde_json::from_str(&victim).expect("JSON");
                assert!(shown["ready"] == shown["wanted"] && shown["ready"] != 0, "deployed, and not there: {victim}");
            }
            Operation::Volume => self.forget_volume(),
            Operation::ScaleUp => scale(2),
            Operation::ScaleDown => scale(3),
            _ => {}
        }
    }

    /// Destroys an app, if there is one, and waits until nothing of it is left.
    fn destroy(&self, app: &str) {
        self.cluster.wait("it is gone", |cluster| {
            let shown = cluster.gantry(&["app", "show", app]);
            if shown.status == 0 {
                let _ = cluster.gantry(&["app", "destroy", app, "--confirm", app]);
            }
            shown.err.contains("no app").then_some(())
        });
    }

    /// Removes the volume's folder, so that the next copy needs a new folder. The running copy keeps its open files.
    /// An interrupted operation may not have made the folder.
    fn forget_volume(&self) {
        let removed = std::fs::remove_dir_all(self.cluster.path("data/volumes/books"));
        assert!(removed.is_ok() || !self.cluster.path("data/volumes/books").exists(), "{removed:?}");
    }

    /// Requests the operation, with one client or more.
    fn begin(&mut self, operation: Operation) -> Vec<Child> {
        match operation {
            Operation::Push => vec![self.push()],
            Operation::Volume => {
                self.number += 1;
                let version = format!("v{}", self.number);
                self.books.write("server.py", &SERVER.replace("VERSION", &version));
                self.books.commit(&version);
                vec![self.books.push_in_background()]
            }
            Operation::BadPush => vec![self.change(BAD)],
            Operation::Superseded => {
                let mut first = self.push();
                self.cluster.wait("it has begun, or was cut", |cluster| {
                    let ended = first.try_wait().expect("asked").is_some();
                    (ended || !shop(cluster)["deploy"].is_null()).then_some(())
                });
                vec![first, self.push(), self.push()]
            }
            Operation::Configuration => {
                self.number += 1;
                vec![self.background(&["config", "set", "shop", &format!("N={}", self.number)])]
            }
            Operation::Held => {
                let address = format!("http://127.0.0.1:{}/v1/apps/shop/deploys", self.cluster.api_port());
                let token = format!("Authorization: Bearer {}", self.cluster.token());
                let body = r#"{"source":{"kind":"rollback","to":null},"hold":true}"#;
                let mut curl = Command::new("curl");
                curl.args(["-sSf", "--max-time", "20", "-H", &token, "-d", body, &address]);
                vec![curl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("curl")]
            }
            Operation::Rollback => vec![self.background(&["rollback", "shop"])],
            Operation::ScaleUp => vec![self.background(&["scale", "shop", "web=3"])],
            Operation::ScaleDown => vec![self.background(&["scale", "shop", "web=2"])],
            Operation::Destroy => vec![self.background(&["app", "destroy", "victim", "--confirm", "victim"])],
            Operation::Rename => vec![self.background(&["app", "rename", "victim", "heir"])],
            Operation::Data => vec![self.data()],
            Operation::Job => vec![self.background(&["job", "run", "shop/web", "--follow", "--", "/bin/true"])],
            Operation::Lock => vec![self.background(&["lock", "run", "shop/sweep", "--ttl", "2s", "--", "/bin/true"])],
            Operation::AgentStart => {
                self.cluster.kill_service("agent");
                Vec::new()
            }
        }
    }

    /// Works on a volume until a command fails. The archive is a folder of the repository.
    fn data(&self) -> Child {
        let gantry = format!("{} volume", gantry_testbed::program("gantry").display());
        let line = format!(
            "tar -C {} -c . | {gantry} import books notes
             {gantry} snapshot books notes create one
             {gantry} snapshot books notes restore one
             {gantry} rm books notes",
            self.cluster.path("repository-books/container").display()
        );
        Command::new("sh")
            .args(["-ec", &line])
            .env("GANTRY_URL", format!("http://127.0.0.1:{}", self.cluster.api_port()))
            .env("GANTRY_TOKEN", self.cluster.token())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh")
    }

    /// The content of the volume `notes`; `None` if there is no such volume.
    fn notes(&self) -> Option<String> {
        std::fs::read_to_string(self.cluster.path("data/volumes/books/notes/roles.json")).ok()
    }

    /// Completes or aborts the operation.
    fn end(&self, operation: Operation, acknowledged: bool) {
        match operation {
            Operation::Held => {
                if acknowledged {
                    self.cluster
                        .wait("it is held", |cluster| (shop(cluster)["deploy"]["state"] == "held").then_some(()));
                }
                // A request without acknowledgement may have been accepted nevertheless. A kill may also interrupt
                // the abort.
                self.cluster.wait("it is called off", |cluster| {
                    let _ = cluster.gantry(&["abort", "shop"]);
                    let value = shop(cluster);
                    (value["name"] == "shop" && value["deploy"].is_null()).then_some(())
                });
            }
            Operation::Destroy => self.cluster.wait("it is gone", |cluster| {
                let known = cluster.gantry(&["app", "show", "victim"]);
                assert!(!acknowledged || known.status != 0, "acknowledged and there: {}", known.all());
                if known.status == 0 {
                    let _ = cluster.gantry(&["app", "destroy", "victim", "--confirm", "victim"]);
                }
                known.err.contains("no app").then_some(())
            }),
            Operation::Rename => self.cluster.wait("it has the new name", |cluster| {
                let victim = cluster.gantry(&["app", "show", "victim"]);
                // Refused while the rename is under way. A request without acknowledgement may have been accepted.
                if victim.status == 0 && app_info(cluster, "heir").is_null() {
                    let _ = cluster.gantry(&["app", "rename", "victim", "heir"]);
                }
                victim.err.contains("no app").then_some(())
            }),
            Operation::Data => {
                let folder = self.cluster.path("data/volumes/books");
                let is_whole = |text: String| text == BOOKS;
                assert!(
                    self.notes().is_none_or(is_whole) || !folder.join("notes").exists(),
                    "the volume is half there"
                );
                assert!(!acknowledged || !folder.join("notes").exists(), "acknowledged and there");
                self.cluster.wait("the volume is gone", |cluster| {
                    let refused = cluster.gantry(&["volume", "rm", "books", "notes"]);
                    refused.err.contains("has no volume notes").then_some(())
                });
                self.cluster.wait("nothing half made is left", |_| {
                    let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
                    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
                    names.all(|name| name == "data" || name == ".used-data").then_some(())
                });
            }
            Operation::Job => self.cluster.wait("every job has succeeded", |cluster| {
                let text = cluster.gantry(&["job", "ls", "--json"]).out;
                let listed: serde_json::Value = serde_json::from_str(&text).ok()?;
                let mut jobs = listed["jobs"].as_array()?.iter();
                let files = std::fs::read_dir(cluster.path("data/jobs")).map_or(0, Iterator::count);
                (jobs.all(|job| job["status"] == "succeeded") && files == 0).then_some(())
            }),
            Operation::Lock => self.cluster.wait("the lock is free", |cluster| {
                (cluster.gantry(&["lock", "run", "shop/sweep", "--ttl", "2s", "--", "/bin/true"]).status == 0)
                    .then_some(())
            }),
            Operation::AgentStart => self.cluster.wait("the agent runs again", |_| {
                let count = |file| self.noted(file).iter().filter(|failpoint| *failpoint == "agent.adopted").count();
                (count("passed") > count("killed")).then_some(())
            }),
            _ => {}
        }
    }

    /// Asserts that an acknowledged change is there after everything has settled.
    fn check(&self, operation: Operation, before: &serde_json::Value) {
        let (now, text) = (shop(&self.cluster), page(&self.cluster, "shop"));
        match operation {
            Operation::Push | Operation::Superseded => {
                assert!(text.starts_with(&format!("v{} ", self.number)), "acknowledged and gone: {text}");
                let (here, there) = (self.repository.git(&["rev-parse", "HEAD"]).out, self.repository.remote_head());
                assert_eq!(here.trim(), there, "acknowledged, and the branch is elsewhere");
            }
            Operation::Volume => {
                let text = page(&self.cluster, "books");
                assert!(text.starts_with(&format!("v{} ", self.number)), "acknowledged and gone: {text}");
                let release = app_info(&self.cluster, "books")["current"].to_string();
                let release = format!("v{} release-1 | migrating", release.trim_matches(['"', 'v']));
                let lines = self.cluster.gantry(&["logs", "books", "-p", "release", "-n", "1000"]).good().out;
                let own = lines.lines().filter(|line| line.ends_with(&release));
                assert_eq!(own.count(), 1, "{release}:\n{lines}");
            }
            Operation::Configuration => {
                let value = self.cluster.gantry(&["config", "get", "shop", "N"]).good().out;
                assert_eq!(value.trim(), self.number.to_string(), "acknowledged and gone");
                assert_ne!(now["current"], before["current"], "acknowledged and not released");
            }
            Operation::Rollback => assert_ne!(now["current"], before["current"], "acknowledged and not released"),
            Operation::ScaleUp | Operation::ScaleDown => {
                assert_ne!(now["wanted"], before["wanted"], "acknowledged and gone")
            }
            Operation::BadPush => panic!("it was told that a release serves that cannot"),
            Operation::Job => {
                let text = self.cluster.gantry(&["job", "ls", "--json"]).good().out;
                let listed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(listed["jobs"][0]["status"], "succeeded", "acknowledged and gone: {text}");
            }
            Operation::Held
            | Operation::Destroy
            | Operation::Rename
            | Operation::Data
            | Operation::Lock
            | Operation::AgentStart => {}
        }
    }

    /// Failpoints that the operation passes without a kill.
    fn survey(&mut self, operation: Operation) -> BTreeSet<String> {
        self.prepare(operation);
        let before = shop(&self.cluster);
        self.forget();
        let begun = Instant::now();
        let good = self.begin(operation).into_iter().all(|mut child| child.wait().expect("waited").success());
        // The later failpoints belong to the abort.
        let until_held = (operation == Operation::Held).then(|| {
            self.cluster.wait("it is held", |cluster| (shop(cluster)["deploy"]["state"] == "held").then_some(()));
            self.noted("passed")
        });
        self.end(operation, true);
        self.converge(&format!("{operation:?}"), CONVERGED);
        self.undisturbed.insert(operation, begun.elapsed());
        assert!(good != matches!(operation, Operation::BadPush | Operation::Superseded), "{operation:?}: {good}");
        if good {
            self.check(operation, &before);
        }
        let mut passed: BTreeSet<String> = until_held.unwrap_or_else(|| self.noted("passed")).into_iter().collect();
        if operation == Operation::Job {
            // A job starts in a slot or without one: its launch has other failpoints each time.
            passed.retain(|name| !["launch.", "group.", "inside."].iter().any(|begin| name.starts_with(begin)));
        }
        passed
    }

    /// Kills a process at a failpoint of an operation, and another at the `next` failpoints.
    fn kill_at(&mut self, operation: Operation, failpoint: &str, next: &[&str]) {
        let what = format!("{failpoint} of {operation:?}");
        self.prepare(operation);
        let before = shop(&self.cluster);
        self.forget();
        let list: String = [failpoint].iter().chain(next).map(|failpoint| format!("{failpoint}\n")).collect();
        std::fs::write(self.cluster.path("failpoints/kill"), list).expect("armed");
        let begun = Instant::now();
        let children = self.begin(operation);
        self.cluster
            .wait(&format!("{what} is passed"), |_| self.noted("killed").contains(&failpoint.to_owned()).then_some(()));
        let killed = Instant::now();
        let good: Vec<bool> = children.into_iter().map(|mut child| child.wait().expect("waited").success()).collect();
        let acknowledged = good.last().copied().unwrap_or(false);
        self.end(operation, acknowledged);
        let _ = std::fs::remove_file(self.cluster.path("failpoints/kill"));
        // A killed operation may start over: its own time counts once more for the rest, and once for the repetition.
        let limit = RECOVERED + 2 * self.undisturbed[&operation];
        self.converge(&what, limit);
        let took = killed.elapsed();
        assert!(took < limit, "{what}: recovered in {took:?}, limit {limit:?}");
        self.slowest = self.slowest.max(took);
        self.second_kills += usize::from(self.noted("killed").len() > 1);
        assert!(page(&self.cluster, "shop").starts_with('v'), "{what}");
        if acknowledged {
            self.check(operation, &before);
        }
        println!("{what}: killed {:?} in, converged after {took:?}", killed - begun);
    }

    /// Remains of the removed app `victim` in the data folder.
    fn of_victim(&self) -> Vec<String> {
        if app_info(&self.cluster, "victim")["name"] == "victim" {
            return Vec::new();
        }
        let entries = ["server/git", "caches", "times", "server/builds"].into_iter().flat_map(|folder| {
            std::fs::read_dir(self.cluster.path("data").join(folder)).into_iter().flatten().flatten()
        });
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("victim")).collect()
    }

    /// Waits for exactly the wanted state.
    fn converge(&self, what: &str, limit: Duration) {
        let mut last = String::new();
        let begun = Instant::now();
        while begun.elapsed() < limit {
            let mut apps = vec![("shop", 2), ("books", 1)];
            apps.extend(app_info(&self.cluster, "heir")["name"].is_string().then_some(("heir", 2)));
            let apps = apps.into_iter().map(|(app, copies)| settled(&self.cluster, app, copies));
            let expected: Result<Vec<Vec<String>>, String> = apps.collect();
            match expected {
                Ok(expected) => {
                    let mut strays = self.cluster.strays(&expected.concat());
                    strays.extend(self.of_victim());
                    if strays.is_empty() {
                        return;
                    }
                    last = format!("{strays:?}");
                }
                Err(unsettled) => last = unsettled,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("after a kill at {what}: {last}\n{}", self.cluster.log());
    }
}

/// Wanted instances of an app, if no operation is in progress; else the app's description.
fn settled(cluster: &TestCluster, app: &str, copies: u64) -> Result<Vec<String>, String> {
    let value = app_info(cluster, app);
    // The requested scale. The plan follows later.
    let expected = value["scale"]["web"].as_u64().unwrap_or(copies);
    if !value["deploy"].is_null() || value["wanted"] != expected || value["ready"] != expected {
        return Err(value.to_string());
    }
    let shown: Vec<serde_json::Value> =
        serde_json::from_str(&cluster.gantry(&["ps", app, "--json"]).out).map_err(|error| error.to_string())?;
    let ids = shown.iter().filter_map(|instance| instance["id"].as_str().map(str::to_owned)).collect::<Vec<_>>();
    // A copy that was placed again has a number: `web-1.2`.
    let slot = |id: &String| id.splitn(4, '.').take(3).collect::<Vec<_>>().join(".");
    let current = value["current"].to_string();
    let slots: Vec<String> =
        (1..=expected).map(|n| format!("{app}.v{}.web-{n}", current.trim_matches(['"', 'v']))).collect();
    let found: Vec<String> = ids.iter().map(slot).collect();
    if found == slots { Ok(ids) } else { Err(format!("{found:?} instead of {slots:?}")) }
}

/// Kills to carry out: each failpoint in each operation that passes the failpoint, or in one of them in turn.
fn cuts(passed: &BTreeMap<Operation, BTreeSet<String>>, names: &[&String], each: bool) -> Vec<(Operation, String)> {
    let mut cuts = Vec::new();
    for (turn, failpoint) in names.iter().enumerate() {
        let passing: Vec<Operation> =
            passed.iter().filter(|(_, passed)| passed.contains(*failpoint)).map(|(operation, _)| *operation).collect();
        assert!(!passing.is_empty(), "no operation passes {failpoint}");
        let chosen = if each { passing } else { vec![passing[turn % passing.len()]] };
        cuts.extend(chosen.into_iter().map(|operation| (operation, (*failpoint).clone())));
    }
    // `up` delays the restart of a service that crashes repeatedly, so restarts of the agent are spread among the
    // other operations.
    let (starts, mut all): (Vec<_>, Vec<_>) = cuts.into_iter().partition(|(o, _)| *o == Operation::AgentStart);
    let between = all.len() / (starts.len() + 1);
    for (number, start) in starts.into_iter().enumerate() {
        all.insert((number + 1) * between + number, start);
    }
    all
}

/// Two test clusters share the failpoints, because a cluster waits more than it works.
#[test]
fn recovers_from_a_kill_at_half_of_the_failpoints() {
    sweep(0);
}

#[test]
fn recovers_from_a_kill_at_the_other_half() {
    sweep(1);
}

/// Kills at every second failpoint, starting with the first (`half` 0) or the second (`half` 1).
fn sweep(half: usize) {
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let mut sweep = Sweep::start();
    let passed: BTreeMap<Operation, BTreeSet<String>> =
        OPERATIONS.into_iter().map(|operation| (operation, sweep.survey(operation))).collect();
    let all = failpoints();
    assert!(all.len() > 50, "{all:?}");
    let only = std::env::var("GANTRY_TEST_STEPS").ok();
    let chosen = |failpoint: &&String| only.as_ref().is_none_or(|only| failpoint.contains(only.as_str()));
    // A killed router loses its connections, so these kills come before the load. Under load, no router is killed.
    let (routers, others): (Vec<&String>, Vec<&String>) =
        all.iter().filter(chosen).skip(half).step_by(2).partition(|failpoint| failpoint.starts_with("table."));
    let (routers, others) = (cuts(&passed, &routers, long), cuts(&passed, &others, long));
    for (operation, failpoint) in &routers {
        sweep.kill_at(*operation, failpoint, if long { &["*"] } else { &[] });
    }
    let target = Target::shop(
        sweep.cluster.http_port(),
        &[LoadKind::Keep, LoadKind::Fresh, LoadKind::Http2],
        Duration::from_millis(20),
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = runtime.block_on(async { Load::begin(&target, 3, Duration::from_secs(7200)) });
    for (operation, failpoint) in &others {
        sweep.kill_at(*operation, failpoint, if long { &["!table."] } else { &[] });
    }
    let report = runtime.block_on(load.end());
    assert_eq!(report.failed, 0, "{report:?}");
    if long {
        let kills = routers.len() + others.len();
        assert!(
            kills == 0 || sweep.second_kills * 2 > kills,
            "{} of {kills} recoveries met a failpoint",
            sweep.second_kills
        );
    }
    println!(
        "half of {} failpoints, {} kills, {} of them with a second one, slowest {:?}, {} requests, failed: {}",
        all.len(),
        routers.len() + others.len(),
        sweep.second_kills,
        sweep.slowest,
        report.sent,
        report.failed
    );
}
