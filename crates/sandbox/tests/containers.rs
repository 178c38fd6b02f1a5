//! Tests of real containers, by observations from inside. Their root is only Debian's static busybox.
//!
//! The test program is its own launcher, as `gantry` is, and therefore has its own `main`.

mod boxes;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use boxes::{FIRST, a_box, both, outcome, output, run};
use gantry_sandbox::{
    BindMount, Container, ExecOutcome, ExecSpec, ExitRecord, ProcessUser, exec, launch, launcher_main,
};

fn main() -> ExitCode {
    if let Some(code) = launcher_main() {
        return code;
    }
    let trials = [
        both("application_is_pid_3_below_the_shim", || run(process_tree())),
        both("hostname_names_the_copy", || run(host_name())),
        both("records_exit_status_and_signal", || run(exits())),
        both("missing_command_exits_127_with_a_message", || run(missing_command())),
        both("standard_streams_can_be_reopened_by_name", || run(streams_by_name())),
        both("limits_are_readable_in_the_cgroup_files", || run(limits_seen())),
        both("creates_a_missing_working_folder_for_the_user", || run(working_folder())),
        both("shared_memory_has_the_size_of_the_memory_limit", || run(shared_memory())),
        both("sets_supplementary_groups", || run(groups())),
        both("drops_capabilities", || run(rights())),
        both("refuses_dangerous_calls", || run(calls())),
        both("masks_paths_and_protects_read_only_paths", || run(paths())),
        both("leaks_no_descriptor_and_no_device", || run(leaks())),
        both("enforces_memory_and_process_limits", || run(limits())),
        both("root_inside_is_unprivileged_outside", || run(users())),
        both("forwards_signals_to_the_application", || run(signals())),
        both("links_in_a_hostile_root_stay_inside", || run(hostile_root())),
        both("refuses_a_symlinked_device_folder", || run(symlinked_dev())),
        both("exec_has_the_same_posture_and_a_terminal", || run(execs())),
        both("adopts_a_container_and_removes_every_trace", || run(adopted())),
    ];
    boxes::all(trials.into_iter().flatten().collect())
}

async fn process_tree() {
    let lines = output("echo $$; cat /proc/3/stat; cat /proc/2/comm; cat /proc/1/comm; cat /proc/self/cgroup").await;
    assert_eq!(lines[0], "3");
    assert_eq!(lines[1].split(' ').nth(3), Some("2"), "{}", lines[1]);
    assert_eq!((lines[2].as_str(), lines[3].as_str()), ("ppidshim", "init"));
    assert!(lines[4..].iter().all(|line| !line.contains("sandbox-test")), "{lines:?}");
}

async fn host_name() {
    assert_eq!(output("hostname; cat /proc/sys/kernel/hostname").await, ["web-1.machine", "web-1.machine"]);
}

async fn exits() {
    let (_, record) = outcome(&a_box("exit 7")).await;
    assert_eq!(record.map(|r| (r.code, r.signal)), Some((Some(7), None)));
    let (_, record) = outcome(&a_box("kill -9 $$")).await;
    assert_eq!(record.map(|r| (r.code, r.signal)), Some((None, Some(9))));
    // Rust's runtime in the shim handles or ignores these signals.
    for (name, number) in [("SEGV", 11), ("BUS", 7), ("PIPE", 13), ("ABRT", 6), ("TERM", 15)] {
        let (_, record) = outcome(&a_box(&format!("kill -{name} $$"))).await;
        assert_eq!(record.map(|r| (r.code, r.signal)), Some((None, Some(number))), "{name}");
    }
}

async fn missing_command() {
    let mut a = a_box("");
    a.spec.args = vec!["/no/such".into()];
    let (lines, record) = outcome(&a).await;
    assert_eq!(record.and_then(|r| r.code), Some(127));
    assert!(lines[0].contains("cannot run /no/such"), "{lines:?}");
}

