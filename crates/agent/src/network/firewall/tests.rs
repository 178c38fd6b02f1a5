use gantry_model::{NetworkFault, NetworkFlow};

use super::*;

fn network() -> NetworkFacts {
    NetworkFacts {
        bridge: "gantry0".to_owned(),
        gateway: Ipv4Addr::new(10, 83, 0, 1),
        prefix: 16,
        uplink: Some("eth0".to_owned()),
        bridged_packets_are_seen: false,
    }
}

/// For each fault: the traffic, the chain that drops the packets, the rule or policy, and the remedy.
fn found(ruleset: &Ruleset, network: &NetworkFacts) -> Vec<(NetworkFlow, String, String, String)> {
    let dropped = |fault| match fault {
        NetworkFault::Dropped { flow, chain, by, remedy } => (flow, chain, by, remedy),
        other => panic!("{other:?}"),
    };
    faults(ruleset, network).into_iter().map(dropped).collect()
}

fn iptables(text: &str) -> Vec<(NetworkFlow, String, String, String)> {
    found(&read("", &[("iptables".to_owned(), text.to_owned())]), &network())
}

fn flows(found: &[(NetworkFlow, String, String, String)]) -> Vec<NetworkFlow> {
    let mut flows: Vec<NetworkFlow> = found.iter().map(|(flow, ..)| *flow).collect();
    flows.sort();
    flows.dedup();
    flows
}

#[test]
fn reports_no_fault_without_other_firewalls() {
    assert_eq!(iptables(""), []);
    let accepting = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";
    assert_eq!(iptables(accepting), []);
    assert_eq!(found(&read("nonsense", &[]), &network()), []);
}

#[test]
fn names_a_dropping_forward_policy_and_its_remedy() {
    let dropping = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n";
    let remedy = "iptables -I FORWARD -i gantry0 -j ACCEPT && iptables -I FORWARD -o gantry0 -j ACCEPT";
    let expected = (
        NetworkFlow::Outside,
        "FORWARD of iptables's table filter".to_owned(),
        "its policy".to_owned(),
        remedy.to_owned(),
    );
    assert_eq!(iptables(dropping), [expected]);
    // The rules of the remedy, in the notation of iptables-save.
    let mended = format!("{dropping}-A FORWARD -o gantry0 -j ACCEPT\n-A FORWARD -i gantry0 -j ACCEPT\nCOMMIT\n");
    assert_eq!(iptables(&mended), []);
    // One of the two rules alone is not enough.
    assert_eq!(flows(&iptables(&format!("{dropping}-A FORWARD -i gantry0 -j ACCEPT\n"))), [NetworkFlow::Outside]);
    // Replies may be accepted by their connection state.
    let by_state = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i gantry0 -j ACCEPT\n";
    assert_eq!(iptables(&format!("{dropping}{by_state}")), []);
}

#[test]
fn checks_container_traffic_only_where_firewalls_see_it() {
    let dropping = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -o eth0 -j ACCEPT\n-A FORWARD -i eth0 -j ACCEPT\n";
    let ruleset = read("", &[("iptables".to_owned(), dropping.to_owned())]);
    assert_eq!(found(&ruleset, &network()), []);
    let seen = NetworkFacts { bridged_packets_are_seen: true, ..network() };
    assert_eq!(flows(&found(&ruleset, &seen)), [NetworkFlow::Between]);
}

/// The rules that Docker 20 to 28 creates.
const DOCKER: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n\
    :DOCKER-ISOLATION-STAGE-1 - [0:0]\n:DOCKER-ISOLATION-STAGE-2 - [0:0]\n:DOCKER-USER - [0:0]\n\
    -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
    -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -o docker0 -j DOCKER\n\
    -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A FORWARD -i docker0 -o docker0 -j ACCEPT\n\
    -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n\
    -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n-A DOCKER-ISOLATION-STAGE-1 -j RETURN\n\
    -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP\n-A DOCKER-ISOLATION-STAGE-2 -j RETURN\n-A DOCKER-USER -j RETURN\nCOMMIT\n";

