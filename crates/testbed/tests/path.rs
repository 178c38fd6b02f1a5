//! The path from push to page, and concurrent events: real git, real containers, real HTTP.

mod site;

use std::process::Command;
use std::time::Duration;

use gantry_testbed::load::{ALL, Load, Target};
use gantry_testbed::{TestCluster, run};
use site::{page, push_site, site};

#[test]
fn a_push_is_built_served_and_explained() {
    let cluster = TestCluster::start(&[]);
    let _ = cluster.gantry(&["app", "create", "hello"]).good();
    let repository = cluster.repository("hello", Some("hello-python"));
    let commit = repository.commit("one");
    let push = repository.push().good();
    let last = push.err.lines().rfind(|line| line.contains("remote:") && line.contains("http"));
    assert!(
        last.is_some_and(|line| line.trim_end().ends_with(&format!("hello.localhost:{}/", cluster.http_port()))),
        "{push:?}"
    );
    assert_eq!(cluster.curl("hello.localhost", &[]).good().out, "hello from python on web-1.m\n");

    let shell = |script: &str| cluster.gantry(&["exec", "hello", "--", "/bin/sh", "-c", script]);
    assert_eq!(shell("cat /app/REVISION").good().out.trim(), commit);
    assert_eq!(shell("hostname; id -u; cut -d' ' -f4 /proc/3/stat").good().out, "web-1.m\n1000\n2\n");
    assert_eq!(shell("exit 7").status, 7);
    let run = cluster.gantry(&["run", "hello", "--", "python3", "-c", "import os; print(os.environ['GANTRY_APP'])"]);
    assert_eq!(run.good().out, "hello\n");

    let set = cluster.gantry(&["config", "set", "hello", "COLOR=blue"]).good();
    assert!(set.err.contains("Releasing the image of v1 with the new configuration"), "{set:?}");
    assert_eq!(shell("echo $COLOR $GANTRY_RELEASE").good().out, "blue v2\n");
    assert_eq!(cluster.gantry(&["config", "ls", "hello"]).good().out, "COLOR=blue\n");
    let _ = cluster.gantry(&["rollback", "hello"]).good();
    assert_eq!(shell("echo $COLOR- $GANTRY_RELEASE").good().out, "- v3\n");
    let releases = cluster.gantry(&["releases", "hello"]).good().out;
    assert!(releases.contains("rollback to v1") && releases.contains("config COLOR"), "{releases}");

    let _ = cluster.gantry(&["scale", "hello", "web=3"]).good();
    cluster.wait("three copies are ready", |cluster| {
        cluster.gantry(&["app", "show", "hello"]).out.contains("3/3").then_some(())
    });
    let names: std::collections::BTreeSet<String> =
        (0..60).map(|_| cluster.curl("hello.localhost", &[]).good().out).collect();
    assert_eq!(names.len(), 3, "each copy says which it is, and each is asked: {names:?}");

    let why = cluster.gantry(&["why", "hello"]).good().out;
    assert_eq!(cluster.gantry(&["why"]).good().out.lines().next(), why.lines().next(), "one line for each app");
    assert!(why.contains("done (rollback to v1); v3 serves"), "{why}");
    let events = cluster.gantry(&["events", "hello"]).good().out;
    assert!(events.contains("scaled web=3") && events.contains("deploy #1 (v1) done"), "{events}");
    assert!(!events.contains("blue"), "a configuration value in the audit trail");
    let _ = cluster.gantry(&["app", "destroy", "hello", "--confirm", "hello"]).good();
    cluster
        .wait("nothing of it is left", |cluster| (cluster.gantry(&["app", "show", "hello"]).status == 1).then_some(()));
    assert!(cluster.curl("hello.localhost", &[]).out.starts_with("404 no app is served at hello.localhost"));
}

