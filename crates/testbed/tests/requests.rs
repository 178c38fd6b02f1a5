//! Traffic policies of an app's owner, from the command line to the client, and repeated promotions under load.

mod site;

use std::time::Duration;

use gantry_testbed::load::{self, Load, Target};
use gantry_testbed::{Repository, TestCluster};
use site::{page, push_site, site};

/// Status and body of the app's response.
fn fetch(cluster: &TestCluster) -> (String, String) {
    let output = cluster.curl("shop.localhost", &["--write-out", "\n%{http_code}"]);
    let (body, status) = output.out.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}

#[test]
fn pauses_refuses_and_limits_requests_and_names_the_actor() {
    let cluster = TestCluster::start(&[]);
    push_site(&site(&cluster, "shop", 2), "one");
    let said = |arguments: &[&str]| cluster.gantry(arguments).good().all();

    assert!(said(&["pause", "shop"]).contains("requests of shop: paused"));
    let mut waiting = cluster.curl_command("shop.localhost", &[]).spawn().expect("curl");
    cluster
        .wait("it waits", |cluster| cluster.gantry(&["app", "show", "shop"]).out.contains("; queued 1,").then_some(()));
    assert!(waiting.try_wait().expect("looked at").is_none());
    let why = said(&["why", "shop"]);
    assert!(why.contains("paused, requests wait; `gantry resume shop`") && why.contains("requested by admin"), "{why}");
    assert!(said(&["app", "ls"]).contains("(paused)"));
    assert!(said(&["resume", "shop"]).contains("requests of shop: free"));
    assert!(waiting.wait().expect("ended").success());
    cluster.wait("it is counted", |cluster| {
        cluster.gantry(&["app", "show", "shop"]).out.contains(" served after queueing 1,").then_some(())
    });

    assert!(said(&["maintenance", "on", "shop", "--message", "back at noon"]).contains("maintenance: back at noon"));
    cluster.wait("it is refused", |cluster| {
        (fetch(cluster) == ("503".to_owned(), "503 shop: back at noon\n".to_owned())).then_some(())
    });
    // A new release does not end the maintenance.
    let _ = said(&["config", "set", "shop", "COLOR=blue"]);
    assert_eq!(fetch(&cluster).0, "503");
    assert!(said(&["why", "shop"]).contains("in maintenance, clients get the message \"back at noon\""));
    let _ = said(&["maintenance", "off", "shop"]);
    cluster.wait("it serves", |cluster| page(cluster, "shop").starts_with("one").then_some(()));

    assert!(said(&["limit", "shop", "--rate", "1"]).contains("at most 1 requests a second"));
    cluster.wait("one is over the limit", |cluster| (fetch(cluster).0 == "429").then_some(()));
    let _ = said(&["limit", "shop"]);
    cluster.wait("none is", |cluster| (0..5).all(|_| fetch(cluster).0 == "200").then_some(()));
    let nothing = cluster.gantry(&["limit", "shop", "--rate", "0"]);
    assert!(nothing.status == 2 && nothing.err.contains("lets nothing through"), "{nothing:?}");
    let events = said(&["events", "shop"]);
    assert!(events.contains("requests of shop: paused") && events.contains("requests of shop: free"), "{events}");
}

/// A site with one copy and additional settings of the role.
fn site_with(cluster: &TestCluster, settings: &str) -> Repository {
    let shop = site(cluster, "shop", 1);
    let role = format!("command: 'python3 server.py', health: {{ path: '/up' }}, {settings}");
    shop.write("container/roles.json", &format!("{{ web: {{ {role} }} }}"));
    shop
}