#[test]
fn repairs_docker_in_the_docker_user_chain() {
    let dropped = iptables(DOCKER);
    assert_eq!(flows(&dropped), [NetworkFlow::Outside], "{dropped:?}");
    assert_eq!(
        dropped[0].3,
        "iptables -I DOCKER-USER -i gantry0 -j ACCEPT && iptables -I DOCKER-USER -o gantry0 -j ACCEPT"
    );
    let mended = DOCKER.replace(
        "-A DOCKER-USER -j RETURN",
        "-A DOCKER-USER -o gantry0 -j ACCEPT\n-A DOCKER-USER -i gantry0 -j ACCEPT\n-A DOCKER-USER -j RETURN",
    );
    assert_eq!(iptables(&mended), []);
}

/// The output of `iptables-save` after `ufw enable` (0.36 on Debian 12), and after the repair commands.
const UFW: &str = include_str!("fixtures/ufw.txt");
const UFW_MENDED: &str = include_str!("fixtures/ufw-mended.txt");

#[test]
fn repairs_ufw_with_ufw_commands() {
    let dropped = iptables(UFW);
    assert_eq!(flows(&dropped), [NetworkFlow::Names, NetworkFlow::Outside], "{dropped:?}");
    let remedies: Vec<&str> = dropped.iter().map(|(.., remedy)| remedy.as_str()).collect();
    assert_eq!(
        remedies,
        ["ufw allow in on gantry0 to any port 53", "ufw route allow in on gantry0 && ufw route allow out on gantry0"]
    );
    assert_eq!(iptables(UFW_MENDED), []);
}

#[test]
fn names_a_dropping_rule_by_its_text() {
    let dropped = iptables(
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 10.0.0.0/8 -m comment --comment \"no \\\"ten\\\"\" -j DROP\nCOMMIT\n\
         *filter\n:INPUT ACCEPT [0:0]\n:OUTPUT DROP [0:0]\n-A INPUT ! -i lo -p udp -m multiport --dports 1:52,53 -j REJECT --reject-with icmp-port-unreachable\n",
    );
    assert_eq!(flows(&dropped), [NetworkFlow::Names, NetworkFlow::Requests, NetworkFlow::Outside], "{dropped:?}");
    assert!(
        dropped[0].2.contains("-A PREROUTING -s 10.0.0.0/8")
            && dropped[0].3.starts_with("iptables -t raw -I PREROUTING -i gantry0")
    );
    assert!(dropped.iter().any(|(_, chain, ..)| chain.starts_with("OUTPUT")), "{dropped:?}");
    assert!(dropped.iter().any(|(_, _, by, remedy)| by.contains("--dports 1:52,53")
        && remedy.contains("-I INPUT -i gantry0 -p udp --dport 53 -j ACCEPT && ")));
}

#[test]
fn reports_no_fault_for_unknown_conditions() {
    for rule in [
        "-m set --match-set friends src -j ACCEPT",
        "-m mark --mark 0x1 -j ACCEPT",
        "-m u32 --u32 0 -j TARGET",
        "-j NFQUEUE --queue-num 0",
    ] {
        assert_eq!(iptables(&format!("*filter\n:FORWARD DROP [0:0]\n-A FORWARD {rule}\n")), [], "{rule}");
    }
    // A rule that may drop is not a certain drop.
    assert_eq!(iptables("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set foes src -j DROP\n"), []);
    // The kernel refuses chains that call each other in a loop; this walk must end nevertheless.
    assert_eq!(iptables("*filter\n:FORWARD DROP [0:0]\n:a - [0:0]\n-A FORWARD -j a\n-A a -j a\n"), []);
}

/// `nft -j list ruleset` of a table, as nft 1.0.6 prints it.
fn nft(rules: &str, chain: &str) -> Vec<(NetworkFlow, String, String, String)> {
    let text = format!(
        r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}}, {{"table": {{"family": "inet", "name": "t", "handle": 1}}}}, {chain}{rules}]}}"#
    );
    found(&read(&text, &[]), &network())
}

fn chain(name: &str, hook: &str, policy: &str) -> String {
    format!(
        r#"{{"chain": {{"family": "inet", "table": "t", "name": "{name}", "handle": 1, "type": "filter", "hook": "{hook}", "prio": 0, "policy": "{policy}"}}}}"#
    )
}

