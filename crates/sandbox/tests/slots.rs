//! Prepared slots: a container in a slot is as any other, finds nothing of another container, and no fault of a seed or of
//! its caller leaves anything behind.
//!
//! The trials share bridge and launcher, so they run one after the other.

mod boxes;

use std::collections::BTreeSet;
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use boxes::{TestBox, a_box, launch_in_slot, run, run_within, slot_spec, trial, until};
use gantry_sandbox::{
    Container, ContainerNetwork, ContainerSpec, ExitRecord, PreparedSlot, ProcessUser, end_own_slots, end_slots,
    kill_rest, launcher_main,
};
use rustix::process::{Pid, Signal, kill_process};

fn main() -> ExitCode {
    if let Some(code) = launcher_main() {
        return code;
    }
    match std::env::args().nth(1).as_deref() {
        Some(CALLER) => return caller(false),
        Some(WAITING_CALLER) => return caller(true),
        _ => {}
    }
    let bridge = Bridge::make();
    let trials = vec![
        trial("a_container_finds_nothing_of_the_one_before", || run_within(MANY_TURNS, nothing_left())),
        trial("a_container_in_a_slot_has_the_posture_of_any_other", || run(same_posture())),
        trial("a_container_in_a_slot_cannot_change_the_network", || run(unchangeable_network())),
        trial("a_slot_serves_its_own_network_alone", || run(own_network())),
        trial("limits_are_those_of_the_container", || run(limits())),
        trial("a_container_outlives_the_launcher_and_the_seed_of_its_slot", || run(outlived())),
        trial("a_slot_whose_seed_was_killed_fails_and_leaves_nothing", || run(killed_seed())),
        trial("a_slot_that_is_not_used_leaves_nothing", || run(unused_slot())),
        trial("slots_end_with_their_caller", || run(ended_caller())),
        trial("a_launch_in_a_slot_that_nobody_awaits_leaves_nothing", || run_within(MANY_TURNS, dropped_launch())),
        trial("a_caller_or_seed_killed_at_any_step_leaves_nothing", || run_within(MANY_TURNS, killed_anywhere())),
    ];
    let code = boxes::one_by_one(trials);
    drop(bridge);
    code
}

/// Time of a trial that does a lot in its containers, on an emulated machine too.
const MANY_TURNS: Duration = Duration::from_secs(300);

/// Address of the bridge.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 97, 1);

/// Address of the containers.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 97, 7);

/// The bridge of this program.
struct Bridge;

static BRIDGE: LazyLock<String> = LazyLock::new(|| format!("gts{:x}", std::process::id()));

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().expect("ip").success(), "ip {arguments:?}");
}

impl Bridge {
    fn make() -> Self {
        ip(&["link", "add", &BRIDGE, "type", "bridge"]);
        ip(&["addr", "add", &format!("{GATEWAY}/24"), "dev", &BRIDGE]);
        ip(&["link", "set", &BRIDGE, "up"]);
        Self
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&["link", "delete", &BRIDGE]);
    }
}

fn network() -> ContainerNetwork {
    let link = format!("{}l", *BRIDGE);
    ContainerNetwork { bridge: BRIDGE.clone(), link, address: ADDRESS, prefix: 24, gateway: GATEWAY }
}

/// A box with a network, whose script finds all of busybox's programs.
fn networked(script: &str) -> TestBox {
    let mut a = a_box(script);
    a.spec.network = Some(network());
    for name in
        ["ip", "nc", "mkfifo", "grep", "sort", "wc", "dd", "ps", "sysctl", "rm", "tail", "head", "find", "cut", "stat"]
    {
        std::os::unix::fs::symlink("busybox", a.spec.root.layers[0].join("bin").join(name)).expect("linked");
    }
    a
}

async fn prepare(spec: &ContainerSpec) -> PreparedSlot {
    PreparedSlot::prepare(slot_spec(spec)).await.unwrap_or_else(|error| panic!("{error}: {error:?}"))
}

/// Runs a box in a slot to its end. Returns its output.
async fn outcome(a: &TestBox) -> Vec<String> {
    let container = launch_in_slot(&a.spec).await.unwrap_or_else(|error| panic!("{error}: {error:?}"));
    container.ended().await;
    container.destroy().await.expect("removed");
    a.log()
}