/// A role with a volume has one copy, and the old copy stops before the new copy starts. Requests wait meanwhile.
#[test]
fn requests_wait_while_the_only_copy_is_replaced() {
    let cluster = TestCluster::start(&[]);
    let shop = site_with(&cluster, "volumes: { data: '/data' }");
    push_site(&shop, "one");
    let target = Target::shop(cluster.http_port(), &load::PLAIN, Duration::from_millis(5));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = runtime.block_on(async { Load::begin(&target, 6, Duration::from_secs(60)) });
    push_site(&shop, "two");
    let report = runtime.block_on(load.end());
    assert!(report.failed == 0 && report.sent > 100, "{report:?}");
    assert!(page(&cluster, "shop").starts_with("two"));
    let shown = cluster.gantry(&["app", "show", "shop", "--json"]).good().out;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert!(shown["requests"]["held"].as_u64() >= Some(1) && shown["requests"]["refused"] == 0, "{shown}");
}

#[test]
fn a_role_sets_its_response_timeout() {
    let cluster = TestCluster::start(&[]);
    let shop = site_with(&cluster, "request_timeout: 1, request_buffer: '256K'");
    let slow = "    def do_GET(self):\n        time.sleep(3 if self.path == '/slow' else 0)\n";
    shop.write("server.py", &site::SERVER.replace("    def do_GET(self):\n", slow).replace("VERSION", "one"));
    shop.commit("one");
    let _ = shop.push().good();
    let mut curl = cluster.curl_command("shop.localhost", &["--write-out", " %{http_code}", "--path-as-is"]);
    curl.arg(format!("http://shop.localhost:{}/slow", cluster.http_port()));
    let both = gantry_testbed::run(curl).good().out;
    assert!(both.starts_with("one ") && both.contains(" 200") && both.trim_end().ends_with(" 504"), "{both}");
    // The router buffers a request body up to the role's limit. This server reads no body without a length, and
    // receives no part of a longer body.
    for (size, reaches) in [(200_000, true), (300_000, false)] {
        let (body, back) = (cluster.path("body"), cluster.path("back"));
        std::fs::write(&body, vec![b'x'; size]).expect("written");
        let file = format!("@{}", body.display());
        let chunked = ["--header", "Transfer-Encoding: chunked", "--header", "Expect:", "--data-binary", &file];
        let to = ["--output", back.to_str().expect("text"), "--write-out", "%{http_code}"];
        let status = cluster.curl("shop.localhost", &[&chunked[..], &to].concat()).out;
        let same = std::fs::read(&back).is_ok_and(|back| back.len() == size);
        assert_eq!((status == "200", same), (reaches, reaches), "{size}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_however_often_a_release_is_promoted() {
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let count = std::env::var("GANTRY_TEST_PROMOTIONS").ok().map(|text| text.parse().expect("a number"));
    let (promotions, clients) = if long { (count.unwrap_or(200), 60) } else { (5, 24) };
    let cluster = TestCluster::start(&[]);
    push_site(&site(&cluster, "shop", 2), "one");
    let target = Target::shop(cluster.http_port(), &load::ALL, Duration::from_millis(40));
    let load = Load::begin(&target, clients, Duration::from_secs(3600));
    let begun = std::time::Instant::now();
    for number in 0..promotions {
        let _ =
            tokio::task::block_in_place(|| cluster.gantry(&["config", "set", "shop", &format!("N={number}")])).good();
    }
    let rate = load.sent() / begun.elapsed().as_secs().max(1);
    let report = load.end().await;
    println!(
        "{promotions} promotions, {} requests, {rate} a second, {} sent again, {} failed",
        report.sent, report.again, report.failed
    );
    if report.failed > 0 {
        let log = std::fs::read_to_string(cluster.path("data/router/access.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("\"status\":50")).take(20).for_each(|line| println!("{line}"));
        println!(
            "{}{}",
            cluster.gantry(&["events", "shop"]).all(),
            cluster.gantry(&["logs", "shop", "-n", "100"]).all()
        );
    }
    assert_eq!(report.failed, 0, "{:?}", report.reasons);
    assert!(report.sent > promotions * 100, "{} requests are no load", report.sent);
    assert!(!long || rate > 900, "{rate} a second is less than what is asked for");
}
