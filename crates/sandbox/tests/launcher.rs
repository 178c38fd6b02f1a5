//! Faults of the launcher and its workers. Containers go on, and no launch is lost or doubled.
//!
//! The trials share the launcher of this program, so they run one after the other.

mod boxes;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use boxes::{a_box, outcome, run, trial, until};
use gantry_sandbox::{Container, LAUNCHER_COMMAND, launch, launcher_main, probe_users};
use rustix::process::{Pid, Signal, kill_process};

fn main() -> ExitCode {
    if let Some(code) = launcher_main() {
        return code;
    }
    if std::env::args().nth(1).as_deref() == Some(CALLER) {
        return caller();
    }
    let trials = vec![
        trial("another_launcher_replaces_one_that_was_killed", || run(killed_launcher())),
        trial("a_launcher_that_stands_still_is_replaced", || run(stopped_launcher())),
        trial("a_launch_that_nobody_awaits_leaves_nothing", || run(dropped_launch())),
        trial("a_launcher_ends_with_its_caller_and_containers_do_not", || run(ended_caller())),
        trial("one_launcher_serves_many_launches_at_once", || run(many_launches())),
        trial("a_launcher_holds_nothing_of_a_container", || run(clean_launcher())),
        trial("the_launcher_of_a_probe_opens_init_for_all_containers", || run(opened_init())),
    ];
    boxes::one_by_one(trials)
}

/// First argument that makes this program a caller, which starts a container and prints the pid of its launcher.
const CALLER: &str = "be-a-caller";

fn words(pid: i32, file: &str) -> Vec<String> {
    let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.split(|byte| [0, b'\n'].contains(byte)).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The launchers and workers that are children of a process, with their names.
fn children(parent: u32) -> Vec<(i32, String)> {
    let entries = std::fs::read_dir("/proc").expect("read").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
        state.is_some_and(|fields| fields[0] != "Z" && fields[1] == parent.to_string())
    };
    pids.filter(own).map(|pid| (pid, words(pid, "comm")[0].clone())).collect()
}

fn launcher() -> i32 {
    let found = children(std::process::id());
    let mut launchers =
        found.iter().filter(|(pid, _)| words(*pid, "cmdline").iter().any(|word| word == LAUNCHER_COMMAND));
    launchers.next().unwrap_or_else(|| panic!("no launcher among {found:?}")).0
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("sent");
}

async fn killed_launcher() {
    let a = a_box("echo ready; sleep 100");
    let container = a.start().await;
    a.wait_for_output("ready").await;
    let before = launcher();
    signal(before, Signal::KILL);
    assert_eq!(outcome(&a_box("echo next")).await.0, ["next"]);
    assert_ne!(launcher(), before);
    assert!(container.is_running(), "a container needs no launcher");
    container.destroy().await.expect("removed");
}

async fn stopped_launcher() {
    assert_eq!(outcome(&a_box("echo first")).await.0, ["first"]);
    let before = launcher();
    signal(before, Signal::STOP);
    let a = a_box("echo never");
    let error = launch(&a.spec).await.map(drop).expect_err("the launcher stands still").to_string();
    assert!(error.contains("did not respond"), "{error}");
    assert_eq!(outcome(&a_box("echo next")).await.0, ["next"]);
    assert!(launcher() != before && !Path::new(&format!("/proc/{before}")).exists(), "the old one is killed");
    assert_eq!(a.log(), [""; 0], "the launch that failed did not happen later");
}

async fn dropped_launch() {
    // Each turn drops the launch a little later, so that the worker is at another step.
    let (mut launched, mut dropped) = (0, 0);
    // As many turns as an emulated machine manages in the time.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    for delay in (0..60).map(|turn| Duration::from_micros(turn * 150)) {
        if dropped > 5 && std::time::Instant::now() > end {
            break;
        }
        let a = a_box("sleep 100");
        match tokio::time::timeout(delay, launch(&a.spec)).await {
            Ok(container) => {
                launched += 1;
                container.expect("launched").destroy().await.expect("removed");
            }
            Err(_) => dropped += 1,
        }
        // The agent adopts the container of an abandoned launch: a released container has a record.
        match Container::adopt(&a.spec.state, &a.spec.cgroup) {
            Some(container) => container.destroy().await.expect("removed"),
            None => gantry_sandbox::kill_rest(&a.spec.cgroup).await.expect("removed"),
        }
        let workers =
            || children(launcher().cast_unsigned()).into_iter().filter(|(_, name)| name == "gantry-worker").count();
        until("a worker of a dropped launch is left", || workers() == 0).await;
        let groups = ["pids", "memory", "."].map(|name| Path::new("/sys/fs/cgroup").join(name).join(&a.spec.cgroup));
        assert!(!groups.iter().any(|group| group.exists()), "a worker made its group after it was dropped");
        // The killed child of a worker has the lock of the state folder until its end. Then the next launch succeeds.
        let is_free = || match std::fs::File::open(a.spec.state.join("launch.lock")) {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        until("the lock of a dropped launch is held", is_free).await;
        assert!(a.start().await.destroy().await.is_ok());
    }
    assert!(dropped > 5, "{dropped} were dropped, {launched} launched");
}