/// A server on the bridge, which lets the client close first: the client's connection stays in TIME_WAIT.
fn serve() -> u16 {
    let listener = TcpListener::bind((GATEWAY, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("accepted");
            connection.write_all(b"served\n").expect("written");
            let _ = connection.read_to_end(&mut Vec::new());
        }
    });
    port
}

/// Prints all that a container can see of its surroundings and that another container might have left there.
/// The processor time comes first, because the rest takes long on an emulated machine. The count of all sockets is left
/// out: the kernel releases those that made the link a moment later.
const PRINT_SURROUNDINGS: &str = "exec 2>&1; (cd /sys/fs/cgroup; \
    [ $(cat cpuacct/cpuacct.usage 2>/dev/null || echo $(($(grep usage_usec cpu.stat | cut -d' ' -f2) * 1000))) -lt 1000000000 ] \
    && echo little time); echo routes; ip route; echo addresses; ip -o addr | grep -o 'inet .*'; \
    echo neighbours; ip neigh; ip -6 neigh; cat /proc/net/arp | tail -n +2; \
    echo sockets; for kind in tcp tcp6 udp udp6 raw raw6 icmp unix packet; do tail -n +2 /proc/net/$kind; done; \
    grep -E '^(TCP|UDP|RAW)' /proc/net/sockstat | cut -d' ' -f1-3; grep -o ' tw [0-9]*' /proc/net/sockstat; \
    echo processes; ps -o pid,comm >/tmp/ps; grep -v ' ps$' /tmp/ps; rm /tmp/ps; \
    echo files; find /tmp /dev/shm /dev/mqueue -mindepth 1; \
    echo users; cat /proc/self/uid_map /proc/self/gid_map; \
    echo settings; sysctl -a 2>/dev/null | grep -E '^(net|kernel.(msg|sem|shm|hostname|domainname)|fs.mqueue|user)' \
    | grep -v -E 'stat|_count|fib_sync_mem|mtu'; \
    echo ipc; tail -n +2 /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg | grep -v -E '^(==>|$)'; \
    echo counters; cd /sys/fs/cgroup; \
    cat pids/pids.events pids.events memory/memory.failcnt memory/memory.memsw.failcnt 2>/dev/null; \
    grep -h oom_kill memory/memory.oom_control memory.events 2>/dev/null; \
    [ $(cat memory/memory.max_usage_in_bytes memory.peak 2>/dev/null) -lt 16000000 ] && echo little memory; \
    [ $(cat memory/memory.usage_in_bytes memory.current 2>/dev/null) -lt 16000000 ] && echo little in use; \
    echo end";

/// Uses all that a container can use, and leaves what it can.
fn untidy(port: u16) -> String {
    format!(
        "exec 2>&1; nc {GATEWAY} {port} </dev/null; grep -o ' tw [0-9]*' /proc/net/sockstat; \
         echo x >/tmp/left; echo x >/dev/shm/left; dd if=/dev/zero of=/tmp/cached bs=1M count=30; \
         ip neigh | grep -c {GATEWAY}; i=0; while [ $i -lt 1500000 ]; do i=$((i+1)); done; \
         nc -l -p 7000 & ip addr add 10.9.9.9/8 dev eth0; ip route add 10.0.0.0/8 dev eth0; echo untidy; \
         (while sleep 1000 & do :; done)"
    )
}

/// The container before may leave what it wants: it has another slot. A launch without a slot shows what is to be seen.
async fn nothing_left() {
    let fresh = boxes::outcome(&networked(PRINT_SURROUNDINGS)).await.0;
    assert!(fresh.last().is_some_and(|line| line == "end"), "{fresh:#?}");
    for wanted in ["little memory", "little in use", "little time"] {
        assert!(fresh.iter().any(|line| line == wanted), "{fresh:#?}");
    }
    let busy = outcome(&networked(&untidy(serve()))).await;
    for wanted in ["served", " tw 1", "1"] {
        assert!(busy.iter().any(|line| line == wanted), "no {wanted:?}: {busy:#?}");
    }
    // The address is the same, and so is the name of the link.
    let after = outcome(&networked(PRINT_SURROUNDINGS)).await;
    assert_eq!(after, fresh, "after: {busy:#?}");
}