async fn streams_by_name() {
    let script = "echo by-name >/dev/stdout; echo by-number >>/proc/self/fd/1; echo error >/dev/stderr; \
                  cat </dev/stdin; echo end";
    for uid in [0, 1000, 65_535] {
        let mut a = a_box(script);
        a.spec.user = ProcessUser { uid, gid: uid };
        let lines = outcome(&a).await.0;
        for line in ["by-name", "by-number", "error", "end"] {
            assert_eq!(lines.iter().filter(|known| *known == line).count(), 1, "as {uid}: {lines:?}");
        }
        assert_eq!(lines.len(), 4, "as {uid}: {lines:?}");
    }
    let a = a_box("echo ready; sleep 100");
    let container = a.start().await;
    a.wait_for_output("ready").await;
    for (uid, terminal) in [(0, false), (1000, false), (33, false), (1000, true)] {
        let asked = ExecSpec { user: ProcessUser { uid, gid: uid }, ..executed(&a, terminal, script) };
        let mut session = exec(&container, asked).await.expect("begun");
        let mut text = String::new();
        if terminal {
            use std::io::Write;
            let mut screen = std::fs::File::from(session.descriptors.remove(0));
            screen.write_all(b"typed\n\x04").expect("typed");
            let mut bytes = Vec::new();
            let _ = screen.read_to_end(&mut bytes);
            text = String::from_utf8(bytes).expect("text");
            assert!(text.contains("typed"), "{text}");
        } else {
            let mut input = std::fs::File::from(session.descriptors.remove(0));
            std::io::Write::write_all(&mut input, b"typed\n").expect("typed");
            drop(input);
            std::fs::File::from(session.descriptors.remove(0)).read_to_string(&mut text).expect("read");
            assert_eq!(text, "by-name\nby-number\ntyped\nend\n", "as {uid}");
        }
        assert!(matches!(session.outcome().await, ExecOutcome::Exited(0)), "as {uid}: {text}");
    }
    container.destroy().await.expect("removed");
}

/// Reads the limits as programs do, on v1 and v2. Even the machine's root, in a container without its own users, cannot
/// change a limit.
async fn limits_seen() {
    let script = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes; \
                  cat cpu.max 2>/dev/null || echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us); \
                  cat pids.max 2>/dev/null || cat pids/pids.max; \
                  for group in . memory cpu cpuacct cpuset pids; do cat $group/cgroup.procs; done 2>/dev/null | grep -c '^3$'; \
                  for file in memory.max memory/memory.limit_in_bytes cgroup.procs pids/cgroup.procs; do \
                  [ -e $file ] && (echo 1 >$file) 2>&1; done; mkdir below memory/below 2>&1; \
                  cut -d: -f3 /proc/self/cgroup | sort -u; grep -c ' - cgroup' /proc/self/mountinfo; echo end";
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    for users in [Some(FIRST), None] {
        let mut a = a_box(script);
        for name in ["grep", "cut", "sort", "mkdir"] {
            let _ = std::os::unix::fs::symlink("busybox", a.spec.root.layers[0].join("bin").join(name));
        }
        a.spec.user = ProcessUser { uid: 0, gid: 0 };
        a.spec.users = users;
        a.spec.limits.milli_cpu = 250;
        let lines = outcome(&a).await.0;
        let shown = if unified { 1 } else { 5 };
        assert_eq!(lines[..4], ["67108864", "25000 100000", "32", &shown.to_string()], "{lines:?}");
        let refused = lines.iter().filter(|line| line.contains("Read-only file system")).count();
        assert_eq!(refused, if unified { 3 } else { 4 }, "{lines:?}");
        assert_eq!(lines[lines.len() - 3..], ["/", &shown.to_string(), "end"], "{lines:?}");
    }
}

async fn working_folder() {
    for (cwd, made) in [("/srv/none/deep", true), ("srv", true), ("/there", false)] {
        let mut a = a_box("pwd; id -u; touch own && echo written; ls -ldn . /srv | tr -s ' ' | cut -d' ' -f1,3");
        for name in ["tr", "cut", "pwd"] {
            let _ = std::os::unix::fs::symlink("busybox", a.spec.root.layers[0].join("bin").join(name));
        }
        std::fs::create_dir(a.spec.root.layers[0].join("there")).expect("made");
        a.spec.cwd = cwd.into();
        let lines = outcome(&a).await.0;
        let written = lines.iter().any(|line| line == "written");
        assert_eq!(written, made, "{cwd}: {lines:?}");
        let own = if made { "drwxr-xr-x 1000" } else { "drwxr-xr-x 0" };
        assert!(lines.iter().any(|line| line == own), "{cwd}: {lines:?}");
        if cwd.contains("deep") {
            assert!(lines.contains(&"drwxr-xr-x 0".to_owned()), "what is above is root's: {lines:?}");
        }
    }
    // If the path is a file or a link leads nowhere, the launch or the log reports the error.
    for (cwd, at) in [("/file", "log"), ("/file/x", "log"), ("/proc/none", "start")] {
        let mut a = a_box("echo in");
        std::fs::write(a.spec.root.layers[0].join("file"), "").expect("written");
        a.spec.cwd = cwd.into();
        match launch(&a.spec).await {
            Err(error) => assert!(at == "start" && error.to_string().contains(cwd), "{error}"),
            Ok(container) => {
                container.ended().await;
                container.destroy().await.expect("removed");
                assert!(at == "log" && a.log()[0].contains(&format!("cannot enter {cwd}")), "{:?}", a.log());
            }
        }
    }
}

