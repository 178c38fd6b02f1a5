//! Builds as workloads of the agent: what becomes of a build when its agent, its server or its deploy ends, and how many
//! builds run at once.

mod site;

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use gantry_testbed::{Repository, TestCluster};
use site::{page, push_site, site};

/// The containers of builds, each with its first process.
fn builds(cluster: &TestCluster) -> Vec<(String, u32)> {
    cluster.containers().into_iter().filter(|(name, _)| name.starts_with("build-")).collect()
}

/// Waits for a build's container other than `before`.
fn next_build(cluster: &TestCluster, before: Option<u32>) -> (String, u32) {
    cluster.wait("a build runs", |cluster| builds(cluster).into_iter().find(|(_, pid)| Some(*pid) != before))
}

fn is_gone(cluster: &TestCluster, (name, pid): &(String, u32)) {
    let remains = |cluster: &TestCluster| {
        let folders = ["data/containers", "run/containers"].map(|folder| cluster.path(folder).join(name).exists());
        folders.contains(&true) || Path::new(&format!("/proc/{pid}")).exists()
    };
    cluster.wait("nothing is left of the build", |cluster| (!remains(cluster)).then_some(()));
}

/// Begins the push of a release whose compile step takes this long.
fn push_slow(repository: &Repository, version: &str, seconds: f32) -> Child {
    repository.compile_with(&format!("sleep {seconds:.1}"));
    repository.write("server.py", &site::SERVER.replace("VERSION", version));
    repository.commit(version);
    repository.push_in_background()
}

#[test]
fn a_build_begins_again_when_its_agent_is_killed() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    let pushing = push_slow(&repository, "two", 3.0);
    let first = next_build(&cluster, None);
    cluster.kill_service("agent");
    is_gone(&cluster, &first);
    let output = pushing.wait_with_output().expect("git");
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("ended during the work: beginning again"), "{shown}");
    assert!(page(&cluster, "shop").starts_with("two"));
}

#[test]
fn a_build_ends_with_its_server_and_with_its_deploy() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    let pushing = push_slow(&repository, "two", 600.0);
    let first = next_build(&cluster, None);
    cluster.kill_service("server");
    is_gone(&cluster, &first);
    // The next server finds the deploy, and orders the build again.
    let second = next_build(&cluster, Some(first.1));
    let _ = cluster.gantry(&["abort", "shop"]).good();
    is_gone(&cluster, &second);
    let _ = pushing.wait_with_output().expect("git");
    assert!(page(&cluster, "shop").starts_with("one"));
}

#[test]
fn a_machine_runs_builds_up_to_its_configured_limit() {
    let cluster = TestCluster::start(&["--builds", "1"]);
    let repositories = ["books", "shop"].map(|app| site(&cluster, app, 1));
    let pushing = [0, 1].map(|n| push_slow(&repositories[n], "one", 2.0));
    let (mut most, begun) = (0, Instant::now());
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 || !builds(&cluster).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{seen:?}");
        let now = builds(&cluster);
        most = most.max(now.len());
        seen.extend(now.into_iter().map(|(name, _)| name));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(most, 1, "{seen:?}");
    for child in pushing {
        let output = child.wait_with_output().expect("git");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