/// Prints the properties that two containers of one specification share.
const POSTURE: &str = "exec 2>&1; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/self/status; cat /proc/self/uid_map; \
    cut -d' ' -f5- /proc/self/mountinfo | grep -v -E 'upperdir|/(hosts)' | cut -d' ' -f1,2; cat /proc/self/cgroup | cut -d: -f2-; \
    ls -l /dev | wc -l; ls /proc/self/fd; ls /proc/1/fd; cat /proc/1/oom_score_adj; cat /proc/3/stat | cut -d' ' -f1,2,4-6; \
    hostname; ulimit -a; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range; \
    cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
    cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; ps -o pid,user,comm >/tmp/ps; grep -v ' ps$' /tmp/ps; \
    echo x >/proc/sys/net/ipv4/ip_forward; echo 1 >/sys/fs/cgroup/pids/cgroup.procs; umask; unshare -n true; mount -t tmpfs x /tmp; echo end";

async fn same_posture() {
    for user in [ProcessUser { uid: 0, gid: 0 }, ProcessUser { uid: 1000, gid: 1000 }] {
        let make = || {
            let mut a = networked(POSTURE);
            a.spec.user = user;
            a
        };
        let expected = boxes::outcome(&make()).await.0;
        assert!(expected.len() > 40 && expected.last().is_some_and(|line| line == "end"), "{expected:#?}");
        assert_eq!(outcome(&make()).await, expected);
    }
}

async fn unchangeable_network() {
    let script = "exec 2>&1; ip addr add 10.9.9.9/8 dev eth0; ip addr del 198.18.97.7/24 dev eth0; \
         ip link set eth0 down; ip link set lo down; ip route del default; ip route add 10.0.0.0/8 dev eth0; \
         ip link set eth0 address 02:00:00:00:00:02; \
         ip link add dummy0 type dummy; sysctl -w net.ipv4.tcp_sack=0; echo 1 >/proc/sys/net/ipv4/ip_forward; echo end";
    for users in [Some(boxes::FIRST), None] {
        let mut a = networked(script);
        a.spec.user = ProcessUser { uid: 0, gid: 0 };
        a.spec.users = users;
        let lines = outcome(&a).await;
        let refused = lines.iter().filter(|line| line.contains("not permitted") || line.contains("Read-only")).count();
        assert_eq!((refused, lines.len()), (10, 11), "{lines:#?}");
    }
}

async fn own_network() {
    let a = networked("echo never");
    let slot = prepare(&a.spec).await;
    let mut other = a.spec.clone();
    other.network = None;
    assert!(slot.launch(&other).await.is_err(), "another network");
    assert_eq!(a.log(), [""; 0]);
    nothing_is_left(&a.spec).await;
    let lone = a_box("cat /proc/net/dev | grep -c :; echo alone");
    assert_eq!(outcome(&lone).await, ["1", "alone"], "loopback");
}

async fn limits() {
    let mut a = a_box(
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max pids/pids.max pids.max \
         cpu/cpu.cfs_quota_us cpu.max 2>/dev/null; echo x >/dev/null; cat /proc/self/cgroup | cut -d: -f3 | sort -u",
    );
    let programs = a.spec.root.layers[0].join("bin");
    for name in ["cut", "sort"] {
        std::os::unix::fs::symlink("busybox", programs.join(name)).expect("linked");
    }
    a.spec.limits.memory = 48 << 20;
    a.spec.limits.pids = 17;
    a.spec.limits.milli_cpu = 700;
    let slot = prepare(&a.spec).await;
    let container = slot.launch(&a.spec).await.expect("launched");
    container.ended().await;
    assert!(container.peak_memory() < 16 << 20, "{} B", container.peak_memory());
    container.destroy().await.expect("removed");
    let lines = a.log();
    assert_eq!(lines[..2], ["50331648", "17"], "{lines:?}");
    assert!(lines[2] == "70000" || lines[2] == "70000 100000", "{lines:?}");
    // The container sees its own control groups as the root, except those of controllers without a limit.
    assert!(!lines.iter().any(|line| line.contains("slot-")), "{lines:?}");
    nothing_is_left(&a.spec).await;
}