/// A file in `/dev/shm` counts as the container's memory, and `/dev/shm` is as large as the memory limit.
async fn shared_memory() {
    let mut a = a_box("head -c 83886080 /dev/zero >/dev/shm/x; df -k /dev/shm; echo written; sleep 100");
    for name in ["head", "df"] {
        let _ = std::os::unix::fs::symlink("busybox", a.spec.root.layers[0].join("bin").join(name));
    }
    a.spec.limits.memory = 160 << 20;
    let container = a.start().await;
    a.wait_for_output("written").await;
    assert!(container.usage().memory >= 80 << 20, "it is counted: {:?}", container.usage());
    let size = |line: &String| line.split_whitespace().nth(1) == Some("163840");
    assert!(a.log().iter().any(size), "{:?}", a.log());
    assert!(!a.log().iter().any(|line| line.contains("No space left")), "{:?}", a.log());
    container.destroy().await.expect("removed");
}

async fn groups() {
    for uid in [0, 1000] {
        let mut a = a_box("id -G; echo ready; sleep 100");
        a.spec.user = ProcessUser { uid, gid: 50 };
        a.spec.groups = vec![4, 27, 65_535];
        let container = a.start().await;
        a.wait_for_output("ready").await;
        assert_eq!(a.log()[0], "50 4 27 65535", "as {uid}");
        let asked = ExecSpec { groups: vec![7], ..executed(&a, false, "id -G") };
        let mut session = exec(&container, asked).await.expect("begun");
        let mut text = String::new();
        std::fs::File::from(session.descriptors.remove(1)).read_to_string(&mut text).expect("read");
        assert_eq!(text, "50 7\n", "as {uid}");
        assert!(matches!(session.outcome().await, ExecOutcome::Exited(0)));
        container.destroy().await.expect("removed");
    }
}

/// Describes a shell that runs a script in a box.
fn executed(a: &boxes::TestBox, terminal: bool, script: &str) -> ExecSpec {
    ExecSpec {
        cgroup: a.spec.cgroup.clone(),
        args: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: vec![("PATH".into(), "/bin".into())],
        cwd: "/".into(),
        user: a.spec.user,
        groups: Vec::new(),
        terminal,
    }
}

/// Parses the capability sets in a process's status, by name.
fn rights_of(status: &str) -> BTreeMap<&str, &str> {
    let fields = status.lines().filter_map(|line| line.split_once(":\t"));
    fields.filter(|(name, _)| name.starts_with("Cap")).collect()
}

/// Capabilities of a plain user: pid 1 needs setuid, setgid and kill; no_new_privs keeps these from the application.
const USER: [(&str, &str); 5] = [
    ("CapAmb", "0000000000000000"),
    ("CapBnd", "00000000000000e0"),
    ("CapEff", "0000000000000000"),
    ("CapInh", "0000000000000000"),
    ("CapPrm", "0000000000000000"),
];

/// Capabilities of an image's root: additionally chown, dac_override, fowner and net_bind_service.
const ROOT: [(&str, &str); 5] = [
    ("CapAmb", "0000000000000000"),
    ("CapBnd", "00000000000004eb"),
    ("CapEff", "00000000000004eb"),
    ("CapInh", "0000000000000000"),
    ("CapPrm", "00000000000004eb"),
];

