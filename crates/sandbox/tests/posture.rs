//! Attempts that a container must not succeed with. `probe.c` asks the kernel from inside, and further tests try the
//! known escapes from other runtimes. To show that a check can fail, many tests repeat the attempt outside, or in a
//! container without the protection.

mod boxes;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::LazyLock;

use boxes::{LEAKED, SHARED, TestBox, a_box, both, copy, outcome, output, run};
use gantry_sandbox::{BindMount, ExecOutcome, ExecSpec, ProcessUser, exec, launch, launcher_main};

fn main() -> ExitCode {
    if let Some(code) = launcher_main() {
        return code;
    }
    let trials = [
        both("refuses_every_dangerous_call_that_the_host_allows", || run(calls())),
        both("allows_newer_calls_and_answers_unknown_ones_with_enosys", || run(newer_calls())),
        both("allows_ping_without_a_raw_socket", || run(echo())),
        both("enforces_the_processor_limit", || run(processor())),
        both("stops_a_fork_bomb_without_harming_a_neighbour", || run(fork_bomb())),
        both("stops_a_file_at_the_disk_limit", || run(file_size())),
        both("shows_no_path_of_the_machine", || run(host_paths())),
        both("protects_the_runtime_s_program_from_writes_through_proc_self_exe", || run(own_program())),
        both("refuses_a_working_folder_that_is_a_descriptor", || run(working_folder())),
        both("refuses_mounts_over_proc_sys_and_dev", || run(over_proc())),
        both("ignores_dev_null_of_a_hostile_image", || run(hostile_files())),
        both("stays_inside_while_a_mount_target_becomes_a_link", || run(turning_folder())),
        both("refuses_a_foreign_device", || run(foreign_device())),
    ];
    boxes::all(trials.into_iter().flatten().collect())
}

/// Path of the compiled probe. `GANTRY_TEST_PROBE` names a prebuilt probe for machines without a compiler.
static PROBE: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(path) = std::env::var_os("GANTRY_TEST_PROBE") {
        return path.into();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe.c");
    let target = SHARED.join("probe");
    let status = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&target).arg(source).status();
    assert!(status.expect("cc, which every Rust toolchain needs").success());
    target
});

/// A box that runs the probe.
fn probing(arguments: &str) -> TestBox {
    let a = a_box(&format!("exec /bin/probe {arguments}"));
    copy(&PROBE, &a.spec.root.layers[0].join("bin/probe"));
    a
}

async fn calls() {
    let asked = |lines: &[String]| -> Vec<(String, String)> {
        lines.iter().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    };
    // Neither root with users of its own nor a plain user may make these calls.
    for uid in [0, 1000] {
        let mut a = probing("calls");
        a.spec.user = ProcessUser { uid, gid: uid };
        let answers = asked(&outcome(&a).await.0);
        assert!(answers.len() >= 42, "{answers:?}");
        let passed: Vec<_> =
            answers.iter().filter(|(_, answer)| !["refused", "killed", "absent"].contains(&answer.as_str())).collect();
        assert!(passed.is_empty(), "as {uid}: {passed:?}");
    }
    // Sanity check: the machine's root may make nearly all of these calls, so the container refused them.
    let output = Command::new("unshare").args(["-m", "-p", "-f", "--mount-proc"]).arg(&*PROBE).arg("calls").output();
    let text = String::from_utf8(output.expect("unshare").stdout).expect("text");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let refused = asked(&lines).iter().filter(|(_, answer)| answer == "refused").count();
    assert!(lines.len() >= 42 && refused <= 4, "{lines:?}");
}

/// A C library tries the newest call first. The answer must make the library try the older call next.
async fn newer_calls() {
    let outside = Command::new(&*PROBE).arg("newer").output().expect("the probe");
    let outside = String::from_utf8(outside.stdout).expect("text");
    let outside: Vec<(&str, &str)> = outside.lines().filter_map(|line| line.split_once(' ')).collect();
    for uid in [0, 1000] {
        let mut a = probing("newer");
        a.spec.user = ProcessUser { uid, gid: uid };
        std::fs::create_dir(a.spec.root.layers[0].join("tmp")).expect("made");
        std::os::unix::fs::chown(a.spec.root.layers[0].join("tmp"), Some(uid), Some(uid)).expect("given");
        let lines = outcome(&a).await.0;
        assert_eq!(lines.len(), outside.len(), "{lines:?}");
        for (name, kernel) in &outside {
            let expected = match *name {
                "600" | "100000" | "clone3" => "ENOSYS",
                "open_tree_attr" | "mount" | "clone-user" | "af_vsock" | "raw-icmp" | "ptrace-1" => "EPERM",
                // The kernel's own answer, which may be that the kernel is too old for the call.
                _ => *kernel,
            };
            assert!(lines.contains(&format!("{name} {expected}")), "{name} is {expected} as {uid}: {lines:?}");
        }
    }
}

