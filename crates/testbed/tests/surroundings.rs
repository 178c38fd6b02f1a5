//! The machine's network: addresses that containers and builds can reach, and the repair when another program changes
//! the network.

mod site;

use std::collections::BTreeMap;

use gantry_testbed::namespace::{MACHINE, Namespace, OUTSIDE, serve};
use gantry_testbed::{TestCluster, run};
use site::site;

/// Script that reports for each target, `tcp ADDRESS PORT` or `udp ADDRESS PORT`, whether the target answers.
const PROBE: &str = r#"
import socket, sys
for target in sys.argv[1:]:
    protocol, address, port = target.split()
    if protocol == "names":
        continue
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    answer = "closed"
    try:
        family, _, _, _, at = socket.getaddrinfo(address, int(port), type=kind)[0]
        s = socket.socket(family, kind)
        s.settimeout(2)
        s.connect(at)
        s.send(b"hello")
        answer = "open" if s.recv(64) else "closed"
    except OSError:
        pass
    print(target, answer)
"#;

/// Results of a probe: each target, and whether the target answered.
fn answers(text: &str) -> BTreeMap<&str, bool> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.filter(|(_, word)| ["open", "closed"].contains(word)).map(|(target, word)| (target, word == "open")).collect()
}

/// Deploys an app whose build and instances probe `targets`.
fn prober(cluster: &TestCluster, targets: &[String]) {
    let repository = site(cluster, "shop", 1);
    let quoted: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    repository.write("probe.py", PROBE);
    repository.compile_with(&format!("python3 probe.py {} > built.txt", quoted.join(" ")));
    site::push_site(&repository, "one");
}

fn probed(cluster: &TestCluster, command: &str, targets: &[&str]) -> String {
    cluster.gantry(&[&[command, "shop", "--", "python3", "probe.py"], targets].concat()).good().out
}

/// The bridge's link-local address, as a container writes the address.
fn link_local(cluster: &TestCluster) -> String {
    let mut ip = std::process::Command::new("ip");
    ip.args(["-6", "-o", "address", "show", "dev", cluster.name(), "scope", "link"]);
    let text = run(ip).good().out;
    let address = text.split_ascii_whitespace().find(|word| word.starts_with("fe80:")).expect("an address");
    format!("{}%eth0", address.split('/').next().unwrap_or_default())
}