#[test]
fn no_request_fails_while_releases_change() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 2);
    push_site(&repository, "one");
    let target = Target {
        address: ([127, 0, 0, 1], cluster.http_port()).into(),
        host: "shop.localhost".into(),
        path: "/".into(),
        awaited: Some("three".into()),
        kinds: ALL.to_vec(),
        pause: Duration::from_millis(2),
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = runtime.block_on(async { Load::begin(&target, 12, Duration::from_secs(80)) });
    for version in ["two", "three"] {
        push_site(&repository, version);
    }
    let _ = cluster.gantry(&["config", "set", "shop", "A=1"]).good();
    let _ = cluster.gantry(&["rollback", "shop"]).good();
    let _ = cluster.gantry(&["scale", "shop", "web=1"]).good();
    cluster.wait("one is left", |cluster| cluster.gantry(&["app", "show", "shop"]).out.contains("1/1").then_some(()));
    let pid = cluster.service_pid("router");
    cluster.replace_services();
    cluster.wait("the router is another", |cluster| (cluster.service_pid("router") != pid).then_some(()));
    let before = load.sent();
    cluster.wait("load goes on", |_| (load.sent() > before + 200).then_some(()));
    let report = runtime.block_on(load.end());
    assert_eq!(report.failed, 0, "{report:?}");
    assert!(report.sent > 1000 && report.awaited_at.is_some(), "{report:?}");
}

/// Resolves an app's name as C libraries do, with a second query when no response comes.
fn resolves(cluster: &TestCluster) -> bool {
    let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04shop\x06gantry\x08internal\0\0\x01\0\x01";
    (0..2).any(|_| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
        let mut answer = [0; 512];
        // The eighth byte of the response counts its answers.
        socket.send_to(question, cluster.resolver()).is_ok() && socket.recv(&mut answer).is_ok() && answer[7] > 0
    })
}

#[test]
fn https_and_names_go_on_while_the_router_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(vec!["shop.localhost".to_owned()]).expect("a certificate");
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let (address, chain, key) = (format!("127.0.0.1:{port}"), chain.display().to_string(), key.display().to_string());
    let cluster = TestCluster::start(&["--https", &address, "--tls-cert", &chain, "--tls-key", &key]);
    push_site(&site(&cluster, "shop", 2), "one");
    let ask = || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "10", "--cacert", &chain]);
        curl.args([
            "--resolve",
            &format!("shop.localhost:{port}:127.0.0.1"),
            &format!("https://shop.localhost:{port}/"),
        ]);
        run(curl)
    };
    assert!(ask().good().out.starts_with("one"));
    for _ in 0..2 {
        let pid = cluster.service_pid("router");
        cluster.replace_services();
        cluster.wait("the router is another, and no request failed", |cluster| {
            assert!(ask().good().out.starts_with("one") && resolves(cluster));
            (cluster.service_pid("router") != pid).then_some(())
        });
        // The old router answers until its process has ended.
        let left = std::path::PathBuf::from(format!("/proc/{}", pid.expect("a router")));
        cluster.wait("the one before is gone", |cluster| {
            assert!(resolves(cluster));
            (!left.exists()).then_some(())
        });
    }
    // A crashed router's successor takes over the same socket, where connections wait.
    let pid = cluster.service_pid("router");
    cluster.kill_service("router");
    assert!(ask().good().out.starts_with("one"));
    assert!(cluster.service_pid("router") != pid);
}

#[test]
fn two_apps_find_each_other_and_a_volume_has_one_writer() {
    let cluster = TestCluster::start(&[]);
    cluster.import_examples_base();
    for app in ["redis", "storefront"] {
        let _ = cluster.gantry(&["app", "create", app]).good();
        let repository = cluster.repository(app, Some(app));
        repository.commit("one");
        let push = repository.push().good();
        if app == "storefront" {
            assert!(push.err.contains("compiled assets (build 1)"), "{push:?}");
        }
    }
    assert!(cluster.curl("storefront.localhost", &[]).good().out.contains("<h1>Everything for the harbour</h1>"));
    let order = ["-X", "POST", "--data", "product=buoy", "--output", "/dev/null"];
    let address = format!("http://storefront.localhost:{}/orders", cluster.http_port());
    let posted = Command::new("curl").args(["-sS", "--max-time", "20"]).args(order).arg(address).status();
    assert!(posted.expect("curl").success());
    cluster.wait("the worker did it", |cluster| {
        cluster.curl("storefront.localhost", &[]).out.contains("1 orders done").then_some(())
    });
    let logs = cluster.gantry(&["logs", "storefront", "-p", "worker", "--grep", "order:"]).good().out;
    assert!(logs.contains("order: buoy"), "{logs}");
    // Another release of an app with a volume: the old copy stops before the new copy starts, and the data remains.
    let again = cluster.gantry(&["config", "set", "redis", "NOTE=1"]).good();
    assert!(again.err.contains("v2 runs") && !again.out.contains("redis.localhost"), "{again:?}");
    assert!(cluster.gantry(&["ps", "redis"]).good().out.contains("redis.v2.redis-1"));
    cluster.wait("the shop has its orders again", |cluster| {
        cluster.curl("storefront.localhost", &[]).out.contains("1 orders done").then_some(())
    });
    let refused = cluster.gantry(&["scale", "redis", "redis=2"]);
    assert!(refused.status == 1 && refused.err.contains("E_SINGLE_WRITER"), "{refused:?}");
}