async fn echo() {
    for uid in [0, 1000] {
        let mut a = probing("echo");
        a.spec.user = ProcessUser { uid, gid: uid };
        assert_eq!(outcome(&a).await.0, ["answered"], "as {uid}");
    }
}

async fn processor() {
    let used = async |milli_cpu| {
        let mut a = probing("spin 1500");
        a.spec.limits.milli_cpu = milli_cpu;
        outcome(&a).await.0[0].parse::<u64>().expect("milliseconds")
    };
    // The limit is so small that even a busy machine gives the unlimited container more than twice as much.
    let (a_twentieth, whole) = (used(50).await, used(1000).await);
    // An emulated machine has coarse time slices.
    assert!(a_twentieth <= 200, "{a_twentieth} ms of 1500 where 75 are allowed");
    assert!(whole > a_twentieth * 2, "without the limit it is {whole} ms, with it {a_twentieth} ms");
}

async fn fork_bomb() {
    for limit in [32, 200] {
        let mut a = probing("fork");
        a.spec.limits.pids = limit;
        let bomb = a.start().await;
        a.wait_for_output("holding").await;
        let holds_all = || bomb.usage().pids == u64::from(limit) && bomb.usage().refused > 0;
        assert!(holds_all(), "{:?} of {limit}", bomb.usage());
        // Meanwhile another container starts and ends as usual.
        assert_eq!(output("for i in 1 2 3 4 5; do /bin/true & done; wait; echo fine").await, ["fine"]);
        assert!(holds_all(), "{:?} of {limit}", bomb.usage());
        bomb.destroy().await.expect("removed");
        let made: u32 = a.log()[0].parse().expect("a number");
        assert!(made < limit && made + 6 > limit, "{made} of {limit}");
    }
}

async fn file_size() {
    let mut a = probing("write /tmp/large");
    a.spec.limits.disk = Some(5 << 20);
    let (lines, _) = outcome(&a).await;
    assert_eq!(lines.last().map(String::as_str), Some("5242880 EFBIG"), "{lines:?}");
    a = probing("write /tmp/large");
    let (lines, _) = outcome(&a).await;
    assert_eq!(lines, ["268435456 ok"], "without the limit nothing stops it");
}

/// Searches for a file of the machine through every path that leads elsewhere.
async fn host_paths() {
    let marker = tempfile::NamedTempFile::new().expect("a file of the machine's");
    let path = marker.path().display();
    let script = format!(
        "for up in / /proc/[0-9]*/root /proc/[0-9]*/cwd /proc/[0-9]*/fd/[0-9]* /proc/self/fd/[0-9]*; do \
         ls -d $up{path} $up/../../../..{path} 2>&1; done; echo looked"
    );
    for uid in [0, 1000] {
        let mut a = a_box(&script);
        a.spec.user = ProcessUser { uid, gid: uid };
        let (lines, _) = outcome(&a).await;
        assert!(lines.len() > 10 && lines.iter().any(|line| line == "looked"), "{lines:?}");
        let name = path.to_string();
        let found: Vec<_> = lines.iter().filter(|line| line.contains(&name) && !line.starts_with("ls: ")).collect();
        assert!(found.is_empty(), "as {uid}: {found:?}");
    }
}

/// CVE-2019-5736: the container runs the runtime's own program, and writes to that program from inside.
async fn own_program() {
    let program = std::env::current_exe().expect("a path");
    let before =
        |path: &Path| std::fs::metadata(path).map(|it| (it.size(), it.mtime(), it.mtime_nsec())).expect("there");
    let mut a = a_box(
        "echo ready; while true; do for exe in /proc/[0-9]*/exe; do (echo broken > $exe) 2>/dev/null && echo wrote $exe; done; done",
    );
    a.spec.user = ProcessUser { uid: 0, gid: 0 };
    let trap = a.spec.root.layers[0].join("bin/trap");
    std::fs::write(&trap, "#!/proc/self/exe\n").expect("written");
    std::fs::set_permissions(&trap, std::fs::Permissions::from_mode(0o755)).expect("set");
    let (own, init) = (before(&program), before(&a.spec.init));
    let container = a.start().await;
    a.wait_for_output("ready").await;
    for arguments in [["/bin/trap"], ["/proc/self/exe"], ["/bin/true"]] {
        for _ in 0..10 {
            let spec = ExecSpec {
                cgroup: a.spec.cgroup.clone(),
                args: arguments.map(Into::into).to_vec(),
                env: Vec::new(),
                cwd: "/".into(),
                user: a.spec.user,
                terminal: false,
                groups: Vec::new(),
            };
            if let Ok(mut session) = exec(&container, spec).await {
                let _ = session.outcome().await;
            }
        }
    }
    container.destroy().await.expect("removed");
    // A container may overwrite its own shell.
    let wrote: Vec<String> = a.log().into_iter().filter(|line| line.starts_with("wrote /proc/1/")).collect();
    assert!(wrote.is_empty(), "{wrote:?}");
    assert!(own == before(&program) && init == before(&a.spec.init), "a program of the machine was changed");
}