async fn rights() {
    for (uid, rights) in [(1000, USER), (0, ROOT)] {
        let mut a = a_box("id -u; id -g; id -G; cat /proc/self/status; cat /proc/1/environ || echo closed");
        a.spec.user = ProcessUser { uid, gid: uid };
        let lines = outcome(&a).await.0;
        assert_eq!(&lines[..3], [uid.to_string(), uid.to_string(), uid.to_string()]);
        let status = lines.join("\n");
        assert_eq!(rights_of(&status), BTreeMap::from(rights), "as {uid}");
        assert!(status.contains("NoNewPrivs:\t1\nSeccomp:\t2\n"), "{status}");
        assert!(lines.iter().any(|line| line == "closed"), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("s3cret")));
    }
}

async fn calls() {
    let lines = output(
        "mount -t tmpfs x /tmp && echo mounted; unshare -U true && echo new user; unshare -n true && echo new net;
         kill -9 1; echo done",
    )
    .await;
    let refused = |line: &&String| line.contains("not permitted") || line.contains("denied");
    assert_eq!(lines.iter().filter(refused).count(), 4, "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("new") || line == "mounted"), "{lines:?}");
}

/// The paths that Docker hides, and below those that Docker makes read-only; here `/sys` is read-only too. This list is
/// separate from the sandbox's, so that a path missing there fails the test.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 6] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys"];

/// Runs as the machine's own root, since these files' permissions do not stop root. Only the container's protections
/// do.
async fn paths() {
    let script = format!(
        "for p in {}; do if [ -d $p ]; then echo $p folder $(ls -A $p | wc -l); elif [ -e $p ]; then \
         echo $p file $(head -c 100 $p | wc -c); else echo $p absent; fi; done; \
         for p in {}; do if [ -e $p ]; then echo $p $(grep -c \" $p ro,\" /proc/self/mountinfo); fi; done; \
         for p in /proc/sys/kernel/hostname /proc/irq/default_smp_affinity /proc/sysrq-trigger /sys/kernel/uevent_seqnum \
         /sys/kernel/mm/ksm/run; do [ -e $p ] && (: > $p) 2>&1; done; echo end",
        MASKED.join(" "),
        READ_ONLY.join(" "),
    );
    let mut a = a_box(&script);
    for name in ["head", "wc", "grep", "mkdir"] {
        let _ = std::os::unix::fs::symlink("busybox", a.spec.root.layers[0].join("bin").join(name));
    }
    a.spec.user = ProcessUser { uid: 0, gid: 0 };
    a.spec.users = None;
    let lines = outcome(&a).await.0;
    for (path, line) in MASKED.iter().zip(&lines) {
        let there = Path::new(path).exists();
        let empty = [format!("{path} folder 0"), format!("{path} file 0")];
        assert!(if there { empty.contains(line) } else { *line == format!("{path} absent") }, "{lines:?}");
    }
    // Sanity check: the same files have content outside.
    let filled = |path: &&&str| {
        let mut byte = [0];
        let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut byte)).is_ok_and(|count| count == 1);
        read || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
    };
    let hidden = MASKED.iter().filter(filled).count();
    assert!(hidden >= 4, "only {hidden} of them have anything to hide on this machine");
    let rest: Vec<&String> = lines[MASKED.len()..].iter().collect();
    let (mounts, writes): (Vec<&String>, Vec<&String>) = rest.iter().copied().partition(|line| line.ends_with(" 1"));
    assert_eq!(mounts.len(), READ_ONLY.iter().filter(|path| Path::new(path).exists()).count(), "{lines:?}");
    assert_eq!(writes.last().map(|line| line.as_str()), Some("end"));
    let refused = writes.iter().filter(|line| line.contains("Read-only file system")).count();
    assert!(refused >= 3 && refused == writes.len() - 1, "{writes:?}");
}

async fn leaks() {
    // Descriptor 3 is the folder that the shell reads for the pattern; 10 is the shell's own copy of its script.
    let lines = output("for f in /proc/$$/fd/*; do echo ${f##*/}; readlink $f >&2; done; echo; ls /dev").await;
    let (to, lines): (Vec<String>, Vec<String>) = lines.into_iter().partition(|line| line.contains([':', '/']));
    assert!(to.len() >= 3 && !to.iter().any(|line| line.contains("gantry-leaked")), "{to:?}");
    let parts: Vec<Vec<&String>> = lines.split(|line| line.is_empty()).map(|part| part.iter().collect()).collect();
    assert!(parts[0].iter().all(|number| ["0", "1", "2", "3", "10"].contains(&number.as_str())), "{:?}", parts[0]);
    let devices = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(parts[1], devices.split(' ').collect::<Vec<_>>());
}

