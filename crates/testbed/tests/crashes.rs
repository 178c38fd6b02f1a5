//! Crashes: services killed with SIGKILL in every state of a deploy, a reboot of the machine, and a push whose client
//! disconnects.

mod site;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_testbed::TestCluster;
use gantry_testbed::load::{ALL, Load, PLAIN, Target};
use site::{page, push_site, site};

#[test]
fn restarts_killed_services_without_effect_on_workloads() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 2);
    push_site(&repository, "one");
    let before = cluster.containers();
    assert_eq!(before.len(), 2);
    let target = Target::shop(cluster.http_port(), &ALL, Duration::from_millis(2));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = runtime.block_on(async { Load::begin(&target, ALL.len(), Duration::from_secs(60)) });
    for service in ["agent", "server"] {
        let pid = cluster.service_pid(service);
        cluster.kill_service(service);
        cluster.wait("it is back", |cluster| cluster.service_pid(service).filter(|now| Some(*now) != pid).map(drop));
        cluster.wait("everything is ready again", |cluster| {
            cluster.gantry(&["app", "show", "shop"]).out.contains("2/2").then_some(())
        });
    }
    let report = runtime.block_on(load.end());
    assert_eq!(report.failed, 0, "{report:?}");
    assert_eq!(cluster.containers(), before, "a container was started twice, or again");
    // A killed router loses its open requests. The next router takes over the same socket and routing table.
    cluster.kill_service("router");
    assert!(page(&cluster, "shop").starts_with("one"));
}

/// The worker of `gantry exec` outlives the agent and notices the agent's end.
#[test]
fn an_exec_ends_with_its_killed_agent() {
    let cluster = TestCluster::start(&[]);
    push_site(&site(&cluster, "shop", 1), "one");
    // A duration that no other process on this machine sleeps for.
    let command = format!("sleep 4{}", cluster.api_port());
    let runs = || Command::new("pgrep").args(["-fx", &command]).output().expect("pgrep").status.success();
    let mut exec = Command::new(gantry_testbed::program("gantry"))
        .args(["exec", "shop", "--", "/bin/sh", "-c", &format!("exec {command}")])
        .env("GANTRY_URL", format!("http://127.0.0.1:{}", cluster.api_port()))
        .env("GANTRY_TOKEN", cluster.token())
        .stdin(std::process::Stdio::null())
        .spawn()
        .expect("gantry");
    cluster.wait("it runs", |_| runs().then_some(()));
    let before = cluster.containers();
    cluster.kill_service("agent");
    cluster.wait("it has ended", |_| (!runs()).then_some(()));
    assert!(!exec.wait().expect("ended").success());
    assert_eq!(cluster.containers(), before, "the instance itself runs on");
}

/// A client that follows a deploy receives each line exactly once, to the end of the deploy.
#[test]
fn a_deploy_is_followed_on_when_its_server_is_killed() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    push_site(&repository, "two");
    let mut rollback = cluster.gantry_into("rollback", &["rollback", "shop", "--wait"]);
    let rollback_output = |cluster: &TestCluster| std::fs::read_to_string(cluster.path("rollback")).unwrap_or_default();
    cluster.wait("it serves, and is watched", |cluster| rollback_output(cluster).contains("v3 serves;").then_some(()));
    cluster.kill_service("server");
    assert!(rollback.wait().expect("ended").success(), "{}", rollback_output(&cluster));
    let text = rollback_output(&cluster);
    for once in ["Starting v3", "v3 serves;", "the server went away", "http://shop.localhost"] {
        assert_eq!(text.matches(once).count(), 1, "{once} in\n{text}");
    }
    assert!(page(&cluster, "shop").starts_with("one"));
}