/// CVE-2024-21626: the working folder is a descriptor that the runtime forgot to close.
async fn working_folder() {
    let name = LEAKED.0.file_name().expect("a name").to_string_lossy().into_owned();
    let look = format!(
        "for up in . .. ../.. ../../.. ../../../.. ../../../../tmp; do ls -a $up; done | cat; echo {name} | cut -c1-3"
    );
    for number in LEAKED.1.iter().copied().filter(|number| *number >= 16).chain(3..16) {
        let mut a = a_box(&look);
        a.spec.cwd = format!("/proc/self/fd/{number}");
        // The launch is refused, or the working folder is one of the container's own.
        if launch(&a.spec).await.is_ok() {
            let container = gantry_sandbox::Container::adopt(&a.spec.state, &a.spec.cgroup).expect("found");
            container.ended().await;
            container.destroy().await.expect("removed");
        }
        assert!(!a.log().iter().any(|line| line.contains(&name)), "{number}: {:?}", a.log());
    }
    let a = a_box("echo ready; sleep 100");
    let container = a.start().await;
    a.wait_for_output("ready").await;
    for number in LEAKED.1.iter().copied().filter(|number| *number >= 16).chain(3..16) {
        let spec = ExecSpec {
            cgroup: a.spec.cgroup.clone(),
            args: vec!["/bin/sh".into(), "-c".into(), look.clone()],
            env: vec![("PATH".into(), "/bin".into())],
            cwd: format!("/proc/self/fd/{number}"),
            user: a.spec.user,
            terminal: false,
            groups: Vec::new(),
        };
        let Ok(mut session) = exec(&container, spec).await else { continue };
        let mut text = String::new();
        let mut out = std::fs::File::from(session.descriptors.remove(1));
        std::io::Read::read_to_string(&mut out, &mut text).expect("read");
        assert!(!text.contains(&name), "{number}: {text}");
        let _: ExecOutcome = session.outcome().await;
    }
    container.destroy().await.expect("removed");
}

/// The runtime reads and writes a container's `/proc`, so a bind must not cover it.
async fn over_proc() {
    for target in ["/proc", "/proc/self", "/proc/self/attr", "/sys/fs", "/dev", "/dev/null", "/x/../proc"] {
        let mut a = a_box("true");
        let folder = a.folder.path().join("volume");
        std::fs::create_dir(&folder).expect("made");
        a.spec.binds = vec![BindMount { source: folder, target: target.into(), writable: true }];
        let error = launch(&a.spec).await.map(|_| ()).expect_err(target).to_string();
        assert!(error.contains(target), "{error}");
    }
    // Links in the image that lead to the same paths.
    let links = [
        ("/proc", ""),
        ("proc/self", ""),
        ("/sys", ""),
        ("../../dev", ""),
        ("/proc", "/1"),
        ("/proc", "/sys/kernel"),
        ("/sys", "/kernel"),
        ("dev", "/shm"),
        ("/dev", "/x"),
    ];
    for (leads, below) in links {
        let mut a = a_box("true");
        symlink(leads, a.spec.root.layers[0].join("data")).expect("a link");
        let folder = a.folder.path().join("volume");
        std::fs::create_dir(&folder).expect("made");
        a.spec.binds = vec![BindMount { source: folder, target: format!("/data{below}").into(), writable: true }];
        let error = launch(&a.spec).await.map(|_| ()).expect_err(leads).to_string();
        assert!(error.contains("/data"), "{error}");
    }
    let mut a = a_box("touch /data/x && echo written");
    let folder = a.folder.path().join("volume");
    std::fs::create_dir(&folder).expect("made");
    std::os::unix::fs::chown(&folder, Some(1000), Some(1000)).expect("given");
    a.spec.binds = vec![BindMount { source: folder, target: "/data".into(), writable: true }];
    assert_eq!(outcome(&a).await.0, ["written"], "a good one is mounted");
}

