//! Container lifecycles: creating and removing many containers must leave nothing behind in the agent.

use std::collections::BTreeMap;
use std::path::Path;

use gantry_testbed::{TestCluster, run};

/// Containers at the same time.
const AT_ONCE: u32 = 50;

/// Resources that the agent holds, and those that the machine holds for this test cluster.
fn holdings(cluster: &TestCluster) -> BTreeMap<&'static str, usize> {
    let pid = cluster.service_pid("agent").expect("the agent runs");
    let count = |path: String| std::fs::read_dir(path).expect("read").count();
    let lines = |path: String| std::fs::read_to_string(path).expect("read").lines().count();
    let mut groups = std::process::Command::new("find");
    groups.args(["/sys/fs/cgroup", "-type", "d", "-path", &format!("*{}*", cluster.name())]);
    let mut links = std::process::Command::new("ip");
    links.args(["-o", "link", "show", "master", cluster.name()]);
    BTreeMap::from([
        ("descriptors", count(format!("/proc/{pid}/fd"))),
        ("threads", count(format!("/proc/{pid}/task"))),
        ("mounts", lines(format!("/proc/{pid}/mountinfo"))),
        ("interfaces", run(links).out.lines().count()),
        ("groups", run(groups).out.lines().count()),
        ("folders", count(cluster.path("data/containers").display().to_string())),
        ("states", count(cluster.path("run/containers").display().to_string())),
        ("namespaces", namespaces(pid)),
    ])
}

/// Number of namespaces that the agent holds open or is in, besides those of the machine.
fn namespaces(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("read").flatten();
    entries.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(Path::new("net:")))).count()
}

/// Resident memory of the agent in KiB.
fn resident(cluster: &TestCluster) -> u64 {
    let pid = cluster.service_pid("agent").expect("the agent runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// 200 containers in `./test`, 10,000 in the long run.
#[test]
fn created_and_removed_containers_leave_nothing() {
    let rounds = if std::env::var_os("GANTRY_TEST_LONG").is_some() { 10_000 / AT_ONCE } else { 4 };
    let cluster = TestCluster::start(&[]);
    let _ = cluster.gantry(&["app", "create", "many"]).good();
    let many = cluster.repository("many", None);
    many.write("container/roles.json", "{ worker: { command: 'sleep 100000', memory: '16M' } }");
    many.commit("one");
    let _ = many.push().good();
    let scale = |copies: u32| {
        let _ = cluster.gantry(&["scale", "many", &format!("worker={copies}")]).good();
        cluster.wait("the copies are as many", |cluster| {
            let shown: serde_json::Value =
                serde_json::from_str(&cluster.gantry(&["app", "show", "many", "--json"]).out).unwrap_or_default();
            let there = std::fs::read_dir(cluster.path("data/containers")).expect("read").count();
            (shown["ready"] == copies && there == copies as usize).then_some(())
        });
    };
    let pid = cluster.service_pid("agent");
    // The first rounds create lasting state: threads, buffers, layers.
    for _ in 0..2 {
        scale(AT_ONCE);
        scale(0);
    }
    let mut last = holdings(&cluster);
    let before = cluster.wait("it is quiet", |cluster| {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = holdings(cluster);
        let same = now == std::mem::replace(&mut last, now.clone());
        same.then_some(now)
    });
    let size = resident(&cluster);
    for _ in 0..rounds {
        scale(AT_ONCE);
        scale(0);
    }
    let mut after = holdings(&cluster);
    cluster.wait("it has what it had", |cluster| {
        after = holdings(cluster);
        // The pool of blocking threads grows and shrinks.
        let same = after.iter().all(|(what, count)| *what == "threads" || *count <= before[what]);
        same.then_some(())
    });
    // A leftover with the same name in each round shows no growth, so the baseline may contain the leftover. This
    // check finds it.
    assert_eq!(cluster.strays(&[]), Vec::<String>::new());
    assert_eq!(cluster.service_pid("agent"), pid, "it was another agent in the end");
    let grown = resident(&cluster);
    println!("{} lives; {size} KiB resident before, {grown} after; {before:?}, then {after:?}", rounds * AT_ONCE);
    assert!(grown < size * 5 / 4 + 2048, "{size} KiB before, {grown} after {} lives", rounds * AT_ONCE);
}