#[test]
fn containers_and_builds_reach_only_opened_ports_and_metadata_addresses() {
    let machine = Namespace::enter("reach");
    for address in ["169.254.169.254/32", "100.100.100.200/32", "168.63.129.16/32"] {
        machine.outside_has(address);
    }
    machine.serve_outside(80);
    for port in [9997, 9998, 9999] {
        serve(port);
    }
    // A redirected port, as Docker publishes a container's port.
    let publish = format!(
        "table ip published {{\n chain p {{\n type nat hook prerouting priority dstnat\n \
         tcp dport 9990 dnat to {OUTSIDE}:80\n }}\n }}"
    );
    let mut nft = std::process::Command::new("nft");
    nft.arg(publish);
    let _ = run(nft).good();
    let mut cluster = TestCluster::start(&[]);
    let resolver = cluster.resolver().replace(":53", "");
    cluster.wait("the bridge has an address of IPv6", |cluster| {
        let mut ip = std::process::Command::new("ip");
        ip.args(["-6", "-o", "address", "show", "dev", cluster.name(), "scope", "link"]);
        let text = run(ip).out;
        (text.contains("fe80") && !text.contains("tentative")).then_some(())
    });
    let local = link_local(&cluster);
    let closed: Vec<String> = [
        "tcp 169.254.169.254 80".to_owned(),
        "tcp 100.100.100.200 80".to_owned(),
        "tcp 168.63.129.16 80".to_owned(),
        format!("tcp {resolver} 9998"),
        format!("udp {resolver} 9998"),
        format!("tcp {MACHINE} 9998"),
        format!("tcp {MACHINE} 9990"),
        format!("tcp {local} 9998"),
        format!("udp {local} 9998"),
        format!("tcp {resolver} {}", cluster.api_port()),
    ]
    .to_vec();
    let opened: Vec<String> = [
        format!("tcp {resolver} 9997"),
        format!("tcp {local} 9997"),
        format!("tcp {MACHINE} 9997"),
        "tcp host.internal 9997".to_owned(),
        format!("udp {resolver} 9999"),
    ]
    .to_vec();
    let outside = format!("tcp {OUTSIDE} 80");
    let all: Vec<String> = closed.iter().chain(&opened).chain([&outside]).cloned().collect();
    prober(&cluster, &all);
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let built = cluster.gantry(&["exec", "shop", "--", "cat", "built.txt"]).good().out;
    for text in [built, probed(&cluster, "exec", &names), probed(&cluster, "run", &names)] {
        let found = answers(&text);
        assert_eq!(found.len(), all.len(), "{text}");
        let open: Vec<&&str> = found.iter().filter(|(_, is_open)| **is_open).map(|(target, _)| target).collect();
        assert_eq!(open, [&outside.as_str()], "only what is outside answers: {text}");
    }

    // The same targets with settings that open some of them. This shows that the targets exist.
    cluster.kill_up();
    cluster.up_with(&["--host-ports", "9997,9999/udp", "--metadata", "169.254.169.254"]);
    let expected: Vec<&str> =
        opened.iter().map(String::as_str).chain([outside.as_str(), "tcp 169.254.169.254 80"]).collect();
    let text = probed(&cluster, "exec", &names);
    let found = answers(&text);
    for (target, is_open) in found {
        assert_eq!(is_open, expected.contains(&target), "{target}: {text}");
    }
    drop(cluster);
}

fn sh(script: &str) -> gantry_testbed::Output {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-euc", script]);
    run(shell)
}

/// Lines of `gantry status` about the machine's network.
fn network_lines(cluster: &TestCluster) -> Vec<String> {
    let status = cluster.gantry(&["status"]).out;
    status.lines().filter(|line| line.starts_with("network")).map(str::to_owned).collect()
}

/// Remedy that `gantry status` prints for a fault with this text.
fn remedy(cluster: &TestCluster, fault: &str) -> String {
    cluster.wait(fault, |cluster| {
        let line = network_lines(cluster).into_iter().find(|line| line.contains(fault))?;
        Some(line.split_once("to fix it: ").expect("a remedy").1.to_owned())
    })
}

const OUT: &str = "traffic from containers to other machines is dropped";
const NAMES: &str = "DNS queries are dropped";

