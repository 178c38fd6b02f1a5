//! Measures whole container lifecycles, one after the other or several at once. `benches/containers` uses this program.
//! Each container has a network, limits, its own users and a seccomp filter. It runs `/bin/true`, its exit is recorded,
//! and it is removed completely.
//!
//! `lifecycles COUNT AT_ONCE BRIDGE slots|fresh` prints the lifecycles per second, the time of each phase, the time from the
//! request until a container is removed, and the resources held before and after. With `slots`, a container starts in a
//! prepared slot if one is ready, as jobs do; the slots are prepared meanwhile. With debug assertions and a folder in
//! `GANTRY_FAILPOINTS`, the program records there when each failpoint was passed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gantry_sandbox::{
    ContainerLimits, ContainerNetwork, ContainerSpec, ExitRecord, LogFiles, PreparedSlot, ProcessUser, RootFilesystem,
    SlotSpec, end_slots, install_init, launch, launcher_main, slot_group,
};
use tokio::sync::mpsc;

fn main() -> ExitCode {
    if let Some(code) = launcher_main() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, at_once, bridge, mode] = arguments.as_slice() else {
        eprintln!("lifecycles COUNT AT_ONCE BRIDGE slots|fresh");
        return ExitCode::from(2);
    };
    let (Ok(count), Ok(at_once)) = (count.parse(), at_once.parse()) else { return ExitCode::from(2) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(count, at_once, bridge.clone(), mode == "slots"));
    ExitCode::SUCCESS
}

fn layer(folder: &Path) -> PathBuf {
    let layer = folder.join("layer");
    std::fs::create_dir_all(layer.join("bin")).expect("made");
    std::fs::copy("/bin/busybox", layer.join("bin/true")).expect("Debian's busybox-static");
    layer
}

/// Maximum number of slots without a container.
const SLOTS: usize = 8;

/// Slots that are prepared at the same time.
const MAKERS: usize = 3;

/// A slot with its network.
type Ready = (PreparedSlot, ContainerNetwork);

/// The `n`th network. Addresses are reused, as the agent does.
fn network(bridge: &str, n: usize) -> ContainerNetwork {
    let address = std::net::Ipv4Addr::from(0x0afa_0000 + 2 + u32::try_from(n % 60_000).expect("small"));
    ContainerNetwork {
        bridge: bridge.to_owned(),
        link: format!("gb{:08x}", u32::from(address)),
        address,
        prefix: 16,
        gateway: std::net::Ipv4Addr::new(10, 250, 0, 1),
    }
}

/// Prepares slots while there are few.
async fn prepare_slots(bridge: String, init: PathBuf, next: Arc<AtomicUsize>, ready: mpsc::Sender<Ready>) {
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let network = network(&bridge, n);
        let cgroup = slot_group("gantry-bench", n as u64);
        let slot = PreparedSlot::prepare(SlotSpec { cgroup, network: Some(network.clone()), init: init.clone() });
        if ready.send((slot.await.expect("a slot"), network)).await.is_err() {
            return;
        }
    }
}

fn spec(folder: &Path, layer: PathBuf, init: PathBuf, network: ContainerNetwork, n: usize) -> ContainerSpec {
    let own = folder.join(n.to_string());
    let path = |name: &str| {
        let path = own.join(name);
        std::fs::create_dir_all(&path).expect("made");
        path
    };
    ContainerSpec {
        state: path("state"),
        cgroup: format!("gantry-bench/{n}"),
        root: RootFilesystem {
            layers: vec![layer],
            upper: path("upper"),
            work: path("work"),
            mountpoint: path("root"),
        },
        hostname: "bench".into(),
        args: vec!["/bin/true".into()],
        env: Vec::new(),
        cwd: "/".into(),
        user: ProcessUser { uid: 1000, gid: 1000 },
        groups: Vec::new(),
        users: Some(0x7000_0000),
        limits: ContainerLimits { memory: 64 << 20, milli_cpu: 1000, pids: 64, disk: Some(1 << 30) },
        network: Some(network),
        binds: Vec::new(),
        log: LogFiles { segments: [own.join("log.0"), own.join("log.1")], limit: 1 << 20 },
        exit: own.join("exit"),
        fenced: false,
        durable_exit: false,
        init,
    }
}

/// Passes a failpoint of the caller's own, for a profile. No process is killed there.
fn mark(name: &str) {
    if cfg!(debug_assertions) {
        gantry_failpoint::pass(name);
    }
}

