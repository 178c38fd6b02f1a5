//! Random deploys, crashes and kills under load, for half a minute or for the number of minutes in
//! `GANTRY_TEST_SOAK`. The seed is `GANTRY_TEST_SEED`. No request may fail. `benches/soak` runs this test for half an
//! hour and reads the printed memory.

mod site;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gantry_testbed::load::{Load, PLAIN, Target};
use gantry_testbed::{Repository, TestCluster};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use site::{push_site, site};

/// Interval of the lines about memory.
const WINDOW: Duration = Duration::from_secs(300);

/// A disturbance of the cloud. The router is replaced and not killed, because a killed router loses its open
/// requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Push,
    Configure,
    RollBack,
    Scale,
    Crash,
    KillServer,
    KillAgent,
    Replace,
}

/// Each action occurs in proportion to its entries here. The second half of the time leaves out the last entries, so
/// that the services live long enough to show their use of memory.
const ACTIONS: [Action; 20] = {
    use Action::*;
    [
        Push, Push, Push, Configure, Configure, Configure, RollBack, RollBack, Scale, Scale, Scale, Scale, Crash,
        Crash, Crash, Crash, Crash, KillServer, KillAgent, Replace,
    ]
};
const HARMLESS: usize = ACTIONS.len() - 3;

struct Soak {
    cluster: TestCluster,
    repository: Repository,
    rng: StdRng,
    number: u32,
}

impl Soak {
    fn act(&mut self, action: Action) {
        self.number += 1;
        let number = self.number;
        let cluster = &self.cluster;
        let said = |arguments: &[&str]| drop(cluster.gantry(arguments).good());
        match action {
            Action::Push => drop(push_site(&self.repository, &format!("version-{number}"))),
            Action::Configure => said(&["config", "set", "shop", &format!("NUMBER={number}")]),
            Action::RollBack => said(&["rollback", "shop"]),
            Action::Scale => said(&["scale", "shop", &format!("web={}", self.rng.random_range(2..5))]),
            Action::Crash => {
                let mut containers = cluster.containers();
                let crashed = containers.swap_remove(self.rng.random_range(0..containers.len()));
                cluster.signal("KILL", crashed.1);
                // Waits until the crash is known: two instances that crash at once may lose the same request.
                cluster.wait("it is another", |cluster| (!cluster.containers().contains(&crashed)).then_some(()));
            }
            Action::KillServer => cluster.kill_service("server"),
            Action::KillAgent => cluster.kill_service("agent"),
            Action::Replace => {
                let before = cluster.service_pid("router");
                cluster.replace_services();
                cluster.wait("the router is another", |cluster| {
                    cluster.service_pid("router").filter(|now| Some(*now) != before).map(drop)
                });
            }
        }
    }

    /// Waits until all wanted instances are ready and no deploy is in progress.
    fn settle(&self) {
        self.cluster.wait("everything wanted is ready", |cluster| {
            let app: serde_json::Value =
                serde_json::from_str(&cluster.gantry(&["app", "show", "shop", "--json"]).out).ok()?;
            let expected = app["wanted"].as_u64()?;
            let runs = cluster.containers().len() as u64;
            let served = ["server", "agent", "router"].iter().all(|service| cluster.service_pid(service).is_some());
            (served && app["deploy"].is_null() && app["ready"] == expected && runs == expected).then_some(())
        });
    }

    /// Proportional set size (PSS) of each service, in KiB.
    fn memory(&self) -> [u64; 3] {
        ["server", "agent", "router"].map(|service| {
            let pid = self.cluster.service_pid(service).expect("it runs");
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
            let line = rollup.lines().find(|line| line.starts_with("Pss:")).expect("a sum");
            line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("a number")
        })
    }

    /// Some when the access log has at least `requests` requests. Fails the test when the log has dropped lines.
    fn logged(&self, requests: u64) -> Option<()> {
        let log = std::fs::read_to_string(self.cluster.path("data/router/access.log")).expect("a log");
        assert!(!log.contains("\"dropped\""), "the disk is too slow for this");
        (log.lines().filter(|line| line.contains("\"host\":\"shop.localhost")).count() as u64 >= requests).then_some(())
    }

    /// Requests in the current access log that the router began and did not finish.
    fn cut(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.cluster.path("data/router/access.log")).expect("a log");
        log.lines().filter(|line| line.contains("\"status\":0,")).map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fails_no_request_during_deploys_crashes_and_kills() {
    let minutes: Option<u64> = std::env::var("GANTRY_TEST_SOAK").ok().map(|text| text.parse().expect("minutes"));
    let length = minutes.map_or(Duration::from_secs(30), |minutes| Duration::from_secs(minutes * 60));
    let seed: u64 = std::env::var("GANTRY_TEST_SEED").map_or(1, |text| text.parse().expect("a number"));
    // Deploys are far more frequent here than in practice, and so is garbage collection.
    let cluster = TestCluster::start(&["--collect-every", "60", "--collect-grace", "120"]);
    let repository = site(&cluster, "shop", 3);
    // Two releases, so that a rollback is possible.
    push_site(&repository, "before");
    push_site(&repository, "version-0");
    let target = Target::shop(cluster.http_port(), &PLAIN, Duration::from_millis(20));
    let mut soak = Soak { cluster, repository, rng: StdRng::seed_from_u64(seed), number: 0 };
    let load = Load::begin(&target, 9, length + Duration::from_secs(300));
    let (begun, mut reported, mut done) = (Instant::now(), Instant::now(), BTreeMap::<Action, u32>::new());
    let mut steady = None;
    while begun.elapsed() < length {
        let kills = begun.elapsed() < length / 2;
        let action = ACTIONS[soak.rng.random_range(0..if kills { ACTIONS.len() } else { HARMLESS })];
        tokio::task::block_in_place(|| {
            soak.act(action);
            soak.settle();
        });
        *done.entry(action).or_default() += 1;
        if reported.elapsed() >= WINDOW {
            reported = Instant::now();
            let memory = soak.memory();
            if !kills {
                steady = steady.or(Some(memory));
            }
            let [server, agent, router] = memory;
            let minute = begun.elapsed().as_secs() / 60;
            println!("{minute} min, {} requests: server {server} KiB, agent {agent}, router {router}", load.sent());
            assert_eq!(soak.cut(), Vec::<String>::new(), "begun and cut");
        }
    }
    let end = soak.memory();
    println!("at the end: {end:?} KiB");
    for (first, last) in steady.into_iter().flatten().zip(end) {
        assert!(last < first * 3 / 2 + 4096, "{steady:?} KiB in the middle and {end:?} at the end");
    }
    let report = load.end().await;
    println!("seed {seed}: {done:?}; {} requests, {} sent again, {} failed", report.sent, report.again, report.failed);
    assert_eq!(report.failed, 0, "{done:?}: {:?}", report.reasons);
    // The client does not count an interrupted request as sent again; only the access log shows such a request.
    assert_eq!(soak.cut(), Vec::<String>::new(), "begun and cut");
    if minutes.is_none() {
        let logged = || {
            soak.cluster.wait("every request is logged, those of routers that left too", |_| soak.logged(report.sent))
        };
        tokio::task::block_in_place(logged);
    }
    assert!(done.len() > 2 && report.sent > 500, "{done:?}, {} requests are no load", report.sent);
    let expected: Vec<String> = soak.cluster.containers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(soak.cluster.strays(&expected), Vec::<String>::new());
}