/// The server first hangs and is then gone, for twelve seconds each; ten minutes in the long run.
#[test]
fn restarts_crashed_instances_and_serves_without_the_server() {
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let away = Duration::from_secs(if long { 600 } else { 12 });
    let cluster = TestCluster::start(&[]);
    push_site(&site(&cluster, "shop", 2), "one");
    let target = Target::shop(cluster.http_port(), &PLAIN, Duration::from_millis(10));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = runtime.block_on(async { Load::begin(&target, 6, Duration::from_secs(1200)) });
    let [up, server] = [cluster.up_pid(), cluster.service_pid("server").expect("it runs")];
    cluster.signal("STOP", server);
    let (begun, mut crashes) = (Instant::now(), 0);
    // The restart back-off grows with each crash: after six crashes to more than a minute.
    while crashes < 4 || (begun.elapsed() < away && crashes < 12) {
        if crashes == 2 {
            // `up` is stopped, so that it does not restart the server.
            cluster.signal("STOP", up);
            cluster.signal("KILL", server);
        }
        let before = cluster.containers();
        cluster.signal("KILL", before[crashes % 2].1);
        crashes += 1;
        cluster.wait("it was started again", |cluster| {
            let now = cluster.containers();
            (now.len() == 2 && now != before).then_some(())
        });
        cluster.wait("both serve again", |cluster| {
            let mut pages: Vec<String> = (0..10).map(|_| page(cluster, "shop")).collect();
            pages.sort();
            pages.dedup();
            (pages.len() == 2).then_some(())
        });
    }
    while begun.elapsed() < away {
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.signal("CONT", up);
    cluster.wait("everything is known again", |cluster| {
        cluster.gantry(&["app", "show", "shop"]).out.contains("2/2").then_some(())
    });
    let report = runtime.block_on(load.end());
    println!("{crashes} crashes in {away:?} without a server, {} requests, {} failed", report.sent, report.failed);
    assert!(report.failed == 0 && report.sent > 500, "{crashes} crashes, {report:?}");
}

/// Kills `service` while a deploy is in `state`. The deploy must end, with one release serving.
fn killed_in(
    cluster: &TestCluster,
    repository: &gantry_testbed::Repository,
    service: &str,
    state: &str,
    version: &str,
) {
    repository.write("server.py", &site::SERVER.replace("VERSION", version));
    repository.commit(version);
    let mut push = repository.push_in_background();
    let seen = cluster.wait("the deploy is there", |cluster| {
        let deploys = cluster.gantry(&["app", "show", "shop", "--json"]).out;
        let value: serde_json::Value = serde_json::from_str(&deploys).ok()?;
        let now = value["deploy"]["state"].as_str().map(str::to_owned);
        match now {
            Some(now) if now == state => Some(true),
            // The poll may miss a short state. The kill then comes after the push.
            _ if push.try_wait().is_ok_and(|status| status.is_some()) => Some(false),
            _ => None,
        }
    });
    println!("{service} killed, {state} seen: {seen}");
    cluster.kill_service(service);
    let _ = push.wait();
    cluster.wait("the deploy is over", |cluster| {
        let text = cluster.gantry(&["app", "show", "shop", "--json"]).out;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        (value["deploy"].is_null() && value["ready"] == value["wanted"] && value["ready"] == 1).then_some(())
    });
    let text = page(cluster, "shop");
    assert!(!text.is_empty() && !text.starts_with('5'), "{service} killed in {state} (seen: {seen}): {text}");
    cluster.wait("only what is wanted runs", |cluster| (cluster.containers().len() == 1).then_some(()));
}

#[test]
fn a_service_killed_in_any_state_of_a_deploy_leaves_one_release_serving() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    // The compile step is slow enough for the test to see each state.
    repository.compile_with("sleep 0.7");
    push_site(&repository, "first");
    for service in ["server", "agent", "router"] {
        for state in ["building", "starting", "verifying", "promoting", "draining"] {
            killed_in(&cluster, &repository, service, state, &format!("{service}-{state}"));
        }
    }
}

