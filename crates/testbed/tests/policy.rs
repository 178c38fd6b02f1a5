//! The cluster policy: first values from the settings of the server, changes that hold at once, and who wins later.

mod site;

use gantry_testbed::{TestCluster, run};
use site::{SERVER, page, site};

fn policy(cluster: &TestCluster, words: &[&str]) -> String {
    cluster.gantry(&[&["cluster", "policy"], words].concat()).good().out
}

/// The response to a change over the API.
fn change(cluster: &TestCluster, body: &str) -> String {
    let mut curl = std::process::Command::new("curl");
    let address = format!("http://127.0.0.1:{}/v1/cluster/policy", cluster.api_port());
    curl.args(["-sS", "-X", "PATCH", "-u", &format!("x:{}", cluster.token()), "--data", body, &address]);
    run(curl).good().out
}

/// The page of the site under another host name.
fn page_at(cluster: &TestCluster, host: &str) -> String {
    cluster.curl("shop.localhost", &["-H", &format!("Host: {host}")]).out
}

/// Part of the policy that the agent keeps.
fn agent_policy(cluster: &TestCluster) -> serde_json::Value {
    let text = std::fs::read_to_string(cluster.path("data/policy.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[test]
fn settings_are_the_first_policy_and_a_change_holds_at_once() {
    let mut cluster = TestCluster::start(&[]);
    // The settings of the test cluster.
    assert_eq!(policy(&cluster, &["get", "drain"]), "5s\n");
    assert_eq!(policy(&cluster, &["get", "bake-time"]), "2s\n");
    assert_eq!(policy(&cluster, &["get", "deadline"]), "2m\n");
    let table = policy(&cluster, &["get"]);
    let row = |rule: &str| {
        let row = table.lines().find(|line| line.starts_with(rule)).unwrap_or_default();
        row.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((row("reserve"), row("builds")), ("reserve 50M yes".into(), "builds 2 default".into()));
    let events = cluster.gantry(&["events"]).good().out;
    let first =
        format!("cluster policy: app-url=http:{} bake-time=2s drain=5s reserve=50M wait-for=bake", cluster.http_port());
    assert!(events.contains(&first), "{events}");
    cluster.wait("the agent has the policy", |cluster| (agent_policy(cluster)["reserve"] == 50 << 20).then_some(()));

    // A wrong rule or value is refused by name, and nothing of the change is done.
    for (words, why) in [
        (&["set", "drian=9"][..], "there is no rule \"drian\"; the rules are: domain, app-url, bake-time"),
        (&["set", "deadline=9", "drain=soon"], "\"soon\" is not a time; write for example 30s, 10m, 2h or 1d"),
        (&["set", "drain=1", "drain=2"], "drain is given twice"),
        (&["unset", "speed"], "there is no rule \"speed\""),
    ] {
        let refused = cluster.gantry(&[&["cluster", "policy"], words].concat());
        assert_eq!(refused.status, 2, "{refused:?}");
        assert!(refused.err.contains(why), "{refused:?}");
    }
    let refused = change(&cluster, r#"{"rules":{"drain":60,"speed":1}}"#);
    assert!(refused.contains("policy_rule_not_found") && refused.contains("no rule \\\"speed\\\""), "{refused}");
    let refused = change(&cluster, r#"{"rules":{"drain":60,"builds":0}}"#);
    assert!(refused.contains("invalid_policy_value") && refused.contains("builds: 0 is out of range"), "{refused}");
    assert_eq!(policy(&cluster, &["get", "drain"]), "5s\n");

    // The next deploy takes the new bake time; every router serves the new domain; the agent has the new rules.
    let shop = site(&cluster, "shop", 1);
    assert_eq!(policy(&cluster, &["set", "bake-time=1s", "builds=7"]), "bake-time=1s\nbuilds=7\n");
    shop.write("server.py", &SERVER.replace("VERSION", "one"));
    shop.commit("one");
    let pushed = shop.push().good().err;
    assert!(pushed.contains("its bake time is 1 s"), "{pushed}");
    cluster.wait("the agent has the policy", |cluster| (agent_policy(cluster)["builds"] == 7).then_some(()));
    let _ = policy(&cluster, &["set", "domain=apps.test"]);
    cluster
        .wait("the new address serves", |cluster| page_at(cluster, "shop.apps.test").starts_with("one").then_some(()));
    cluster.wait("the old address leads nowhere", |cluster| {
        page(cluster, "shop").contains("apps are at <app>.apps.test").then_some(())
    });
    let app = cluster.gantry(&["app", "show", "shop", "--json"]).good().out;
    assert!(app.contains("http://shop.apps.test:"), "{app}");
    assert_eq!(policy(&cluster, &["set", "app-url=https"]), "app-url=https\n");
    let app = cluster.gantry(&["app", "show", "shop", "--json"]).good().out;
    assert!(app.contains("\"https://shop.apps.test/\""), "{app}");
    assert_eq!(policy(&cluster, &["unset", "domain", "builds"]), "builds=2\ndomain=localhost\n");
    cluster.wait("the first address serves again", |cluster| page(cluster, "shop").starts_with("one").then_some(()));

    // A restart with another setting: the policy wins, and the setting is named until both agree.
    let _ = cluster.down();
    cluster.up_with(&["--deadline", "9"]);
    assert_eq!(policy(&cluster, &["get", "deadline"]), "2m\n");
    let warning = "the cluster policy overrules settings of this server: deadline=9s (the policy says 2m); remove the \
                   settings, or change the policy: gantry cluster policy set deadline=9s";
    let status = cluster.gantry(&["status"]).good().out;
    // The bake time differs as well: the test changed it above.
    let overrules = "bake-time=2s (the policy says 1s), deadline=9s (the policy says 2m)";
    assert!(status.contains(overrules) && status.contains("set bake-time=2s deadline=9s"), "{status}");
    assert!(cluster.log().contains(overrules), "the log names the settings");
    let _ = policy(&cluster, &["set", "bake-time=2s"]);
    let status = cluster.gantry(&["status"]).good().out;
    assert!(status.contains(warning), "{status}");
    let _ = policy(&cluster, &["set", "deadline=9s"]);
    let status = cluster.gantry(&["status"]).good().out;
    assert!(!status.contains("overrules"), "{status}");
}