#[test]
fn a_log_is_followed_into_the_next_release() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    let mut follower = cluster.gantry_into("followed", &["logs", "shop", "-f", "--grep", "serves"]);
    let followed = |cluster: &TestCluster| std::fs::read_to_string(cluster.path("followed")).expect("read");
    let wait_for_line = |text: &str| cluster.wait(text, |cluster| followed(cluster).contains(text).then_some(()));
    wait_for_line("v1 web-1 | one serves");
    for (release, version) in [(2, "two"), (3, "three")] {
        push_site(&repository, version);
        wait_for_line(&format!("v{release} web-1 | {version} serves"));
    }
    let all = followed(&cluster);
    let ended = follower.try_wait().expect("asked");
    let _ = follower.kill();
    let _ = follower.wait();
    assert!(ended.is_none(), "it ended by itself");
    assert_eq!(all.lines().count(), 3, "each line once, and no other: {all}");
}

#[test]
fn an_image_that_was_built_here_is_deployed_as_another_app() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "staging", 1);
    repository.write("app.json", r#"{ "env": { "GREETING": { "required": true } } }"#);
    let _ = cluster.gantry(&["config", "set", "staging", "GREETING=hello"]).good();
    let commit = push_site(&repository, "one");
    let _ = cluster.gantry(&["app", "create", "production"]).good();
    let deploy = || cluster.gantry(&["deploy", "production", "--image", &format!("staging:{commit}")]);
    // The image contains its recipe: roles, checks, and the required configuration.
    let refused = deploy();
    let expected = "app.json requires GREETING; set it with `gantry config set production GREETING=…`";
    assert!(refused.status == 1 && refused.err.contains(expected), "{refused:?}");
    assert!(refused.err.contains("[E_REQUIRED_VALUE_MISSING]"), "{refused:?}");
    let _ = cluster.gantry(&["config", "set", "production", "GREETING=good day"]).good();
    let done = deploy().good();
    assert!(done.err.contains("Roles from container/roles.json"), "{done:?}");
    assert!(page(&cluster, "production").contains("one"));
    let script = "echo $REVISION $GREETING $(cat /app/REVISION)";
    let output = cluster.gantry(&["exec", "production", "--", "/bin/sh", "-c", script]).good();
    assert_eq!(output.out.trim(), format!("{commit} good day {commit}"));
    let plan = cluster.gantry(&["ps", "production"]).good();
    assert!(plan.out.contains("production.v1.web-1"), "{plan:?}");
}

#[test]
fn a_push_is_held_until_it_is_promoted() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    let push = |version: &str, option: &str| {
        repository.write("server.py", &site::SERVER.replace("VERSION", version));
        repository.commit(version);
        repository.attempt(&["push", "-o", option, "gantry", "HEAD:main"])
    };
    let refused = push("two", "hodl");
    assert!(
        refused.status != 0 && refused.err.contains("git push -o hold") && refused.err.contains("-o wait"),
        "{refused:?}"
    );
    let held = push("two", "hold").good();
    let last = held.err.lines().rfind(|line| line.contains("remote:") && line.contains("http"));
    assert!(last.is_some_and(|line| line.contains("http://v2.shop.localhost:")), "{held:?}");
    assert!(page(&cluster, "shop").contains("one") && page(&cluster, "v2.shop").contains("two"));
    assert!(cluster.gantry(&["why", "shop"]).good().out.contains("promote"), "what it waits for is not said");
    let promoted = cluster.gantry(&["promote", "shop"]).good();
    assert!(
        !promoted.err.contains("is held")
            && !promoted.err.contains("Building")
            && promoted.out.starts_with("http://shop.localhost:"),
        "{promoted:?}"
    );
    assert!(page(&cluster, "shop").contains("two"));
    let _ = push("three", "hold").good();
    let _ = cluster.gantry(&["abort", "shop"]).good();
    assert!(page(&cluster, "shop").contains("two"));
    // The server has this commit already, so another push would do nothing. The commit's image is deployed by name.
    let commit = repository.git(&["rev-parse", "HEAD"]).out.trim().to_owned();
    let _ = cluster.gantry(&["deploy", "shop", "--image", &format!("shop:{commit}")]).good();
    assert!(page(&cluster, "shop").contains("three"));
}

