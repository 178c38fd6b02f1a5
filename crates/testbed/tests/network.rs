//! Network access to a container's port: allowed for the router, denied to other machines.

mod site;

use std::process::Command;

use gantry_testbed::{Output, TestCluster, run};
use site::{page, push_site, site};

/// A simulated machine: a network namespace with a cable (veth) to this machine. Removed when dropped.
struct Outside {
    name: String,
}

impl Outside {
    fn new(cluster: &TestCluster) -> Self {
        let outside = Self { name: format!("{}-out", cluster.name()) };
        let cable = outside.cable();
        outside.ip(&["netns", "add", &outside.name]);
        outside.ip(&["link", "add", &cable, "type", "veth", "peer", "name", "e0", "netns", &outside.name]);
        outside.ip(&["addr", "add", "198.18.77.1/30", "dev", &cable]);
        outside.ip(&["link", "set", &cable, "up"]);
        for words in [&["addr", "add", "198.18.77.2/30", "dev", "e0"][..], &["link", "set", "e0", "up"]] {
            outside.ip(&[&["-n", outside.name.as_str()], words].concat());
        }
        outside.ip(&["-n", &outside.name, "route", "add", "default", "via", "198.18.77.1"]);
        outside
    }

    fn cable(&self) -> String {
        format!("{}c", self.name.trim_end_matches("-out"))
    }

    fn ip(&self, words: &[&str]) {
        let mut ip = Command::new("ip");
        ip.args(words);
        let _ = run(ip).good();
    }

    fn fetch(&self, address: &str) -> Output {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", &self.name, "curl", "-sS", "--max-time", "3", address]);
        run(curl)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for words in [&["link", "del", &self.cable()][..], &["netns", "del", &self.name]] {
            let _ = Command::new("ip").args(words).status();
        }
    }
}

/// Root in one app's containers has no rights outside, and none in another app's containers.
#[test]
fn each_app_has_users_of_its_own() {
    let cluster = TestCluster::start(&[]);
    for app in ["shop", "other"] {
        push_site(&site(&cluster, app, 2), "one");
    }
    let first = |pid: u32| -> u32 {
        let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("a map");
        let words: Vec<u32> = map.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        assert!(words.len() == 3 && words[0] == 0 && words[1] >= 0x7000_0000 && words[2] == 65_536, "{words:?}");
        words[1]
    };
    let ranges: Vec<(String, u32)> = cluster.containers().into_iter().map(|(name, pid)| (name, first(pid))).collect();
    let of = |app: &str| ranges.iter().filter(|(name, _)| name.starts_with(app)).map(|(_, first)| *first).collect();
    let (shop, other): (Vec<u32>, Vec<u32>) = (of("shop."), of("other."));
    assert!(shop[0] == shop[1] && other[0] == other[1] && shop[0].abs_diff(other[0]) >= 65_536, "{ranges:?}");
}

#[test]
fn a_container_s_port_is_not_reached_from_another_machine() {
    let cluster = TestCluster::start(&[]);
    push_site(&site(&cluster, "shop", 1), "one");
    let table = std::fs::read_to_string(cluster.path("data/router/table.json")).expect("a table");
    let table: serde_json::Value = serde_json::from_str(&table).expect("JSON");
    let endpoint = &table["routes"]["shop.localhost"]["endpoints"][0];
    let address = format!("http://{}:{}/", endpoint["address"].as_str().expect("an address"), endpoint["port"]);
    let here = || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "3", &address]);
        run(curl)
    };
    let outside = Outside::new(&cluster);
    assert!(here().good().out.starts_with("one"), "the machine itself reaches it");
    let refused = outside.fetch(&address);
    assert!(refused.status != 0, "it was answered: {refused:?}");
    // Mutation test: without the firewall rule the same request arrives. The agent, which repairs the rules, stands still.
    let agent = cluster.service_pid("agent").expect("the agent runs");
    cluster.signal("STOP", agent);
    let mut nft = Command::new("nft");
    nft.args(["flush", "chain", "inet", cluster.name(), "in"]);
    let _ = run(nft).good();
    let answered = outside.fetch(&address);
    cluster.signal("CONT", agent);
    assert!(answered.good().out.starts_with("one"));
}

/// The agent restarts running instances with addresses of the new network. The old network has no way out and no name
/// resolution.
#[test]
fn instances_restart_on_another_network_of_the_machine() {
    let mut cluster = TestCluster::start(&[]);
    push_site(&site(&cluster, "shop", 2), "one");
    let servers = |cluster: &TestCluster| {
        let show = ["exec", "shop", "--", "/bin/sh", "-c", "cat /etc/resolv.conf"];
        cluster.gantry(&show).out
    };
    let before = servers(&cluster);
    assert!(before.contains(".1\n"), "{before}");
    let running = cluster.containers();
    cluster.kill_everything();
    cluster.up_on_another_network();
    cluster.wait("it has the other network's name server", |cluster| servers(cluster).contains(".129\n").then_some(()));
    cluster.wait("it serves", |cluster| {
        let now = cluster.containers();
        let is_new = |(name, pid): &(String, u32)| running.iter().all(|(old, before)| old != name || before != pid);
        (now.len() == 2 && now.iter().all(is_new) && page(cluster, "shop").starts_with("one")).then_some(())
    });
    let mut ip = Command::new("ip");
    ip.args(["-o", "-4", "address", "show", "dev", cluster.name()]);
    let addresses = run(ip).good().out;
    assert!(addresses.lines().count() == 1 && addresses.contains(".129/25"), "only the new one: {addresses}");
}