/// The seeds and holders of this program and of its callers, by name: their command lines name this program's init.
fn named(names: &[&str]) -> Vec<i32> {
    let read = |pid: i32, file: &str| {
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned()
    };
    let init = boxes::SHARED.display().to_string();
    let entries = std::fs::read_dir("/proc").expect("read").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // A process that has ended has no command line.
    pids.filter(|pid| names.contains(&read(*pid, "comm").trim()) && read(*pid, "cmdline").contains(&init)).collect()
}

fn seeds() -> Vec<i32> {
    named(&["gantry-seed", "gantry-holder"])
}

/// The groups of this program in all hierarchies.
fn groups(spec: &ContainerSpec) -> Vec<PathBuf> {
    let (parent, _) = spec.cgroup.rsplit_once('/').expect("a group above");
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("read").flatten().map(|entry| entry.path());
    let parents = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| path.join(parent));
    let entries = parents.filter_map(|parent| std::fs::read_dir(parent).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Checks that no seed, no link and no group is left, after the next caller has begun.
async fn nothing_is_left(spec: &ContainerSpec) {
    let (parent, _) = spec.cgroup.rsplit_once('/').expect("a group above");
    let errors = end_slots(parent).await;
    assert!(errors.is_empty(), "{errors:?}");
    until("a seed is left", || seeds().is_empty()).await;
    until("a link is left", || !Path::new("/sys/class/net").join(network().link).exists()).await;
    assert_eq!(groups(spec), [""; 0].map(PathBuf::from));
}

async fn outlived() {
    let a = networked("echo ready; sleep 100");
    let slot = prepare(&a.spec).await;
    assert_eq!(seeds().len(), 2, "seed and holder");
    let container = slot.launch(&a.spec).await.expect("launched");
    a.wait_for_output("ready").await;
    until("the seed outlives its launch", || seeds().is_empty()).await;
    let (parent, _) = a.spec.cgroup.rsplit_once('/').expect("a group above");
    assert!(end_slots(parent).await.is_empty());
    assert!(container.is_running(), "the group of the container is no slot's");
    // On v1, the rules for devices were made with the slot.
    let devices = Path::new("/sys/fs/cgroup/devices").join(&a.spec.cgroup).join("devices.list");
    if let Ok(rules) = std::fs::read_to_string(devices) {
        assert!(rules.contains("c 1:3 rwm") && !rules.contains("a *:*"), "{rules}");
    }
    let found = Container::adopt(&a.spec.state, &a.spec.cgroup).expect("found");
    assert_eq!(found.pid(), container.pid());
    container.destroy().await.expect("removed");
    nothing_is_left(&a.spec).await;
}

async fn killed_seed() {
    for name in ["gantry-seed", "gantry-holder"] {
        let mut a = networked("echo never");
        let slot = prepare(&a.spec).await;
        let [pid] = named(&[name])[..] else { panic!("{:?}", named(&[name])) };
        kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("sent");
        assert!(slot.launch(&a.spec).await.is_err(), "there is no {name}");
        // The caller launches without a slot then, in the same folder.
        a.spec.args[2] = "echo next".into();
        assert_eq!(boxes::outcome(&a).await.0, ["next"]);
        nothing_is_left(&a.spec).await;
    }
}

async fn unused_slot() {
    let a = networked("echo never");
    prepare(&a.spec).await.discard().await.expect("ended");
    until("a seed is left", || seeds().is_empty()).await;
    assert_eq!(groups(&a.spec), [""; 0].map(PathBuf::from));
    drop(prepare(&a.spec).await);
    nothing_is_left(&a.spec).await;
    let mut none = a.spec.clone();
    none.network.as_mut().expect("a network").bridge = "gantry-none".into();
    let error = PreparedSlot::prepare(slot_spec(&none)).await.map(drop).expect_err("there is no such bridge");
    assert!(error.to_string().contains("bridge gantry-none"), "{error}");
    nothing_is_left(&a.spec).await;
}

async fn dropped_launch() {
    let mut dropped = 0;
    for delay in (0..60).map(|turn| Duration::from_micros(turn * 100)) {
        let a = networked("sleep 100");
        let slot = prepare(&a.spec).await;
        match tokio::time::timeout(delay, slot.launch(&a.spec)).await {
            Ok(container) => drop(container.expect("launched")),
            Err(_) => dropped += 1,
        }
        // The agent adopts the container of an abandoned launch: a released container has a record.
        match Container::adopt(&a.spec.state, &a.spec.cgroup) {
            Some(container) => container.destroy().await.expect("removed"),
            None => kill_rest(&a.spec.cgroup).await.expect("removed"),
        }
        nothing_is_left(&a.spec).await;
    }
    assert!(dropped > 5, "{dropped} were dropped");
}

/// First argument that makes this program a caller, which runs a container in a slot. The second argument is the
/// container's specification.
const CALLER: &str = "be-a-caller";

/// First argument that makes this program a caller, which prepares a slot and waits.
const WAITING_CALLER: &str = "be-a-waiting-caller";

fn caller(waits: bool) -> ExitCode {
    run(async {
        let spec: ContainerSpec = serde_json::from_str(&std::env::args().nth(2).expect("a spec")).expect("a spec");
        let live = async {
            let slot = PreparedSlot::prepare(slot_spec(&spec)).await?;
            if waits {
                println!("waits");
                std::future::pending::<()>().await;
            }
            let container = slot.launch(&spec).await?;
            container.ended().await;
            container.destroy().await
        };
        println!("{}", if live.await.is_ok() { "lived" } else { "failed" });
    });
    ExitCode::SUCCESS
}

/// Starts a caller, and waits for its first line.
fn call(mode: &str, a: &TestBox, failpoints: Option<&Path>) -> (Child, String) {
    let mut caller = Command::new(std::env::current_exe().expect("a path"))
        .args([mode, &serde_json::to_string(&a.spec).expect("text")])
        .envs(failpoints.map(|folder| (gantry_failpoint::VARIABLE, folder)))
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    std::io::BufReader::new(caller.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    (caller, line.trim().to_owned())
}

async fn ended_caller() {
    let a = networked("echo never");
    let (mut caller, line) = call(WAITING_CALLER, &a, None);
    assert_eq!((line.as_str(), seeds().len()), ("waits", 2));
    let (parent, _) = a.spec.cgroup.rsplit_once('/').expect("a group above");
    assert!(end_slots(parent).await.is_empty() && end_own_slots(parent).await.is_empty());
    assert_eq!(seeds().len(), 2, "the slot of a living caller stays");
    caller.kill().expect("killed");
    caller.wait().expect("ended");
    until("the seed outlives its caller", || seeds().is_empty()).await;
    nothing_is_left(&a.spec).await;
}

async fn killed_anywhere() {
    if !cfg!(debug_assertions) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let live = |a: &TestBox| {
        let (mut caller, line) = call(CALLER, a, Some(folder.path()));
        caller.wait().expect("ended");
        line
    };
    let a = networked("echo lived");
    assert_eq!(live(&a), "lived");
    let passed = std::fs::read_to_string(folder.path().join("passed")).expect("read");
    let names: BTreeSet<&str> = passed.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert!(names.len() > 10 && names.contains("slot.connected"), "{names:?}");
    for name in names {
        let a = networked("echo lived");
        std::fs::write(folder.path().join("kill"), format!("{name}\n")).expect("written");
        live(&a);
        assert!(!folder.path().join("kill").exists(), "nothing was killed at {name}");
        // The next agent begins with the slots, and finds the container, or what is left of it.
        let (parent, _) = a.spec.cgroup.rsplit_once('/').expect("a group above");
        assert!(end_slots(parent).await.is_empty(), "after a kill at {name}");
        match Container::adopt(&a.spec.state, &a.spec.cgroup) {
            Some(container) if container.was_released() => {
                container.ended().await;
                let record = ExitRecord::read(&a.spec.exit);
                assert_eq!(record.and_then(|record| record.code), Some(0), "lost at {name}");
                container.destroy().await.expect("removed");
            }
            Some(container) => container.destroy().await.expect("removed"),
            None => kill_rest(&a.spec.cgroup).await.expect("removed"),
        }
        assert!(a.log().len() < 2, "it ran twice at {name}");
        nothing_is_left(&a.spec).await;
    }
}