async fn limits() {
    // With the limit, the kernel kills the script; without the limit, the script succeeds.
    for (memory, kills) in [(16 << 20, true), (256 << 20, false)] {
        let mut a = a_box("x=0123456789abcdef; i=0; while [ $i -lt 21 ]; do x=$x$x; i=$((i+1)); done; echo ${#x}");
        a.spec.limits.memory = memory;
        let container = a.start().await;
        container.ended().await;
        assert_eq!(container.usage().oom_kills > 0, kills, "{memory}");
        container.destroy().await.expect("removed");
        assert_eq!(a.log().contains(&(16 << 21).to_string()), !kills, "{:?}", a.log());
    }
    let lines = output("i=0; while [ $i -lt 100 ]; do sleep 100 & i=$((i+1)); done; echo over").await;
    assert!(lines.iter().any(|line| line.contains("fork")), "{lines:?}");
}

/// Checks the user id of a container's root outside, and its access to files of root outside. Runs once with users of
/// its own, and once without: then the container's root is the machine's root.
async fn users() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    for first in [Some(FIRST), None] {
        let script = "id -u; cut -c1-40 /proc/self/uid_map | tr -s ' '; cat /secret/key 2>&1; echo > /made; \
                      echo > /kept/made; ls -ln /etc/passwd | tr -s ' ' | cut -d' ' -f3; echo end; exec sleep 1000";
        let mut it = a_box(script);
        it.spec.user = ProcessUser { uid: 0, gid: 0 };
        it.spec.users = first;
        let folder = |name: &str| it.folder.path().join(name);
        std::fs::create_dir_all(folder("layer/etc")).expect("made");
        std::fs::write(folder("layer/etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("written");
        for name in ["secret", "kept"] {
            std::fs::create_dir(folder(name)).expect("made");
        }
        std::fs::write(folder("secret/key"), "the machine's secret\n").expect("written");
        std::fs::set_permissions(folder("secret/key"), std::fs::Permissions::from_mode(0o600)).expect("set");
        it.spec.binds = vec![
            BindMount { source: folder("secret"), target: "/secret".into(), writable: false },
            BindMount { source: folder("kept"), target: "/kept".into(), writable: true },
        ];
        let container = it.start().await;
        it.wait_for_output("end").await;
        let lines = it.log();
        assert_eq!(lines[0], "0", "{lines:?}");
        let owner = |path: &str| std::fs::metadata(folder(path)).expect("there").uid();
        let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid().expect("runs"))).expect("read");
        let outside = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a user");
        let outside: Vec<&str> = outside.split_whitespace().collect();
        let reads = lines.iter().any(|line| line == "the machine's secret");
        match first {
            Some(first) => {
                assert_eq!(lines[1].trim(), format!("0 {first} 65536"));
                assert!(!reads && lines.iter().any(|line| line.contains("Permission denied")), "{lines:?}");
                assert_eq!(outside, [first.to_string().as_str(); 4]);
                assert_eq!(owner("upper/made"), first);
            }
            None => {
                // Sanity check: only the user namespace kept the two roots apart.
                assert!(reads, "{lines:?}");
                assert_eq!(outside, ["0"; 4]);
                assert_eq!(owner("upper/made"), 0);
            }
        }
        // Inside, files of the image have the image's owners. Files in a kept bind have the same owners on the disk.
        assert_eq!(lines[lines.len() - 2], "0", "{lines:?}");
        assert_eq!(owner("kept/made"), 0);
        container.destroy().await.expect("removed");
    }
}

async fn signals() {
    let a = a_box("trap 'echo got it; exit 3' TERM; echo ready; while true; do sleep 0.01; done");
    let container = a.start().await;
    a.wait_for_output("ready").await;
    container.signal(rustix::process::Signal::TERM).expect("sent");
    container.ended().await;
    assert_eq!(ExitRecord::read(&a.spec.exit).and_then(|r| r.code), Some(3));
    container.destroy().await.expect("removed");
    assert!(a.log().contains(&"got it".to_owned()));
}

