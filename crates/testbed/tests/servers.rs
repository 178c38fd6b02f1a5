//! Several servers on one etcd: any of them serves every request, and each may end at any moment. Whatever a server
//! acknowledged is there in the end.

mod site;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gantry_testbed::load::{Load, LoadKind, Target};
use gantry_testbed::{Etcd, Output, Postgres, Repository, SpareServer, TestCluster, kills, percentiles};
use serde_json::Value;
use site::{page, push_site, site};

/// Longest time from the end of the leader to the next accepted change.
const TAKEOVER_MAX: Duration = Duration::from_secs(3);

/// A cloud with three servers and one machine on an etcd of three members. `TestCluster` is dropped first.
struct Cloud {
    cluster: TestCluster,
    spares: Vec<SpareServer>,
    etcd: Etcd,
}

impl Cloud {
    fn start() -> Self {
        Self::start_on(Etcd::cluster(3))
    }

    fn start_on(etcd: Etcd) -> Self {
        Self::start_with(etcd, &[])
    }

    /// Starts all servers with more arguments.
    fn start_with(etcd: Etcd, extra: &[&str]) -> Self {
        let cluster = TestCluster::start(&[&["--store", &etcd.address()], extra].concat());
        let spares = ["s2", "s3"].map(|name| SpareServer::start_with(name, &etcd, extra)).into();
        let cloud = Self { cluster, spares, etcd };
        cloud.cluster.wait("all servers live", |_| (cloud.living() == ["m", "s2", "s3"]).then_some(()));
        cloud
    }

    /// Ports of the servers: of the machine's own server first.
    fn ports(&self) -> Vec<u16> {
        [self.cluster.api_port()].into_iter().chain(self.spares.iter().map(SpareServer::api_port)).collect()
    }

    /// Runs `gantry` through the server at a port.
    fn through(&self, port: u16, arguments: &[&str]) -> Output {
        self.cluster.gantry_with(&[("GANTRY_URL", &format!("http://127.0.0.1:{port}"))], arguments)
    }

    fn servers(&self, port: u16) -> Vec<Value> {
        let status = self.through(port, &["status", "--json"]);
        let status: Value = serde_json::from_str(&status.out).unwrap_or_default();
        status["servers"].as_array().cloned().unwrap_or_default()
    }