/// The caller's side of [`ended_caller`].
fn caller() -> ExitCode {
    run(async {
        let spec = std::env::args().nth(2).expect("a spec");
        let spec = serde_json::from_str(&spec).expect("a spec");
        let container = launch(&spec).await.expect("launched");
        println!("{} {}", launcher(), container.pid().expect("runs"));
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

async fn ended_caller() {
    use std::io::BufRead;
    let a = a_box("echo ready; sleep 100");
    let mut caller = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args([CALLER, &serde_json::to_string(&a.spec).expect("text")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    std::io::BufReader::new(caller.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    let pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect();
    let [launcher, pid] = pids[..] else { panic!("{line}") };
    a.wait_for_output("ready").await;
    caller.kill().expect("killed");
    caller.wait().expect("ended");
    until("the launcher outlives its caller", || words(launcher, "comm")[0] != "gantry-launcher").await;
    let container = Container::adopt(&a.spec.state, &a.spec.cgroup).expect("found");
    assert_eq!(container.pid(), Some(pid));
    container.destroy().await.expect("removed");
}

async fn many_launches() {
    let mut running = tokio::task::JoinSet::new();
    for number in 0..24 {
        running.spawn(async move { (number, outcome(&a_box(&format!("echo {number}"))).await.0) });
    }
    let before = launcher();
    for (number, lines) in running.join_all().await {
        assert_eq!(lines, [number.to_string()]);
    }
    assert_eq!(launcher(), before);
}

/// A launch leaves no descriptor in the launcher, which never held the spec. The container has its streams alone.
async fn clean_launcher() {
    assert_eq!(outcome(&a_box("echo first")).await.0, ["first"]);
    let launcher = launcher();
    until("the first worker is not reaped", || !descriptors(launcher).iter().any(|to| to.contains("[pidfd]"))).await;
    let before = descriptors(launcher);
    let mut a = a_box("echo $MARK; cd /proc/self/fd; echo *; echo /proc/1/fd/*");
    a.spec.env.push(("MARK".into(), "mark-of-a-container".into()));
    // The shell that expands the second line has its script's streams; the folder that it reads is a fourth.
    assert_eq!(outcome(&a).await.0, ["mark-of-a-container", "0 1 2 3", "/proc/1/fd/*"]);
    until("the launcher has more open than before", || descriptors(launcher) == before).await;
    assert!(!holds(launcher, b"mark-of-a-container"), "the launcher has the container's environment");
    assert!(holds(launcher, LAUNCHER_COMMAND.as_bytes()), "the search finds what is there");
}

/// The first task of an agent is a probe. Its launcher is that of all containers.
async fn opened_init() {
    let a = a_box("echo first");
    assert_eq!(outcome(&a).await.0, ["first"]);
    let before = launcher();
    signal(before, Signal::KILL);
    // The machine may have no idmapped mounts.
    let _ = probe_users(a.folder.path(), &a.spec.init).await;
    let launcher = launcher();
    assert_ne!(launcher, before);
    let file = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let init = file(&a.spec.init).expect("a file");
    let mut opened = std::fs::read_dir(format!("/proc/{launcher}/fd")).expect("read").flatten();
    assert!(opened.any(|entry| file(&entry.path()).is_ok_and(|file| file == init)), "init is not open");
}

/// The targets of a process's descriptors, in order.
fn descriptors(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("read").flatten();
    let mut targets: Vec<String> =
        entries.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string())).collect();
    targets.sort();
    targets
}

/// Searches a process's writable memory.
fn holds(pid: i32, text: &[u8]) -> bool {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("opened");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("read");
    let ranges = maps.lines().filter(|line| line.contains(" rw-p ")).map(|line| {
        let (from, rest) = line.split_once('-').expect("a range");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        (number(from), number(rest.split(' ').next().expect("an end")))
    });
    ranges.into_iter().any(|(from, to)| {
        let mut bytes = vec![0; usize::try_from(to - from).expect("a size")];
        memory.read_exact_at(&mut bytes, from).is_ok() && bytes.windows(text.len()).any(|window| window == text)
    })
}