async fn hostile_root() {
    let mut a = a_box("cat /etc/hosts; ls -l /etc");
    let layer = &a.spec.root.layers[0];
    let victim = a.folder.path().join("victim");
    std::fs::write(&victim, "the host's").expect("written");
    std::fs::write(a.folder.path().join("hosts"), "127.0.0.1 localhost\n").expect("written");
    std::os::unix::fs::symlink(&victim, layer.join("etc/hosts")).expect("a link");
    a.spec.binds.push(BindMount {
        source: a.folder.path().join("hosts"),
        target: "/etc/hosts".into(),
        writable: false,
    });
    let (lines, _) = outcome(&a).await;
    assert_eq!(lines[0], "127.0.0.1 localhost");
    assert_eq!(std::fs::read_to_string(victim).expect("read"), "the host's");
}

async fn symlinked_dev() {
    for (name, inside) in ["dev", "proc", "sys"].into_iter().flat_map(|name| [(name, false), (name, true)]) {
        let a = a_box("true");
        let host = a.folder.path().join("host");
        std::fs::create_dir(&host).expect("made");
        // The link leads out of the image, or to a folder of the image that the mount would hide.
        let target = if inside { Path::new("/bin") } else { &host };
        std::os::unix::fs::symlink(target, a.spec.root.layers[0].join(name)).expect("a link");
        let error = launch(&a.spec).await.expect_err("refused").to_string();
        assert!(error.contains(&format!("/{name}")), "{error}");
        assert_eq!(std::fs::read_dir(host).expect("read").count(), 0, "something was made on the host");
    }
}

async fn execs() {
    let a = a_box("echo ready; sleep 100");
    let container = a.start().await;
    a.wait_for_output("ready").await;
    let spec = |terminal, script: &str| executed(&a, terminal, script);
    let script = "hostname; id -u; cat /proc/self/status; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; \
                  for f in /proc/$$/fd/*; do echo descriptor ${f##*/} $(readlink $f); done; exit 5";
    for (uid, rights) in [(1000, USER), (0, ROOT)] {
        let asked = ExecSpec { user: ProcessUser { uid, gid: uid }, ..spec(false, script) };
        let mut session = exec(&container, asked).await.expect("begun");
        let mut text = String::new();
        std::fs::File::from(session.descriptors.remove(1)).read_to_string(&mut text).expect("read");
        let outcome = session.outcome().await;
        assert!(matches!(outcome, ExecOutcome::Exited(5)), "{outcome:?}: {text}");
        let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(":\t")).collect();
        assert!(text.starts_with(&format!("web-1.machine\n{uid}\n")), "{text}");
        assert_eq!(rights_of(&text), BTreeMap::from(rights), "as {uid}");
        assert_eq!((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"));
        let open: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("descriptor ")).collect();
        let known = |line: &&str| ["0", "1", "2", "3", "10"].contains(&line.split(' ').next().unwrap_or_default());
        assert!(open.len() >= 3 && open.iter().all(known), "{open:?}");
        assert!(!text.contains("gantry-leaked") && !text.contains("mounted"), "{text}");
    }
    let mut session = exec(&container, spec(true, "tty; test -t 0 && echo terminal")).await.expect("begun");
    let mut bytes = Vec::new();
    // The terminal's end reads EIO once the other side is closed.
    let _ = std::fs::File::from(session.descriptors.remove(0)).read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    assert!(text.contains("/dev/pts/0") && text.contains("terminal"), "{text}");
    assert!(matches!(session.outcome().await, ExecOutcome::Exited(0)));
    let mut session =
        exec(&container, ExecSpec { args: vec!["/no/such".into()], ..spec(false, "") }).await.expect("begun");
    assert!(matches!(session.outcome().await, ExecOutcome::Exited(127)));
    container.destroy().await.expect("removed");
}

async fn adopted() {
    let a = a_box("echo ready; sleep 100");
    let container = a.start().await;
    a.wait_for_output("ready").await;
    let pid = container.pid();
    drop(container);
    let container = Container::adopt(&a.spec.state, &a.spec.cgroup).expect("found");
    assert_eq!((container.pid(), container.is_running()), (pid, true));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(a.folder.path().to_str().expect("text")), "a mount is seen outside");
    container.destroy().await.expect("removed");
    container.destroy().await.expect("removed twice");
    assert!(!container.is_running() && Container::adopt(&a.spec.state, &a.spec.cgroup).is_none());
    let groups: Vec<PathBuf> = ["pids", "memory", "."]
        .iter()
        .map(|name| Path::new("/sys/fs/cgroup").join(name).join(&a.spec.cgroup))
        .filter(|path| path.exists())
        .collect();
    assert!(groups.is_empty(), "{groups:?}");
}