    fn living(&self) -> Vec<String> {
        let servers = self.servers(self.ports()[1]);
        let live = servers.iter().filter(|server| server["lives"] == true);
        live.map(|server| server["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Name of the leader, as the server at a port reports.
    fn leader(&self, port: u16) -> Option<String> {
        let servers = self.servers(port);
        servers.iter().find(|server| server["leads"] == true)?["name"].as_str().map(str::to_owned)
    }

    /// Waits until the server at a port accepts a change, and returns the time since `begun`.
    fn next_change(&self, port: u16, begun: Instant, name: &str) -> Duration {
        self.cluster.wait("a change is accepted", |_| {
            let created = self.through(port, &["token", "create", name, "--read"]);
            // A change whose answer was lost may have been made.
            (created.status == 0 || created.err.contains("E_TOKEN_EXISTS")).then_some(())
        });
        begun.elapsed()
    }

    /// Makes a server other than the machine's own lead, and returns its place among the spare ones.
    fn spare_that_leads(&self) -> usize {
        let port = self.ports()[1];
        self.cluster.wait("a spare server leads", |cluster| {
            let leader = self.leader(port)?;
            if leader != "m" {
                return self.spares.iter().position(|spare| spare.name() == leader);
            }
            let pid = cluster.service_pid("server")?;
            cluster.signal("STOP", pid);
            cluster.wait("another server leads", |_| self.leader(port).filter(|name| name != "m"));
            cluster.signal("CONT", pid);
            None
        })
    }

    fn push_through(&self, repository: &Repository, port: u16, version: &str) {
        let remote = format!("http://x:{}@127.0.0.1:{port}/git/shop.git", self.cluster.token());
        repository.git(&["config", "remote.gantry.url", &remote]);
        push_site(repository, version);
        assert!(page(&self.cluster, "shop").starts_with(version));
    }
}

#[test]
fn a_lost_administrator_s_token_is_valid_on_no_server() {
    let cloud = Cloud::start_on(Etcd::start());
    let is_valid = |token: &str, port: u16| {
        let url = format!("http://127.0.0.1:{port}");
        let listed = cloud.cluster.gantry_with(&[("GANTRY_URL", &url), ("GANTRY_TOKEN", token)], &["token", "ls"]);
        assert!(listed.status == 0 || listed.err.contains("[E_TOKEN_UNKNOWN]"), "{listed:?}");
        listed.status == 0
    };
    // A server offers its secret in another file until the leader has recorded it.
    let of_spare = cloud.spares[0].path("data/admin-token");
    let of_spare = cloud.cluster.wait("the spare server is introduced", |_| std::fs::read_to_string(&of_spare).ok());
    let (lost, others) = (cloud.cluster.token(), of_spare.trim());
    for port in cloud.ports() {
        assert!(is_valid(&lost, port) && is_valid(others, port), "{port}");
    }
    std::fs::remove_file(cloud.cluster.path("data/admin-token")).expect("removed");
    cloud.cluster.replace_services();
    cloud.cluster.wait("there is a new token", |cluster| (cluster.gantry(&["token", "ls"]).status == 0).then_some(()));
    assert_ne!(cloud.cluster.token(), lost);
    for port in cloud.ports() {
        assert!(is_valid(&cloud.cluster.token(), port) && !is_valid(&lost, port) && is_valid(others, port), "{port}");
    }
}

/// Changes through all servers in turn, without pause.
struct Changes {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Changes {
    fn begin(cloud: &Cloud) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let (stopped, known) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let (ports, token) = (cloud.ports(), cloud.cluster.token());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (name, port) = (format!("load-{number}"), ports[number % ports.len()]);
                let created = std::process::Command::new(gantry_testbed::program("gantry"))
                    .args(["token", "create", &name, "--read"])
                    .env("GANTRY_URL", format!("http://127.0.0.1:{port}"))
                    .env("GANTRY_TOKEN", &token)
                    .output()
                    .expect("gantry");
                if created.status.success() {
                    known.lock().expect("a set").insert(name);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, acknowledged, thread: Some(thread) }
    }

    /// Ends the changes, and checks that each acknowledged one is there.
    fn end(mut self, cloud: &Cloud) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("runs").join().expect("ended well");
        let wanted = self.acknowledged.lock().expect("a set").clone();
        assert!(wanted.len() > 5, "only {} changes were accepted", wanted.len());
        for port in cloud.ports() {
            let tokens = cloud.cluster.wait("the server answers", |_| {
                let listed = cloud.through(port, &["token", "ls", "--json"]);
                serde_json::from_str::<Vec<Value>>(&listed.out).ok()
            });
            let there: BTreeSet<String> =
                tokens.iter().map(|token| token["name"].as_str().expect("a name").to_owned()).collect();
            let lost: Vec<&String> = wanted.difference(&there).collect();
            assert!(lost.is_empty(), "acknowledged changes are lost: {lost:?}");
        }
    }
}

#[test]
fn any_server_serves_and_any_may_end() {
    let mut cloud = Cloud::start();
    let repository = site(&cloud.cluster, "shop", 1);
    let ports = cloud.ports();
    for (port, version) in ports.iter().zip(["one", "two", "three"]) {
        cloud.push_through(&repository, *port, version);
    }
    let changes = Changes::begin(&cloud);

    // A stopped leader is deposed, and writes nothing when it goes on.
    let pid = cloud.cluster.service_pid("server").expect("a server");
    assert_eq!(cloud.leader(ports[1]).as_deref(), Some("m"));
    let begun = Instant::now();
    cloud.cluster.signal("STOP", pid);
    let took = cloud.next_change(ports[1], begun, "while-stopped");
    assert!(took < TAKEOVER_MAX, "{took:?}");
    cloud.cluster.signal("CONT", pid);
    cloud.cluster.wait("the deposed leader follows", |_| cloud.leader(ports[0]).filter(|leader| leader != "m"));
    assert_eq!(cloud.cluster.service_pid("server"), Some(pid), "the same process");
    assert!(cloud.cluster.log().contains("lost leadership"), "{}", cloud.cluster.log());

    // A killed leader is replaced at once.
    let leader = cloud.spare_that_leads();
    let shown: Value =
        serde_json::from_str(&cloud.through(ports[1], &["app", "show", "shop", "--json"]).good().out).expect("JSON");
    let url = format!("http://shop.localhost:{}/", cloud.cluster.http_port());
    assert_eq!(shown["url"], url.as_str(), "the URL of an app does not follow the leader");
    let other = ports[2 - leader];
    let begun = Instant::now();
    cloud.spares[leader].kill();
    let took = cloud.next_change(other, begun, "while-killed");
    assert!(took < TAKEOVER_MAX, "{took:?}");
    cloud.push_through(&repository, other, "four");
    cloud.spares[leader].restart();

    // A member of etcd may end.
    for member in 0..3 {
        cloud.etcd.kill(member);
        let begun = Instant::now();
        let took = cloud.next_change(ports[member], begun, &format!("without-member-{member}"));
        assert!(took < Duration::from_secs(10), "{took:?}");
        cloud.etcd.restart(member);
        cloud.cluster.wait("the member is back", |_| cloud.etcd.is_healthy(member).then_some(()));
        cloud.next_change(ports[0], Instant::now(), &format!("with-member-{member}"));
    }
    changes.end(&cloud);
}

#[test]
fn apps_serve_while_all_servers_are_gone() {
    let mut cloud = Cloud::start();
    let repository = site(&cloud.cluster, "shop", 2);
    push_site(&repository, "one");
    let is_long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let away = Duration::from_secs(if is_long { 600 } else { 5 });
    let target = Target::shop(cloud.cluster.http_port(), &[LoadKind::Keep, LoadKind::Fresh], Duration::from_millis(5));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = runtime.block_on(async { Load::begin(&target, 4, away * 2) });
    let pid = cloud.cluster.service_pid("server").expect("a server");
    cloud.cluster.signal("STOP", pid);
    cloud.spares.iter_mut().for_each(SpareServer::kill);
    let begun = Instant::now();
    // A copy that dies meanwhile is started again by its agent.
    let (_, copy) = cloud.cluster.containers().into_iter().find(|(id, _)| id.contains("web-2")).expect("a copy");
    cloud.cluster.wait("requests are answered", |_| (load.sent() > 100).then_some(()));
    cloud.cluster.signal("KILL", copy);
    cloud.cluster.wait("the copy runs again", |cluster| {
        cluster.containers().into_iter().find(|(id, pid)| id.contains("web-2") && *pid != copy)
    });
    while begun.elapsed() < away {
        assert!(page(&cloud.cluster, "shop").starts_with("one"));
        std::thread::sleep(Duration::from_millis(50));
    }
    cloud.spares.iter_mut().for_each(SpareServer::restart);
    cloud.cluster.signal("CONT", pid);
    for port in cloud.ports() {
        cloud.next_change(port, Instant::now(), &format!("after-{port}"));
    }
    let report = runtime.block_on(load.end());
    println!("all servers gone for {away:?}: {} requests, {} failed", report.sent, report.failed);
    // The killed copy takes the requests that it was working on with it.
    assert!(report.failed <= 4 && report.sent > 500, "{report:?}");
    assert!(page(&cloud.cluster, "shop").starts_with("one"));
}

/// Kills leaders one after the other, and prints how long it took until the next change was accepted. `benches/takeover`
/// runs the long form.
#[test]
fn leaders_are_replaced_in_time() {
    let mut cloud = Cloud::start();
    let changes = Changes::begin(&cloud);
    let mut times = Vec::new();
    for kill in 0..kills(3) {
        let leader = cloud.spare_that_leads();
        let other = cloud.ports()[2 - leader];
        let begun = Instant::now();
        cloud.spares[leader].kill();
        times.push(cloud.next_change(other, begun, &format!("kill-{kill}")));
        cloud.spares[leader].restart();
        cloud.cluster.wait("all servers live", |_| (cloud.living().len() == 3).then_some(()));
    }
    println!("leader killed → next accepted change: {}", percentiles(&mut times));
    assert!(times.iter().all(|took| *took < TAKEOVER_MAX), "{times:?}");
    changes.end(&cloud);
}

impl Cloud {
    /// Queues a job through the server at a port, and again after an error, under the same idempotency key.
    fn queue(&self, port: u16, name: &str, script: &str) -> String {
        self.cluster.wait(&format!("job {name} is queued"), |_| {
            let words = ["job", "run", "shop/web", "--idempotency", name, "--", "/bin/sh", "-c", script];
            let queued = self.through(port, &words);
            (queued.status == 0).then(|| queued.out.trim().to_owned())
        })
    }

    fn job(&self, port: u16, job: &str) -> Value {
        serde_json::from_str(&self.through(port, &["job", "show", job, "--json"]).out).unwrap_or_default()
    }

    /// Waits until a job has succeeded at its first attempt.
    fn succeeds(&self, port: u16, job: &str) {
        let ended = self.cluster.wait(&format!("job {job} has succeeded"), |_| {
            Some(self.job(port, job)).filter(|shown| shown["status"] == "succeeded")
        });
        assert_eq!((&ended["failures"], &ended["attempt"]["code"]), (&0.into(), &0.into()), "{ended}");
        assert_eq!(self.through(port, &["job", "logs", job]).good().out, "done\n");
    }
}

#[test]
fn jobs_in_postgres_go_on_under_the_next_leader() {
    let mut postgres = Postgres::start();
    let mut cloud = Cloud::start_with(Etcd::cluster(3), &["--job-store", &postgres.database("jobs")]);
    let repository = site(&cloud.cluster, "shop", 1);
    push_site(&repository, "one");
    let leader = cloud.spare_that_leads();
    let follower = cloud.ports()[2 - leader];
    let queue = |cloud: &Cloud, name: &str| cloud.queue(follower, name, "sleep 4; echo done");
    let mut jobs: Vec<String> = (0..12).map(|number| queue(&cloud, &format!("before-{number}"))).collect();
    let is_running = |cloud: &Cloud, job: &str| cloud.job(follower, job)["status"] == "running";
    cloud.cluster.wait("a job runs", |_| is_running(&cloud, &jobs[0]).then_some(()));
    cloud.spares[leader].kill();
    jobs.push(queue(&cloud, "without-leader"));
    cloud.spares[leader].restart();
    jobs.iter().for_each(|job| cloud.succeeds(follower, job));

    // PostgreSQL dies while jobs run: they finish, and their ends are recorded later. The cloud goes on.
    let late: Vec<String> = (0..3).map(|number| queue(&cloud, &format!("late-{number}"))).collect();
    cloud.cluster.wait("the jobs run", |_| late.iter().all(|job| is_running(&cloud, job)).then_some(()));
    postgres.kill();
    let refused = cloud.through(follower, &["job", "run", "shop/web"]);
    assert!(refused.status != 0 && refused.err.contains("E_STORE_UNAVAILABLE"), "{}", refused.all());
    assert!(refused.err.contains("postgres://gantry@127.0.0.1"), "{}", refused.all());
    assert_eq!(cloud.through(follower, &["app", "ls"]).status, 0);
    std::thread::sleep(Duration::from_secs(5));
    postgres.restart();
    late.iter().for_each(|job| cloud.succeeds(follower, job));
    jobs.extend(late);

    // The record: every job once, none lost, none run without need.
    let record = postgres
        .psql("jobs", "SELECT count(*), sum(CASE WHEN state = 4 AND ended IS NULL THEN 1 END) FROM gantry_queue.jobs");
    assert_eq!(record, format!("{0}|{0}", jobs.len()));
    let unique: BTreeSet<&String> = jobs.iter().collect();
    assert_eq!(unique.len(), jobs.len());
    assert_eq!(postgres.psql("jobs", "SELECT sum(extra) FROM gantry_queue.queues"), "0");
}

/// The request or event after which a server passes a failpoint.
#[derive(Debug, Clone, Copy)]
enum Cause {
    Push,
    /// The leader is killed, and another server leads.
    NewLeader,
}

/// Failpoints that only several servers pass.
const FAILPOINTS: [(&str, Cause); 6] = [
    ("push.packed", Cause::Push),
    ("blob.copied", Cause::Push),
    ("replica.written", Cause::Push),
    ("leadership.taken", Cause::NewLeader),
    ("repository.packed", Cause::NewLeader),
    ("replica.repaired", Cause::NewLeader),
];

impl Cloud {
    fn failpoint_folders(&self) -> Vec<std::path::PathBuf> {
        let spares = self.spares.iter().map(|spare| spare.path("failpoints"));
        [self.cluster.path("failpoints")].into_iter().chain(spares).collect()
    }

    /// Reports whether a server was killed at the failpoint.
    fn was_killed_at(&self, failpoint: &str) -> bool {
        self.failpoint_folders().iter().any(|folder| has_killed(folder, failpoint))
    }

    /// Starts the spare servers that have ended. One that the failpoint killed may still be ending: it notes the kill
    /// first.
    fn restart_after(&mut self, failpoint: &str) {
        for spare in &mut self.spares {
            if has_killed(&spare.path("failpoints"), failpoint) {
                self.cluster.wait("the killed server has ended", |_| spare.has_ended().then_some(()));
            }
            spare.restart_if_ended();
        }
    }
}

/// Reports whether a process with this folder for failpoints was killed at the failpoint.
fn has_killed(folder: &std::path::Path, failpoint: &str) -> bool {
    let killed = std::fs::read_to_string(folder.join("killed")).unwrap_or_default();
    killed.lines().any(|line| line == failpoint)
}

#[test]
fn a_server_killed_at_any_failpoint_loses_nothing() {
    let mut cloud = Cloud::start();
    cloud.cluster.make_failpoints();
    let repository = site(&cloud.cluster, "shop", 1);
    cloud.push_through(&repository, cloud.ports()[0], "first");
    for (number, (failpoint, cause)) in FAILPOINTS.into_iter().enumerate() {
        // The repository of a single server has the objects of this push.
        let leader = cloud.spare_that_leads();
        let port = cloud.spares[leader].api_port();
        cloud.push_through(&repository, port, &format!("before-{number}"));
        let acknowledged = repository.remote_head();
        for folder in cloud.failpoint_folders() {
            std::fs::write(folder.join("kill"), format!("{failpoint}\n")).expect("armed");
        }
        let push = match cause {
            Cause::Push => {
                repository.write("noise", &format!("{:064x}", rand::random::<u128>()));
                repository.commit("a push that a kill interrupts");
                Some(repository.push_in_background())
            }
            Cause::NewLeader => {
                cloud.spares[leader].kill();
                None
            }
        };
        cloud.cluster.wait(&format!("{failpoint} is passed"), |_| cloud.was_killed_at(failpoint).then_some(()));
        for folder in cloud.failpoint_folders() {
            let _ = std::fs::remove_file(folder.join("kill"));
        }
        let was_accepted = push.is_some_and(|mut push| push.wait().expect("ended").success());
        cloud.restart_after(failpoint);
        cloud.cluster.wait("all servers live", |_| (cloud.living().len() == 3).then_some(()));
        // The branch has the last acknowledged push, whichever server leads.
        let port = cloud.ports()[0];
        cloud.next_change(port, Instant::now(), &format!("after-{number}"));
        let remote = format!("http://x:{}@127.0.0.1:{port}/git/shop.git", cloud.cluster.token());
        repository.git(&["config", "remote.gantry.url", &remote]);
        let expected = if was_accepted { repository.git(&["rev-parse", "HEAD"]).out } else { acknowledged };
        let head = repository.remote_head();
        let is_pushed = || repository.git(&["rev-parse", "HEAD"]).out.trim() == head;
        assert!(head == expected.trim() || (matches!(cause, Cause::Push) && is_pushed()), "{failpoint}: {head}");
        cloud.push_through(&repository, port, &format!("after-{number}"));
    }
}

#[test]
fn a_lost_and_a_full_member_of_etcd_are_named() {
    const QUOTA: &str = "16777216";
    let mut cloud = Cloud::start_on(Etcd::cluster_with(3, &["--quota-backend-bytes", QUOTA]));
    let repository = site(&cloud.cluster, "shop", 1);
    push_site(&repository, "one");
    let port = cloud.ports()[1];
    let status = |cloud: &Cloud| cloud.through(port, &["status"]).out;

    cloud.etcd.kill(2);
    let lost = format!("the etcd member {} does not respond", cloud.etcd.member(2));
    cloud.cluster.wait("the lost member is named", |_| status(&cloud).contains(&lost).then_some(()));
    cloud.next_change(port, Instant::now(), "without-a-member");
    cloud.etcd.restart(2);
    cloud.cluster.wait("nothing is named", |_| (!status(&cloud).contains("etcd member")).then_some(()));

    // Another client fills etcd up.
    let value = "A".repeat(96 << 10);
    let put = format!(r#"{{"key":"ZmlsbA==","value":"{value}"}}"#);
    cloud.cluster.wait("etcd takes no writes", |_| {
        let is_refused = |_| cloud.etcd.call(0, "kv/put", &put).out.contains("database space exceeded");
        (0..20).any(is_refused).then_some(())
    });
    cloud.cluster.wait("a full member is named", |_| {
        let said = status(&cloud);
        (said.contains("has used up its space quota") && said.contains("etcdctl alarm disarm")).then_some(())
    });
    let refused = cloud.through(port, &["token", "create", "refused", "--read"]);
    assert!(refused.status != 0 && refused.err.contains("space quota"), "{refused:?}");
    let leader = cloud.leader(port);
    assert!(leader.is_some(), "reads work, and a server leads");
    assert!(page(&cloud.cluster, "shop").starts_with("one"));

    // The remedy of the warning works: etcd drops the history, frees the space and ends the alarm.
    let _ = cloud.etcd.call(0, "kv/deleterange", r#"{"key":"ZmlsbA=="}"#).good();
    let now = cloud.etcd.call(0, "kv/range", r#"{"key":"ZmlsbA=="}"#).good().out;
    let now: Value = serde_json::from_str(&now).expect("JSON");
    let revision = now["header"]["revision"].as_str().expect("a revision");
    let _ = cloud.etcd.call(0, "kv/compaction", &format!(r#"{{"revision":"{revision}","physical":true}}"#)).good();
    for member in 0..3 {
        let _ = cloud.etcd.call(member, "maintenance/defragment", "{}").good();
    }
    let alarms = cloud.etcd.call(0, "maintenance/alarm", r#"{"action":"GET"}"#).good().out;
    let alarms: Value = serde_json::from_str(&alarms).expect("JSON");
    for alarm in alarms["alarms"].as_array().expect("alarms") {
        let member = alarm["memberID"].as_str().expect("a member");
        let disarm = format!(r#"{{"action":"DEACTIVATE","alarm":"NOSPACE","memberID":"{member}"}}"#);
        let _ = cloud.etcd.call(0, "maintenance/alarm", &disarm).good();
    }
    for port in cloud.ports() {
        cloud.next_change(port, Instant::now(), &format!("with-space-{port}"));
    }
    cloud.cluster.wait("nothing is named", |_| (!status(&cloud).contains("etcd member")).then_some(()));
    assert_eq!(cloud.leader(port).is_some(), leader.is_some());
}

#[test]
fn a_killed_migration_is_completed_by_its_repetition() {
    let mut cluster = TestCluster::start_with_file();
    cluster.make_failpoints();
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    let etcd = Etcd::start();
    let _ = cluster.down();
    let folder = cluster.path("failpoints").display().to_string();
    for failpoint in ["copy.marked", "copy.part", "migrate.copied"] {
        std::fs::write(cluster.path("failpoints/kill"), format!("{failpoint}\n")).expect("armed");
        let migrate = ["store", "migrate", "--to", &etcd.address()];
        let output = cluster.offline_with(&[("GANTRY_FAILPOINTS", &folder)], &migrate);
        let killed = std::fs::read_to_string(cluster.path("failpoints/killed")).unwrap_or_default();
        assert!(output.status != 0 && killed.trim_end().ends_with(failpoint), "{killed}: {output:?}");
    }
    let copied = cluster.offline(&["store", "migrate", "--to", &etcd.address()]).good();
    assert!(copied.out.contains("records are in etcd://"), "{copied:?}");
    cluster.up_on_store(Some(&etcd.address()));
    cluster.wait("the app serves", |cluster| page(cluster, "shop").starts_with("one").then_some(()));
    push_site(&repository, "two");
    assert!(page(&cluster, "shop").starts_with("two"));
    // The etcd is in use now.
    let _ = cluster.down();
    let other = cluster.offline(&["store", "migrate", "--to", &format!("{}/other", etcd.address())]).good();
    assert!(other.out.contains("records are in"), "{other:?}");
}

#[test]
fn a_backup_contains_blobs_of_other_servers() {
    let mut cloud = Cloud::start();
    let repository = site(&cloud.cluster, "shop", 1);
    push_site(&repository, "one");
    // The other servers lead, and take pushes that the machine's own server knows by their packs alone.
    for version in ["two", "three"] {
        let leader = cloud.spare_that_leads();
        cloud.push_through(&repository, cloud.spares[leader].api_port(), version);
        cloud.spares[leader].kill();
        cloud.next_change(cloud.ports()[0], Instant::now(), version);
        cloud.spares[leader].restart();
        cloud.cluster.wait("all servers live", |_| (cloud.living().len() == 3).then_some(()));
    }
    let leader = cloud.spare_that_leads();
    cloud.push_through(&repository, cloud.spares[leader].api_port(), "four");
    let head = repository.git(&["rev-parse", "HEAD"]).out;
    // Some blobs are on the other servers alone.
    let blobs = cloud.cluster.path("data/server/blobs/sha256");
    let moved = cloud.cluster.path("moved");
    std::fs::rename(&blobs, &moved).expect("moved");
    let file = cloud.cluster.path("backup.tar").display().to_string();
    let saved = cloud.cluster.offline(&["backup", &file]).good();
    assert!(saved.err.is_empty() || !saved.err.contains("missing"), "{saved:?}");

    // One server with a file of its own, on the same machine, takes everything over.
    let Cloud { mut cluster, spares, etcd } = cloud;
    drop(spares);
    let _ = cluster.down();
    for folder in ["blobs", "git"] {
        std::fs::remove_dir_all(cluster.path("data/server").join(folder)).expect("removed");
    }
    let store = cluster.path("data/server/store.db").display().to_string();
    let _ = std::fs::remove_file(&store);
    let restored = cluster.offline(&["restore", &file, "--store", &store]).good();
    assert!(restored.out.contains("records are back"), "{restored:?}");
    cluster.up_on_store(None);
    drop(etcd);
    cluster.wait("the app serves", |cluster| page(cluster, "shop").starts_with("four").then_some(()));
    let remote = format!("http://x:{}@127.0.0.1:{}/git/shop.git", cluster.token(), cluster.api_port());
    repository.git(&["config", "remote.gantry.url", &remote]);
    assert_eq!(repository.remote_head(), head.trim(), "the last push is not in the repository");
    push_site(&repository, "five");
    assert!(page(&cluster, "shop").starts_with("five"));
}