#[test]
fn when_up_is_killed_its_services_end_and_the_next_up_takes_over() {
    let mut cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 2);
    push_site(&repository, "one");
    let before = cluster.containers();
    cluster.kill_up();
    cluster.up();
    cluster
        .wait("both are ready", |cluster| cluster.gantry(&["app", "show", "shop"]).out.contains("2/2").then_some(()));
    assert!(page(&cluster, "shop").starts_with("one"));
    assert_eq!(cluster.containers(), before, "a container was started again");
    // A copy that gets the goal to stop, and is wanted again while the copy is stopping.
    let deaf = "{ web: { command: 'trap : TERM; python3 server.py & while true; do sleep 0.1; done', instances: 2, \
                stop_timeout: 3, health: { path: '/up' } } }";
    repository.write("container/roles.json", deaf);
    push_site(&repository, "two");
    let _ = cluster.gantry(&["scale", "shop", "web=1"]).good();
    cluster.wait("one is stopping", |cluster| cluster.gantry(&["ps", "shop"]).out.contains("stopping").then_some(()));
    let _ = cluster.gantry(&["scale", "shop", "web=2"]).good();
    cluster
        .wait("both are ready", |cluster| cluster.gantry(&["app", "show", "shop"]).out.contains("2/2").then_some(()));
    // Running containers that no record mentions any more.
    let before = cluster.containers();
    cluster.kill_everything();
    std::fs::remove_dir_all(cluster.path("run/containers")).expect("removed");
    cluster.up();
    let run = |(_, pid): &(String, u32)| Path::new(&format!("/proc/{pid}")).exists();
    cluster.wait("none runs twice", |_| (!before.iter().any(run)).then_some(()));
    cluster
        .wait("both are ready", |cluster| cluster.gantry(&["app", "show", "shop"]).out.contains("2/2").then_some(()));
}

#[test]
fn after_a_reboot_everything_runs_again() {
    let mut cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 2);
    push_site(&repository, "one");
    // A second app with a volume, and a build that the loss of power interrupts.
    let _ = cluster.gantry(&["app", "create", "keeper"]).good();
    let keeper = cluster.repository("keeper", None);
    keeper.write("server.py", &site::SERVER.replace("VERSION", "kept"));
    keeper.write(
        "container/roles.json",
        "{ web: { command: 'python3 server.py', health: { path: '/up' }, volumes: { data: '/data' } } }",
    );
    keeper.commit("one");
    let _ = keeper.push().good();
    let note = ["exec", "keeper", "--", "/bin/sh", "-c", "cat /data/note 2>/dev/null || echo of old > /data/note"];
    let _ = cluster.gantry(&note).good();
    repository.compile_with("sleep 3.0");
    repository.write("server.py", &site::SERVER.replace("VERSION", "two"));
    repository.commit("two");
    let mut pushing = repository.push_in_background();
    cluster.wait("it builds", builds);
    cluster.kill_everything();
    let _ = pushing.wait();
    // A reboot also ends the containers and empties the folders in memory.
    for (_, pid) in cluster.containers() {
        cluster.signal("KILL", pid);
    }
    std::fs::remove_dir_all(cluster.path("run")).expect("removed");
    cluster.forget_network_and_groups();
    cluster.up();
    let begun = Instant::now();
    let ready = |cluster: &TestCluster, app: &str, count: &str| {
        cluster.gantry(&["app", "show", app]).out.contains(count).then_some(())
    };
    cluster.wait("what has no build is ready", |cluster| ready(cluster, "keeper", "1/1"));
    // An instance that counted as ready from before the reboot would have its next health check after the usual
    // interval of 10 s.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    cluster.wait("both are ready", |cluster| ready(cluster, "shop", "2/2"));
    assert!(page(&cluster, "keeper").starts_with("kept"));
    cluster.wait("the build was begun again", |cluster| page(cluster, "shop").starts_with("two").then_some(()));
    assert_eq!(cluster.gantry(&note).good().out, "of old\n");
}

fn builds(cluster: &TestCluster) -> Option<()> {
    cluster.gantry(&["app", "show", "shop", "--json"]).out.contains("\"building\"").then_some(())
}

