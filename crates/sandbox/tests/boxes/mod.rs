//! Test containers. Their root is only Debian's static busybox.
#![allow(dead_code)] // Each test program uses only a part.

use std::cell::Cell;
use std::io::Read;
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gantry_sandbox::{
    Container, ContainerLimits, ContainerSpec, ExitRecord, LogFiles, PreparedSlot, ProcessUser, RootFilesystem,
    SandboxError, SlotSpec, install_init, launch, slot_group,
};
use libtest_mimic::{Arguments, Trial};
use rustix::thread::{capabilities, configure_capability_in_ambient_set, set_capabilities};

/// Control group above all containers of this test program.
fn group() -> String {
    format!("gantry-sandbox-test-{}", std::process::id())
}

/// First host user id of the containers' own users.
pub(crate) const FIRST: u32 = 0x7000_0000;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn run(test: impl Future<Output = ()>) {
    run_within(DEADLINE, test);
}

/// Runs a test that may take longer than most.
pub(crate) fn run_within(time: Duration, test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(async {
        tokio::time::timeout(time, test).await.expect("in time");
    });
}

thread_local! {
    /// True while this thread runs a trial whose containers start in prepared slots.
    static IN_SLOTS: Cell<bool> = const { Cell::new(false) };
}

/// A container's spec with its folders. Dropping the box removes the folders.
pub(crate) struct TestBox {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) spec: ContainerSpec,
    in_slot: bool,
}

/// Copies a program with a separate `cp` process. If this process opened the copy for writing, a launcher that another
/// test starts at that moment would inherit the descriptor. The kernel runs no program that is open for writing ("text
/// file busy").
pub(crate) fn copy(program: &Path, target: &Path) {
    let copied = std::process::Command::new("cp").arg(program).arg(target).status();
    assert!(copied.expect("cp").success(), "{} is copied (busybox is Debian's busybox-static)", program.display());
}

/// Folder that all boxes of this program share. Rust never drops a static, so [`all`] removes the folder.
pub(crate) static SHARED: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(group());
    std::fs::create_dir(&folder).expect("made");
    folder
});

/// The static init, written once for all boxes and never while a container starts.
static INIT: LazyLock<PathBuf> = LazyLock::new(|| install_init(&SHARED).expect("init"));

pub(crate) fn base(layer: &Path) {
    std::fs::create_dir_all(layer.join("bin")).expect("made");
    std::fs::create_dir_all(layer.join("etc")).expect("made");
    copy(Path::new("/bin/busybox"), &layer.join("bin/busybox"));
    for name in [
        "sh", "cat", "ls", "id", "hostname", "sleep", "kill", "mount", "unshare", "touch", "env", "tty", "true",
        "readlink",
    ] {
        let _ = std::os::unix::fs::symlink("busybox", layer.join("bin").join(name));
    }
}

pub(crate) fn a_box(script: &str) -> TestBox {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).expect("made");
        path
    };
    let name = folder.path().file_name().expect("a name").to_string_lossy().replace('.', "");
    base(&path("layer"));
    let spec = ContainerSpec {
        state: path("state"),
        cgroup: format!("{}/{name}", group()),
        root: RootFilesystem {
            layers: vec![path("layer")],
            upper: path("upper"),
            work: path("work"),
            mountpoint: path("root"),
        },
        hostname: "web-1.machine".into(),
        args: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: vec![("PATH".into(), "/bin".into()), ("SECRET".into(), "s3cret".into())],
        cwd: "/".into(),
        user: ProcessUser { uid: 1000, gid: 1000 },
        groups: Vec::new(),
        users: Some(FIRST),
        limits: ContainerLimits { memory: 64 << 20, milli_cpu: 1000, pids: 32, disk: None },
        network: None,
        binds: Vec::new(),
        log: LogFiles { segments: [folder.path().join("log.0"), folder.path().join("log.1")], limit: 1 << 20 },
        exit: folder.path().join("exit"),
        fenced: false,
        durable_exit: false,
        init: INIT.clone(),
    };
    TestBox { folder, spec, in_slot: IN_SLOTS.get() }
}

/// A slot for the container, with a number that no other slot of this program has.
pub(crate) fn slot_spec(spec: &ContainerSpec) -> SlotSpec {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let (parent, _) = spec.cgroup.rsplit_once('/').expect("a group above");
    let cgroup = slot_group(parent, NUMBER.fetch_add(1, Ordering::Relaxed));
    SlotSpec { cgroup, network: spec.network.clone(), init: spec.init.clone() }
}