#[test]
fn tokens_do_what_their_scope_says_and_no_more() {
    let cluster = TestCluster::start(&[]);
    let _ = cluster.gantry(&["app", "create", "one"]).good();
    let _ = cluster.gantry(&["app", "create", "two"]).good();
    let token = |arguments: &[&str]| cluster.gantry(arguments).good().out.trim().to_owned();
    let deploy = token(&["token", "create", "ci", "--deploy", "one"]);
    let read = token(&["token", "create", "eyes", "--read"]);
    let works = |token: &str, arguments: &[&str]| cluster.gantry_as(token, arguments).status == 0;
    assert!(works(&deploy, &["app", "show", "one"]) && works(&deploy, &["config", "set", "one", "A=1"]));
    assert!(!works(&deploy, &["app", "show", "two"]) && !works(&deploy, &["config", "set", "two", "A=1"]));
    assert!(!works(&deploy, &["app", "create", "three"]) && !works(&deploy, &["token", "ls"]));
    assert!(works(&read, &["app", "ls"]) && works(&read, &["status"]));
    assert!(!works(&read, &["config", "ls", "one"]) && !works(&read, &["config", "set", "one", "A=2"]));
    let unknown = cluster.gantry_as("gantry_nonsense", &["status"]);
    assert!(unknown.status == 1 && unknown.err.contains("this token is not known"), "{unknown:?}");
    let _ = cluster.gantry(&["token", "revoke", "ci"]).good();
    assert!(!works(&deploy, &["app", "show", "one"]));
    let machine = std::fs::read_to_string(cluster.path("data/machine-token")).expect("a token");
    assert!(!works(machine.trim(), &["app", "ls"]) && !works(machine.trim(), &["token", "ls"]));
    // With etcd, the data folder has no store file.
    let stored = std::fs::read(cluster.path("data/server/store.db"));
    assert!(stored.is_ok() || std::env::var_os("GANTRY_TEST_ETCD").is_some());
    let stored = stored.unwrap_or_default();
    let holds = |secret: &str| stored.windows(secret.len()).any(|window| window == secret.as_bytes());
    assert!(!holds(&read) && !holds(&cluster.token()), "a secret is in the store");
}

#[test]
fn the_api_describes_itself_and_asks_every_caller_for_a_token() {
    let cluster = TestCluster::start(&[]);
    let api = format!("http://127.0.0.1:{}", cluster.api_port());
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl").args(["-sS", "--max-time", "10"]).args(arguments).output().expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let document: serde_json::Value = serde_json::from_str(&curl(&[&format!("{api}/v1/openapi.json")])).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 15);
    let token = format!("Authorization: Bearer {}", cluster.token());
    for (path, operations) in paths {
        let path = path.replace("{app}", "ghost").replace("{name}", "ghost").replace("{number}", "1");
        for (method, operation) in operations.as_object().expect("operations") {
            // The documents themselves are for everybody, and say so.
            let is_open = operation["security"] == serde_json::json!([]);
            assert_eq!(is_open, path.starts_with("/v1/openapi"), "{method} {path}");
            let status = ["--output", "/dev/null", "--write-out", "%{http_code}", "--request"];
            let (method, address) = (method.to_uppercase(), format!("{api}{path}"));
            let asked = curl(&[&status[..], &[&method, &address]].concat());
            assert_eq!(asked, if is_open { "200" } else { "401" }, "{method} {path} without a token");
            let wrong = curl(&[&status[..], &[&method, "--header", "Authorization: Bearer no", &address]].concat());
            assert_eq!(wrong, if is_open { "200" } else { "401" }, "{method} {path} with an unknown token");
            let known = curl(&[&status[..], &[&method, "--header", &token, "--data", "{}", &address]].concat());
            assert!(!known.starts_with('5') && known != "405", "{method} {path} with a token: {known}");
        }
    }
    let follow = format!("{api}/v1/apps/ghost/deploys/1/follow");
    assert!(curl(&["--header", &token, &follow]).contains("ghost has no deploy #1"));
}