#[test]
fn requests_wait_for_the_only_copy_to_come_back() {
    let cluster = TestCluster::start(&[]);
    push_site(&site(&cluster, "shop", 1), "one");
    for crash in 1..=3 {
        let _ = cluster.gantry(&["exec", "shop", "--", "/bin/sh", "-c", "kill -9 3"]);
        // The instance is down or about to go down. A request now waits for the restart.
        let response = cluster.curl("shop.localhost", &[]).good().out;
        assert!(response.starts_with("one"), "after crash {crash}: {response}");
        cluster.wait("it was started again", |cluster| {
            let ps: serde_json::Value = serde_json::from_str(&cluster.gantry(&["ps", "shop", "--json"]).out).ok()?;
            (ps[0]["restarts"] == crash && ps[0]["phase"] == "ready").then_some(())
        });
    }
    let info: serde_json::Value =
        serde_json::from_str(&cluster.gantry(&["app", "show", "shop", "--json"]).good().out).expect("JSON");
    assert!(info["requests"]["held"].as_u64() >= Some(1) && info["requests"]["refused"] == 0, "{info}");
}

#[test]
fn a_deploy_survives_its_disconnected_client() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    repository.compile_with("sleep 2.0");
    repository.write("server.py", &site::SERVER.replace("VERSION", "two"));
    repository.commit("two");
    let mut first = repository.push_in_background();
    cluster.wait("it builds", builds);
    first.kill().expect("killed");
    let _ = first.wait();
    cluster.wait("it is deployed all the same", |cluster| page(cluster, "shop").starts_with("two").then_some(()));
}

#[test]
fn deploys_the_newest_waiting_push_and_reports_the_others() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    repository.compile_with("sleep 3.0");
    let push = |version: &str| {
        repository.write("server.py", &site::SERVER.replace("VERSION", version));
        repository.commit(version);
        repository.push_in_background()
    };
    let under_way = push("two");
    cluster.wait("the first builds", builds);
    let waits = |cluster: &TestCluster, number: &str| {
        cluster.gantry(&["events", "shop"]).out.contains(&format!("deploy {number} asked for")).then_some(())
    };
    let older = push("three");
    cluster.wait("the second waits", |cluster| waits(cluster, "#3"));
    let newest = push("four");
    let [under_way, older, newest] = [under_way, older, newest].map(|child| child.wait_with_output().expect("git"));
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(under_way.status.success(), "{}", said(&under_way));
    assert!(!older.status.success() && said(&older).contains("superseded by deploy #4"), "{}", said(&older));
    assert!(newest.status.success(), "{}", said(&newest));
    assert!(page(&cluster, "shop").starts_with("four"));
    let head = repository.git(&["rev-parse", "HEAD"]).out;
    assert!(repository.git(&["ls-remote", "gantry", "main"]).out.starts_with(head.trim()), "the branch was not moved");
}

#[test]
fn refuses_the_second_of_two_pushes_with_one_parent() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    let start = push_site(&repository, "one");
    repository.compile_with("sleep 3.0");
    repository.write("server.py", &site::SERVER.replace("VERSION", "alice"));
    let alice = repository.commit("alice");
    let mut pushing = repository.push_in_background();
    cluster.wait("it builds", builds);
    // Both commits have the same parent, as when two people push.
    let _ = repository.git(&["reset", "-q", "--hard", &start]);
    repository.write("server.py", &site::SERVER.replace("VERSION", "bob"));
    let bob = repository.commit("bob");
    let refused = repository.push();
    assert_ne!(refused.status, 0, "{refused:?}");
    assert!(refused.err.contains("under way with") && refused.err.contains("`gantry abort shop`"), "{refused:?}");
    // Carol builds on Alice's commit, which is not on the branch yet.
    let _ = repository.git(&["reset", "-q", "--hard", &alice]);
    repository.write("server.py", &site::SERVER.replace("VERSION", "carol"));
    let carol = repository.commit("carol");
    let _ = repository.push().good();
    assert!(pushing.wait().expect("ended").success());
    assert_eq!(repository.remote_head(), carol, "an accepted commit stays on its branch");
    let _ = repository.git(&["reset", "-q", "--hard", &bob]);
    // By now Git itself rejects the push.
    let refused = repository.push();
    assert!(refused.status != 0 && refused.err.contains("[rejected]"), "{refused:?}");
    let _ = repository.git(&["pull", "-q", "--no-rebase", "-X", "ours", "--no-edit", "gantry", "main"]).good();
    let _ = repository.push().good();
    assert!(page(&cluster, "shop").starts_with("bob"));
}