#[test]
fn reports_and_repairs_foreign_firewall_and_network_changes() {
    let machine = Namespace::enter("changes");
    machine.serve_outside(80);
    // Another firewall exists before Gantry starts: the agent's log reports the firewall.
    let _ = sh("iptables -P FORWARD DROP").good();
    let mut cluster = TestCluster::start(&[]);
    let (name, outside) = (cluster.name().to_owned(), format!("tcp {OUTSIDE} 80"));
    cluster.wait("the agent's log says it", |cluster| {
        cluster.log().lines().find(|line| line.contains("WARN") && line.contains(OUT)).map(drop)
    });
    let resolver = cluster.resolver().replace(":53", "");
    let names = format!("names {resolver} 53");
    let targets = [outside.as_str(), names.as_str()];
    let repository = site(&cluster, "shop", 2);
    repository.write("probe.py", &format!("{PROBE}{QUESTION}"));
    site::push_site(&repository, "one");
    let open = |cluster: &TestCluster| {
        let text = probed(cluster, "exec", &targets);
        answers(&text)
            .into_iter()
            .filter(|(_, is_open)| *is_open)
            .map(|(target, _)| target.to_owned())
            .collect::<Vec<_>>()
    };
    let both = [names.clone(), outside.clone()];
    assert_eq!(open(&cluster), [names.as_str()], "the way out is closed");
    let why = cluster.gantry(&["why", "shop"]).good().out;
    assert!(why.contains(OUT) && why.contains("FORWARD"), "{why}");
    let mend = remedy(&cluster, OUT);
    let _ = sh(&mend).good();
    assert_eq!(open(&cluster), both, "after {mend}");
    cluster.wait("the status has no line of the network", |cluster| network_lines(cluster).is_empty().then_some(()));

    // An nft chain of another program that drops unsolicited packets.
    let _ = sh("nft add table inet t; nft add chain inet t i '{ type filter hook input priority 0; policy drop; }'
        nft add rule inet t i iif lo accept; nft add rule inet t i ct state established,related accept")
    .good();
    assert_eq!(open(&cluster), [outside.as_str()], "names are closed");
    let mend = remedy(&cluster, NAMES);
    let _ = sh(&mend).good();
    assert_eq!(open(&cluster), both, "after {mend}");
    cluster.wait("the status has no line of the network", |cluster| network_lines(cluster).is_empty().then_some(()));

    // Another program removes parts of Gantry's network.
    let network = cluster.resolver().replace(".1:53", ".0/24");
    let taken = [
        ("nft flush ruleset", "table"),
        (&format!("ip link delete {name}"), "gone or down"),
        (&format!("ip address flush dev {name}"), "address"),
        (&format!("ip route delete {network} dev {name}"), "route"),
        ("sysctl -qw net.ipv4.ip_forward=0", "forwarding"),
        (&format!("nft flush chain inet {name} host"), "table"),
        (&format!("ip link set {name} down"), "gone or down"),
    ];
    for (command, shown) in taken {
        let _ = sh(command).good();
        cluster.wait(&format!("`{command}` is put right"), |cluster| {
            let is_told = network_lines(cluster).iter().any(|line| line.contains(shown));
            let page = cluster.curl("shop.localhost", &["--max-time", "1"]);
            (is_told && page.out.starts_with("one") && open(cluster) == both).then_some(())
        });
    }
    let closed = probed(&cluster, "exec", &[&format!("tcp {resolver} {}", cluster.api_port())]);
    assert!(closed.contains("closed"), "{closed}");

    // A second cloud with the same settings.
    let (data, other_run) = (cluster.path("other"), cluster.path("other-run"));
    let (data, other_run) = (data.display().to_string(), other_run.display().to_string());
    let up = |bridge: &str, network: &str, cgroup: &str| {
        let mut up = std::process::Command::new(gantry_testbed::program("gantry"));
        up.args(["up", "--data", &data, "--run", &other_run, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        up.args(["--bridge", bridge, "--network", network, "--cgroup", cgroup]);
        run(up)
    };
    for (bridge, network, cgroup, flag) in [
        (name.as_str(), "10.250.0.1/24", "other", "--bridge"),
        ("other0", network.as_str(), "other", "--network"),
        ("other0", "10.250.0.1/24", name.as_str(), "--cgroup"),
        ("cable", "10.250.0.1/24", "other", "--bridge"),
    ] {
        let refused = up(bridge, network, cgroup);
        assert!(refused.status == 1 && refused.err.contains(flag), "{bridge} {network}: {refused:?}");
    }
    assert_eq!(open(&cluster), both, "the first cloud goes on");
    let _ = cluster.down();
}

/// Script that asks a name server for an app's address.
const QUESTION: &str = r#"
for target in sys.argv[1:]:
    protocol, address, port = target.split()
    if protocol != "names":
        continue
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    try:
        s.connect((address, int(port)))
        s.send(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x06gantry\x08internal\x00\x00\x01\x00\x01")
        print(target, "open" if s.recv(512) else "closed")
    except OSError:
        print(target, "closed")
"#;