/// Starts a container in a slot that is prepared for it.
pub(crate) async fn launch_in_slot(spec: &ContainerSpec) -> Result<Container, SandboxError> {
    PreparedSlot::prepare(slot_spec(spec)).await?.launch(spec).await
}

impl TestBox {
    pub(crate) fn log(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for segment in &self.spec.log.segments {
            let mut bytes = Vec::new();
            let _ = std::fs::File::open(segment).and_then(|mut file| file.read_to_end(&mut bytes));
            let text = String::from_utf8_lossy(&bytes).into_owned();
            lines.extend(text.lines().filter_map(|line| line.splitn(4, ' ').nth(3).map(str::to_owned)));
        }
        lines
    }

    pub(crate) async fn start(&self) -> Container {
        let launched = match self.in_slot {
            true => launch_in_slot(&self.spec).await,
            false => launch(&self.spec).await,
        };
        launched.unwrap_or_else(|error| panic!("{error}: {error:?}"))
    }

    /// Waits until the log has a line equal to `text`.
    pub(crate) async fn wait_for_output(&self, text: &str) {
        while !self.log().iter().any(|line| line == text) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Waits for a state; fails with `what` if the state does not come in time.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Runs a box's script to its end. Returns the output and the exit record.
pub(crate) async fn outcome(a: &TestBox) -> (Vec<String>, Option<ExitRecord>) {
    let container = a.start().await;
    container.ended().await;
    let record = ExitRecord::read(&a.spec.exit);
    container.destroy().await.expect("removed");
    (a.log(), record)
}

pub(crate) async fn output(script: &str) -> Vec<String> {
    outcome(&a_box(script)).await.0
}

/// A folder of the machine and its open descriptors in this process, without close-on-exec. They stand for the
/// descriptors of a careless runtime, which forgets to close them before it runs another program.
pub(crate) static LEAKED: LazyLock<(PathBuf, Vec<i32>)> = LazyLock::new(|| {
    let folder = SHARED.join("gantry-leaked");
    std::fs::create_dir(&folder).expect("made");
    let numbers = (0..4).map(|_| {
        let file = std::fs::File::open(&folder).expect("opened");
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("kept open");
        file.into_raw_fd()
    });
    let numbers = numbers.collect();
    (folder, numbers)
});

/// Makes this process's capabilities inheritable and ambient. A program that this process runs then keeps them, unless
/// the runtime drops them.
fn hand_rights_on() {
    let mut sets = capabilities(None).expect("this process's rights");
    sets.inheritable = sets.permitted;
    set_capabilities(None, sets).expect("handed on");
    for right in sets.permitted {
        let _ = configure_capability_in_ambient_set(right, true);
    }
}

/// Runs the trials and removes the control group above all their containers.
pub(crate) fn all(trials: Vec<Trial>) -> ExitCode {
    conclude(&Arguments::from_args(), trials)
}

/// Does the same as [`all`], one trial after the other.
pub(crate) fn one_by_one(trials: Vec<Trial>) -> ExitCode {
    conclude(&Arguments { test_threads: Some(1), ..Arguments::from_args() }, trials)
}

fn conclude(arguments: &Arguments, trials: Vec<Trial>) -> ExitCode {
    // A careless caller would leave these descriptors and capabilities in place.
    LazyLock::force(&LEAKED);
    hand_rights_on();
    let conclusion = libtest_mimic::run(arguments, trials);
    gantry_linux::cgroup::Cgroup::named(&group()).remove().expect("nothing is left in it");
    std::fs::remove_dir_all(&*SHARED).expect("removed");
    conclusion.exit_code()
}

pub(crate) fn trial(name: &'static str, test: fn()) -> Trial {
    Trial::test(name, move || {
        IN_SLOTS.set(false);
        test();
        Ok(())
    })
}

/// Two trials of one test: its containers are launched, or start in prepared slots.
pub(crate) fn both(name: &'static str, test: fn()) -> [Trial; 2] {
    let in_slots = Trial::test(format!("{name}_in_a_slot"), move || {
        IN_SLOTS.set(true);
        test();
        Ok(())
    });
    [trial(name, test), in_slots]
}