#[test]
fn a_build_of_a_destroyed_app_gives_its_successor_no_image() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    repository.compile_with("echo said by the old one; sleep 5.0");
    repository.write("server.py", &site::SERVER.replace("VERSION", "old"));
    repository.commit("old");
    let mut pushing = repository.push_in_background();
    cluster.wait("it builds", builds);
    let _ = cluster.gantry(&["app", "destroy", "shop", "--confirm", "shop"]).good();
    cluster.wait("it is gone", |cluster| cluster.gantry(&["app", "show", "shop"]).err.contains("no app").then_some(()));
    let _ = pushing.wait();
    // The files that a killed server had not removed yet.
    let cache = cluster.path("data/caches/shop");
    std::fs::create_dir_all(&cache).expect("made");
    std::fs::write(cluster.path("data/server/builds/shop-2.log"), "said by the old one\n").expect("written");
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    assert!(!cache.exists(), "another app's cache");
    repository.compile_with("true");
    push_site(&repository, "new");
    assert!(page(&cluster, "shop").starts_with("new"));
    repository.write("server.py", &site::SERVER.replace("VERSION", "newer"));
    repository.commit("newer");
    let output = repository.push().good().all();
    assert!(!output.contains("said by the old one"), "{output}");
}

/// A mount that ends when the value is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn at(place: std::path::PathBuf) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&place).status();
        assert!(status.expect("mount").success());
        Self(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Waits until Gantry reports that an instance of `shop` cannot be removed, and why.
fn wait_until_why_says(cluster: &TestCluster, instance: &str, why: &str) {
    cluster.wait("`why` names the failed removal", |cluster| {
        let explanation = cluster.gantry(&["why", "shop", instance]).out;
        (explanation.contains("cannot be removed; retrying") && explanation.contains(why)).then_some(())
    });
}

/// A foreign mount below the folder of a container: the kernel deletes neither.
#[test]
fn files_that_cannot_be_deleted_keep_no_instance_and_are_retried() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    let place = cluster.path("data/containers/shop.v1.web-1/stuck");
    std::fs::create_dir(&place).expect("made");
    let mut mounted = Mounted::at(place);
    push_site(&shop, "two");
    assert!(page(&cluster, "shop").starts_with("two"));
    let gone = |cluster: &TestCluster, instance: &str| {
        cluster.wait("it is gone", |cluster| (!cluster.gantry(&["ps", "shop"]).out.contains(instance)).then_some(()));
    };
    gone(&cluster, "shop.v1.web-1");
    cluster.wait("the failure is logged", |cluster| {
        let log = cluster.log();
        log.lines().any(|line| line.contains("trash") && line.contains("busy")).then_some(())
    });
    // The next agent tries again, and removes other containers meanwhile.
    cluster.kill_service("agent");
    cluster.wait("the agent is back", |cluster| cluster.log().matches("agent started").nth(1).map(drop));
    push_site(&shop, "three");
    gone(&cluster, "shop.v2.web-1");
    let trash = || std::fs::read_dir(cluster.path("data/trash")).expect("read").flatten().collect::<Vec<_>>();
    let left = cluster.wait("one folder is left", |_| Some(trash()).filter(|left| left.len() == 1));
    mounted.0 = left[0].path().join("stuck");
    drop(mounted);
    cluster.wait("the trash is empty", |_| trash().is_empty().then_some(()));
    assert_eq!(cluster.strays(&["shop.v3.web-1".to_owned()]), Vec::<String>::new());
}