fn rule(chain: &str, handle: u32, expr: &str) -> String {
    format!(
        r#", {{"rule": {{"family": "inet", "table": "t", "chain": "{chain}", "handle": {handle}, "expr": [{expr}]}}}}"#
    )
}

const ESTABLISHED: &str = r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}"#;
const LOOPBACK: &str = r#"{"match": {"op": "==", "left": {"meta": {"key": "iif"}}, "right": "lo"}}, {"accept": null}"#;

#[test]
fn repairs_a_dropping_input_chain_with_nft() {
    let rules = [rule("i", 2, LOOPBACK), rule("i", 3, ESTABLISHED)].concat();
    let dropped = nft(&rules, &chain("i", "input", "drop"));
    let remedy = "nft insert rule inet t i iifname gantry0 meta l4proto '{ tcp, udp }' th dport 53 accept";
    assert_eq!(
        dropped,
        [(NetworkFlow::Names, "i of nft's table inet t".to_owned(), "its policy".to_owned(), remedy.to_owned())]
    );
    let mend = r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "gantry0"}},
        {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "udp"]}}},
        {"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 53}}, {"accept": null}"#;
    assert_eq!(nft(&[rules, rule("i", 4, mend)].concat(), &chain("i", "input", "drop")), []);
    // Without a rule for replies, the router gets no responses.
    assert_eq!(flows(&nft("", &chain("i", "input", "drop"))), [NetworkFlow::Names, NetworkFlow::Requests]);
}

#[test]
fn follows_nft_sets_maps_and_ranges() {
    let jump = r#", {"chain": {"family": "inet", "table": "t", "name": "strict", "handle": 9}}"#;
    let base = format!("{}{jump}", chain("f", "forward", "accept"));
    let map = r#"{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["lo", {"accept": null}], ["gantry*", {"goto": {"target": "strict"}}]]}}}"#;
    let web = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [80, {"range": [440, 450]}]}}}, {"accept": null}"#;
    let private = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}}, {"accept": null}"#;
    let drop = r#"{"counter": {"packets": 0, "bytes": 0}}, {"drop": null}"#;
    let dropped = nft(&[rule("f", 2, map), rule("strict", 3, private), rule("strict", 7, drop)].concat(), &base);
    assert_eq!(
        (flows(&dropped), dropped[0].2.as_str()),
        (vec![NetworkFlow::Outside], "the rule `handle 7` of chain strict"),
        "{dropped:?}"
    );
    assert_eq!(nft(&[rule("f", 2, map), rule("strict", 3, web), rule("strict", 7, drop)].concat(), &base), []);
    let invalid = r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, {"drop": null}"#;
    assert_eq!(nft(&rule("f", 2, invalid), &base), []);
}

#[test]
fn repairs_firewalld_with_its_own_commands() {
    let dnat = r#"{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, {"accept": null}"#;
    let reject = r#"{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}"#;
    let rules = [
        rule("filter_INPUT", 2, ESTABLISHED),
        rule("filter_INPUT", 3, dnat),
        rule("filter_INPUT", 4, LOOPBACK),
        rule("filter_INPUT", 5, reject),
    ];
    let text = format!(r#"{{"nftables": [{}{}]}}"#, chain("filter_INPUT", "input", "accept"), rules.concat());
    let dropped = found(&read(&text.replace(r#""t""#, r#""firewalld""#), &[]), &network());
    assert_eq!(flows(&dropped), [NetworkFlow::Names], "{dropped:?}");
    assert_eq!(
        dropped[0].3,
        "firewall-cmd --permanent --zone=trusted --add-interface=gantry0 && firewall-cmd --reload"
    );
}

#[test]
fn ignores_its_own_table_and_ipv6() {
    let own = chain("f", "forward", "drop").replace(r#""t""#, r#""gantry0""#);
    let six = chain("f", "forward", "drop").replace("inet", "ip6");
    assert_eq!(found(&read(&format!(r#"{{"nftables": [{own}, {six}]}}"#), &[]), &network()), []);
}
