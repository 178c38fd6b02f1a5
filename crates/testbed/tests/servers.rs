//! Several servers on one etcd: any of them serves every request, and each may end at any moment. Whatever a server
//! acknowledged is there in the end.

mod site;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gantry_testbed::{Etcd, Output, Repository, SpareServer, World};
use serde_json::Value;
use site::{page, push_site, site};

/// Longest time from the end of the leader to the next accepted change.
const TAKEOVER_MAX: Duration = Duration::from_secs(3);

/// A cloud with three servers and one machine on an etcd of three members. `World` is dropped first.
struct Cloud {
    world: World,
    spares: Vec<SpareServer>,
    etcd: Etcd,
}

impl Cloud {
    fn start() -> Self {
        let etcd = Etcd::cluster(3);
        let world = World::start(&["--store", &etcd.address()]);
        let spares = ["s2", "s3"].map(|name| SpareServer::start(name, &etcd)).into();
        let cloud = Self { world, spares, etcd };
        cloud.world.wait("all servers live", |_| (cloud.living() == ["m", "s2", "s3"]).then_some(()));
        cloud
    }

    /// Ports of the servers: of the machine's own server first.
    fn ports(&self) -> Vec<u16> {
        [self.world.api_port()].into_iter().chain(self.spares.iter().map(SpareServer::api_port)).collect()
    }

    /// Runs `gantry` through the server at a port.
    fn through(&self, port: u16, arguments: &[&str]) -> Output {
        self.world.gantry_with(&[("GANTRY_URL", &format!("http://127.0.0.1:{port}"))], arguments)
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

    /// Name of the leader, as the server at a port tells.
    fn leader(&self, port: u16) -> Option<String> {
        let servers = self.servers(port);
        servers.iter().find(|server| server["leads"] == true)?["name"].as_str().map(str::to_owned)
    }

    /// Waits until the server at a port accepts a change, and returns the time since `begun`.
    fn next_change(&self, port: u16, begun: Instant, name: &str) -> Duration {
        self.world.wait("a change is accepted", |_| {
            let created = self.through(port, &["token", "create", name, "--read"]);
            // A change whose answer was lost may have been made.
            (created.status == 0 || created.err.contains("E_TOKEN_EXISTS")).then_some(())
        });
        begun.elapsed()
    }

    /// Makes a server other than the machine's own lead, and returns its place among the spare ones.
    fn spare_that_leads(&self) -> usize {
        let port = self.ports()[1];
        self.world.wait("a spare server leads", |world| {
            let leader = self.leader(port)?;
            if leader != "m" {
                return self.spares.iter().position(|spare| spare.name() == leader);
            }
            let pid = world.service_pid("server")?;
            world.signal("STOP", pid);
            world.wait("another server leads", |_| self.leader(port).filter(|name| name != "m"));
            world.signal("CONT", pid);
            None
        })
    }

    fn push_through(&self, repository: &Repository, port: u16, version: &str) {
        let remote = format!("http://x:{}@127.0.0.1:{port}/git/shop.git", self.world.token());
        repository.git(&["config", "remote.gantry.url", &remote]);
        push_site(repository, version);
        assert!(page(&self.world, "shop").starts_with(version));
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
        let (told, known) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let (ports, token) = (cloud.ports(), cloud.world.token());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if told.load(Ordering::Relaxed) {
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
            let tokens = cloud.world.wait("the server answers", |_| {
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
    let repository = site(&cloud.world, "shop", 1);
    let ports = cloud.ports();
    for (port, version) in ports.iter().zip(["one", "two", "three"]) {
        cloud.push_through(&repository, *port, version);
    }
    let changes = Changes::begin(&cloud);

    // A stopped leader is deposed, and writes nothing when it goes on.
    let pid = cloud.world.service_pid("server").expect("a server");
    assert_eq!(cloud.leader(ports[1]).as_deref(), Some("m"));
    let begun = Instant::now();
    cloud.world.signal("STOP", pid);
    let took = cloud.next_change(ports[1], begun, "while-stopped");
    assert!(took < TAKEOVER_MAX, "{took:?}");
    cloud.world.signal("CONT", pid);
    cloud.world.wait("the deposed leader follows", |_| cloud.leader(ports[0]).filter(|leader| leader != "m"));
    assert_eq!(cloud.world.service_pid("server"), Some(pid), "the same process");
    assert!(cloud.world.log().contains("leads no more"), "{}", cloud.world.log());

    // A killed leader is replaced at once.
    let leader = cloud.spare_that_leads();
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
        cloud.world.wait("the member is back", |_| cloud.etcd.is_healthy(member).then_some(()));
        cloud.next_change(ports[0], Instant::now(), &format!("with-member-{member}"));
    }
    changes.end(&cloud);
}

#[test]
fn apps_serve_while_all_servers_are_gone() {
    let mut cloud = Cloud::start();
    let _repository = {
        let repository = site(&cloud.world, "shop", 1);
        push_site(&repository, "one");
        repository
    };
    let is_long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let pid = cloud.world.service_pid("server").expect("a server");
    cloud.world.signal("STOP", pid);
    cloud.spares.iter_mut().for_each(SpareServer::kill);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(if is_long { 60 } else { 5 }) {
        assert!(page(&cloud.world, "shop").starts_with("one"));
        std::thread::sleep(Duration::from_millis(50));
    }
    cloud.spares.iter_mut().for_each(SpareServer::restart);
    cloud.world.signal("CONT", pid);
    for port in cloud.ports() {
        cloud.next_change(port, Instant::now(), &format!("after-{port}"));
    }
    assert!(page(&cloud.world, "shop").starts_with("one"));
}

/// Kills leaders one after the other, and prints how long it took until the next change was accepted.
#[test]
fn leaders_are_replaced_in_time() {
    let kills = if std::env::var_os("GANTRY_TEST_LONG").is_some() { 50 } else { 3 };
    let mut cloud = Cloud::start();
    let changes = Changes::begin(&cloud);
    let mut times = Vec::new();
    for kill in 0..kills {
        let leader = cloud.spare_that_leads();
        let other = cloud.ports()[2 - leader];
        let begun = Instant::now();
        cloud.spares[leader].kill();
        times.push(cloud.next_change(other, begun, &format!("kill-{kill}")));
        cloud.spares[leader].restart();
        cloud.world.wait("all servers live", |_| (cloud.living().len() == 3).then_some(()));
    }
    times.sort();
    println!("leader killed → next accepted change: median {:?}, longest {:?}", times[times.len() / 2], times.last());
    assert!(times.iter().all(|took| *took < TAKEOVER_MAX), "{times:?}");
    changes.end(&cloud);
}