/// CVE-2025-31133: the image replaces the file that the runtime masks paths with by a link.
async fn hostile_files() {
    let a = a_box("cat /proc/keys /proc/kcore 2>/dev/null | cut -c1-20; ls -l /dev/null | cut -c1-10; echo end");
    let layer = &a.spec.root.layers[0];
    std::fs::create_dir(layer.join("dev")).expect("made");
    symlink("/proc/sys/kernel/core_pattern", layer.join("dev/null")).expect("a link");
    symlink("/proc/sysrq-trigger", layer.join("dev/console")).expect("a link");
    let before = std::fs::read("/proc/sys/kernel/core_pattern").expect("read");
    assert_eq!(outcome(&a).await.0, ["crw-rw-rw-", "end"]);
    assert_eq!(before, std::fs::read("/proc/sys/kernel/core_pattern").expect("read"));
}

/// CVE-2025-52565, -52881 and CVE-2019-19921 as races. One container shares a volume, and repeatedly turns a folder in
/// it into a link and back. Meanwhile other containers start and mount a bind on that folder.
async fn turning_folder() {
    let shared = tempfile::tempdir().expect("a folder");
    let place = |name: &str| shared.path().join(name);
    std::fs::create_dir(place("folder")).expect("made");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let turning = {
        let (stop, root) = (std::sync::Arc::clone(&stop), shared.path().to_owned());
        std::thread::spawn(move || {
            for (turns, leads) in
                ["/proc", "/proc/self/attr", "/sys/kernel", "/dev", "/proc/sys/kernel"].iter().cycle().enumerate()
            {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return turns;
                }
                let _ = std::fs::remove_file(root.join("link"));
                symlink(leads, root.join("link")).expect("a link");
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (one, other) = (root.join("folder"), root.join("link"));
                for _ in 0..2 {
                    let _ = rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &other, flags);
                }
            }
            0
        })
    };
    let (mut mounted, mut refused) = (0, 0);
    // As many attempts as an emulated machine manages in the time.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while mounted + refused < 80 && (mounted + refused < 5 || std::time::Instant::now() < until) {
        let mut a = a_box(
            "for p in /proc /proc/self/attr /proc/sys/kernel /sys/kernel /dev; do [ -e $p/marker ] && echo over $p; done; \
             (echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo wrote; cat /data/folder/marker; echo end",
        );
        a.spec.user = ProcessUser { uid: 0, gid: 0 };
        let own = a.folder.path().join("own");
        std::fs::create_dir(&own).expect("made");
        std::fs::write(own.join("marker"), "mine\n").expect("written");
        a.spec.binds = vec![
            BindMount { source: shared.path().to_owned(), target: "/data".into(), writable: true },
            BindMount { source: own, target: "/data/folder".into(), writable: true },
        ];
        let Ok(container) = launch(&a.spec).await else {
            refused += 1;
            continue;
        };
        mounted += 1;
        container.ended().await;
        container.destroy().await.expect("removed");
        let lines = a.log();
        assert!(!lines.iter().any(|line| line.starts_with("over") || line == "wrote"), "{lines:?}");
        assert!(lines.iter().any(|line| line == "end"), "{lines:?}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let turns = turning.join().expect("it turned");
    assert!(mounted > 0 && turns > 100, "{mounted} were mounted, {refused} refused, {turns} turns");
    println!("{mounted} were mounted, {refused} refused, {turns} turns");
}

/// A volume may hold any device node. The test runs as the machine's own root, since file permissions do not stop root.
async fn foreign_device() {
    let mut a =
        a_box("(cat /data/kmsg | cut -c1-1) 2>&1; ls -l /data/kmsg | cut -c1-1; echo end; cat /proc/self/mountinfo");
    a.spec.user = ProcessUser { uid: 0, gid: 0 };
    a.spec.users = None;
    let folder = a.folder.path().join("volume");
    std::fs::create_dir(&folder).expect("made");
    let made = Command::new("mknod").arg(folder.join("kmsg")).args(["c", "1", "11"]).status();
    assert!(made.expect("mknod").success());
    // Sanity check: the device opens outside.
    std::fs::File::open(folder.join("kmsg")).expect("the machine's root may");
    a.spec.binds = vec![BindMount { source: folder, target: "/data".into(), writable: true }];
    let lines = outcome(&a).await.0;
    assert!(lines[0].contains("denied") || lines[0].contains("not permitted"), "{lines:?}");
    assert_eq!(lines[1..3], ["c", "end"], "{lines:?}");
    // Where a device control group exists, it also refused the device. Each protection must suffice without the other.
    let volume = lines.iter().find(|line| line.contains(" /data ")).expect("mounted");
    assert!(volume.contains("nodev"), "{volume}");
}