/// A process that the kernel does not end while the value exists, like a process that waits for a lost disk.
struct Frozen(std::path::PathBuf);

impl Frozen {
    /// Freezes the process. None without the freezer of control groups v1: on v2 a frozen process can be killed.
    fn process(pid: u32) -> Option<Self> {
        let group = std::path::PathBuf::from(format!("/sys/fs/cgroup/freezer/gantry-frozen-{pid}"));
        std::fs::create_dir(&group).ok()?;
        std::fs::write(group.join("cgroup.procs"), pid.to_string()).expect("added");
        std::fs::write(group.join("freezer.state"), "FROZEN").expect("frozen");
        Some(Self(group))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        // The kernel removes the group only after its process is gone.
        let begun = Instant::now();
        while std::fs::remove_dir(&self.0).is_err() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_process_that_cannot_be_killed_is_reported_and_blocks_no_other() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    let roles = "{ web: { command: 'python3 server.py', stop_timeout: 1, health: { path: '/up' } } }";
    shop.write("container/roles.json", roles);
    push_site(&shop, "one");
    let (name, pid) = cluster.containers().swap_remove(0);
    let Some(frozen) = Frozen::process(pid) else {
        println!("no freezer here that keeps a process from its end");
        return;
    };
    // The frozen instance answers no request; the next release replaces it nevertheless.
    push_site(&shop, "two");
    assert!(page(&cluster, "shop").starts_with("two"));
    let wait_until_explained = |cluster: &TestCluster| wait_until_why_says(cluster, &name, "does not end");
    wait_until_explained(&cluster);
    // Agent and server restart while the frozen process remains.
    cluster.kill_service("agent");
    cluster.kill_service("server");
    cluster.wait("both are back", |cluster| cluster.gantry(&["app", "show", "shop"]).out.contains("1/1").then_some(()));
    push_site(&shop, "three");
    let _ = cluster.gantry(&["scale", "shop", "web=2"]).good();
    cluster
        .wait("both are ready", |cluster| cluster.gantry(&["app", "show", "shop"]).out.contains("2/2").then_some(()));
    wait_until_explained(&cluster);
    drop(frozen);
    cluster.wait("it is gone", |cluster| (!cluster.gantry(&["ps", "shop"]).out.contains(&name)).then_some(()));
    assert_eq!(cluster.strays(&["shop.v3.web-1".to_owned(), "shop.v3.web-2".to_owned()]), Vec::<String>::new());
}

/// The worker dies before it releases the container to run; then the agent dies before it starts the instance
/// again.
#[test]
fn does_not_count_a_failed_start_as_a_crash() {
    let cluster = TestCluster::start(&[]);
    cluster.make_failpoints();
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    std::fs::write(cluster.path("failpoints/kill"), "launch.identified\ninstance.fetched\n").expect("armed");
    push_site(&shop, "two");
    assert_eq!(
        std::fs::read_to_string(cluster.path("failpoints/killed")).expect("killed"),
        "launch.identified\ninstance.fetched\n"
    );
    assert!(page(&cluster, "shop").starts_with("two"));
}

#[test]
fn kills_an_application_that_ignores_sigterm() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    let deaf = site::SERVER.replace(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    );
    let roles = "{ web: { command: 'python3 server.py', stop_timeout: 1, health: { path: '/up' } } }";
    repository.write("container/roles.json", roles);
    repository.write("server.py", &deaf.replace("VERSION", "deaf"));
    repository.commit("deaf");
    let _ = repository.push().good();
    push_site(&repository, "two");
    cluster.wait("the deaf one is gone", |cluster| (cluster.containers().len() == 1).then_some(()));
    assert!(page(&cluster, "shop").starts_with("two"));
}