async fn measure(count: usize, at_once: usize, bridge: String, in_slots: bool) {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let (layer, init) = (layer(folder.path()), install_init(folder.path()).expect("init"));
    let next = Arc::new(AtomicUsize::new(0));
    let spent: Arc<[AtomicU64; 4]> = Arc::default();
    let lifecycles: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let before = held(&bridge);
    let (networks, fresh) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // Slots are prepared within the measured time, all of them.
    let begun = Instant::now();
    let (sender, ready) = mpsc::channel(SLOTS);
    let ready = Arc::new(Mutex::new(ready));
    let mut makers = tokio::task::JoinSet::new();
    for _ in 0..if in_slots { MAKERS } else { 0 } {
        makers.spawn(prepare_slots(bridge.clone(), init.clone(), Arc::clone(&networks), sender.clone()));
    }
    let workers: Vec<_> = (0..at_once)
        .map(|_| {
            let (folder, layer, init, bridge) = (Arc::clone(&folder), layer.clone(), init.clone(), bridge.clone());
            let (next, spent, lifecycles) = (Arc::clone(&next), Arc::clone(&spent), Arc::clone(&lifecycles));
            let (networks, ready, fresh) = (Arc::clone(&networks), Arc::clone(&ready), Arc::clone(&fresh));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let slot = ready.lock().expect("no panic").try_recv().ok();
                    let (slot, network) = match slot {
                        Some((slot, network)) => (Some(slot), network),
                        None => (None, network(&bridge, networks.fetch_add(1, Ordering::Relaxed))),
                    };
                    let asked = Instant::now();
                    let mut last = asked;
                    let mut lap = |step: usize| {
                        let micros = u64::try_from(last.elapsed().as_micros()).unwrap_or_default();
                        spent[step].fetch_add(micros, Ordering::Relaxed);
                        last = Instant::now();
                    };
                    let spec = spec(folder.path(), layer.clone(), init.clone(), network, n);
                    lap(0);
                    mark("lifecycle.asked");
                    let container = match slot {
                        Some(slot) => slot.launch(&spec).await,
                        None => {
                            fresh.fetch_add(1, Ordering::Relaxed);
                            launch(&spec).await
                        }
                    };
                    let container = container.expect("launched");
                    lap(1);
                    mark("lifecycle.launched");
                    container.ended().await;
                    assert_eq!(ExitRecord::read(&spec.exit).and_then(|record| record.code), Some(0));
                    lap(2);
                    mark("lifecycle.ended");
                    container.destroy().await.expect("removed");
                    gantry_linux::tree::remove(&folder.path().join(n.to_string())).expect("removed");
                    lap(3);
                    mark("lifecycle.removed");
                    lifecycles.lock().expect("no panic").push(asked.elapsed());
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("lived");
    }
    let seconds = begun.elapsed().as_secs_f64();
    makers.shutdown().await;
    drop(ready);
    assert!(end_slots("gantry-bench").await.is_empty());
    let count = u32::try_from(count).expect("few");
    println!("{:8.1} lifecycles/s, {at_once} at once, {count} lifecycles", f64::from(count) / seconds);
    for (name, micros) in ["folders", "launch", "/bin/true and its exit", "removal"].iter().zip(spent.iter()) {
        #[allow(clippy::cast_precision_loss)]
        let each = micros.load(Ordering::Relaxed) as f64 / 1000.0 / f64::from(count);
        println!("         {each:6.2} ms {name}");
    }
    let mut lifecycles = lifecycles.lock().expect("no panic").clone();
    lifecycles.sort_unstable();
    let millis =
        |part: usize| lifecycles.get(lifecycles.len() * part / 100).map_or(0.0, |one| one.as_secs_f64() * 1000.0);
    println!("         removed: p50 {:.2} ms, p99 {:.2} ms", millis(50), millis(99));
    println!("         {} of them without a slot", fresh.load(Ordering::Relaxed));
    println!("         before: {before}");
    println!("         after:  {}", held(&bridge));
}

/// Describes the resources that this process and the machine hold for containers.
fn held(bridge: &str) -> String {
    let count = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count();
    let links = count(&format!("/sys/class/net/{bridge}/brif"));
    let groups: usize = ["pids", "memory", "cpu", "devices", "."]
        .iter()
        .map(|name| count(&format!("/sys/fs/cgroup/{name}/gantry-bench")))
        .max()
        .unwrap_or_default();
    format!(
        "{rss} resident, {} descriptors, {mounts} mounts, {links} links, {groups} entries of groups",
        count("/proc/self/fd")
    )
}
